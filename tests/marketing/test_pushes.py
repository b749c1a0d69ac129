"""What was pushed and what came of it, and what was known beforehand: by definition, and without what came after."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from marketing import pushes
from marketing.pushes import PRIOR_HOURS, PUSHES

START = datetime(2026, 1, 1, 12, tzinfo=UTC)
ITEMS = pl.DataFrame(
    {
        "item_id": ["tea", "cup"],
        "category": ["kitchen", "kitchen"],
        "brand": ["x", "y"],
        "price": [10.0, 20.0],
        "cost": [4.0, 15.0],
    }
)


def events(*rows: tuple) -> pl.DataFrame:
    """(user, item, event, hours after the start, campaign, propensity)"""
    names = ["user_id", "item_id", "event", "hours", "campaign_id", "propensity"]
    table = pl.DataFrame(
        [(*row, *[None] * (6 - len(row))) for row in rows],
        schema=names,
        orient="row",
        schema_overrides={"propensity": pl.Float64, "campaign_id": pl.String},
    )
    at = [START + timedelta(hours=hours) for hours in table["hours"]]
    return table.drop("hours").with_columns(timestamp=pl.Series(at, dtype=pl.Datetime("us", "UTC")), channel=pl.lit("email"))


def test_a_push_is_answered_by_the_first_purchase_of_its_item_in_time():
    found = pushes.logged(events(
        ("a", "tea", "impression", 0, "one", 0.4), ("b", "tea", "holdout", 1, "one", 0.5), ("c", "cup", "impression", 2, "one", 0.1),
        ("a", "tea", "click", 1), ("a", "tea", "purchase", 20), ("b", "tea", "purchase", 100), ("c", "tea", "purchase", 3),
        ("a", "tea", "impression", 5),  # of no campaign
    ), ITEMS, 3.0)  # fmt: skip
    assert found.schema == PUSHES
    rows = found.select("user_id", "sent", "propensity", "clicked", "bought", "revenue", "margin").rows()
    assert rows == [
        ("a", True, 0.4, True, True, 10.0, 6.0),
        ("b", False, 0.5, False, False, 0.0, 0.0),
        ("c", True, 0.1, False, False, 0.0, 0.0),
    ]


def test_without_campaigns_there_are_no_pushes():
    assert pushes.logged(events(("a", "tea", "view", 0)).drop("campaign_id"), ITEMS, 3.0).is_empty()
    assert pushes.logged(events(("a", "tea", "impression", 0)), ITEMS, 3.0).is_empty()


class TestKnown:
    ROWS = (
        ("a", "tea", "view", -48), ("a", "cup", "purchase", -24), ("b", "tea", "view", -30), ("b", "cup", "view", -29),
        ("a", "tea", "impression", -72, "old", 0.5), ("a", "tea", "click", -71),
    )  # fmt: skip
    USERS = pl.DataFrame(
        {"user_id": ["a", "b"], "city": ["x", "y"], "channels": ["email", "email sms"], "time_zone": ["Asia/Tokyo", "UTC"]}
    )

    def known(self, *more: tuple, users: pl.DataFrame | None = None) -> pl.DataFrame:
        log = events(*self.ROWS, *more)
        asked = pl.DataFrame(
            {"user_id": ["a", "b", "z"], "item_id": ["tea", "tea", "cup"], "channel": ["email"] * 3, "hour": [21.0, 6.0, 12.0]}
        )
        return pushes.known(asked, START, log, pushes.logged(log, ITEMS, 3.0), ITEMS, users)

    def test_what_comes_after_changes_nothing(self):
        later = [
            ("a", "tea", "purchase", 1),
            ("b", "cup", "view", 0),
            ("z", "tea", "view", 3),
            ("b", "tea", "impression", 2, "new", 0.5),
        ]
        assert self.known(users=self.USERS).equals(self.known(*later, users=self.USERS))

    def test_figures_by_definition(self):
        row = self.known(users=self.USERS).row(0, named=True)
        assert row["recency"] == 1.0
        assert row["order_recency"] == 1.0
        assert row["own_item"] == pytest.approx(0.5 ** (2 / 30) + 0.5 ** (71 / 24 / 30))
        assert row["tired"] == pytest.approx(2.718281828 ** (-3 / 4), rel=1e-6)
        assert row["answered"] == pytest.approx((1 + 2 * 1.0) / 3)  # one of one was clicked, as everybody's
        assert row["channel"] == 0
        assert row["user_city"] == 0
        assert "user_channels" not in row  # what people left since is not known beforehand

    def test_a_stranger_is_not_known_but_can_be_asked_about(self):
        row = self.known().row(2, named=True)
        assert (row["events"], row["orders"], row["alike"], row["tired"]) == (0, 0, 0, 0)
        assert row["recency"] is None

    def test_who_is_there_at_the_hour_is_awake(self):
        found = self.known(users=self.USERS)  # a: events at 21:00 of Tokyo's day, b at 6 and 7 UTC
        assert found["awake"].to_list() == pytest.approx(
            [(3 + PRIOR_HOURS * 3 / 5) / (3 + PRIOR_HOURS), (2 + PRIOR_HOURS * 2 / 5) / (2 + PRIOR_HOURS), 0.0]
        )
        assert self.known()["awake"][0] < found["awake"][0]  # without zones a is asked at another hour of the day


def test_the_past_is_told_as_of_the_start_of_each_campaign():
    log = events(
        ("a", "tea", "view", -1),
        ("a", "tea", "holdout", 0, "one", 0.5),
        ("a", "tea", "view", 10),
        ("a", "tea", "impression", 24, "two", 0.5),
    )
    told = pushes.past(pushes.logged(log, ITEMS, 3.0), log, ITEMS, None)
    assert told["recency"].to_list() == pytest.approx([1 / 24, 14 / 24])
