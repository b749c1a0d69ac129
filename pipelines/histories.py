"""Reads data/prepared for the stages that train and measure: histories as arrays, and the parts of the split."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from pipelines.stage import read_json

PREPARED = Path("data/prepared")


@dataclass
class Part:
    """Shoppers to predict for: what they met before, and what came next."""

    histories: list[np.ndarray]  # item numbers, oldest first
    targets: np.ndarray  # (N,) int64


@dataclass
class Prepared:
    items: pl.DataFrame  # a row an item, in order of number
    user_ids: list[str]
    full: list[np.ndarray]  # everything each shopper met
    train: list[np.ndarray]
    valid: Part
    test: Part


def load() -> Prepared:
    """The prepared data; numbers of items start at 1."""
    frame = pl.read_parquet(PREPARED / "histories.parquet")
    full = [np.asarray(h, dtype=np.int64) for h in frame["items"].to_list()]
    train = [h[:end] for h, end in zip(full, frame["train_end"], strict=True)]
    parts = []
    for column in ("valid_at", "test_at"):
        asked = [(h[:at], h[at]) for h, at in zip(full, frame[column], strict=True) if at is not None]
        parts.append(Part([h for h, _ in asked], np.array([t for _, t in asked], dtype=np.int64)))
    return Prepared(pl.read_parquet(PREPARED / "items.parquet"), frame["user_id"].to_list(), full, train, *parts)


def vocabulary_size() -> int:
    return read_json(PREPARED / "prepared.json")["sizes"]["items"]
