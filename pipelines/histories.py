"""Reads data/prepared for the stages that train and measure: histories as arrays, and the parts of the split."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from models.batches import Impressions, Sequences
from pipelines.stage import read_json

PREPARED = Path("data/prepared")
NUMBERS = ("log_price", "relative_price", "log_popularity", "click_rate", "purchase_rate")  # of items, standardised
MONEY = ("log_price", "relative_price")  # those of them that tell a price


@dataclass
class Prepared:
    items: pl.DataFrame  # a row an item, in order of number
    user_ids: list[str]
    full: Sequences  # everything each shopper met
    train: Sequences
    valid: Sequences
    test: Sequences
    platforms: list[str]  # by number, from 1

    def impressions(self, part: str) -> Impressions:
        """What was shown in a part (train, valid, test) of the split, and what came of it."""
        shown = pl.read_parquet(PREPARED / "impressions.parquet").filter(part=part)
        columns = (shown[c].to_numpy().astype(np.int64) for c in ("user", "position", "item", "platform"))
        return Impressions(*columns, shown.select("clicked", "carted", "purchased").to_numpy().astype(np.float32))

    def numbers(self) -> tuple[np.ndarray, list[int]]:
        """Standardised features of items, (items + 1, F) float32, 0 where unknown; and which columns tell a price."""
        names = [n for n in NUMBERS if n in self.items.columns]
        rows = self.items.select(pl.col(names).cast(pl.Float32).fill_nan(None).fill_null(0.0)).to_numpy()
        return np.vstack([np.zeros((1, len(names)), np.float32), rows]), [i for i, n in enumerate(names) if n in MONEY]

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
    frame = frame.with_columns(pl.col("timestamps").list.eval(pl.element().dt.epoch("s")))
    items, times, actions, platforms = (
        [np.asarray(values, dtype=np.int64) for values in frame[c].to_list()]
        for c in ("items", "timestamps", "actions", "platforms")
    )
    full = Sequences(items, times, None, actions, platforms)
    parts = [_until(full, frame["train_end"].to_list())]
    for column in ("valid_at", "test_at"):
        asked = frame[column].is_not_null().arg_true().to_list()
        parts.append(_until(full.rows(asked), frame[column].drop_nulls().to_list(), held_out=True))
    features, facts = pl.read_parquet(PREPARED / "items.parquet"), read_json(PREPARED / "prepared.json")
    return Prepared(features, frame["user_id"].to_list(), full, *parts, facts["platforms"])


def _until(histories: Sequences, ends: list[int], held_out: bool = False) -> Sequences:
    """Each history's first events; with held_out the one after them as the target."""
    items, times, actions, platforms = (
        [values[: end + more] for values, end in zip(column, ends, strict=True)]
        for column, more in ((histories.items, 0), (histories.times, 0), (histories.actions, 0), (histories.platforms, held_out))
    )
    targets = np.array([h[end] for h, end in zip(histories.items, ends, strict=True)], np.int64) if held_out else None
    return Sequences(items, times, targets, actions, platforms)


def vocabulary_size() -> int:
    return read_json(PREPARED / "prepared.json")["sizes"]["items"]
