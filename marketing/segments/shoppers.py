"""What is known of each shopper, one row each: rhythm, money, tastes, hours, what is due again. Definitions stand in docs/marketer.md.

In: what shoppers did to items (events without duplicates, bots, and purchases that were taken back), the items, a moment up to which they are read.
Out: a table of shoppers, one of what each buys again and again. What cannot be told, as no price or no category is known, is null; the columns
are always the same.
"""

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import polars as pl

from marketing import clock
from marketing.segments import lifetime_value

STRENGTH = {
    "view": 1.0,
    "click": 1.0,
    "question": 1.0,
    "favourite": 2.0,
    "cart": 3.0,
    "purchase": 4.0,
}  # of an event, as a sign of interest
HALF_LIFE = 30.0  # days in which a sign of interest comes to count half
PRIOR = 5.0  # views' worth of what the whole shop likes, from which each shopper's tastes start
PRICE_RANK = ((pl.col("price").rank("average") - 0.5) / pl.col("price").count()).over("category")  # 0 to 1: where an item stands among the prices of its category  # fmt: skip
PRIOR_GAPS = 2.0  # gaps' worth of the category's rhythm, from which each shopper's starts
FEWEST_GAPS = 20  # between purchases of a category, from which it has a rhythm
DAY = 86_400.0

# The columns of the table of shoppers, which segments may name.
SHOPPERS = {
    "user_id": pl.String,
    "first_seen": pl.Datetime("us", "UTC"),
    "last_seen": pl.Datetime("us", "UTC"),
    "recency_days": pl.Float64,  # since the newest event
    "events": pl.UInt32,
    "lifecycle": pl.String,  # new, active, cooling, lost
    "orders": pl.UInt32,
    "order_recency_days": pl.Float64,  # since the newest order
    "revenue": pl.Float64,  # of all orders
    "margin": pl.Float64,
    "order_value": pl.Float64,  # mean of an order
    "recency_score": pl.UInt8,  # 1 to 5 among buyers, 5 best; null without an order
    "frequency_score": pl.UInt8,
    "money_score": pl.UInt8,
    "category": pl.String,  # liked most
    "category_share": pl.Float64,
    "brand": pl.String,
    "brand_share": pl.Float64,
    "price_band": pl.UInt8,  # 1 to 5, by fifths of the shoppers: 5 likes the dearest of what their categories offer
    "discount_share": pl.Float64,  # off the list price, of what was bought
    "platform": pl.String,
    "best_hour": pl.UInt8,  # of the shopper's day
    "view_seconds": pl.Float64,  # median of how long they look at an item
    "due_categories": pl.UInt32,  # of which a purchase is due
    "alive": pl.Float64,  # the chance that they have not left
    "expected_orders": pl.Float64,  # in the days ahead
    "expected_value": pl.Float64,  # of these orders: margin where costs are known, else revenue
    "purchase_chance": pl.Float64,  # within the days of the outlook (outlook.py), as the two below
    "leaving_chance": pl.Float64,  # that no event of theirs comes
    "next_category": pl.String,  # of which they are likeliest to buy next
}
AHEAD = ("purchase_chance", "leaving_chance", "next_category")
REPURCHASES = {
    "user_id": pl.String,
    "category": pl.String,
    "purchases": pl.UInt32,  # days on which something of it was bought
    "last_bought": pl.Datetime("us", "UTC"),
    "cycle_days": pl.Float64,
    "due_at": pl.Datetime("us", "UTC"),
    "due": pl.Boolean,
}


@dataclass(frozen=True)
class Rules:
    """Where a shopper's stages begin, in days, and which days are looked at ahead."""

    new_days: float = 30
    active_days: float = 30
    lost_days: float = 90
    ahead_days: float = 365
    time_zone: str = "UTC"  # of shoppers whose own is not told


@dataclass(frozen=True)
class Known:
    """What is known of the shop's people at a moment."""

    shoppers: pl.DataFrame  # SHOPPERS
    repurchases: pl.DataFrame  # REPURCHASES
    purchasing: lifetime_value.Purchasing | None
    spending: lifetime_value.Spending | None
    reasons: list[str]  # what cannot be told, and why


