"""What is for training, what for validation and for the test.

In: meetings and the vocabulary (histories.py). Out: a row a shopper, with the positions of the split; nothing is lost.
"""

import polars as pl

from pipelines.data.impressions import platform_number


def divide(met: pl.DataFrame, items: pl.DataFrame, platforms: list[str], settings: dict) -> tuple[pl.DataFrame, dict]:
    """One row a shopper (columns as in pipelines/prepare.py), and the cuts of a time split.

    Args:
        settings: `prepare`.
    """
    numbered = met.lazy().join(items.lazy().select("item", "item_id"), on="item_id", maintain_order="left")
    numbered = numbered.with_columns(
        platform=platform_number(platforms) if platforms else pl.lit(0, pl.UInt16), size=pl.len().over("user_id", "basket")
    )
    last = pl.col("basket").max()
    in_last, in_one_before = ((pl.col("basket") == last - back).sum().cast(pl.Int64) for back in (0, 1))
    lists = numbered.group_by("user_id", maintain_order=True).agg(
        pl.col("item").alias("items"), pl.col("timestamp").alias("timestamps"), pl.col("action").alias("actions"),
        pl.col("platform").alias("platforms"), pl.col("size").alias("sizes"), last=last, in_last=in_last, in_one_before=in_one_before,
    )  # fmt: skip
    length = pl.col("items").list.len().cast(pl.Int64)
    if settings["split"] == "leave_one_out":
        enough = pl.col("last") >= 2
        test = length - pl.col("in_last")
        split = lists.with_columns(
            train_end=pl.when(enough).then(test - pl.col("in_one_before")).otherwise(length),
            valid_at=pl.when(enough).then(test - pl.col("in_one_before")),
            test_at=pl.when(enough).then(test),
        )
        return _with_basket(split).collect(engine="streaming"), {}
    held_out = settings["valid_share"] + settings["test_share"]
    valid_from, test_from = (met["timestamp"].quantile(1 - share, "nearest") for share in (held_out, settings["test_share"]))
    before = {
        name: pl.col("timestamps").list.eval(pl.element() < cut).list.sum().cast(pl.Int64)
        for name, cut in (("valid", valid_from), ("test", test_from))
    }
    split = lists.with_columns(train_end=before["valid"], before_test=before["test"]).with_columns(
        # A shopper is asked for one item a part, the first of it, and only if something came before.
        valid_at=pl.when((pl.col("train_end") > 0) & (pl.col("train_end") < pl.col("before_test"))).then("train_end"),
        test_at=pl.when((pl.col("before_test") > 0) & (pl.col("before_test") < length)).then("before_test"),
    )
    split = _with_basket(split).drop("before_test")
    return split.collect(engine="streaming"), {"valid_from": str(valid_from), "test_from": str(test_from)}


def _with_basket(split: pl.LazyFrame) -> pl.LazyFrame:
    """Adds test_basket, how many items stand in the basket of the test item; drops what only the split needs."""
    size = pl.col("sizes").list.get(pl.col("test_at"), null_on_oob=True)
    return split.with_columns(test_basket=size).drop("sizes", "in_last", "in_one_before", "last")
