"""What was shown to whom, and what came of it.

In: events, actions, the split. Out: a row an impression. Lost: impressions of items that the shopper had met before.
"""

import polars as pl

from online.features import STRENGTH

LABELS = {"clicked": 1, "carted": 3, "purchased": 4}  # of impressions, and how strong what they stand for is


def impressions(
    events: pl.LazyFrame,
    actions: pl.LazyFrame,
    split: pl.DataFrame,
    items: pl.DataFrame,
    platforms: list[str],
    settings: dict,
    cuts: dict,
) -> pl.DataFrame:
    """What was shown to whom, and what came of it (see pipelines/prepare.py), a row each."""
    people = split.select("user_id", "train_end", "valid_at").with_row_index("user")

    def numbered(frame: pl.LazyFrame) -> pl.LazyFrame:
        return frame.join(people.lazy().select("user_id", "user"), on="user_id").join(
            items.lazy().select("item", "item_id"), on="item_id"
        )

    named = platforms and "platform" in events.collect_schema()
    platform = platform_number(platforms) if named else pl.lit(0, pl.UInt16)
    logged = numbered(events.filter(event="impression")).select("user", "item", "timestamp", platform=platform)
    logged = logged.group_by("user", "item", "timestamp").agg(pl.col("platform").max()).sort("timestamp", "user", "item")
    shown = logged.collect(engine="streaming")
    lists = split.select(
        pl.col("items").alias("item"), pl.col("timestamps").alias("timestamp"), pl.col("actions").alias("action"),
        pl.col("platforms").alias("platform"), position=pl.int_ranges(pl.col("items").list.len(), dtype=pl.UInt32),
    )  # fmt: skip
    met = lists.with_row_index("user").explode("item", "timestamp", "action", "platform", "position")
    if shown.is_empty():
        shown = met.with_columns(**{label: pl.col("action") >= strength for label, strength in LABELS.items()})
    else:
        strength = pl.col("event").replace_strict(STRENGTH, default=1, return_dtype=pl.UInt8)
        done = numbered(actions).select("user", "item", "timestamp", strength=strength).sort("timestamp")
        shown = _answered(_placed(shown, met), done.collect(engine="streaming"), settings["session_gap_minutes"])
    shown = shown.join(people.drop("user_id"), on="user", maintain_order="left")
    if settings["split"] == "time":
        cut = {name: pl.lit(value).str.to_datetime(time_unit="us", time_zone="UTC") for name, value in cuts.items()}
        valid, test = pl.col("timestamp") >= cut["valid_from"], pl.col("timestamp") >= cut["test_from"]
    else:
        valid, test = pl.col("position") >= pl.col("valid_at"), pl.col("position") > pl.col("valid_at")
    part = pl.when(test).then(pl.lit("test")).when(valid).then(pl.lit("valid")).otherwise(pl.lit("train"))
    return shown.sort("user", "position", "timestamp", "item").select("user", "position", "item", "platform", *LABELS, part=part)


def _placed(shown: pl.DataFrame, met: pl.DataFrame) -> pl.DataFrame:
    """Adds `position`. Items met before are left out: they are not recommended, and what was done to them stands in the history."""
    before = met.select("user", "timestamp", position=pl.col("position") + 1).sort("timestamp", "position")
    shown = shown.join_asof(
        before, on="timestamp", by="user", strategy="backward", allow_exact_matches=False, check_sortedness=False
    ).with_columns(pl.col("position").fill_null(0))
    shown = shown.join(met.select("user", "item", met="position"), on=["user", "item"], how="left", maintain_order="left")
    return shown.filter(pl.col("met").is_null() | (pl.col("met") >= pl.col("position"))).drop("met")


def _answered(shown: pl.DataFrame, done: pl.DataFrame, minutes: int) -> pl.DataFrame:
    """Adds the labels: what was done to the item within so many minutes after it was shown."""
    for label, strength in LABELS.items():
        wanted = done if label == "clicked" else done.filter(strength=strength)
        after = wanted.select("user", "item", "timestamp", pl.lit(True).alias(label))
        shown = shown.join_asof(
            after, on="timestamp", by=["user", "item"], strategy="forward", tolerance=f"{minutes}m", check_sortedness=False
        )
    return shown.with_columns(pl.col(*LABELS).fill_null(False))


def platform_number(names: list[str]) -> pl.Expr:
    """The platform as a number from 1, 0 where it is not told or not among the names."""
    return pl.col("platform").replace_strict(names, range(1, len(names) + 1), default=0, return_dtype=pl.UInt16)
