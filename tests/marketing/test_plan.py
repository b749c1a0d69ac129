"""A campaign's plan: every rule holds, everybody has one end, and chances are those that were drawn by."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from marketing import plan
from marketing.campaigns import Campaign, ContactLimit, chance
from marketing.clock import is_quiet
from marketing.pushes import PUSHES

AT = datetime(2026, 3, 2, 10, tzinfo=UTC)
ZONES = ["Asia/Shanghai", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"]
COST = {"app": 0.1, "sms": 0.6}
RULES = plan.Rules(COST, 0.05, (21, 9), (ContactLimit(2, 7), ContactLimit(1, 7, "sms")), 0.05)
CAMPAIGN = {"channels": ["app", "sms"], "budget": 30.0, "starts": date(2026, 3, 3), "days": 3}


def shop(people: int = 200, items: int = 20, each: int = 4, seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    users = [f"u{n:03}" for n in range(people)]
    offers = pl.DataFrame(
        [(u, f"i{item}", channel, int(rng.integers(24)), rank + 1, rank == 0, float(rng.normal(0.02, 0.03))) for u in users
         for rank, item in enumerate(rng.permutation(items)[:each]) for channel in COST],
        schema={"user_id": pl.String, "item_id": pl.String, "channel": pl.String, "hour": pl.UInt8, "rank": pl.UInt16, "due": pl.Boolean, "extra": pl.Float64}, orient="row",
    )  # fmt: skip
    goods = pl.DataFrame({
        "item_id": [f"i{n}" for n in range(items)], "category": [f"c{n % 3}" for n in range(items)], "price": rng.uniform(20, 200, items),
        "stock": rng.integers(0, 6, items).astype(float), "in_stock": rng.random(items) > 0.1,
    }).with_columns(cost=pl.col("price") * 0.6)  # fmt: skip
    zones = pl.DataFrame({"user_id": users, "time_zone": [ZONES[n % len(ZONES)] for n in range(people)]})
    past = pl.DataFrame(
        [("old", u, "i0", str(rng.choice(["app", "sms"])), AT - timedelta(days=float(rng.uniform(0, 9))), bool(rng.random() < 0.7), 0.5, None, False, False, 0.0, 0.0)
         for u in rng.choice(users, people)], schema=PUSHES, orient="row",
    )  # fmt: skip
    people = pl.DataFrame({"user_id": users, "price_band": rng.integers(1, 6, len(users)).astype(np.uint8)})
    return {"audience": people, "offers": offers, "items": goods, "users": zones, "pushes": past}


def planned(shop: dict, rules: plan.Rules = RULES, name: str = "spring", **changes) -> plan.Plan:
    campaign = Campaign(**CAMPAIGN | changes)
    return plan.planned(campaign, name, AT, shop["audience"], shop["offers"], shop["items"], shop["users"], shop["pushes"], rules)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 1000), st.floats(0, 40), st.integers(1, 3), st.integers(0, 60), st.sampled_from([0.0, 0.3]), st.sampled_from([0.0, 0.1, 0.5]),
    st.sampled_from([(21, 9), (8, 20), None]),
)  # fmt: skip
def test_every_rule_holds(seed, budget, per_shopper, capacity, explore, holdout, quiet):
    world = shop(60, seed=seed)
    rules = plan.Rules(COST, 0.05, quiet, RULES.contacts, 0.05)
    made = planned(
        world, rules, budget=budget, at_most={"shopper": per_shopper, "channels": {"sms": capacity}}, explore=explore, holdout=holdout
    )  # fmt: skip
    table = made.table
    rows = table.filter(pl.col("item_id").is_not_null())
    assert set(rows["outcome"]) <= {plan.SEND, plan.HELD_OUT}
    assert table["user_id"].n_unique() == 60 == sum(made.waterfall().values())
    assert rows["cost"].sum() <= budget + 1e-9
    assert rows.filter(channel="sms").height <= capacity
    assert (rows["worth"] > 0).all()
    assert rows.group_by("user_id").len()["len"].max() in (None, *range(1, per_shopper + 1))
    goods = {row["item_id"]: row for row in world["items"].iter_rows(named=True)}
    for (item,), some in rows.group_by("item_id"):
        assert goods[item]["in_stock"]
        assert len(some) <= np.floor(goods[item]["stock"] / 0.1)
    zones, sent = dict(world["users"].iter_rows()), world["pushes"].filter("sent")
    for row in rows.iter_rows(named=True):
        at = row["send_at"]
        local = at.astimezone(ZoneInfo(zones[row["user_id"]]))
        assert not is_quiet(local.hour + local.minute / 60, quiet)
        assert datetime(2026, 3, 3, tzinfo=UTC) <= at < datetime(2026, 3, 6, tzinfo=UTC)
        before = sent.filter(pl.col("user_id") == row["user_id"], pl.col("timestamp") > at - timedelta(days=7))
        assert len(before) < 2
        assert row["channel"] != "sms" or not len(before.filter(channel="sms"))


def test_the_same_inputs_give_the_same_plan_and_other_names_other_holdouts():
    world = shop()
    assert planned(world).table.equals(planned(world).table)
    held = [
        set(planned(world, name=name, holdout=0.4).table.filter(outcome=plan.HELD_OUT)["user_id"])
        for name in ("spring", "summer")
    ]
    assert held[0] != held[1]


def test_chances_are_those_that_were_drawn_by():
    """Over many names of a campaign, that is over many draws, each shopper gets each offer as often as its chance says."""
    world = shop(150)
    changes = {"explore": 0.5, "holdout": 0.2, "budget": 1e6}
    seen: dict[tuple, int] = {}
    chances: dict[tuple, float] = {}
    draws = 120
    for n in range(draws):
        rows = planned(world, name=f"n{n}", **changes).table.filter(pl.col("item_id").is_not_null())
        for row in rows.iter_rows(named=True):
            key = row["user_id"], row["item_id"], row["channel"], row["outcome"]
            seen[key] = seen.get(key, 0) + 1
            chances[key] = row["propensity"]
    keys = [key for key in seen if chances[key] * draws >= 5]
    off = [(seen[k] - draws * chances[k]) / (draws * chances[k] * (1 - chances[k])) ** 0.5 for k in keys]
    assert len(keys) > 100
    assert abs(np.mean(off)) < 0.2
    assert 0.8 < np.std(off) < 1.2


def test_who_gets_nothing_is_told_why():
    world = shop(30)
    world["offers"] = world["offers"].filter(pl.col("user_id") != "u000").with_columns(
        extra=pl.when(pl.col("user_id") == "u001").then(-0.1).otherwise("extra")
    )  # fmt: skip
    world["pushes"] = pl.DataFrame(
        [("old", "u002", "i0", "app", AT, True, 0.5, None, False, False, 0.0, 0.0)] * 2, schema=PUSHES, orient="row"
    )
    ends = dict(planned(world, holdout=0.0).table.select("user_id", "outcome").rows())
    assert ends["u000"] == plan.UNREACHED
    assert ends["u001"] == plan.NOT_WORTH
    assert ends["u002"] == plan.CONTACTED
    assert planned(world, items=None, budget=0.0).waterfall()[plan.SHORT] > 0
    nothing = world | {"items": world["items"].with_columns(in_stock=False)}
    assert planned(nothing).waterfall()[plan.NOTHING] == 29


def test_where_nothing_is_known_of_pushes_the_best_ranked_go_first():
    world = shop(50)
    world["offers"] = world["offers"].with_columns(extra=pl.lit(None, pl.Float64))
    world["items"] = world["items"].with_columns(in_stock=True, stock=1e3)
    made = planned(world, explore=0.0, budget=2.0, holdout=0.0)
    sent = made.table.filter(outcome=plan.SEND).join(world["offers"], on=plan.KEY, suffix="_of_offer")
    assert not made.known
    assert made.table["worth"].null_count() == len(made.table)
    assert set(sent["channel"]) == {"app"}
    assert sent["rank"].max() == 1


def test_items_of_no_category_are_not_alike():
    world = shop(50)
    world["items"] = world["items"].with_columns(category=pl.lit(None, pl.String), in_stock=True, stock=1e3)
    made = planned(world, at_most={"shopper": 2, "category": 1, "channel": 2}, explore=0.0, holdout=0.0, budget=1e6)
    assert made.table.filter(outcome=plan.SEND).group_by("user_id").len()["len"].max() == 2


def test_a_shopper_hears_of_a_brand_no_more_often_than_the_campaign_says():
    world = shop(80, each=8)
    world["items"] = world["items"].with_columns(
        brand=pl.Series([f"b{n % 2}" for n in range(20)]), category=pl.lit(None, pl.String), in_stock=True, stock=1e3
    )
    rules = plan.Rules(COST, 0.05, None, (), 0.05)
    told = {"explore": 0.0, "holdout": 0.0, "budget": 1e6}
    free = planned(world, rules, at_most={"shopper": 4, "category": 4, "channel": 4}, **told).table.filter(outcome=plan.SEND)
    capped = planned(world, rules, at_most={"shopper": 4, "category": 4, "channel": 4, "brand": 1}, **told).table.filter(
        outcome=plan.SEND
    )
    brands = world["items"].select("item_id", "brand")

    def most(sent: pl.DataFrame) -> int:
        return sent.join(brands, on="item_id").group_by("user_id", "brand").len()["len"].max()

    assert most(free) > 1
    assert most(capped) == 1
    assert capped["user_id"].n_unique() == free["user_id"].n_unique()


def sent(world: dict, **changes) -> pl.DataFrame:
    rules = plan.Rules(COST, 0.0, None, (), None)
    return planned(world, rules, **{"explore": 0.0, "holdout": 0.0, "budget": 1e6} | changes).table.filter(outcome=plan.SEND)


def plentiful(**columns) -> dict:
    world = shop()
    return world | {"items": world["items"].with_columns(stock=pl.lit(1000.0), in_stock=pl.lit(True), **columns)}


def test_a_campaign_may_be_of_what_is_due_or_of_what_is_new_alone():
    world = plentiful()
    due = world["offers"].filter("due").select("user_id", "item_id").unique()
    on = {"on": ["user_id", "item_id"]}
    for candidates, wrong in (("due", "anti"), ("new", "semi")):
        made = sent(world, candidates=candidates)
        assert len(made) > 50
        assert made.join(due, how=wrong, **on).is_empty()


@pytest.mark.parametrize("explore", [0.0, 0.3])
@pytest.mark.parametrize("limits", [{}, {"budget": 8.0}, {"at_most": {"shopper": 3, "category": 3, "channel": 3}}])
def test_at_least_a_share_of_messages_names_something_new(limits: dict, explore: float):
    world = plentiful()
    due = world["offers"].filter("due").select("user_id", "item_id").unique()
    on, shares, worth = {"on": ["user_id", "item_id"], "how": "anti"}, [], []
    for novelty in (0.0, 0.9, 1.0):
        made = sent(world, novelty=novelty, explore=explore, **limits)
        shares.append(len(made.join(due, **on)) / len(made))
        worth.append(made["worth"].sum())
    assert shares[0] < 0.85  # else nothing is shown
    assert shares[1] >= 0.9
    assert shares[2] == 1.0
    if not explore:
        assert worth[0] > worth[1] > worth[2]
        assert len(sent(world, novelty=0.9, **limits)) > 0.8 * len(sent(world, **limits))


def test_items_keep_to_the_prices_that_a_shopper_likes():
    world = plentiful()
    bands = plan.banded(world["items"]).select("item_id", item_band=pl.col("price_band").cast(pl.Int64))
    for near in (0, 1):
        made = sent(world, price_bands=near).join(bands, on="item_id").join(world["audience"], on="user_id")
        assert len(made) > 20
        assert (made["item_band"] - made["price_band"].cast(pl.Int64)).abs().max() == near
    unknown = world | {"audience": world["audience"].with_columns(price_band=pl.lit(None, pl.UInt8))}
    assert sent(unknown, price_bands=0).equals(sent(unknown))


def test_several_messages_to_a_shopper_are_unlike_where_the_campaign_says_so():
    kinds = np.arange(20) % 4
    vectors = np.eye(4, dtype=np.float32)[kinds]
    world = plentiful(vector=pl.Series(vectors), category=pl.lit(None, pl.String))
    world = world | {"items": world["items"].with_columns(vector=pl.when(pl.col("item_id") != "i3").then("vector"))}
    kind_of = {f"i{n}": k for n, k in enumerate(kinds)}
    several = {"at_most": {"shopper": 2, "channel": 2}}

    def alike(made: pl.DataFrame) -> float:
        two = (
            made.with_columns(kind=pl.col("item_id").replace_strict(kind_of))
            .group_by("user_id")
            .agg(pl.len(), pl.col("kind").n_unique())
        )
        two = two.filter(len=2)
        return float((two["kind"] < 2).mean())

    assert alike(sent(world, diversity=0.9, **several)) < alike(sent(world, **several))
    assert sent(world, diversity=0.9).equals(sent(world)), "one message is not like another"


def test_margin_is_money_only_where_costs_are_known():
    world = shop(50)
    assert planned(world).currency == "margin"
    world["items"] = world["items"].drop("cost")
    assert planned(world).currency == "revenue"


def test_chances_of_people_are_even_and_stay():
    people = pl.Series([f"u{n}" for n in range(20_000)])
    drawn = chance("hold-out", "spring", people)
    assert np.array_equal(drawn, chance("hold-out", "spring", people))
    assert abs(np.mean(drawn < 0.1) - 0.1) < 0.01
    assert abs(np.corrcoef(drawn, chance("explore", "spring", people))[0, 1]) < 0.03


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"budget": -1}, "budget"), ({"holdout": 1.0}, "holdout"), ({"channels": []}, "channels"), ({"chanels": ["app"]}, "chanels"),
     ({"at_most": {"channels": {"fax": 3}}}, "fax is not among channels")],
)  # fmt: skip
def test_a_campaign_that_cannot_be_is_refused(wrong: dict, said: str):
    with pytest.raises(ValidationError, match=said):
        Campaign(**CAMPAIGN | wrong)


@pytest.mark.parametrize("goal", ["orders", "clicks"])
def test_other_goals_are_reached_without_losing_money(goal: str):
    world = shop()
    rng = np.random.default_rng(0)
    world["offers"] = world["offers"].with_columns(click=pl.Series(rng.random(len(world["offers"]))))
    by_margin, made = planned(world, budget=4.0), planned(world, budget=4.0, goal=goal)
    reached = []
    for table in (made.table, by_margin.table):
        rows = table.filter(pl.col("item_id").is_not_null()).join(world["offers"], on=plan.KEY, suffix="_offer")
        reached.append(rows["extra" if goal == "orders" else "click"].sum())
    assert reached[0] > reached[1]
    assert made.table.drop_nulls("item_id")["worth"].min() > 0


def test_nothing_is_sent_on_days_that_the_campaign_names():
    world = shop()
    days = [AT.date() + timedelta(days=d) for d in range(2)]
    made = planned(world, days=4, not_on=days, starts=AT.date()).table.drop_nulls("send_at")
    assert len(made) > 0
    zones = dict(world["users"].select("user_id", "time_zone").iter_rows())
    there = [at.astimezone(ZoneInfo(zones[user])).date() for user, at in made.select("user_id", "send_at").iter_rows()]
    assert not set(there) & set(days)


@pytest.mark.parametrize(("before", "most"), [(0, 2), (1, 1), (2, 0)])
def test_messages_of_one_plan_count_against_the_limits_together(before: int, most: int):
    world = shop()
    world["pushes"] = pl.DataFrame([("old", user, "i0", "app", AT, True, 0.5, None, False, False, 0.0, 0.0) for user in world["audience"]["user_id"] for _ in range(before)],
                                   schema=PUSHES, orient="row")  # fmt: skip
    rows = planned(world, budget=1e9, at_most={"shopper": 5, "channel": 5}, explore=0.0).table.drop_nulls("item_id")
    assert rows.group_by("user_id").len()["len"].max() == (most or None)
    one = rows.filter(channel="sms").group_by("user_id").len()["len"].max()
    assert one in (None, 1)
