"""Histories to padded batches of tensors, grouped by length so that little work goes into padding. Knows no files."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler


@dataclass
class Sequences:
    """What shoppers met, oldest first; and, where something is to be predicted, what came next."""

    items: list[np.ndarray]  # item numbers, int64
    times: list[np.ndarray]  # seconds, int64, one an item
    targets: np.ndarray | None = None  # (N,) int64

    def __len__(self) -> int:
        return len(self.items)

    def rows(self, chosen: Sequence[int]) -> "Sequences":
        """Those of the chosen rows alone."""
        targets = None if self.targets is None else self.targets[chosen]
        return Sequences([self.items[r] for r in chosen], [self.times[r] for r in chosen], targets)

    def sample(self, about: int) -> "Sequences":
        """About so many rows, evenly spaced; all where there are fewer."""
        return self.rows(range(0, len(self), max(1, len(self) // about)))


class Histories(Dataset):
    """Sequences as batches: indexing with a list of rows gives one.

    A batch is (history (B, L), times (B, L), target), all int64 padded with 0 on the right: of the next items (B, L) when the
    sequences have no targets, else of the one held-out item (B,), together with `seen` (B, S), all items met before.
    """

    def __init__(self, sequences: Sequences, max_len: int):
        self.sequences, self.max_len = sequences, max_len
        reach = [len(h) - (sequences.targets is None) for h in sequences.items]
        self.lengths = np.minimum(reach, max_len)

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, rows: Sequence[int]) -> tuple[Tensor, ...]:
        items, times = ([column[r] for r in rows] for column in (self.sequences.items, self.sequences.times))
        if self.sequences.targets is None:
            items, times = ([h[-(self.max_len + 1) :] for h in column] for column in (items, times))
            return pad([h[:-1] for h in items]), pad([t[:-1] for t in times]), pad([h[1:] for h in items])
        history, when = (pad([h[-self.max_len :] for h in column]) for column in (items, times))
        return history, when, torch.from_numpy(self.sequences.targets[rows]), pad(items)


class ByLength(Sampler):
    """Batches of `size` rows of like length. With a seed the order changes every epoch, the same way in every run."""

    def __init__(self, lengths: np.ndarray, size: int, seed: int | None = None):
        self.lengths, self.size, self.seed = lengths, size, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

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


class HistoryData(pl.LightningDataModule):
    """Training sequences, and validation sequences with the item that came next.

    Batches hold `batch` shoppers, or fewer (down to 16) where an epoch would otherwise have under 100 batches: a small shop
    needs as many steps to learn as a large one.
    """

    def __init__(self, train: Sequences, valid: Sequences, max_len: int, batch: int, seed: int):
        super().__init__()
        self.train = Histories(train.rows([i for i, h in enumerate(train.items) if len(h) > 1]), max_len)
        self.valid = Histories(valid, max_len)
        self.batch, self.seed = min(batch, max(16, len(self.train) // 100)), seed

    def train_dataloader(self) -> DataLoader:
        sampler = ByLength(self.train.lengths, self.batch, self.seed)
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
