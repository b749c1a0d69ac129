"""Whose an event of somebody who had not signed in is, by the sign-ins of the same browser or app. online/features.py says it of one event."""

import polars as pl

from online.features import SIGNED_IN_FOR, SIGNED_IN_WITHIN
from online.state import UNLINK, VISITOR
from pipelines.data.tables import SOURCE_ROW

ACCOUNT, VISIT, BROWSER = "account", "visit", "browser"
TELLING = ("sign_in", UNLINK)  # events that say whose a visitor's are, and nothing else


def sign_ins(rows: pl.LazyFrame) -> pl.LazyFrame:
    """When who said who they are, where a visitor is, and it was not undone since: visitor_id, timestamp, owner; in order of time."""
    told = rows.filter(pl.col("user_id").is_not_null() & pl.col("visitor_id").is_not_null() & pl.col("timestamp").is_not_null())
    undone = told.filter(_event() == UNLINK).group_by("visitor_id", "user_id").agg(undone=pl.col("timestamp").max())
    links = told.filter(_event() != UNLINK).join(undone, on=["visitor_id", "user_id"], how="left")
    links = links.filter(pl.col("undone").is_null() | (pl.col("timestamp") >= pl.col("undone")))
    return links.select("visitor_id", "timestamp", owner="user_id").unique().sort("timestamp", "owner")


def _event() -> pl.Expr:
    return pl.col("event").cast(pl.String)


def is_visitor(column: str) -> pl.Expr:
    """Whether an id is that of what a browser or an app keeps."""
    return pl.col(column).str.starts_with(VISITOR)


def owned(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Rows with the shopper whose they are (`user_id`; of nobody known the visitor), in the order of the source, and by what that is known (`known_by`): ACCOUNT, they said so; VISIT, they had just signed in or did soon after; BROWSER, by
    sign-ins of other days, or nobody's."""
    links = sign_ins(rows).collect(engine="streaming")
    alone = pl.lit(VISITOR) + pl.col("visitor_id")
    named = rows.filter(pl.col("user_id").is_not_null()).with_columns(known_by=pl.lit(ACCOUNT))
    anonymous = rows.filter(pl.col("user_id").is_null())
    if links.is_empty():
        return pl.concat([named, anonymous.with_columns(user_id=alone, known_by=pl.lit(BROWSER))]).sort(SOURCE_ROW)
    sole = links.group_by("visitor_id").agg(
        sole=pl.col("owner").first(), one=pl.col("owner").n_unique() == 1, days=pl.col("timestamp").dt.truncate("1d").n_unique()
    ).filter("one", pl.col("days") > 1)  # fmt: skip
    following, before = (
        links.unique(["visitor_id", "timestamp"], keep=kept, maintain_order=True)
        .select("visitor_id", "timestamp", pl.col("owner").alias(f"{name}_user"), pl.col("timestamp").alias(f"{name}_at"))
        .lazy()
        for name, kept in (("next", "first"), ("last", "last"))
    )
    options = {"on": "timestamp", "by": "visitor_id", "check_sortedness": False}
    anonymous = anonymous.join(sole.select("visitor_id", "sole").lazy(), on="visitor_id", how="left").sort(
        "timestamp", maintain_order=True
    )
    anonymous = anonymous.join_asof(following, strategy="forward", **options).join_asof(before, strategy="backward", **options)
    soon = (pl.col("next_at") - pl.col("timestamp") <= pl.duration(seconds=SIGNED_IN_WITHIN)).fill_null(False)
    still = (pl.col("timestamp") - pl.col("last_at") <= pl.duration(seconds=SIGNED_IN_FOR)).fill_null(False)
    whose = pl.coalesce(pl.when(soon).then("next_user"), pl.when(still).then("last_user"), "sole", alone)
    anonymous = anonymous.with_columns(
        user_id=whose, known_by=pl.when(soon | still).then(pl.lit(VISIT)).otherwise(pl.lit(BROWSER))
    )
    return pl.concat([named, anonymous.drop("sole", "next_user", "next_at", "last_user", "last_at")]).sort(SOURCE_ROW)
