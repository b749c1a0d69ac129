"""What each shopper will do in the days ahead: buy, stay away, and of which category they will buy next. Definitions stand in docs/marketer.md.

In: what was known of shoppers at moments of the past, what they did. Out: chances for whoever is asked about, and how well such chances told days of the past.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

import numpy as np
import polars as pl

from marketing import chances
from marketing.segments.shoppers import AHEAD, DAY, SHOPPERS, STRENGTH, favourite

HALF_LIVES = (7.0, 30.0, 120.0)  # days in which a sign of interest comes to count half, of which the one that told best is taken
LIFECYCLES = ("new", "active", "cooling", "lost")


@dataclass(frozen=True)
class Outlook:
    """What has been learnt of what shoppers do next."""

    chances: dict[str, chances.Chances]  # purchase_chance, leaving_chance
    half_life: float  # of signs of interest, by which the next category is told
    report: dict  # how well the days before now would have been told

    def of(self, people: pl.DataFrame, events: pl.DataFrame, at: datetime) -> pl.DataFrame:
        """The people (SHOPPERS, as known at a moment), with AHEAD filled in. events: see learnt."""
        rows = features(people)
        found = people.drop(AHEAD).with_columns(pl.Series(name, c.of(rows)) for name, c in self.chances.items())
        liked = _liked(events, at, self.half_life).select("user_id", next_category="category")
        return found.join(liked, on="user_id", how="left", maintain_order="left").select(*SHOPPERS)


def learnt(known: Callable[[datetime], pl.DataFrame], events: pl.DataFrame, at: datetime, days: float, seed: int = 0) -> Outlook:
    """Learnt from what was known twice `days` ago and what came of it, chosen by what was known `days` ago.

    known: the shoppers (SHOPPERS) at a moment. events: user_id, event, timestamp, category.
    """
    step = timedelta(days=days)
    later, earlier = known(at - step), known(at - 2 * step)
    rows, which = np.concatenate([features(earlier), features(later)]), np.repeat([False, True], [len(earlier), len(later)])
    found, report = {}, {}
    for name, acts in (("purchase_chance", events.filter(event="purchase")), ("leaving_chance", events)):
        did = np.concatenate([_did(people, acts, at - back * step, step) for people, back in ((earlier, 2), (later, 1))])
        came = did if name == "purchase_chance" else ~did
        found[name] = chances.learnt(came, rows, which, seed=seed)
        share = float(came[which].mean()) if which.any() else None
        report[name] = {"by": found[name].kind, "share": share, "told": [asdict(t) for t in found[name].told]}
    half_life, report["next_category"] = _half_life(events, at, step)
    return Outlook(found, half_life, {"days": days, "shoppers": len(later)} | report)


def features(people: pl.DataFrame) -> np.ndarray:
    """(N, F) float64: the numbers that are known of shoppers, and their stage of life."""
    numbers = [name for name, kind in SHOPPERS.items() if kind.is_numeric() and name not in AHEAD]
    stage = pl.col("lifecycle").replace_strict(LIFECYCLES, range(len(LIFECYCLES)), default=None, return_dtype=pl.Float64)
    return people.select(*(pl.col(n).cast(pl.Float64) for n in numbers), stage).fill_null(np.nan).to_numpy()


def _did(people: pl.DataFrame, acts: pl.DataFrame, start: datetime, step: timedelta) -> np.ndarray:
    """(N,) bool: is there an act of each of the people in the time after a moment?"""
    during = acts.filter(pl.col("timestamp") > start, pl.col("timestamp") <= start + step)["user_id"].unique()
    return people["user_id"].is_in(during.implode()).to_numpy()


def _half_life(events: pl.DataFrame, at: datetime, step: timedelta) -> tuple[float, dict]:
    """The half-life of signs of interest that tells best of which category people bought first in the last days; and of which share of them it told it."""
    bought = events.filter(pl.col("event") == "purchase", pl.col("timestamp") > at - step).drop_nulls("category")
    first = bought.sort("timestamp").unique("user_id", keep="first", maintain_order=True).select("user_id", bought="category")
    shares = {}
    for half_life in HALF_LIVES:
        guess = _liked(events, at - step, half_life).join(first, on="user_id")
        shares[half_life] = float((guess["category"] == guess["bought"]).mean()) if len(guess) else 0.0
    best = max(shares, key=shares.get)
    usual = float(first["bought"].value_counts()["count"].max() / len(first)) if len(first) else 0.0
    return best, {"by": f"a half-life of {best:g} days", "told": shares[best], "told_by_the_usual_one": usual}


def _liked(events: pl.DataFrame, at: datetime, half_life: float) -> pl.DataFrame:
    """The category that each shopper likes most at a moment."""
    age = (pl.lit(at) - pl.col("timestamp")).dt.total_seconds() / DAY
    strength = pl.col("event").replace_strict(STRENGTH, return_dtype=pl.Float64)
    before = events.filter(pl.col("timestamp") <= at)
    return favourite(before.with_columns(weight=strength * 0.5 ** (age / half_life)), "category")