def known(
    events: pl.DataFrame, items: pl.DataFrame | None, at: datetime, rules: Rules, users: pl.DataFrame | None = None
) -> Known:
    """All that the events up to a moment tell of the shoppers who had one by then. users: of their time zones, where they are told."""
    events = _with_items(events.filter(pl.col("timestamp") <= at), items)
    strength = pl.col("event").replace_strict(STRENGTH, return_dtype=pl.Float64)
    liked = events.with_columns(weight=strength * 0.5 ** (_days_to(at, "timestamp") / HALF_LIFE))
    shoppers = rhythm(events, at, rules)
    again, reasons = repurchases(events, at), []
    due = again.filter("due").group_by("user_id").agg(due_categories=pl.len())
    tastes = (favourite(liked, column) for column in ("category", "brand", "platform"))
    ways = price_band(liked), discounts(events), best_hour(liked, clock.zones_of(liked["user_id"], users, rules.time_zone))
    for table in (money(orders_of(events), at), *tastes, *ways, looking(events), due):
        shoppers = shoppers.join(table, on="user_id", how="left", maintain_order="left")
    shoppers, purchasing, spending = _with_value(shoppers, at, rules, reasons)
    shoppers = shoppers.with_columns(pl.col("orders", "due_categories").fill_null(0))
    return Known(_typed(shoppers, SHOPPERS), again, purchasing, spending, reasons)


def rhythm(events: pl.DataFrame, at: datetime, rules: Rules) -> pl.DataFrame:
    """First and last event of each shopper, and the stage of life: new while the first is young, then active, cooling, lost as time passes without one."""
    since, age = _days_to(at, "last_seen"), _days_to(at, "first_seen")
    stage = (
        pl.when(age <= rules.new_days).then(pl.lit("new"))
        .when(since <= rules.active_days).then(pl.lit("active"))
        .when(since <= rules.lost_days).then(pl.lit("cooling"))
        .otherwise(pl.lit("lost"))
    )  # fmt: skip
    seen = events.group_by("user_id").agg(
        first_seen=pl.col("timestamp").min(), last_seen=pl.col("timestamp").max(), events=pl.len()
    )
    return seen.with_columns(recency_days=since, lifecycle=stage).sort("user_id")


def orders_of(events: pl.DataFrame) -> pl.DataFrame:
    """A row an order: when, what it brought, and of that the margin; null where no price or no cost is known. Purchases that name no order are one
    a shopper and day.
    """
    order = pl.coalesce("order_id", pl.col("timestamp").dt.date().cast(pl.String)).alias("order")
    amount, profit = pl.col("paid") * pl.col("quantity"), (pl.col("paid") - pl.col("cost")) * pl.col("quantity")
    return events.filter(pl.col("event") == "purchase").group_by("user_id", order).agg(
        timestamp=pl.col("timestamp").min(), amount=_sum(amount), profit=_sum(profit)
    ).sort("user_id", "order")  # fmt: skip


def money(orders: pl.DataFrame, at: datetime) -> pl.DataFrame:
    """Orders and what they brought, and by fifths of the buyers how recent, how many and how much: 5 is the best fifth."""
    told = orders.group_by("user_id").agg(
        orders=pl.len(),
        first_order=pl.col("timestamp").min(),
        newest_order=pl.col("timestamp").max(),
        revenue=_sum(pl.col("amount")),
        margin=_sum(pl.col("profit")),
    )
    told = told.with_columns(order_recency_days=_days_to(at, "newest_order"), order_value=pl.col("revenue") / pl.col("orders"))
    return told.with_columns(
        recency_score=_fifth(-pl.col("order_recency_days")),
        frequency_score=_fifth(pl.col("orders")),
        money_score=_fifth(pl.col("revenue")),
    )


def favourite(liked: pl.DataFrame, column: str) -> pl.DataFrame:
    """The value of a column that each shopper likes most, among those met, and its share of their interest: (w + PRIOR p) / (W + PRIOR), of w what this
    value weighs with the shopper, W all values, p its share with everybody.
    """
    told = liked.filter(pl.col(column).is_not_null())
    weight = pl.col("weight")
    weighed = told.group_by("user_id", column).agg(_sum(weight)).sort("user_id", column)
    everybody = _sum(weight).over(column) / _sum(weight)
    share = (weight + PRIOR * everybody) / (_sum(weight).over("user_id") + PRIOR)
    best = weighed.with_columns(share=share).sort("user_id", "share", descending=[False, True], maintain_order=True)
    return (
        best.group_by("user_id", maintain_order=True).first().select("user_id", column, pl.col("share").alias(f"{column}_share"))
    )


