"""Histories to padded batches of tensors, grouped by length so that little work goes into padding. Knows no files."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytorch_lightning as lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler


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


@dataclass
class Sequences:
    """What shoppers met, oldest first; and, where something is to be predicted, what came next."""

    items: list[np.ndarray]  # item numbers, int64
    times: list[np.ndarray]  # seconds, int64, one an item
    targets: np.ndarray | None = None  # (N,) int64
    actions: list[np.ndarray] | None = None  # int64, one an item; None: all seen, no more
    platforms: list[np.ndarray] | None = None  # int64, one an item and one of the target; None: not told

    def __post_init__(self) -> None:
        if self.actions is None:
            self.actions = [np.ones_like(h) for h in self.items]
        if self.platforms is None:
            self.platforms = [np.zeros(len(h) + (self.targets is not None), np.int64) for h in self.items]

    def __len__(self) -> int:
        return len(self.items)

    def rows(self, chosen: Sequence[int]) -> "Sequences":
        """Those of the chosen rows alone."""
        items, times, actions, platforms = (
            [column[r] for r in chosen] for column in (self.items, self.times, self.actions, self.platforms)
        )
        return Sequences(items, times, None if self.targets is None else self.targets[chosen], actions, platforms)

    def sample(self, about: int) -> "Sequences":
        """About so many rows, evenly spaced; all where there are fewer."""
        return self.rows(range(0, len(self), max(1, len(self) // about)))


class Histories(Dataset):
    """Sequences as batches: indexing with a list of rows gives one.

    A batch is (ShopperBatch, target): of the next items (B, L) when the sequences have no targets, else of the one held-out item
    (B,), together with `seen` (B, S), all items met before; all int64, padded with 0 on the right.
    """

    def __init__(self, sequences: Sequences, max_len: int):
        if sequences.targets is None:
            sequences = sequences.rows([i for i, h in enumerate(sequences.items) if len(h) > 1])
        self.sequences, self.max_len = sequences, max_len
        reach = [len(h) - (sequences.targets is None) for h in sequences.items]
        self.lengths = np.minimum(reach, max_len)

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, rows: Sequence[int]) -> tuple:
        part, longest = self.sequences.rows(rows), self.max_len
        platform = torch.from_numpy(np.array([p[-1] for p in part.platforms], dtype=np.int64))
        columns = (part.items, part.times, part.actions)
        if part.targets is None:
            before = (pad([h[-(longest + 1) : -1] for h in column]) for column in columns)
            return ShopperBatch(*before, platform), pad([h[-(longest + 1) :][1:] for h in part.items])
        before = (pad([h[-longest:] for h in column]) for column in columns)
        return ShopperBatch(*before, platform), torch.from_numpy(part.targets), pad(part.items)


@dataclass
class Impressions:
    """What was shown to whom, ordered by shopper, and what came of it: arrays of one length."""

    user: np.ndarray  # int64, row of the shopper
    position: np.ndarray  # int64, how many items the shopper had met before
    item: np.ndarray  # int64
    platform: np.ndarray  # int64 from 1, 0 = not told
    labels: np.ndarray  # (N, 3) float32: clicked, carted, purchased

    def __len__(self) -> int:
        return len(self.user)

    def rows(self, chosen: np.ndarray) -> "Impressions":
        return Impressions(*(column[chosen] for column in (self.user, self.position, self.item, self.platform, self.labels)))


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
        self.sequences, self.shown, self.max_len = sequences, shown, max_len
        self.seed = (0, 0)
        reach = np.array([len(h) for h in sequences.items])
        self.kept = np.flatnonzero(reach > 1)
        self.lengths = np.minimum(reach[self.kept], max_len)
        self.first = np.searchsorted(shown.user, np.arange(len(sequences) + 1))

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, rows: Sequence[int]) -> tuple:
        rows = self.kept[rows]
        part = self.sequences.rows(rows)
        columns = (part.items, part.times, part.actions, part.platforms)
        history, times, actions, platforms = (pad([h[-self.max_len :] for h in column]) for column in columns)
        row, chosen = [], []
        for i, shopper in enumerate(rows):
            start, end = self.first[shopper], self.first[shopper + 1]
            some = start + np.random.default_rng((*self.seed, shopper)).permutation(end - start)[:MOST]
            row.append(np.full(len(some), i))
            chosen.append(some)
        row, shown = np.concatenate(row), self.shown.rows(np.concatenate(chosen))
        at = shown.position - np.maximum([len(h) - self.max_len for h in part.items], 0)[row]
        row, at, item, platform, labels = (
            torch.from_numpy(column[at >= 0]) for column in (row, at, shown.item, shown.platform, shown.labels)
        )
        return ShopperBatch(history, times, actions, platforms[:, -1]), platforms, Candidates(row, at, item, platform), labels


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

    def __iter__(self) -> Iterator[list[int]]:
        if self.seed is None:
            order = np.argsort(self.lengths, kind="stable")
            yield from (order[i : i + self.size].tolist() for i in range(0, len(order), self.size))
            return
        rng = np.random.default_rng((self.seed, self.epoch))
        # Jitter mixes neighbours in length, so that batches differ between epochs.
        order = np.argsort(self.lengths + rng.uniform(-1, 1, len(self.lengths)) * np.sqrt(self.lengths), kind="stable")
        batches = [order[i : i + self.size] for i in range(0, len(order), self.size)]
        for b in rng.permutation(len(batches)):
            yield batches[b].tolist()


class HistoryData(lightning.LightningDataModule):
    """Training data, and validation sequences with the item that came next.

    Batches hold `batch` shoppers, or fewer (down to 16) where an epoch would otherwise have under 100 batches: a small shop
    needs as many steps to learn as a large one.
    """

    def __init__(self, train: Histories | ImpressionData, valid: Sequences, max_len: int, batch: int, seed: int):
        super().__init__()
        self.train = train
        self.valid = Histories(valid, max_len)
        self.batch, self.seed = min(batch, max(16, len(self.train) // 100)), seed

    def train_dataloader(self) -> DataLoader:
        sampler = ByLength(self.train.lengths, self.batch, self.seed, self.train)
        # One batch an "item": the sampler yields lists of rows and the dataset pads them.
        return DataLoader(self.train, sampler=sampler, batch_size=None)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.valid, sampler=ByLength(self.valid.lengths, 256), batch_size=None)


def pad(histories: list[np.ndarray]) -> Tensor:
    """Int arrays of any lengths -> (B, L) int64, padded with 0 on the right; L is at least 1."""
    padded = np.zeros((len(histories), max([1, *map(len, histories)])), dtype=np.int64)
    for row, history in zip(padded, histories, strict=True):
        row[: len(history)] = history
    return torch.from_numpy(padded)
