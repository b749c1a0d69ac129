"""Histories to padded batches of tensors, gathered from flat columns on the device that trains, grouped by length so that little work goes
into padding. Knows no files.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pytorch_lightning as lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from models.sequences import Impressions, Sequences, places


class ShopperBatch(NamedTuple):
    """What is known of B shoppers when they are asked for: histories oldest first, padded with 0 on the right."""

    history: Tensor  # (B, L) int64 item numbers
    times: Tensor  # (B, L) int64 seconds, any origin; all equal where unknown
    actions: Tensor  # (B, L) int64, the strongest thing done to each item: 1 = seen ... 4 = bought
    platform: Tensor  # (B,) int64 from 1, where they are now; 0 = not told


class Candidates(NamedTuple):
    """N candidates, each held against a beginning of one of the batch's histories."""

    row: Tensor  # (N,) int64, whose history
    at: Tensor  # (N,) int64, how many of its events are known
    item: Tensor  # (N,) int64, the candidate
    platform: Tensor  # (N,) int64, where the shopper is; 0 = not told


class Windows:
    """Flat columns (E,) on a device, and windows of their rows as padded batches.

    For a CPU they stay where they are, in memory or mapped from a file. To a GPU they are copied where there is room, and else each batch is.
    """

    def __init__(self, *columns: np.ndarray):
        self.columns = [torch.from_numpy(column) for column in columns]
        self.device = torch.device("cpu")

    def to(self, device: torch.device, room: float = math.inf) -> None:
        """room: bytes that the columns may take there."""
        self.device = device
        if device.type != "cpu" and sum(column.nbytes for column in self.columns) <= room:
            self.columns = [column.to(device) for column in self.columns]

    def of(self, start: np.ndarray, length: np.ndarray, columns: Sequence[int]) -> list[Tensor]:
        """So many events (B,) from start (B,) on, of each of these columns: (B, L) int64, padded with 0 on the right; L is at least 1."""
        there = self.columns[0].device
        first, count = torch.from_numpy(np.stack([start, length])).to(there, non_blocking=True)[:, :, None]
        offset = torch.arange(max(1, int(length.max(initial=0))), device=there)
        padding = offset >= count
        at = (first + offset).masked_fill_(padding, 0)
        batches = []
        for column in columns:
            values = self.columns[column]
            batch = values[at].long() if len(values) else torch.zeros_like(at)
            batches.append(batch.masked_fill_(padding, 0).to(self.device, non_blocking=True))
        return batches


ITEMS, TIMES, ACTIONS, PLATFORMS = range(4)


class Histories(Dataset):
    """Sequences as batches: indexing with a list of rows gives one.

    A batch is (ShopperBatch, target): of the next items (B, L) when the sequences have no targets, else of the one held-out item
    (B,), together with `seen` (B, S), all items met before; all int64, padded with 0 on the right.
    """

    def __init__(self, sequences: Sequences, max_len: int):
        if sequences.targets is None:
            sequences = sequences.rows(np.flatnonzero(sequences.lengths > 1))
        self.sequences = sequences
        self.windows = Windows(*(column.values for column in (sequences.items, sequences.times, sequences.actions)))
        self.end = sequences.items.end - (sequences.targets is None)
        self.start = np.maximum(sequences.items.start, self.end - max_len)
        self.lengths, self.platform = self.end - self.start, sequences.asked_on()

    def __len__(self) -> int:
        return len(self.sequences)

    def to(self, device: torch.device, room: float = math.inf) -> "Histories":
        """Gives batches on the device from now on; room: bytes that the columns may take there."""
        self.windows.to(device, room)
        return self

    def __getitem__(self, rows: Sequence[int] | np.ndarray) -> tuple:
        start, length, place = self.start[rows], self.lengths[rows], self.windows.device
        columns = self.windows.of(start, length, (ITEMS, TIMES, ACTIONS))
        shoppers = ShopperBatch(*columns, torch.from_numpy(self.platform[rows]).to(place))
        if self.sequences.targets is None:
            return shoppers, *self.windows.of(start + 1, length, (ITEMS,))
        whole = self.sequences.items.start[rows]
        [seen] = self.windows.of(whole, self.end[rows] - whole, (ITEMS,))
        return shoppers, torch.from_numpy(self.sequences.targets[rows]).to(place), seen


MOST = 256  # impressions of a shopper that one batch reads, others each epoch


