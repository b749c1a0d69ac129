"""Whom to send what, by which channel, when, or nothing and why: a campaign's plan.

In: a campaign, its audience, what each push is to change (pipelines/uplift.py), items, rules, pushes of the past. Out: a table with a row a message and a row for each who gets none, what it
is to bring and cost, and how the audience comes apart. The same inputs give the same table. Knows no models and sends nothing.
"""

import math
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta

import numpy as np
import polars as pl

from marketing import assignment, clock
from marketing.campaigns import Campaign, ContactLimit, chance
from marketing.diversity import Likeness, short_lists
from marketing.segments.shoppers import PRICE_RANK

PLAN = {
    "user_id": pl.String,
    "item_id": pl.String,
    "channel": pl.String,
    "send_at": pl.Datetime("us", "UTC"),
    "outcome": pl.String,  # SEND, HELD_OUT, or why nothing is sent
    "extra": pl.Float64,  # purchases that the message is to add
    "money": pl.Float64,  # what a purchase brings
    "worth": pl.Float64,  # money that it is to bring, its cost taken off
    "cost": pl.Float64,
    "propensity": pl.Float64,  # the chance of this row, of all that this shopper might have got
    "explored": pl.Boolean,  # chance took another item than the best
}
SEND, HELD_OUT = "send", "held out"
OUTCOMES = (
    UNREACHED := "no channel of the campaign reaches them",
    NOTHING := "there is nothing to offer them",
    CONTACTED := "they were contacted often enough",
    TOO_LATE := "their hour comes after the campaign's end",
    NOT_WORTH := "a message would cost more than it brings",
    SHORT := "money, stock or channels are used up",
    HELD_OUT,
    SEND,
)
KEY = ["user_id", "item_id", "channel"]
KNOWN = {"price": pl.Float64, "cost": pl.Float64, "in_stock": pl.Boolean, "stock": pl.Float64, "category": pl.String, "brand": pl.String}  # of items, what plans look at  # fmt: skip


@dataclass(frozen=True)
class Rules:
    """What every campaign keeps to."""

    cost: dict[str, float]  # of a message, by channel
    leaving: float  # what a message costs besides, as it drives people away
    quiet: tuple[int, int] | None  # hours of the shopper's day
    contacts: tuple[ContactLimit, ...]
    purchases: float | None  # a message, on average; None: not known


@dataclass(frozen=True)
class Plan:
    """What is to be sent."""

    table: pl.DataFrame  # PLAN, in the order of the audience
    gap: float  # by which share a better plan within the limits might reach more of the goal, at most
    known: bool  # is it known what a push changes? Else the best ranked go first and `extra` is null
    currency: str  # what money is: margin or revenue

    def waterfall(self) -> dict[str, int]:
        """How many of the audience come to which end; shoppers, not messages."""
        ends = dict(self.table.unique("user_id", keep="first")["outcome"].value_counts().iter_rows())
        return {outcome: ends.get(outcome, 0) for outcome in OUTCOMES}


