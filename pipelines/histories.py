"""Reads data/prepared for the stages that train and measure: histories as arrays, and the parts of the split."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from models.batches import Sequences
from pipelines.stage import read_json

PREPARED = Path("data/prepared")


@dataclass
class Prepared:
    items: pl.DataFrame  # a row an item, in order of number
    user_ids: list[str]
    full: Sequences  # everything each shopper met
    train: Sequences
    valid: Sequences
    test: Sequences

    def popularity(self) -> np.ndarray:
        """(items + 1,) int64: in how many training histories each item stands."""
        return np.concatenate([[0], self.items["popularity"].to_numpy().astype(np.int64)])

    def recency(self) -> np.ndarray:
        """(items + 1,) float: the same, with recent events weighing more."""
        return np.concatenate([[0.0], self.items["recency"].to_numpy()])

    def attributes(self) -> np.ndarray | None:
        """What is known of each item, as numbers: (items + 1, M) int64 padded with 0, or None where nothing is."""
        lists = self.items["attributes"].to_list()
        longest = max(map(len, lists))
        if not longest:
            return None
        padded = np.zeros((len(lists) + 1, longest), dtype=np.int64)
        for row, numbers in zip(padded[1:], lists, strict=True):
            row[: len(numbers)] = numbers
        return padded


def load() -> Prepared:
    """The prepared data; numbers of items start at 1."""
    frame = pl.read_parquet(PREPARED / "histories.parquet")
    items = [np.asarray(h, dtype=np.int64) for h in frame["items"].to_list()]
    seconds = frame["timestamps"].list.eval(pl.element().dt.epoch("s")).to_list()
    times = [np.asarray(t, dtype=np.int64) for t in seconds]
    train = Sequences(*([h[:end] for h, end in zip(column, frame["train_end"], strict=True)] for column in (items, times)))
    parts = []
    for column in ("valid_at", "test_at"):
        asked = [(h[:at], t[:at], h[at]) for h, t, at in zip(items, times, frame[column], strict=True) if at is not None]
        before, when, targets = zip(*asked, strict=True)
        parts.append(Sequences(list(before), list(when), np.array(targets, dtype=np.int64)))
    features = pl.read_parquet(PREPARED / "items.parquet")
    return Prepared(features, frame["user_id"].to_list(), Sequences(items, times), train, *parts)


def vocabulary_size() -> int:
    return read_json(PREPARED / "prepared.json")["sizes"]["items"]
