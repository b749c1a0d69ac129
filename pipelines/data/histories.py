"""From actions to histories: the first time each shopper meets each item, and numbers for items.

In: actions (cleaning.py). Out: meetings in order of time, the vocabulary. Lost: later meetings of an item, which only make its action
stronger.
"""

import numpy as np
import polars as pl

from online.features import STRENGTH
from pipelines.data.tables import SOURCE_ROW

BASKETS = 0.5  # share of neighbours in histories with equal times from which a time names a basket, not a moment
SEED = 0  # of the draws from baskets
PLATFORMS = 1000  # told apart, the most frequent


def meetings(actions: pl.LazyFrame) -> tuple[pl.DataFrame, float]:
    """The first time each shopper meets each item, ordered by user and time: columns user_id, item_id, timestamp, source_row, action
    (UInt8), basket (which of the shopper's baskets, from 0), and platform where events have it; and the share of neighbours whose times
    are equal.

    Ties are broken by the row in the source. Where most neighbours tie, items of equal time are a basket, whose order says nothing: a
    seeded draw from each stands first in it, which is the one that the split may hold out. Elsewhere every meeting is a basket of its own.
    """
    key, at_once = ["user_id", "item_id"], pl.col("timestamp") == pl.col("timestamp").min()
    first = actions.group_by(key).agg(pl.col("timestamp").min(), pl.col(SOURCE_ROW).filter(at_once).min())
    first = first.collect(engine="streaming").sort("user_id", "timestamp", SOURCE_ROW)
    same_user = pl.col("user_id") == pl.col("user_id").shift()
    tied = first.select((same_user & (pl.col("timestamp") == pl.col("timestamp").shift())).sum() / same_user.sum()).item() or 0.0
    if tied > BASKETS:
        first = _drawn_first(first)
        basket = pl.col("timestamp").rle_id().over("user_id")
    else:
        basket = pl.int_range(pl.len()).over("user_id")
    first = first.with_columns(basket=basket.cast(pl.UInt32))
    until = first.with_columns(
        until=pl.col("timestamp").shift(-1).over("user_id"), following=pl.int_range(pl.len()).over("user_id")
    ).rename({"timestamp": "met"})
    done = actions.join(until.lazy().select(*key, "met", "until"), on=key)
    met_now = pl.col("timestamp") == pl.col("met")
    done = done.filter(met_now | pl.col("until").is_null() | (pl.col("timestamp") < pl.col("until")))
    columns = {"action": pl.col("event").replace_strict(STRENGTH, default=1, return_dtype=pl.UInt8).max()}
    if "platform" in actions.collect_schema():
        columns["platform"] = pl.col("platform").filter(met_now).max()
    strongest = done.group_by(key).agg(**columns).collect(engine="streaming")
    return first.join(strongest, on=key, how="left", maintain_order="left"), float(tied)


def vocabulary(met: pl.DataFrame, catalogue: pl.DataFrame | None) -> pl.DataFrame:
    """Numbers items 1, 2, ... by their first appearance, in time and then in the source; those of the catalogue without any event follow
    in its order. Columns: item, item_id, listed (is it in the catalogue?).
    """
    order = met.group_by("item_id").agg(pl.struct("timestamp", SOURCE_ROW).sort().first().alias("at"))
    order = order.sort(pl.col("at").struct.field("timestamp"), pl.col("at").struct.field(SOURCE_ROW)).select("item_id")
    if catalogue is not None:
        order = pl.concat([order, catalogue.select("item_id").join(order, on="item_id", how="anti", maintain_order="left")])
        listed = pl.col("item_id").is_in(catalogue["item_id"].implode())
    else:
        listed = pl.lit(True)
    return order.with_row_index("item", 1).with_columns(listed=listed)


def flat(split: pl.DataFrame) -> tuple[dict[str, np.ndarray], int]:
    """What training reads, 8 bytes an event in items and times: the lists of a split one after the other, the history of row i at
    [offsets[i], offsets[i + 1]); and the second since 1970 from which times count, so that 68 years fit into four bytes.
    """
    lists = {"items": np.int32, "timestamps": np.int64, "actions": np.uint8, "platforms": np.int16}
    items, times, actions, numbers = (
        split[name].explode(empty_as_null=False).to_physical().to_numpy().astype(kind) for name, kind in lists.items()
    )
    times //= 1_000_000
    origin = int(times.min())
    times -= origin
    if times.max(initial=0) < 1 << 31:
        times = times.astype(np.int32)
    offsets = np.concatenate([[0], split["items"].list.len().to_numpy().cumsum()]).astype(np.int64)
    return {"items": items, "times": times, "actions": actions, "platforms": numbers, "offsets": offsets}, origin


def platforms(met: pl.DataFrame) -> list[str]:
    """The names of the platforms, by number from 1; of more than PLATFORMS the most frequent."""
    if "platform" not in met.columns:
        return []
    counts = met["platform"].drop_nulls().value_counts().sort(["count", "platform"], descending=[True, False])
    return sorted(counts["platform"].head(PLATFORMS).to_list())


def _drawn_first(first: pl.DataFrame) -> pl.DataFrame:
    """Moves a seeded draw to the beginning of each shopper's items of equal time."""
    group = first.select(pl.struct("user_id", "timestamp").rle_id()).to_series().to_numpy()
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    sizes = np.diff(starts, append=len(group))
    drawn = starts + (np.random.default_rng(SEED).random(len(starts)) * sizes).astype(int)
    place = np.arange(len(group)) + 1
    place[drawn] = 0
    return first[np.lexsort((place, group))]