def planned(
    campaign: Campaign,
    name: str,
    at: datetime,
    audience: pl.DataFrame,
    offers: pl.DataFrame,
    items: pl.DataFrame,
    users: pl.DataFrame | None,
    pushes: pl.DataFrame,
    rules: Rules,
) -> Plan:
    """The plan of a campaign at a moment.

    audience: user_id, price_band. offers: user_id, item_id, channel, hour, rank, due, extra, click. items: those that the campaign may offer, item_id and what of KNOWN, price_band and
    vector (float32 of length 1: what it is like) there is. pushes: of the past (marketing/pushes.py), for the limits on contacts.
    """
    people = audience.select("user_id").unique(maintain_order=True)
    outcome: dict[str, str] = {}
    left = people

    def drop(kept: pl.DataFrame, reason: str) -> pl.DataFrame:
        """Notes why those lack an offer who had one until now."""
        nonlocal left
        lost = left.join(kept, on="user_id", how="anti")
        outcome.update(dict.fromkeys(lost["user_id"], reason))
        left = left.join(lost, on="user_id", how="anti")
        return kept

    offers = offers.join(people, on="user_id", how="semi").filter(pl.col("channel").is_in(campaign.channels))
    offers = drop(offers.sort("user_id", "rank", "channel"), UNREACHED)
    offered, currency = priced(items, campaign.goal)
    offers = offers.join(offered, on="item_id", how="inner", maintain_order="left")
    offers = drop(_of_candidates(offers, campaign, audience), NOTHING)
    offers = _timed(offers, max(at, campaign.begins), users, rules.quiet, campaign.not_on)
    offers = drop(offers.filter(pl.col("send_at") < campaign.ends), TOO_LATE)
    offers = drop(_within_contacts(offers, pushes, rules.contacts), CONTACTED)
    known = offers["extra"].null_count() < len(offers)
    costs = pl.col("channel").replace_strict(rules.cost, default=0.0, return_dtype=pl.Float64)
    offers = offers.with_columns(cost=costs)
    if known:
        worth = pl.col("extra") * pl.col("money") - pl.col("cost") - rules.leaving
        value = pl.when(worth > 0).then({"orders": pl.col("extra"), "clicks": pl.col("click")}.get(campaign.goal, worth))
    else:  # nothing is known of what pushes change: the best ranked first, for what they cost
        worth, value = pl.lit(None, pl.Float64), 1 / (1 + pl.col("rank")).log(2)
    offers = offers.with_columns(worth=worth, value=value)
    offers = drop(offers.filter(pl.col("value") > 0), NOT_WORTH)
    if campaign.diversity and campaign.at_most.shopper > 1:
        offers = offers.filter(_unlike(offers, campaign, items))
    best, gap = _best(offers, campaign, pushes, rules)
    taken = drop(_explored(best, offers, campaign, name, rules), SHORT)
    held = people.with_columns(held=pl.Series(chance("hold-out", name, people["user_id"]) < campaign.holdout))
    taken = taken.join(held, on="user_id", how="left", maintain_order="left").with_columns(
        outcome=pl.when("held").then(pl.lit(HELD_OUT)).otherwise(pl.lit(SEND)),
        propensity=pl.col("propensity") * pl.when("held").then(campaign.holdout).otherwise(1 - campaign.holdout),
    )
    nothing = pl.DataFrame(
        {"user_id": list(outcome), "outcome": list(outcome.values())}, schema={"user_id": pl.String, "outcome": pl.String}
    )
    rows = pl.concat([taken, nothing], how="diagonal")
    table = people.join(rows, on="user_id", how="left", maintain_order="left_right").select(
        pl.col(column).cast(kind) for column, kind in PLAN.items()
    )
    return Plan(table, gap, known, currency)


def _of_candidates(offers: pl.DataFrame, campaign: Campaign, audience: pl.DataFrame) -> pl.DataFrame:
    """Offers of what the campaign's `candidates` and `price_bands` let through; a price or a shopper of whom nothing is known stands in no offer's way."""
    if campaign.candidates != "all":
        offers = offers.filter(pl.col("due") if campaign.candidates == "due" else ~pl.col("due"))
    if campaign.price_bands is None:
        return offers
    own = audience.select("user_id", own_band="price_band").unique("user_id", keep="first")
    away = (pl.col("price_band").cast(pl.Int8) - pl.col("own_band").cast(pl.Int8)).abs()
    offers = offers.join(own, on="user_id", how="left", maintain_order="left")
    return offers.filter((away <= campaign.price_bands).fill_null(True)).drop("own_band")


def _unlike(offers: pl.DataFrame, campaign: Campaign, items: pl.DataFrame) -> pl.Series:
    """(N,) bool: the offers among which several messages to a shopper are chosen where they are to be unlike: of as many items as there may be messages."""
    goods = _goods(offers)
    vectors = np.zeros((len(goods), 0), np.float32)
    if "vector" in items.columns:
        told = goods.join(items.select("item_id", "vector"), on="item_id", how="left", maintain_order="left")["vector"]
        vectors = np.nan_to_num(told.to_numpy()).astype(np.float32)
    alike = Likeness(np.stack([_numbered(goods, "category"), _numbered(goods, "brand")], 1), vectors)
    return pl.Series(short_lists(_as_offers(offers, goods, campaign), alike, campaign.diversity, campaign.at_most.shopper))


def _best(offers: pl.DataFrame, campaign: Campaign, pushes: pl.DataFrame, rules: Rules) -> tuple[pl.DataFrame, float]:
    """The offers that together are worth most within the limits; by which share the best there are may be worth more, at most.

    Where too few of them name something new, what is due is withdrawn from those who lose least by getting something new, or nothing, instead.
    """
    first = None
    while True:
        found = assigned(offers, campaign, rules)
        first = first or found
        best = _within_contacts_together(offers[found.rows], pushes, rules.contacts)
        due = best.filter("due") if campaign.novelty else best.clear()
        missing = math.ceil(campaign.novelty * len(best) - 1e-9) - (len(best) - len(due))
        if due.is_empty() or missing <= 0:
            return best, replace(found, bound=first.bound).gap
        new = offers.filter(~pl.col("due")).group_by("user_id").agg(new=pl.col("value").max())
        loss = (
            due.group_by("user_id", maintain_order=True)
            .agg(pl.col("value").sum())
            .join(new, on="user_id", how="left", maintain_order="left")
        )
        loss = loss.select("user_id", loss=pl.col("value") - pl.col("new").fill_null(0.0)).sort("loss", maintain_order=True)
        offers = offers.join(
            loss.head(missing).with_columns(due=pl.lit(True)), on=["user_id", "due"], how="anti", maintain_order="left"
        )


