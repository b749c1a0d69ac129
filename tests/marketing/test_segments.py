"""What is known of shoppers, by the formulas of docs/marketer.md, on shops of a few rows; lifetime value by the published figures."""

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from marketing.segments import lifetime_value, named, shoppers

ROOT = Path(__file__).resolve().parents[2]
CDNOW = ROOT.parent / "shared" / "data" / "cdnow" / "cdnow_customers_summary_with_transactions.csv"
NOW = datetime(2026, 5, 1, tzinfo=UTC)
ITEMS = pl.DataFrame(
    {
        "item_id": ["tea", "pot", "cup", "rug"],
        "category": ["kitchen", "kitchen", "kitchen", "home"],
        "brand": ["A", "B", "B", None],
        "price": [10.0, 20.0, 30.0, 100.0],
        "cost": [4.0, 5.0, 6.0, None],
    }
)


def acts(*rows: tuple) -> pl.DataFrame:
    """Rows of user, item, event, days before NOW and, where given, price, quantity, order."""
    padded = [(*row, *[None] * (7 - len(row))) for row in rows]
    names = ["user_id", "item_id", "event", "ago", "price", "quantity", "order_id"]
    kinds = [pl.String, pl.String, pl.String, pl.Float64, pl.Float64, pl.Float64, pl.String]
    table = pl.DataFrame(padded, schema=dict(zip(names, kinds, strict=True)), orient="row")
    when = pl.Series("timestamp", [NOW - timedelta(days=row[3]) for row in padded], dtype=pl.Datetime("us", "UTC"))
    return table.with_columns(when).drop("ago").sort("user_id", "timestamp")


def row_of(events: pl.DataFrame, user: str, items: pl.DataFrame | None = ITEMS, **rules) -> dict:
    return shoppers.known(events, items, NOW, shoppers.Rules(**rules)).shoppers.row(
        by_predicate=pl.col("user_id") == user, named=True
    )


class TestShoppers:
    @pytest.mark.parametrize(
        ("first", "last", "stage"), [(29, 0, "new"), (31, 29, "active"), (200, 31, "cooling"), (200, 91, "lost"), (30, 30, "new")]
    )
    def test_the_stage_of_life(self, first: float, last: float, stage: str):
        assert row_of(acts(("a", "tea", "view", first), ("a", "tea", "view", last)), "a")["lifecycle"] == stage

    def test_an_order_is_what_names_it_or_a_day(self):
        events = acts(
            ("a", "tea", "purchase", 9.1, 8.0, 2.0, "o1"), ("a", "pot", "purchase", 9.0, None, None, "o1"),
            ("a", "tea", "purchase", 5.2), ("a", "pot", "purchase", 5.1), ("a", "cup", "purchase", 2.0),
        )  # fmt: skip
        row = row_of(events, "a")
        assert row["orders"] == 3
        assert row["revenue"] == 2 * 8 + 20 + 10 + 20 + 30
        assert row["margin"] == 2 * (8 - 4) + 15 + 6 + 15 + 24
        assert row["order_value"] == pytest.approx(row["revenue"] / 3)
        assert row["order_recency_days"] == 2
        assert row["discount_share"] == pytest.approx(
            0.2 / 5 * (1 + 3 / 5) / (1 + 3 / 5)
        )  # one of five, and all buyers are this one

    def test_scores_are_fifths_of_the_buyers(self):
        events = acts(*((f"u{n}", "tea", "purchase", 10.0 - n, 10.0 + n) for n in range(10)), ("z", "tea", "view", 1.0))
        table = shoppers.known(events, ITEMS, NOW, shoppers.Rules()).shoppers
        assert table["money_score"].to_list() == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, None]
        assert table["recency_score"].to_list() == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, None]
        assert set(table["frequency_score"].to_list()[:10]) == {3}

    def test_what_is_liked_most_is_drawn_to_what_everybody_likes(self):
        events = acts(
            ("a", "rug", "view", 0.0), ("a", "tea", "favourite", 0.0), ("b", "tea", "purchase", 30.0), ("c", "rug", "cart", 0.0)
        )
        row = row_of(events, "a")
        total, kitchen = 1 + 2 + 2 + 3, 2 + 2  # b's purchase counts half after thirty days
        assert row["category"] == "kitchen"
        assert row["category_share"] == pytest.approx((2 + 5 * kitchen / total) / (3 + 5))
        assert (row["brand"], row["brand_share"]) == ("A", pytest.approx(1.0))

    def test_the_best_hour_is_the_shops(self):
        events = acts(*(("a", "tea", "view", n + 3 / 24) for n in range(1, 9)))
        assert row_of(events, "a")["best_hour"] == 21
        assert row_of(events, "a", time_zone="Asia/Shanghai")["best_hour"] == 5

    def test_how_long_they_look_is_the_median_of_what_is_known(self):
        events = acts(*(("a", "tea", "view", float(n)) for n in range(4)), ("b", "tea", "view", 1.0))
        events = events.with_columns(looked=pl.when(pl.col("user_id") == "a").then(pl.Series([10.0, 30.0, 200.0, None, None])))
        assert (row_of(events, "a")["view_seconds"], row_of(events, "b")["view_seconds"]) == (30.0, None)

    def test_without_a_catalogue_and_without_orders_nothing_is_made_up(self):
        row = row_of(acts(("a", "tea", "view", 1.0)), "a", None)
        known = {
            "user_id",
            "first_seen",
            "last_seen",
            "recency_days",
            "events",
            "lifecycle",
            "orders",
            "best_hour",
            "due_categories",
        }
        assert {name for name, value in row.items() if value is not None} == known
        assert list(row) == list(shoppers.SHOPPERS)

    def test_events_after_the_moment_are_not_there(self):
        events = acts(("a", "tea", "view", 9.0), ("b", "tea", "purchase", 1.0))
        before = shoppers.known(events, ITEMS, NOW - timedelta(days=5), shoppers.Rules()).shoppers
        assert before["user_id"].to_list() == ["a"]


