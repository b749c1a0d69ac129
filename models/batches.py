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

    For a CPU they stay where they are, in memory or mapped from a file. To a GPU they are copied where there is room, and else what is gathered.
    """

    def __init__(self, *columns: np.ndarray):
        self.columns = [torch.from_numpy(column) for column in columns]
        self.device = torch.device("cpu")

    def to(self, device: torch.device, room: float = math.inf) -> None:
        """room: bytes that the columns may take there."""
        self.device = device
        if device.type != "cpu" and sum(column.nbytes for column in self.columns) <= room:
            self.columns = [column.to(device) for column in self.columns]

    def of(
        self,
        start: np.ndarray,
        length: np.ndarray,
        sizes: Sequence[int],
        *chosen: tuple[int, int],
        widths: np.ndarray | None = None,
    ) -> Iterator[list[Tensor]]:
        """Windows of several batches, gathered together: of each batch for each of the chosen (B, L) int64, padded with 0 on the right; L is at
        least 1.

        start, length: (N,), of the rows of all batches. sizes: how many rows each batch has. chosen: a column, and how many events later.
        widths: of which L is the least that suffices, ascending; None: L is the longest row of the batch.
        """
        longest = np.maximum([part.max(initial=0) for part in np.split(length, np.cumsum(sizes)[:-1])], 1)
        if widths is not None:
            longest = widths[np.searchsorted(widths, longest)]
        width = np.repeat(longest, sizes)
        ends = np.cumsum(width)
        there, events = self.columns[0].device, int(ends[-1]) if len(ends) else 0
        shift, end = start - ends + width, length + ends - width
        width, shift, end = torch.from_numpy(np.stack([width, shift, end])).to(there, non_blocking=True)
        shift, end = (torch.repeat_interleave(column, width, output_size=events) for column in (shift, end))
        place = torch.arange(events, device=there)
        real = (place < end).long()
        at, found = place.add_(shift).mul_(real), []
        for column, later in chosen:
            values = self.columns[column]
            if len(values):
                flat = values.index_select(0, at + later * real if later else at).long().mul_(real)
            else:
                flat = torch.zeros_like(at)
            found.append(flat.to(self.device, non_blocking=True).split((longest * sizes).tolist()))
        for size, most, *parts in zip(sizes, longest.tolist(), *found, strict=True):
            yield [part.view(size, most) for part in parts]


ITEMS, TIMES, ACTIONS, PLATFORMS = range(4)


class Gathered:
    """Rows whose batches are gathered from flat columns: `windows` of `lengths` (N,), and how by `batches`."""

    windows: Windows
    lengths: np.ndarray
    static_shapes = False  # are batches padded to few lengths?

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, rows: Sequence[int] | np.ndarray) -> tuple:
        """The batch of some rows."""
        return next(self.batches([np.asarray(rows)]))

    def to(self, device: torch.device, room: float = math.inf) -> "Gathered":
        """Gives batches on the device from now on; room: bytes that the columns may take there."""
        self.windows.to(device, room)
        return self

    def batches(self, group: list[np.ndarray]) -> Iterator[tuple]:
        """Batches of several lists of rows, gathered together."""
        raise NotImplementedError


class Histories(Gathered):
    """Sequences as batches.

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
        self.widths = few_widths(max_len)

    def batches(self, group: list[np.ndarray]) -> Iterator[tuple]:
        """See Gathered."""
        rows, sizes = np.concatenate(group), [len(rows) for rows in group]
        start, length = self.start[rows], self.lengths[rows]
        columns = [(ITEMS, 0), (TIMES, 0), (ACTIONS, 0)]
        platforms = torch.from_numpy(self.platform[rows]).to(self.windows.device).split(sizes)
        if self.sequences.targets is None:
            widths = self.widths if self.static_shapes else None
            for (*before, target), platform in zip(
                self.windows.of(start, length, sizes, *columns, (ITEMS, 1), widths=widths), platforms, strict=True
            ):
                yield ShopperBatch(*before, platform), target
            return
        whole = self.sequences.items.start[rows]
        seen = self.windows.of(whole, self.end[rows] - whole, sizes, (ITEMS, 0))
        targets = torch.from_numpy(self.sequences.targets[rows]).to(self.windows.device).split(sizes)
        for before, platform, target, [met] in zip(
            self.windows.of(start, length, sizes, *columns), platforms, targets, seen, strict=True
        ):
            yield ShopperBatch(*before, platform), target, met


def few_widths(longest: int) -> np.ndarray:
    """Lengths that batches are padded to where their shapes should be few: by steps of 4, and of a third or a half of what was reached."""
    found = [4]
    while found[-1] < longest:
        found.append(found[-1] + max(4, 1 << (found[-1].bit_length() - 2)))
    return np.array([*found[:-1], longest])


MOST = 256  # impressions of a shopper that one batch reads, others each epoch


