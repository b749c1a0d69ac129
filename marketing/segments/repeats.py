"""What each shopper bought and will buy again, and when: of each item its cycle, the chance of a purchase within days, whether it is due. Definitions stand in docs/marketer.md.

In: purchases with the category of their item, a moment. Out: a row a shopper and item bought; how well such rows told what was bought again later. Knows no models and no serving.

A category has a rhythm: a share of what is bought of it is bought again, after a time whose logarithm is normal (a cure model: Boag, "Maximum likelihood estimates of the proportion of patients
cured by cancer therapy", 1949; of purchases Bhagat et al., "Buy it again: modeling repeat purchase recommendations", KDD 2018). A shopper's own gaps draw its length to their pace.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import polars as pl
from scipy.optimize import minimize
from scipy.special import expit, ndtr

REPEATS = {
    "user_id": pl.String,
    "item_id": pl.String,
    "purchases": pl.UInt32,  # days on which it was bought
    "last_bought": pl.Datetime("us", "UTC"),
    "cycle_days": pl.Float64,  # of this shopper; null where its category has no rhythm
    "spread": pl.Float64,  # of the logarithm of a gap
    "returning": pl.Float64,  # the chance, at its last purchase, that it is bought again at all
    "due_from": pl.Datetime("us", "UTC"),  # null: it is not bought again
    "due_until": pl.Datetime("us", "UTC"),
    "due": pl.Boolean,  # now
    "chance": pl.Float64,  # of a purchase within `ahead` days
}
DAY = 86_400.0
FEWEST_GAPS = 10  # between purchases of an item, from which a category has a rhythm
MOST = 20_000  # purchases by which a category's rhythm is told, at most
PRIOR_GAPS = 2.0  # gaps' worth of the category's rhythm, from which each shopper's starts
RETURNING = 0.2  # the chance of being bought again from which something may be due
DUE = 0.8, 2.0  # cycles after the last purchase from which it is due, and until when
NARROWEST, WIDEST = 0.05, 1.0  # spread
LONGER = 1.5
TOLD = 10  # items a list, of how well they were told


@dataclass(frozen=True)
class Rhythm:
    """How what is bought of a category is bought again."""

    centre: float  # mean of the logarithm of the days between two purchases
    spread: float
    returning: float  # the share of first purchases after which another comes
    going_on: float  # ... of later ones


def known(purchases: pl.DataFrame, at: datetime, ahead: float) -> pl.DataFrame:
    """REPEATS, of purchases up to a moment.

    purchases: user_id, item_id, category, timestamp. ahead: days that `chance` looks at.
    """
    days = purchases.filter(pl.col("timestamp") <= at).group_by(
        "user_id", "item_id", "category", pl.col("timestamp").dt.date().alias("day")
    ).agg(pl.col("timestamp").max()).sort("user_id", "item_id", "day")  # fmt: skip
    key = ["user_id", "item_id"]
    gap = (pl.col("timestamp").shift(-1).over(key) - pl.col("timestamp")).dt.total_seconds() / DAY
    since = (pl.lit(at) - pl.col("timestamp")).dt.total_seconds() / DAY
    spells = days.with_columns(gap=gap, nth=pl.int_range(pl.len()).over(key), days=pl.coalesce(gap, since).clip(lower_bound=0.01))
    rhythms = {
        category: rhythm(part["days"].to_numpy(), part["gap"].is_not_null().to_numpy(), part["nth"].to_numpy())
        for (category,), part in spells.drop_nulls("category").group_by("category", maintain_order=True)
        if part["gap"].count() >= FEWEST_GAPS
    }
    table = pl.DataFrame(
        [{"category": c, "centre": r.centre, "spread": r.spread, "first": r.returning, "later": r.going_on} for c, r in rhythms.items()],
        schema={"category": pl.String, "centre": pl.Float64, "spread": pl.Float64, "first": pl.Float64, "later": pl.Float64},
    )  # fmt: skip
    own = spells.filter(pl.col("gap").is_not_null()).group_by("user_id", "category").agg(
        told=pl.len(), total=pl.col("days").log().sort().sum()
    )  # fmt: skip
    last = spells.filter(pl.col("gap").is_null()).join(table, on="category", how="left", maintain_order="left")
    last = last.join(own, on=["user_id", "category"], how="left", maintain_order="left").with_columns(
        pl.col("told", "total").fill_null(0.0)
    )
    centre = (pl.col("total") + PRIOR_GAPS * pl.col("centre")) / (pl.col("told") + PRIOR_GAPS)
    last = last.with_columns(
        purchases=pl.col("nth") + 1,
        last_bought=pl.col("timestamp"),
        centre=centre,
        cycle_days=centre.exp(),
        returning=pl.when(pl.col("nth") > 0).then("later").otherwise("first"),
    )
    again = pl.col("returning") >= RETURNING
    ends = (
        pl.when(again).then(pl.col("timestamp") + pl.duration(microseconds=(pl.col("cycle_days") * cycles * DAY * 1e6).cast(pl.Int64)))
        for cycles in DUE
    )  # fmt: skip
    last = last.with_columns(**dict(zip(("due_from", "due_until"), ends, strict=True)))
    told = last.select("days", "centre", "spread", "returning").to_numpy().T
    chances = np.nan_to_num(chance(*told, ahead))
    due = (pl.col("due_from") <= at) & (pl.lit(at) < pl.col("due_until"))
    return (
        last.with_columns(due=due.fill_null(False), chance=pl.Series(chances))
        .sort("user_id", "item_id")
        .select(pl.col(name).cast(kind) for name, kind in REPEATS.items())
    )


def rhythm(days: np.ndarray, again: np.ndarray, nth: np.ndarray) -> Rhythm:
    """The likeliest rhythm of a category. Its cycle is at most LONGER times the middle of the gaps that were seen: longer ones, which nobody saw, cannot be told from not coming back.

    days: (N,) from each purchase to the next of its item by the same shopper, or until now. again: (N,) bool, was there a next? nth: (N,) purchases of the item before.
    """
    rows = slice(None) if len(days) <= MOST else np.random.default_rng(0).permutation(len(days))[:MOST]
    logs, again, later = np.log(days[rows]), again[rows], (nth[rows] > 0).astype(int)
    if again.sum() < 2:  # of very many purchases hardly any was followed by another
        return Rhythm(0.0, WIDEST, 0.0, 0.0)
    middle = float(np.median(logs[again]))
    start = np.array([middle, np.clip(logs[again].std(), 0.2, 0.8), 0.0, 0.0])
    bounds = [(middle - 1.0, middle + np.log(LONGER)), (NARROWEST, WIDEST), (-8, 8), (-8, 8)]

    def surprise(values: np.ndarray) -> float:
        z, share = (logs - values[0]) / values[1], expit(values[2:])[later]
        told = np.where(again, np.log(share) - z * z / 2 - np.log(values[1]), np.log1p(-share * ndtr(z) + 1e-12))
        return -float(told.sum()) + float(np.square(values[2:] / 4).sum())  # shares are drawn to a half where little is told

    centre, spread, *shares = minimize(surprise, start, method="L-BFGS-B", bounds=bounds).x
    return Rhythm(float(centre), float(spread), *(float(expit(share)) for share in shares))


def chance(days: np.ndarray, centre: np.ndarray, spread: np.ndarray, returning: np.ndarray, ahead: float) -> np.ndarray:
    """(N,) of a purchase within `ahead` days, of what was last bought so many days ago: r (F(t + ahead) - F(t)) / (1 - r F(t)) of the share r that returns and the lognormal F."""
    now, then = (ndtr((np.log(np.maximum(d, 1e-6)) - centre) / spread) for d in (days, days + ahead))
    return returning * (then - now) / np.maximum(1 - returning * now, 1e-9)


def told_in_advance(purchases: pl.DataFrame, at: datetime, ahead: float) -> dict:
    """How well what is bought again in the `ahead` days up to a moment was told before: mean NDCG@10 over the shoppers who did buy again, by chance and by how often it was bought
    before (then by how lately); and how many shoppers.
    """
    from_ = at - timedelta(days=ahead)
    rows = known(purchases, from_, ahead)
    bought = purchases.filter(pl.col("timestamp").is_between(from_, at, closed="right")).select("user_id", "item_id").unique()
    rows = rows.join(bought.with_columns(again=pl.lit(True)), on=["user_id", "item_id"], how="left").with_columns(
        pl.col("again").fill_null(False)
    )
    rows = rows.filter(pl.col("again").any().over("user_id"))
    orders = {"ndcg@10": ["chance"], "by_frequency": ["purchases", "last_bought"]}
    found: dict = {"shoppers": rows["user_id"].n_unique(), "days": ahead}
    for name, by in orders.items():
        ranked = rows.sort(*by, "item_id", descending=[True] * len(by) + [False])
        found[name] = _ndcg(ranked.select("user_id", "again")) if len(rows) else None
    return found


def _ndcg(ranked: pl.DataFrame) -> float:
    """Mean over shoppers, of rows of `again` best first."""
    place = pl.int_range(pl.len()).over("user_id")
    gain = pl.when(place < TOLD).then(1 / (place + 2).log(2)).otherwise(0.0)
    of_each = ranked.with_columns(gain=gain).group_by("user_id").agg(
        got=pl.col("gain").filter("again").sort().sum(), wanted=pl.col("again").sum()
    )  # fmt: skip
    of_each = of_each.sort("user_id")
    best = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(TOLD) + 2))])
    return float((of_each["got"].to_numpy() / best[np.minimum(of_each["wanted"].to_numpy(), TOLD)]).mean())