class TestRepurchases:
    def test_a_cycle_is_drawn_to_the_categorys(self):
        others = [(f"u{n}", "tea", "purchase", 100.0 - 10 * k) for n in range(10) for k in range(3)]
        events = acts(*others, *(("a", "pot", "purchase", ago) for ago in (60.0, 40.0, 20.0)))
        found = shoppers.known(events, ITEMS, NOW, shoppers.Rules()).repurchases
        row = found.row(by_predicate=pl.col("user_id") == "a", named=True)
        assert row["cycle_days"] == pytest.approx((40 + 2 * 10) / (2 + 2))
        assert row["purchases"] == 3
        assert row["due_at"] == NOW - timedelta(days=20) + timedelta(days=15)
        assert row["due"]  # 12 to 30 days after the last
        assert not found.filter(user_id="u0")["due"].item()  # twice their cycle has passed

    def test_a_category_of_few_repeats_has_no_rhythm(self):
        events = acts(*(("a", "tea", "purchase", 9.0 * n) for n in range(1, 9)))
        assert shoppers.known(events, ITEMS, NOW, shoppers.Rules()).repurchases.is_empty()


class TestLifetimeValue:
    @pytest.mark.skipif(not CDNOW.exists(), reason="shared/data/cdnow is not here")
    def test_cdnow_by_the_published_figures(self):
        data = pl.read_csv(CDNOW)
        x, last, age, spent = (data[c].cast(pl.Float64).to_numpy() for c in ("x", "t_x", "T", "zbar"))
        found, money = lifetime_value.fit_purchasing(x, last, age), lifetime_value.fit_spending(x, spent)
        assert [found.r, found.alpha, found.a, found.b] == pytest.approx([0.243, 4.414, 0.793, 2.426], abs=6e-4)
        assert found.log_likelihood == pytest.approx(-9582.4, abs=0.05)
        assert [money.p, money.q, money.v] == pytest.approx([6.25, 3.74, 15.44], abs=0.01)
        assert found.orders(x, last, age, 39.0).sum() == pytest.approx(1653, abs=1)

    def test_parameters_come_back_from_a_simulated_shop(self):
        r, alpha, a, b, span = 1.5, 30.0, 1.2, 3.0, 200.0
        rng = np.random.default_rng(0)
        rows, ahead = [], []
        for rate, leave in zip(rng.gamma(r, 1 / alpha, 20_000), rng.beta(a, b, 20_000), strict=True):
            when, x, last, later = 0.0, 0, 0.0, 0
            while (when := when + rng.exponential(1 / rate)) < 2 * span:
                x, last, later = (x + 1, when, later) if when < span else (x, last, later + 1)
                if rng.random() < leave:
                    break
            rows.append((x, last, span))
            ahead.append(later)
        x, last, age = np.array(rows).T
        found = lifetime_value.fit_purchasing(x, last, age)
        assert [found.r, found.alpha, found.a / (found.a + found.b)] == pytest.approx([r, alpha, a / (a + b)], rel=0.12)
        assert found.orders(x, last, age, span).sum() == pytest.approx(np.sum(ahead), rel=0.05)
        assert found.alive(x, last, age).min() >= 0

    def test_any_shop_gives_numbers(self):
        rng = np.random.default_rng(1)
        for most in (1, 3, 500):
            x = rng.integers(0, most + 1, 300).astype(float)
            age = rng.uniform(1, 900, 300)
            last = np.where(x > 0, age * rng.random(300), 0)
            found = lifetime_value.fit_purchasing(x, last, age)
            for value in (found.alive(x, last, age), found.orders(x, last, age, 365.0)):
                assert np.isfinite(value).all()
                assert (value >= -1e-9).all()

    def test_too_few_repeats_say_so(self):
        with pytest.raises(lifetime_value.TooFew, match="29 shoppers bought again; 30 are needed"):
            lifetime_value.fit_purchasing(np.r_[np.ones(29), np.zeros(99)], np.ones(128), np.full(128, 9.0))


