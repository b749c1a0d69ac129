"""What campaigns brought, beside those held out, in a world whose truth is known."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from marketing import report
from marketing.pushes import PUSHES

START = datetime(2026, 1, 1, tzinfo=UTC)
NOBODY = pl.DataFrame(schema={"campaign_id": pl.String, "user_id": pl.String, "revenue": pl.Float64})


def pushes(
    campaign: str, people: int, share: float, added: float, rng: np.random.Generator, day: int = 0, expected: float | None = None
) -> pl.DataFrame:
    """Pushes of a campaign that adds so many purchases of 10 (margin 4) a person; a tenth buy anyway."""
    sent = rng.random(people) < share
    bought = rng.random(people) < 0.1 + added * sent
    return pl.DataFrame({
        "campaign_id": campaign, "user_id": [f"u{n}" for n in range(people)], "item_id": "tea", "channel": np.where(np.arange(people) % 2, "app", "email"),
        "timestamp": START + timedelta(days=day), "sent": sent, "propensity": 0.5, "expected": expected, "clicked": False, "bought": bought, "revenue": bought * 10.0, "margin": bought * 4.0,
    }).cast(PUSHES)  # fmt: skip


def test_what_was_added_lies_in_the_interval_and_nothing_is_called_where_nothing_was():
    rng = np.random.default_rng(0)
    table = pl.concat([pushes("good", 20_000, 0.5, 0.05, rng), pushes("none", 20_000, 0.5, 0.0, rng, 7)])
    good, none, together = report.brought(table, NOBODY, {})
    low, high = good["orders"]["interval"]
    assert low < 0.05 * good["sent"] < high
    assert good["orders"]["sure"]
    assert good["margin"]["added"] == pytest.approx(4 * good["orders"]["added"])
    assert not none["orders"]["sure"]
    assert [c["channel"] for c in good["channels"]] == ["email", "app"]
    assert together["sent"] == good["sent"] + none["sent"]
    assert (good["campaign"], none["campaign"], together["campaign"]) == ("good", "none", "all")


def test_intervals_hold_the_truth_in_at_least_nineteen_of_twenty_campaigns():
    rng = np.random.default_rng(1)
    rows = report.brought(pl.concat([pushes(f"c{n:02}", 2000, 0.8, 0.03, rng, n) for n in range(60)]), NOBODY, {})[:-1]
    assert sum(r["orders"]["interval"][0] < 0.03 * r["sent"] < r["orders"]["interval"][1] for r in rows) >= 57


def test_what_was_planned_is_held_against_what_came():
    rng = np.random.default_rng(4)
    right, wrong, unknown = (
        pushes(name, 8000, 0.7, 0.05, rng, n, expected)
        for n, (name, expected) in enumerate((("a", 0.2), ("b", 2.0), ("c", None)))
    )
    a, b, c, together = report.brought(pl.concat([right, wrong, unknown]), NOBODY, {})
    assert a["expected"] == {"margin": pytest.approx(0.2 * a["sent"]), "as_measured": True}
    assert b["expected"] == {"margin": pytest.approx(2.0 * b["sent"]), "as_measured": False}
    assert "expected" not in c
    assert "expected" not in together  # it is not known of all


def test_what_people_brought_before_takes_noise_away():
    rng = np.random.default_rng(2)
    table, habit = pushes("c", 4000, 0.5, 0.02, rng), rng.lognormal(3, 1, 4000)
    table = table.with_columns(revenue=pl.col("revenue") + habit)
    before = pl.DataFrame({"campaign_id": "c", "user_id": table["user_id"], "revenue": habit + rng.normal(0, 1, 4000)})
    widths = [
        r["revenue"]["interval"][1] - r["revenue"]["interval"][0]
        for [r] in (report.brought(table, known, {}) for known in (NOBODY, before))
    ]
    assert widths[1] < 0.3 * widths[0]


def test_arms_that_are_not_as_planned_are_an_alarm_and_few_people_tell_nothing():
    rng = np.random.default_rng(3)
    [row] = report.brought(pushes("c", 5000, 0.5, 0.05, rng), NOBODY, {"c": 0.1})
    assert "find out who is missing" in row["reason"]
    assert "orders" not in row
    [row] = report.brought(pushes("c", 40, 0.5, 0.05, rng), NOBODY, {})
    assert row["reason"] == "both arms need 30 people"
    assert report.brought(pl.DataFrame(schema=PUSHES), NOBODY, {}) == []
