"""Whose an event of somebody who had not signed in is, by the sign-ins of the same browser or app. online/features.py says it of one event."""

import polars as pl

from online.features import SIGNED_IN_WITHIN
from online.state import UNLINK, VISITOR
from pipelines.data.tables import SOURCE_ROW


def owned(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Rows with the shopper whose they are (`user_id`; of nobody known the visitor), in the order of the source, and whether that is said by who they are or soon were signed in as (`signed_in`), or by the sign-ins of other days alone."""
    told = rows.filter(pl.col("user_id").is_not_null() & pl.col("visitor_id").is_not_null())
    undone = told.filter(pl.col("event").cast(pl.String) == UNLINK).group_by("visitor_id", "user_id")
    links = told.filter(pl.col("event").cast(pl.String) != UNLINK).join(
        undone.agg(undone=pl.col("timestamp").max()), on=["visitor_id", "user_id"], how="left"
    )
    links = links.filter(pl.col("undone").is_null() | (pl.col("timestamp") >= pl.col("undone")))
    links = (
        links.select("visitor_id", "timestamp", owner="user_id")
        .drop_nulls()
        .unique()
        .sort("timestamp", "owner")
        .collect(engine="streaming")
    )
    alone = pl.lit(VISITOR) + pl.col("visitor_id")
    named = rows.filter(pl.col("user_id").is_not_null()).with_columns(signed_in=pl.lit(True))
    anonymous = rows.filter(pl.col("user_id").is_null())
    if links.is_empty():
        return pl.concat([named, anonymous.with_columns(user_id=alone, signed_in=pl.lit(False))]).sort(SOURCE_ROW)
    sole = links.group_by("visitor_id").agg(
        sole=pl.col("owner").first(), one=pl.col("owner").n_unique() == 1, days=pl.col("timestamp").dt.truncate("1d").n_unique()
    ).filter("one", pl.col("days") > 1)  # fmt: skip
    following = links.unique(["visitor_id", "timestamp"], keep="first", maintain_order=True)
    following = following.select("visitor_id", "timestamp", following="owner", followed="timestamp").lazy()
    anonymous = anonymous.join(sole.select("visitor_id", "sole").lazy(), on="visitor_id", how="left").sort(
        "timestamp", maintain_order=True
    )
    anonymous = anonymous.join_asof(following, on="timestamp", by="visitor_id", strategy="forward", check_sortedness=False)
    soon = (pl.col("followed") - pl.col("timestamp") <= pl.duration(seconds=SIGNED_IN_WITHIN)).fill_null(False)
    whose = pl.coalesce(pl.when(soon).then("following"), "sole", alone)
    anonymous = anonymous.with_columns(user_id=whose, signed_in=soon).drop("sole", "following", "followed")
    return pl.concat([named, anonymous]).sort(SOURCE_ROW)