class TestNamedSegments:
    def test_the_shipped_ones_can_be_asked(self):
        file = ROOT / "campaigns" / "segments.yaml"
        assert list(named.read(file.read_text(encoding="utf-8"), file.name)) == list(
            yaml.safe_load(file.read_text(encoding="utf-8"))
        )

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("loyal: orderz >= 2", "there is no column orderz; did you mean orders"),
            ("loyal: orders", "says UInt32, not yes or no"),
            ("loyal: SELECT 1", "cannot be asked"),
            ("loyal: orders > 1; DROP TABLE x", "cannot be asked"),
            ("loyal: orders > (SELECT 1 FROM shoppers)", "cannot be asked"),
            ("loyal: read_csv('/etc/passwd') > 1", "cannot be asked"),
            ("loyal: lifecycle > 3", "cannot be asked"),
            ("loyal: 3", "must be a text"),
            ("Loyal ones: orders > 1", "is no name"),
            ("- orders > 1", "must map names"),
            ("a: [", "is no YAML"),
        ],
    )
    def test_what_cannot_be_asked_is_said(self, text: str, said: str):
        with pytest.raises(named.SegmentError, match=r"segments\.yaml") as error:
            named.read(text, "segments.yaml")
        assert said in str(error.value)

    def test_all_that_is_wrong_is_said_at_once(self):
        with pytest.raises(named.SegmentError) as error:
            named.read("a: orderz > 1\nb: bought > 2", "segments.yaml")
        assert len(str(error.value).splitlines()) == 2

    def test_who_is_in_and_who_is_in_both(self):
        people = acts(("a", "tea", "purchase", 1.0), ("b", "tea", "view", 1.0), ("c", "tea", "view", 99.0))
        table = shoppers.known(people, ITEMS, NOW, shoppers.Rules()).shoppers
        inside = named.members(table, {"buyers": "orders > 0", "here": "recency_days < 9", "rich": "money_score = 5"})
        assert inside.sum().row(0) == (1, 2, 1)
        assert named.overlaps(inside)["here"] == {"buyers": 1, "here": 2, "rich": 1}
        assert inside["rich"].to_list() == [True, False, False]  # of those without an order it cannot be told

    def test_nobody_is_in_a_segment_of_an_empty_shop(self):
        inside = named.members(pl.DataFrame(schema=shoppers.SHOPPERS), {"buyers": "orders > 0"})
        assert named.overlaps(inside) == {"buyers": {"buyers": 0}}
        assert math.isclose(len(inside), 0)