def banded(items: pl.DataFrame) -> pl.DataFrame:
    """Items with `price_band`: 1 to 5, by fifths of the prices of its category."""
    items = items.with_columns(pl.lit(None, kind).alias(n) for n, kind in KNOWN.items() if n not in items.columns)
    items = items.unique("item_id", keep="first", maintain_order=True)
    return items.with_columns(price_band=(PRICE_RANK * 5).ceil().cast(pl.UInt8))


def priced(items: pl.DataFrame, goal: str) -> tuple[pl.DataFrame, str]:
    """item_id, category, brand, price_band, money (what a purchase brings) and stock of what can be offered; and what money is. items: with `price_band`, or all there are."""
    items = items if "price_band" in items.columns else banded(items)
    items = items.filter(pl.col("in_stock").fill_null(True) & (pl.col("stock").fill_null(np.inf) > 0))
    margin = goal != "revenue" and items["cost"].count() > 0
    money = pl.col("price") - pl.col("cost") if margin else pl.col("price")
    offered = items.select("item_id", "category", "brand", "price_band", "stock", money=money.fill_null(0.0))
    return offered, "margin" if margin else "revenue"


def _timed(
    offers: pl.DataFrame, not_before: datetime, users: pl.DataFrame | None, quiet: tuple[int, int] | None, not_on: list[date]
) -> pl.DataFrame:
    """Offers with the moment at which they would be sent."""
    offers = offers.with_columns(zone=clock.zones_of(offers["user_id"], users))
    moments = offers.select("zone", "hour").unique(maintain_order=True)
    when = [clock.moment(not_before, zone, hour, quiet, not_on) for zone, hour in moments.iter_rows()]
    moments = moments.with_columns(send_at=pl.Series(when, dtype=PLAN["send_at"]))
    return offers.join(moments, on=["zone", "hour"], how="left", maintain_order="left").drop("zone")


def _within_contacts(offers: pl.DataFrame, pushes: pl.DataFrame, limits: tuple[ContactLimit, ...]) -> pl.DataFrame:
    """Offers that keep to the limits on contacts, counted back from the moment of sending."""
    sent = pushes.filter("sent").select("user_id", "channel", "timestamp")
    for limit in limits:
        by = ["user_id"] if limit.channel is None else ["user_id", "channel"]
        asked = offers.select(*by, "send_at").unique()
        near = asked.join(sent, on=by, how="inner").filter(
            pl.col("timestamp") > pl.col("send_at") - timedelta(days=limit.days), pl.col("timestamp") <= pl.col("send_at")
        )
        full = near.group_by(*by, "send_at").len().filter(pl.col("len") >= limit.at_most)
        if limit.channel is not None:
            full = full.filter(pl.col("channel") == limit.channel)
        offers = offers.join(full, on=[*by, "send_at"], how="anti", maintain_order="left")
    return offers


def _within_contacts_together(taken: pl.DataFrame, pushes: pl.DataFrame, limits: tuple[ContactLimit, ...]) -> pl.DataFrame:
    """Of several messages to a shopper those worth most, as many as the limits leave room for beside what was sent before: all messages of a plan count as sent within the same days."""
    sent = pushes.filter("sent").select("user_id", "channel", "timestamp")
    for limit in limits:
        by = ["user_id"] if limit.channel is None else ["user_id", "channel"]
        last = taken.group_by(by).agg(pl.col("send_at").max())
        near = last.join(sent, on=by).filter(
            pl.col("timestamp") > pl.col("send_at") - timedelta(days=limit.days), pl.col("timestamp") <= pl.col("send_at")
        )
        taken = taken.join(near.group_by(by).len("before"), on=by, how="left", maintain_order="left")
        place = pl.col("value").rank("ordinal", descending=True).over(by)
        fits = place + pl.col("before").fill_null(0) <= limit.at_most
        taken = taken.filter(fits if limit.channel is None else fits | (pl.col("channel") != limit.channel)).drop("before")
    return taken


def assigned(offers: pl.DataFrame, campaign: Campaign, rules: Rules) -> assignment.Assignment:
    """The offers that together are worth most within the limits. offers: those of a shopper one after the other; user_id, item_id, channel, category, brand, stock, value."""
    goods = _goods(offers)
    unlimited = len(offers) + 1
    capacity = [campaign.at_most.channels.get(name, unlimited) for name in campaign.channels]
    limits = assignment.Limits(
        stock=np.minimum(_sends(goods["stock"], rules.purchases), unlimited).astype(np.int64),
        category=_numbered(goods, "category"),
        brand=_numbered(goods, "brand"),
        capacity=np.array(capacity, np.int64),
        cost=np.array([rules.cost.get(name, 0.0) for name in campaign.channels]),
        budget=campaign.budget,
        per_shopper=campaign.at_most.shopper,
        per_category=campaign.at_most.category,
        per_brand=campaign.at_most.brand,
        per_channel=campaign.at_most.channel,
    )
    return assignment.assign(_as_offers(offers, goods, campaign), limits)