class ImpressionData(Gathered):
    """Training histories with impressions, as batches.

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

    def batches(self, group: list[np.ndarray]) -> Iterator[tuple]:
        """See Gathered; impressions are taken batch by batch."""
        together, sizes, place = np.concatenate(group), [len(rows) for rows in group], self.windows.device
        columns = ((column, 0) for column in (ITEMS, TIMES, ACTIONS, PLATFORMS))
        for rows, (*before, platforms) in zip(
            group, self.windows.of(self.start[together], self.lengths[together], sizes, *columns), strict=True
        ):
            now = platforms.gather(1, torch.from_numpy(self.lengths[rows] - 1).to(place)[:, None])[:, 0]
            row, chosen = self._drawn(self.kept[rows])
            shown = self.shown.rows(chosen)
            at = shown.position - self.older[rows][row]
            row, at, item, platform, labels = (
                torch.from_numpy(column[at >= 0]).to(place) for column in (row, at, shown.item, shown.platform, shown.labels)
            )
            yield ShopperBatch(*before, now), platforms, Candidates(row, at, item, platform), labels

    def _drawn(self, shoppers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Whose impressions are read, as places in `shoppers`, and which: (N,) int64 both."""
        first, count = self.first[shoppers], self.first[shoppers + 1] - self.first[shoppers]
        row, chosen = np.repeat(np.arange(len(shoppers)), count), places(first, count)
        read = np.ones(len(row), bool)
        for i in np.flatnonzero(count > MOST):
            own, lot = row == i, np.random.default_rng((*self.seed, shoppers[i])).permutation(count[i])
            read[own] = np.isin(np.arange(count[i]), lot[:MOST])
        return row[read], chosen[read]


class ByLength:
    """Batches of `size` rows of like length. With a seed the order changes every epoch, the same way in every run.

    dataset: told of every epoch by its attribute `seed`. share: (which, of how many processes) takes its part of the batches; each takes as many.
    """

    def __init__(
        self, lengths: np.ndarray, size: int, seed: int | None = None, dataset: object = None, share: tuple[int, int] = (0, 1)
    ):
        self.lengths, self.size, self.seed, self.dataset, self.share = lengths, size, seed, dataset, share
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        if self.dataset is not None:
            self.dataset.seed = (self.seed, epoch)

    def __len__(self) -> int:
        return -(-len(self.lengths) // (self.size * self.share[1]))

    def __iter__(self) -> Iterator[np.ndarray]:
        if self.seed is None:
            order = np.argsort(self.lengths, kind="stable")
            drawn = np.arange(-(-len(order) // self.size))
        else:
            rng = np.random.default_rng((self.seed, self.epoch))
            # Jitter mixes neighbours in length, so that batches differ between epochs.
            order = np.argsort(self.lengths + rng.uniform(-1, 1, len(self.lengths)) * np.sqrt(self.lengths), kind="stable")
            drawn = rng.permutation(-(-len(order) // self.size))
        which, processes = self.share
        for b in np.resize(drawn, len(self) * processes)[
            which::processes
        ]:  # the first ones again where they do not come out even
            yield order[b * self.size : (b + 1) * self.size]


GATHERED = 1 << 18  # events, about, that batches are gathered together of


class Batches:
    """The batches of a data set in the order of a sampler."""

    batch_sampler = None  # Lightning asks loaders that have a sampler for it

    def __init__(self, data: Gathered, sampler: ByLength):
        self.data, self.sampler = data, sampler

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[tuple]:
        group, events = [], 0
        for rows in self.sampler:
            group.append(rows)
            events += len(rows) * int(self.data.lengths[rows].max(initial=1))
            if events >= GATHERED:
                yield from self.data.batches(group)
                group, events = [], 0
        if group:
            yield from self.data.batches(group)


class HistoryData(lightning.LightningDataModule):
    """Training data, and validation sequences with the item that came next.

    Batches hold `batch` shoppers, or fewer (down to 16) where an epoch would otherwise have under 100 batches: a small shop
    needs as many steps to learn as a large one; `asked` are validated at a time. Each part is kept on the device that trains where it takes at
    most `room` bytes there.
    """

    def __init__(
        self, train: Gathered, valid: Sequences, max_len: int, batch: int, seed: int, room: float = math.inf, asked: int = 256
    ):
        super().__init__()
        self.train, self.room, self.asked = train, room, asked
        self.valid = Histories(valid, max_len)
        self.batch, self.seed = min(batch, max(16, len(self.train) // 100)), seed

    def setup(self, stage: str) -> None:
        for part in (self.train, self.valid):
            part.to(self.trainer.strategy.root_device, self.room)

    @property
    def share(self) -> tuple[int, int]:
        """Which process this is, and of how many."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def train_dataloader(self) -> Batches:
        return Batches(self.train, ByLength(self.train.lengths, self.batch, self.seed, self.train, self.share))

    def val_dataloader(self) -> Batches:
        return Batches(self.valid, ByLength(self.valid.lengths, self.asked, share=self.share))