class ImpressionData(Dataset):
    """Training histories with impressions, as batches: indexing with a list of rows gives one.

    A batch is (ShopperBatch, platforms (B, L) int64, Candidates, labels (N, 3) float32): of each shopper with two events or more all events,
    where each took place, and at most MOST impressions, others at each call. Impressions older than the `max_len` newest events
    are left out.

    Attributes:
        seed: (seed, epoch), by which impressions are drawn; set at the start of each epoch.
    """

    def __init__(self, sequences: Sequences, shown: Impressions, max_len: int):
        self.shown, self.seed = shown, (0, 0)
        self.kept = np.flatnonzero(sequences.lengths > 1)
        items = sequences.rows(self.kept).items
        self.start = np.maximum(items.start, items.end - max_len)
        self.older, self.lengths = self.start - items.start, items.end - self.start
        columns = (sequences.items, sequences.times, sequences.actions, sequences.platforms)
        self.windows = Windows(*(column.values for column in columns))
        self.first = np.searchsorted(shown.user, np.arange(len(sequences) + 1))

    def __len__(self) -> int:
        return len(self.kept)

    def to(self, device: torch.device, room: float = math.inf) -> "ImpressionData":
        """Gives batches on the device from now on; room: bytes that the columns may take there."""
        self.windows.to(device, room)
        return self

    def __getitem__(self, rows: Sequence[int] | np.ndarray) -> tuple:
        length, place = self.lengths[rows], self.windows.device
        history, times, actions, platforms = self.windows.of(self.start[rows], length, (ITEMS, TIMES, ACTIONS, PLATFORMS))
        now = platforms.gather(1, torch.from_numpy(length - 1).to(place)[:, None])[:, 0]
        row, chosen = self._drawn(self.kept[rows])
        shown = self.shown.rows(chosen)
        at = shown.position - self.older[rows][row]
        row, at, item, platform, labels = (
            torch.from_numpy(column[at >= 0]).to(place) for column in (row, at, shown.item, shown.platform, shown.labels)
        )
        return ShopperBatch(history, times, actions, now), platforms, Candidates(row, at, item, platform), labels

    def _drawn(self, shoppers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Whose impressions are read, as places in `shoppers`, and which: (N,) int64 both."""
        first, count = self.first[shoppers], self.first[shoppers + 1] - self.first[shoppers]
        row, chosen = np.repeat(np.arange(len(shoppers)), count), places(first, count)
        read = np.ones(len(row), bool)
        for i in np.flatnonzero(count > MOST):
            own, lot = row == i, np.random.default_rng((*self.seed, shoppers[i])).permutation(count[i])
            read[own] = np.isin(np.arange(count[i]), lot[:MOST])
        return row[read], chosen[read]


class ByLength(Sampler):
    """Batches of `size` rows of like length. With a seed the order changes every epoch, the same way in every run.

    dataset: told of every epoch by its attribute `seed`.
    """

    def __init__(self, lengths: np.ndarray, size: int, seed: int | None = None, dataset: Dataset | None = None):
        self.lengths, self.size, self.seed, self.dataset = lengths, size, seed, dataset
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        if self.dataset is not None:
            self.dataset.seed = (self.seed, epoch)

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.size)

    def __iter__(self) -> Iterator[np.ndarray]:
        if self.seed is None:
            order = np.argsort(self.lengths, kind="stable")
            yield from (order[i : i + self.size] for i in range(0, len(order), self.size))
            return
        rng = np.random.default_rng((self.seed, self.epoch))
        # Jitter mixes neighbours in length, so that batches differ between epochs.
        order = np.argsort(self.lengths + rng.uniform(-1, 1, len(self.lengths)) * np.sqrt(self.lengths), kind="stable")
        batches = [order[i : i + self.size] for i in range(0, len(order), self.size)]
        for b in rng.permutation(len(batches)):
            yield batches[b]


class HistoryData(lightning.LightningDataModule):
    """Training data, and validation sequences with the item that came next.

    Batches hold `batch` shoppers, or fewer (down to 16) where an epoch would otherwise have under 100 batches: a small shop
    needs as many steps to learn as a large one. Each part is kept on the device that trains where it takes at most `room` bytes there.
    """

    def __init__(
        self, train: Histories | ImpressionData, valid: Sequences, max_len: int, batch: int, seed: int, room: float = math.inf
    ):
        super().__init__()
        self.train, self.room = train, room
        self.valid = Histories(valid, max_len)
        self.batch, self.seed = min(batch, max(16, len(self.train) // 100)), seed

    def setup(self, stage: str) -> None:
        for part in (self.train, self.valid):
            part.to(self.trainer.strategy.root_device, self.room)

    def train_dataloader(self) -> DataLoader:
        sampler = ByLength(self.train.lengths, self.batch, self.seed, self.train)
        # One batch an "item": the sampler yields rows and the dataset gathers them.
        return DataLoader(self.train, sampler=sampler, batch_size=None)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.valid, sampler=ByLength(self.valid.lengths, 256), batch_size=None)