def price_band(liked: pl.DataFrame) -> pl.DataFrame:
    """By fifths of the shoppers, where what they like stands among the prices of its category: the weighted mean of the share of the category's items
    that cost less, drawn to the middle by PRIOR.
    """
    told = liked.filter(pl.col("price_rank").is_not_null())
    mean = (_sum(pl.col("price_rank") * pl.col("weight")) + PRIOR / 2) / (_sum(pl.col("weight")) + PRIOR)
    return told.group_by("user_id").agg(mean=mean).select("user_id", price_band=_fifth(pl.col("mean")))


def discounts(events: pl.DataFrame) -> pl.DataFrame:
    """How much below the list price each shopper bought, as a share, drawn to the shop's mean by three purchases."""
    off = (1 - pl.col("paid") / pl.col("price_of_item")).clip(0, 1)
    told = events.filter((pl.col("event") == "purchase") & (pl.col("price_of_item") > 0)).with_columns(off=off).drop_nulls("off")
    mean = told["off"].sort().mean() if len(told) else 0.0
    return told.group_by("user_id").agg(discount_share=(_sum(pl.col("off")) + 3 * mean) / (pl.len() + 3))


def looking(events: pl.DataFrame) -> pl.DataFrame:
    """How long each shopper looks at an item: the median of their views' seconds, where any is known."""
    if "looked" not in events.columns:
        return pl.DataFrame(schema={"user_id": pl.String, "view_seconds": pl.Float64})
    told = events.filter(pl.col("looked").is_not_null())
    return told.group_by("user_id").agg(view_seconds=pl.col("looked").median())


def best_hour(liked: pl.DataFrame, zones: pl.Series) -> pl.DataFrame:
    """The hour of their day at which each shopper is likeliest to be there: what they did in it and half of that in the hours beside it, drawn to everybody's
    hours by PRIOR. zones: the time zone of each event's shopper.
    """
    hours = liked.select("user_id", "weight", hour=clock.local_hour(liked["timestamp"], zones).floor().cast(pl.Int8))
    near = pl.concat(
        hours.with_columns(hour=(pl.col("hour").cast(pl.Int32) + step) % 24, weight=pl.col("weight") * share)
        for step, share in ((-1, 0.25), (0, 0.5), (1, 0.25))
    )
    everybody = near.group_by("hour").agg(_sum(pl.col("weight"))).with_columns(pl.col("weight") / _sum(pl.col("weight")) * PRIOR)
    own = near.group_by("user_id", "hour").agg(_sum(pl.col("weight")))
    summed = own.join(everybody.rename({"weight": "usual"}), on="hour", how="left").with_columns(
        pl.col("weight") + pl.col("usual")
    )
    best = summed.sort("user_id", "weight", "hour", descending=[False, True, False])
    return best.group_by("user_id", maintain_order=True).first().select("user_id", best_hour=pl.col("hour"))


def repurchases(events: pl.DataFrame, at: datetime) -> pl.DataFrame:
    """What each shopper bought on two days or more, by category: REPURCHASES. The cycle is the mean of their gaps, drawn to the median gap of the category
    by PRIOR_GAPS; due from 0.8 of a cycle after the last purchase on, until two cycles have passed. Only categories with a rhythm (FEWEST_GAPS).
    """
    bought = events.filter((pl.col("event") == "purchase") & pl.col("category").is_not_null())
    days = bought.group_by("user_id", "category", pl.col("timestamp").dt.date().alias("day")).agg(pl.col("timestamp").max())
    gap = (pl.col("day") - pl.col("day").shift()).over("user_id", "category", order_by="day").dt.total_days().cast(pl.Float64)
    gaps = days.with_columns(gap=gap)
    usual = (
        gaps.group_by("category")
        .agg(usual=pl.col("gap").median(), told=pl.col("gap").count())
        .filter(pl.col("told") >= FEWEST_GAPS)
    )
    found = gaps.group_by("user_id", "category").agg(
        purchases=pl.len(), last_bought=pl.col("timestamp").max(), total=pl.col("gap").sum(), count=pl.col("gap").count()
    )
    found = found.filter(pl.col("count") > 0).join(usual, on="category")
    cycle = (pl.col("total") + PRIOR_GAPS * pl.col("usual")) / (pl.col("count") + PRIOR_GAPS)
    since = _days_to(at, "last_bought")
    found = found.with_columns(cycle_days=cycle).with_columns(
        due_at=pl.col("last_bought") + pl.duration(microseconds=(pl.col("cycle_days") * DAY * 1e6).cast(pl.Int64)),
        due=(since >= 0.8 * pl.col("cycle_days")) & (since <= 2 * pl.col("cycle_days")),
    )
    return _typed(found.sort("user_id", "category"), REPURCHASES)