def _goods(offers: pl.DataFrame) -> pl.DataFrame:
    """What the offers name."""
    return offers.select("item_id", "category", "brand", "stock").unique("item_id", keep="first", maintain_order=True)


def _as_offers(offers: pl.DataFrame, goods: pl.DataFrame, campaign: Campaign) -> assignment.Offers:
    """Offers by the numbers of their items among the goods and of their channels among the campaign's."""
    sizes = offers.group_by("user_id", maintain_order=True).len()["len"].to_numpy()
    item = offers["item_id"].replace_strict(goods["item_id"], range(len(goods)), return_dtype=pl.Int32).to_numpy()
    channel = offers["channel"].replace_strict(campaign.channels, range(len(campaign.channels)), return_dtype=pl.Int8).to_numpy()
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return assignment.Offers(starts, offers["value"].cast(pl.Float32).to_numpy(), item, channel)


def _numbered(goods: pl.DataFrame, column: str) -> np.ndarray:
    """(I,) int32: the same number for items of the same value; items of which none is known are each by itself."""
    if goods.is_empty():
        return np.empty(0, np.int32)
    own = pl.format("\0{}", "item_id")
    return goods.select(pl.coalesce(column, own).rank("dense").cast(pl.Int32)).to_series().to_numpy()


def _sends(stock: pl.Series, purchases: float | None) -> np.ndarray:
    """(I,) messages that may name an item: as many as would sell what there is of it, at twice the usual share of purchases; where that is not known, one for each piece."""
    rate = min(1.0, 2 * purchases) if purchases else 1.0
    return np.floor(stock.fill_null(np.inf).to_numpy() / rate)


def _explored(taken: pl.DataFrame, offers: pl.DataFrame, campaign: Campaign, name: str, rules: Rules) -> pl.DataFrame:
    """The offers taken, of which chance exchanged a share for others to the same shopper by the same channel; with the chance of each, exact.

    Who gets one message gets the best, but with the chance `explore` one drawn by a softmax of what the offers are worth. Only items of which there is enough for all who may be
    drawn are looked at, so that every limit holds.
    """
    counts = taken.group_by("user_id").len()
    alone = taken.join(counts.filter(pl.col("len") == 1), on="user_id", how="semi", maintain_order="left")
    taken = taken.with_columns(propensity=pl.lit(1.0), explored=pl.lit(False))
    if not campaign.explore or alone.is_empty():
        return taken
    most = int(2 * campaign.explore * len(alone)) + 10
    asked = taken.group_by("item_id").len("asked")
    goods = offers.select("item_id", "stock").unique("item_id").join(asked, on="item_id", how="left")
    room = pl.Series(_sends(goods["stock"], rules.purchases)) - goods["asked"].fill_null(0)
    roomy = goods.filter(room >= most).select("item_id")
    best = alone.select("user_id", "channel", best="item_id")
    may = pl.col("item_id").is_in(roomy["item_id"].implode()) & (~pl.col("due") | (campaign.novelty == 0))
    choices = offers.join(best, on=["user_id", "channel"], how="inner", maintain_order="left").filter(
        may | (pl.col("item_id") == pl.col("best"))
    )
    warmth = max(float(alone["value"].mean()), 1e-9)
    weight = ((pl.col("value") - pl.col("value").max().over("user_id")) / warmth).exp()
    choices = choices.with_columns(share=weight / weight.sum().over("user_id"))
    draws = pl.DataFrame({"user_id": best["user_id"]}).with_columns(
        explores=pl.Series(chance("explore", name, best["user_id"]) < campaign.explore),
        draw=pl.Series(chance("draw", name, best["user_id"])),
    )
    choices = choices.join(draws, on="user_id", how="left", maintain_order="left").with_columns(
        until=pl.col("share").cum_sum().over("user_id"),
        propensity=campaign.explore * pl.col("share") + (1 - campaign.explore) * (pl.col("item_id") == pl.col("best")),
    )
    drawn = (
        choices.filter("explores").filter(pl.col("until") > pl.col("draw")).unique("user_id", keep="first", maintain_order=True)
    )
    drawn = drawn.head(most)
    stay = choices.filter(pl.col("item_id") == pl.col("best")).join(drawn, on="user_id", how="anti", maintain_order="left")
    chosen = pl.concat([drawn, stay]).with_columns(explored=pl.col("item_id") != pl.col("best")).select(*taken.columns)
    several = taken.join(alone, on="user_id", how="anti", maintain_order="left")
    return pl.concat([several, chosen]).sort("user_id", "rank", "channel")
