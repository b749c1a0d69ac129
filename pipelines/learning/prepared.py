"""Reads data/prepared for the stages that train and measure: histories as arrays, the parts of the split, features of items."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from models.sequences import Impressions, Ragged, Sequences
from pipelines.stage import read_json

if TYPE_CHECKING:
    import polars as pl
    import scipy.sparse as sp

PREPARED, EMBEDDED = Path("data/prepared"), Path("data/embedded")
KINDS = ("text", "look", "sound")  # of vectors of items
NUMBERS = ("log_price", "relative_price", "log_popularity", "click_rate", "purchase_rate")  # of items, standardised
RECENT = 30  # days in which an event comes to count half
MONEY = ("log_price", "relative_price")  # those of them that tell a price


@dataclass
class Prepared:
    """Arrays of items have V = items + 1 rows; row 0 is padding."""

    full: Sequences  # everything each shopper met
    train: Sequences
    valid: Sequences
    test: Sequences
    platforms: list[str]  # by number, from 1
    popularity: (
        np.ndarray
    )  # (V,) int64: in how many training histories each item stands; 0 of those too rare for a vector of their own
    recency: np.ndarray  # (V,) float64: the same, with recent events counting more
    attributes: np.ndarray | None  # (V, M) int64: what is known of each item, as numbers padded with 0; None: nothing is
    numbers: np.ndarray  # (V, F) float32: standardised features of items, 0 where unknown
    money: list[int]  # columns of `numbers` that tell a price
    impressions: Callable[[str], Impressions]  # what was shown in a part (train, valid, test), and what came of it
    baskets: list[np.ndarray]  # of each test target the items of its basket, the target first

    before_test: Sequences  # what each shopper met before the test item, or all of it where there is none
    min_item_events: int = 1
    ordered_only: bool = False
    origin: int = 0  # seconds from 1970 to the time 0 of histories
    content: "sp.csr_matrix | None" = None  # (V, T) counts of words in what is written of each item; None: nothing is
    embedded: dict[str, np.ndarray] = field(
        default_factory=dict
    )  # of KINDS, where there are any: (V, D) float16, zeros of items that have none

    @property
    def items(self) -> int:
        """How many there are, numbered from 1."""
        return len(self.popularity) - 1

    def everything(self) -> "Prepared":
        """The same with everything up to now as its training part: what a model that is served may learn from."""
        parts = ("train", "valid", "test")
        return self.learning_from(self.full, lambda _: _together([self.impressions(part) for part in parts]))

    def without_newest(self) -> "Prepared":
        """The same without the newest event of each history of the training part: what is counted there knows as little of a validation shopper's
        newest event as what is counted in all of the training part knows of a test shopper's.
        """
        items = self.train.items
        if items.lengths.max(initial=0) < 2:
            return self
        return self.learning_from(self.train.within(items.start, np.maximum(items.end - 1, items.start)), self.impressions)

    def up_to_the_test(self) -> "Prepared":
        """The same with all that came before the test items as its training part, to show by a backtest what the newest events bring."""
        return self.learning_from(self.before_test, lambda _: _together([self.impressions(part) for part in ("train", "valid")]))

    def learning_from(self, histories: Sequences, impressions: Callable[[str], Impressions]) -> "Prepared":
        """The same with other histories as its training part, and popularity as they show it; impressions: of a part, by its name."""
        items, times = histories.items.flat(), histories.times.flat()
        counts = np.bincount(items, minlength=len(self.popularity))
        trained = counts >= self.min_item_events
        age = np.zeros(len(times)) if self.ordered_only else (times.max() - times) / 86400
        recency = np.bincount(items, 0.5 ** (age / RECENT), len(self.popularity))
        trained[0] = True
        train = histories.only(trained)
        return replace(self, train=train, popularity=np.where(trained, counts, 0), recency=recency, impressions=impressions)


def load() -> Prepared:
    """The prepared data."""
    import polars as pl

    split = pl.read_parquet(PREPARED / "histories.parquet", columns=["train_end", "valid_at", "test_at", "test_basket"])
    features, facts = pl.read_parquet(PREPARED / "items.parquet"), read_json(PREPARED / "prepared.json")
    full = mapped(PREPARED / "flat")
    start = full.items.start
    trained = np.append(True, features["trained"].to_numpy())
    train = full.within(start, start + split["train_end"].to_numpy().astype(np.int64)).only(trained)
    valid, test = (_held_out(full, split[column]) for column in ("valid_at", "test_at"))
    before_test = full.within(start, start + split["test_at"].fill_null(pl.Series(full.lengths)).to_numpy().astype(np.int64))
    sizes = split["test_basket"].drop_nulls().to_numpy().astype(np.int64)
    baskets = [full.items.values[at : at + size].astype(np.int64) for at, size in zip(test.items.end, sizes, strict=True)]
    names = [n for n in NUMBERS if n in features.columns]
    rows = features.select(pl.col(names).cast(pl.Float32).fill_nan(None).fill_null(0.0)).to_numpy()
    return Prepared(
        full, train, valid, test, facts["platforms"],
        popularity=np.concatenate([[0], (features["popularity"] * features["trained"]).to_numpy().astype(np.int64)]),
        recency=np.concatenate([[0.0], features["recency"].to_numpy()]),
        attributes=_padded(features["attributes"].to_list()),
        numbers=np.vstack([np.zeros((1, len(names)), np.float32), rows]),
        money=[i for i, n in enumerate(names) if n in MONEY],
        impressions=_impressions,
        baskets=baskets,
        before_test=before_test,
        min_item_events=facts["min_item_events"],
        ordered_only=facts["ordered_only"],
        origin=facts["origin"],
        content=_content(len(features) + 1, facts["terms"]),
        embedded=vectors(),
    )  # fmt: skip


def vectors() -> dict[str, np.ndarray]:
    """What items read, look and sound like, as `embed` wrote it."""
    return {kind: np.load(file, mmap_mode="r") for kind in KINDS if (file := EMBEDDED / f"{kind}.npy").exists()}


def mapped(folder: Path) -> Sequences:
    """All histories of flat files, mapped: what is not read takes no memory."""
    offsets = np.load(folder / "offsets.npy")
    columns = (np.load(folder / f"{name}.npy", mmap_mode="c") for name in ("items", "times", "actions", "platforms"))
    items, times, actions, platforms = (Ragged(column, offsets[:-1], offsets[1:]) for column in columns)
    return Sequences(items, times, None, actions, platforms)


def _held_out(full: Sequences, at: "pl.Series") -> Sequences:
    """Of the shoppers who have one the item at this position, and what each met before."""
    asked = full.rows(at.is_not_null().arg_true().to_numpy())
    return asked.asking(asked.items.start + at.drop_nulls().to_numpy().astype(np.int64))


def _content(items: int, terms: int) -> "sp.csr_matrix | None":
    import polars as pl
    import scipy.sparse as sp

    rows = pl.read_parquet(PREPARED / "content.parquet")
    if rows.is_empty():
        return None
    return sp.csr_matrix(
        (rows["count"].to_numpy().astype(np.float32), (rows["item"].to_numpy(), rows["term"].to_numpy())), shape=(items, terms)
    )


def vocabulary_size() -> int:
    """How many items there are."""
    return read_json(PREPARED / "prepared.json")["sizes"]["items"]


def _impressions(part: str) -> Impressions:
    import polars as pl

    shown = pl.read_parquet(PREPARED / "impressions.parquet").filter(part=part)
    columns = (shown[c].to_numpy().astype(np.int64) for c in ("user", "position", "item", "platform"))
    return Impressions(*columns, shown.select("clicked", "carted", "purchased").to_numpy().astype(np.float32))


def _together(parts: list[Impressions]) -> Impressions:
    """Impressions of all parts, ordered by shopper."""
    columns = ("user", "position", "item", "platform", "labels")
    together = Impressions(*(np.concatenate([getattr(p, c) for p in parts]) for c in columns))
    return together.rows(np.lexsort((together.position, together.user)))


def _padded(lists: list[list[int]]) -> np.ndarray | None:
    longest = max(map(len, lists))
    if not longest:
        return None
    padded = np.zeros((len(lists) + 1, longest), dtype=np.int64)
    for row, numbers in zip(padded[1:], lists, strict=True):
        row[: len(numbers)] = numbers
    return padded
