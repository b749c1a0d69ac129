"""What says for certain that two ids are one person's: the same hashed mail address or telephone number, an order, the link in a push, a sign-in.

In: events (after visitors.owned) and users. Out: pairs of ids with the reason. A value that several accounts of one platform share, or more ids than one person has, says nothing: it is a family's, or an office's.
"""

from datetime import datetime
from typing import NamedTuple

import polars as pl

from online.state import VISITOR
from pipelines.data.identity.visitors import ACCOUNT, BROWSER, is_visitor, sign_ins

HASHES = {"email_hash": "the same mail address", "phone_hash": "the same telephone number"}
LIKELY = {"device_hash": "the same device", "address_hash": "the same network address"}
ORDER, PUSH, SIGN_IN = "the same order", "the link in a push", "sign-ins on the same browser or app on several days"
PAIR = {"one": pl.String, "other": pl.String, "reason": pl.String}


class Evidence(NamedTuple):
    """Attributes: pairs: columns of PAIR, `one` before `other`, each pair and reason once. held: of mail addresses and of telephone numbers which id has which. shared: of each reason, how many values are of too many ids
    to say anything."""

    pairs: pl.DataFrame
    held: list[dict[str, set[str]]]
    shared: dict[str, int]


def begun(events: pl.LazyFrame) -> dict[str, datetime]:
    """Of each id that acted the moment of its first act."""
    first = events.drop_nulls(["user_id", "timestamp"]).group_by("user_id").agg(pl.col("timestamp").min())
    return dict(first.collect(engine="streaming").iter_rows())


def platforms(events: pl.LazyFrame) -> pl.DataFrame:
    """Of each account that says so the platform where it was most: user_id, platform."""
    if "platform" not in events.collect_schema():
        return pl.DataFrame(schema={"user_id": pl.String, "platform": pl.String})
    own = events.filter(pl.col("platform").is_not_null(), ~is_visitor("user_id"), signed_in())
    counts = own.group_by("user_id", "platform").len().sort("len", "platform", descending=[True, False])
    return counts.unique("user_id", keep="first", maintain_order=True).select("user_id", "platform").collect(engine="streaming")


def signed_in() -> pl.Expr:
    """Whether an event is of somebody who said who they are, in the same visit."""
    return pl.col("known_by").fill_null(ACCOUNT) != BROWSER


def certain(events: pl.LazyFrame, users: pl.LazyFrame | None, ids: int) -> Evidence:
    """All pairs. ids: that one person has, at most. events: with `known_by`."""
    there, where = events.collect_schema(), platforms(events)
    found, known, shared = [], [], {}
    for column, reason in HASHES.items():
        if held := [_held(table, column) for table in (events, users) if table is not None and column in table.collect_schema()]:
            held = pl.concat(held).unique().collect(engine="streaming")
            known.append({user: set(values) for user, values in held.group_by("user_id").agg("value").iter_rows()})
            pairs, shared[reason] = _one_person(held.lazy(), where, ids)
            found.append(pairs.with_columns(reason=pl.lit(reason)))
    if "order_id" in there:
        pairs, shared[ORDER] = _one_person(_held(events, "order_id"), where, ids)
        found.append(pairs.with_columns(reason=pl.lit(ORDER)))
    if {"request_id", "channel"} <= set(there):
        sent = events.filter(event="impression").filter(pl.col("channel").is_not_null() & pl.col("request_id").is_not_null())
        sent = sent.select("request_id", one="user_id").unique().filter(pl.len().over("request_id") == 1)
        came = (
            events.filter(pl.col("event").is_in(["click", "view", "cart", "purchase"]))
            .select("request_id", other="user_id")
            .unique()
        )
        pairs = sent.join(came, on="request_id").filter(pl.col("one") != pl.col("other")).select("one", "other").collect()
        found.append(pairs.with_columns(reason=pl.lit(PUSH)))
    if "visitor_id" in there:
        signed = sign_ins(events.filter(pl.col("known_by").fill_null(ACCOUNT) == ACCOUNT)).rename({"owner": "user_id"})
        days = signed.group_by(one=pl.lit(VISITOR) + pl.col("visitor_id"), other="user_id").agg(
            days=pl.col("timestamp").dt.truncate("1d").n_unique()
        )
        pairs = (
            days.filter(pl.col("one") != pl.col("other"), pl.col("days") > 1).select("one", "other").collect(engine="streaming")
        )
        found.append(pairs.with_columns(reason=pl.lit(SIGN_IN)))
    pairs = pl.concat(found) if found else pl.DataFrame(schema=PAIR)
    pairs = pairs.select(one=pl.min_horizontal("one", "other"), other=pl.max_horizontal("one", "other"), reason="reason")
    pairs = pairs.filter(~(is_visitor("one") & is_visitor("other")))
    return Evidence(pairs.unique().sort("one", "other", "reason"), known, shared)


def _held(table: pl.LazyFrame, column: str) -> pl.LazyFrame:
    """Which id was seen with which value: value, user_id."""
    return table.select(pl.col("user_id").cast(pl.String), value=pl.col(column)).drop_nulls().unique()


def _one_person(held: pl.LazyFrame, where: pl.DataFrame, ids: int) -> tuple[pl.DataFrame, int]:
    """The first id of each value with each other one, and how many values are of several people."""
    held = held.filter(pl.len().over("value") > 1).join(where.lazy(), on="user_id", how="left").collect(engine="streaming")
    twice = pl.col("platform").drop_nulls()
    kept = held.group_by("value").agg(
        pl.col("user_id").sort_by(is_visitor("user_id"), "user_id"), several=(pl.len() > ids) | (twice.n_unique() < twice.len())
    ).sort("value")  # fmt: skip
    pairs = kept.filter(~pl.col("several")).select(one=pl.col("user_id").list.first(), other=pl.col("user_id").list.slice(1))
    return pairs.explode("other").unique(), int(kept["several"].sum())
