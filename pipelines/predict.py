"""predict: what each shopper may be offered next: what campaigns choose among.

In:  data/prepared, data/refit, data/checked/items.parquet (prices, costs), data/segments/repeats.parquet, settings `predict`, `train.accelerator`.
Out: data/candidates/candidates.parquet (user_id, item_id, due, rank from 1: what is due to be bought again, what is likeliest to be met next, what promises most money), popular.parquet (item_id, rank: what most
     shoppers met).

Of what a shopper has met nothing is offered but what is due to be bought again.
"""

from pathlib import Path

import numpy as np
import polars as pl

from pipelines.learning import device, prepared, saved
from pipelines.learning.prepared import PREPARED
from pipelines.learning.ranking import candidates
from pipelines.stage import log, output, params, run

MOST_DUE = 10  # of a shopper
ITEMS = Path("data/checked/items.parquet")


def main() -> None:
    settings, train = params("predict", "train")
    data = prepared.load()
    names = pl.read_parquet(PREPARED / "items.parquet", columns=["item_id"])["item_id"]
    model = saved.load("data/refit", device.choose(train["accelerator"]))
    best = candidates(model, data.full, settings["candidates"], np.concatenate([[1.0], worth(names)]))
    shoppers = pl.read_parquet(PREPARED / "histories.parquet", columns=["user_id"])["user_id"]
    row, place = np.nonzero(best)
    popular = np.argsort(-data.recency[1:], kind="stable")[: settings["candidates"]]
    again = due(shoppers)
    with output("data/candidates") as folder:
        new = pl.DataFrame({"user_id": shoppers.gather(row), "item_id": names.gather(best[row, place] - 1), "place": place})
        ranked(new, again).write_parquet(folder / "candidates.parquet")
        pl.DataFrame({"item_id": names.gather(popular), "rank": np.arange(1, len(popular) + 1, dtype=np.uint16)}).write_parquet(
            folder / "popular.parquet"
        )
    log.info(
        "predict: %s new items and %s to buy again for %s shoppers", f"{len(row):,}", f"{len(again):,}", f"{len(shoppers):,}"
    )


def due(shoppers: pl.Series) -> pl.DataFrame:
    """user_id, item_id, place from 0: what each of the shoppers is due to buy again, likeliest first."""
    repeats = pl.read_parquet("data/segments/repeats.parquet").filter("due", pl.col("user_id").is_in(shoppers.implode()))
    repeats = repeats.sort("user_id", "chance", "item_id", descending=[False, True, False])
    return repeats.select("user_id", "item_id", place=pl.int_range(pl.len()).over("user_id")).filter(pl.col("place") < MOST_DUE)


def ranked(new: pl.DataFrame, again: pl.DataFrame) -> pl.DataFrame:
    """user_id, item_id, rank from 1, due: of each shopper what is due again, then what is new."""
    both = pl.concat([again.with_columns(due=pl.lit(True)), new.with_columns(due=pl.lit(False))], how="vertical_relaxed")
    return both.sort("user_id", ~pl.col("due"), "place").select(
        "user_id", "item_id", "due", rank=(pl.int_range(pl.len()).over("user_id") + 1).cast(pl.UInt16)
    )


def worth(names: pl.Series) -> np.ndarray:
    """(I,) what a purchase of each item brings: its margin where the cost is known, else its price; that of the middle where neither is."""
    if not ITEMS.exists() or "price" not in (items := pl.read_parquet(ITEMS)).columns:
        return np.ones(len(names))
    brings = pl.coalesce(pl.col("price") - pl.col("cost"), "price") if "cost" in items.columns else pl.col("price")
    told = items.unique("item_id", keep="first").select("item_id", brings=brings)
    found = pl.DataFrame({"item_id": names}).join(told, on="item_id", how="left", maintain_order="left")["brings"]
    return found.fill_null(found.median() or 1.0).to_numpy()


if __name__ == "__main__":
    run(main)
