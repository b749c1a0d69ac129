"""What is bought again: the rhythm that made the purchases is found again, and what is due follows from it."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from marketing.segments import repeats

START = datetime(2026, 1, 1, tzinfo=UTC)
AT = START + timedelta(days=120)


def shop(people: int = 1500, seed: int = 0) -> pl.DataFrame:
    """Tea of which six in ten first purchases are followed by others, every 15 days or so; lamps that nobody buys again but by chance."""
    rng, rows = np.random.default_rng(seed), []
    for person in range(people):
        day = float(rng.uniform(0, 110))
        rows.append((f"u{person:05d}", "lamp", "lamps", float(rng.uniform(0, 119))))
        if rng.random() < 0.05:
            rows.append((f"u{person:05d}", "lamp", "lamps", float(rng.uniform(0, 119))))
        rows.append((f"u{person:05d}", "tea", "tea", day))
        if rng.random() < 0.6:
            while (day := day + 15 * float(np.exp(rng.normal(0, 0.2)))) < 120:
                rows.append((f"u{person:05d}", "tea", "tea", day))
    return pl.DataFrame(rows, schema=["user_id", "item_id", "category", "day"], orient="row").select(
        "user_id", "item_id", "category", timestamp=pl.lit(START) + pl.duration(microseconds=(pl.col("day") * repeats.DAY * 1e6).cast(pl.Int64))
    )  # fmt: skip


def test_a_rhythm_is_found_again():
    rng = np.random.default_rng(1)
    returns, gap, seen = rng.random(4000) < 0.6, 15 * np.exp(rng.normal(0, 0.2, 4000)), rng.uniform(1, 110, 4000)
    again = returns & (gap < seen)
    found = repeats.rhythm(np.where(again, gap, seen), again, np.zeros(4000, int))
    assert np.exp(found.centre) == pytest.approx(15, rel=0.03)
    assert found.spread == pytest.approx(0.2, abs=0.03)
    assert found.returning == pytest.approx(0.6, abs=0.04)


def test_what_hardly_anybody_buys_again_does_not_return():
    many, again = 10 * repeats.MOST, np.zeros(10 * repeats.MOST, bool)
    again[:15] = True
    found = repeats.rhythm(np.full(many, 30.0), again, np.zeros(many, int))
    assert max(found.returning, found.going_on) < repeats.RETURNING


def test_what_is_used_up_is_due_at_its_time_and_what_lasts_never():
    known = repeats.known(shop(), AT, 7.0)
    assert known.schema == repeats.REPEATS
    lamps, tea = known.filter(item_id="lamp"), known.filter(item_id="tea")
    assert lamps["due_from"].null_count() == len(lamps)
    assert not lamps["due"].any()
    assert tea["due_from"].null_count() == 0
    since = (pl.lit(AT) - pl.col("last_bought")).dt.total_days()
    assert tea.filter(since < 8)["due"].sum() == 0
    assert tea.filter(since.is_between(16, 22))["due"].mean() > 0.9
    assert tea.filter(since > 45)["due"].sum() == 0


def test_chances_are_those_of_what_comes():
    purchases = shop()
    before = AT - timedelta(days=7)
    known = repeats.known(purchases, before, 7.0)
    later = purchases.filter(pl.col("timestamp") > before).select("user_id", "item_id").unique().with_columns(came=pl.lit(1.0))
    both = (
        known.join(later, on=["user_id", "item_id"], how="left").with_columns(pl.col("came").fill_null(0.0)).filter(item_id="tea")
    )
    assert both["chance"].mean() == pytest.approx(both["came"].mean(), rel=0.15)
    likely = both.filter(pl.col("chance") > 0.5)
    assert likely["came"].mean() == pytest.approx(likely["chance"].mean(), abs=0.12)


def test_repeats_are_told_better_than_by_how_often_they_were_bought():
    found = repeats.told_in_advance(shop(), AT, 7.0)
    assert found["shoppers"] > 100
    assert found["ndcg@10"] > found["by_frequency"]


@pytest.mark.parametrize("rows", [0, 1, 12])
def test_of_few_purchases_nothing_is_due(rows: int):
    known = repeats.known(shop().head(rows), AT, 7.0)
    assert len(known) <= rows
    assert not known["due"].any()
    assert repeats.told_in_advance(shop().head(0), AT, 7.0) == {"shoppers": 0, "days": 7.0, "ndcg@10": None, "by_frequency": None}