def _with_items(events: pl.DataFrame, items: pl.DataFrame | None) -> pl.DataFrame:
    """Events with what is known of their items, and what was paid: the event's price, else the item's."""
    missing = {"order_id": pl.String, "price": pl.Float64, "quantity": pl.Float64, "platform": pl.String}
    events = events.with_columns(pl.lit(None, kind).alias(n) for n, kind in missing.items() if n not in events.columns)
    wanted = {"category": pl.String, "brand": pl.String, "price": pl.Float64, "cost": pl.Float64}
    if items is None:
        items = pl.DataFrame(schema={"item_id": pl.String} | wanted)
    items = items.with_columns(pl.lit(None, kind).alias(n) for n, kind in wanted.items() if n not in items.columns)
    items = items.select("item_id", *wanted, price_rank=PRICE_RANK).unique("item_id", keep="first", maintain_order=True)
    events = events.join(items.rename({"price": "price_of_item"}), on="item_id", how="left", maintain_order="left")
    return events.with_columns(paid=pl.coalesce("price", "price_of_item"), quantity=pl.col("quantity").fill_null(1.0))


def _with_value(
    shoppers: pl.DataFrame, at: datetime, rules: Rules, reasons: list[str]
) -> tuple[pl.DataFrame, lifetime_value.Purchasing | None, lifetime_value.Spending | None]:
    """Shoppers with what is to be expected of them, where the shop has enough repeat orders to tell."""
    buyers = shoppers["orders"].fill_null(0).to_numpy() > 0
    days = shoppers.filter(pl.Series(buyers)).select(
        repeats=pl.col("orders") - 1,
        last=(pl.col("newest_order") - pl.col("first_order")).dt.total_seconds() / DAY,
        age=_days_to(at, "first_order"),
        value=pl.coalesce("margin", "revenue") / pl.col("orders"),
    )
    repeats, last, age, value = (days[c].cast(pl.Float64).to_numpy() for c in ("repeats", "last", "age", "value"))
    purchasing = spending = None
    columns = {name: np.full(len(shoppers), np.nan) for name in ("alive", "expected_orders", "expected_value")}
    try:
        purchasing = lifetime_value.fit_purchasing(repeats, last, age)
        columns["alive"][buyers] = purchasing.alive(repeats, last, age)
        columns["expected_orders"][buyers] = purchasing.orders(repeats, last, age, rules.ahead_days)
        told = np.where(np.isfinite(value) & (value > 0), repeats + 1, 0)
        spending = lifetime_value.fit_spending(told, np.nan_to_num(value))
        columns["expected_value"] = columns["expected_orders"].copy()
        columns["expected_value"][buyers] *= spending.mean(told, np.nan_to_num(value))
    except lifetime_value.TooFew as error:
        reasons.append(f"what shoppers are worth cannot be told: {error}")
    return shoppers.with_columns(pl.Series(n, v).fill_nan(None) for n, v in columns.items()), purchasing, spending


def _days_to(at: datetime, column: str) -> pl.Expr:
    """Days from a moment of each row to this one."""
    return (pl.lit(at) - pl.col(column)).dt.total_seconds() / DAY


def _fifth(value: pl.Expr) -> pl.Expr:
    """1 to 5, by fifths of those who have a value; ties are alike."""
    return (value.rank("average") * 5 / value.count()).ceil()


def _sum(value: pl.Expr) -> pl.Expr:
    """The sum of what is told, smallest first, so that it is the same to the last bit however the work is shared out; null of nothing."""
    return pl.when(value.count() > 0).then(value.sort().sum())


def _typed(table: pl.DataFrame, schema: dict) -> pl.DataFrame:
    """The table with the columns of a schema alone, in its order and types; those that are not there are null."""
    there = [pl.col(n) if n in table.columns else pl.lit(None).alias(n) for n in schema]
    return table.select(there).cast(schema)
