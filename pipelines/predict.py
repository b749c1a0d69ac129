"""predict: what each shopper is likely to meet next, best first: what campaigns choose among.

In:  data/prepared, data/refit, settings `predict`, `train.accelerator`.
Out: data/candidates/candidates.parquet (user_id, item_id, rank from 1), popular.parquet (item_id, rank: what most shoppers met).

Items that a shopper has met are left out, as /recommend leaves them out.
"""

import numpy as np
import polars as pl

from pipelines.learning import device, prepared, saved
from pipelines.learning.prepared import PREPARED
from pipelines.learning.ranking import rank_all
from pipelines.stage import log, output, params, run


def main() -> None:
    settings, train = params("predict", "train")
    data = prepared.load()
    model = saved.load("data/refit", device.choose(train["accelerator"]))
    nothing = np.zeros(len(data.full), np.int64)  # is to be predicted: what is new is asked for
    _, best = rank_all(
        model, data.full.within(data.full.items.start, data.full.items.end, targets=nothing), settings["candidates"]
    )
    shoppers = pl.read_parquet(PREPARED / "histories.parquet", columns=["user_id"])["user_id"]
    names = pl.read_parquet(PREPARED / "items.parquet", columns=["item_id"])["item_id"]
    row, place = np.nonzero(best)
    popular = np.argsort(-data.recency[1:], kind="stable")[: settings["candidates"]]
    with output("data/candidates") as folder:
        pl.DataFrame(
            {
                "user_id": shoppers.gather(row),
                "item_id": names.gather(best[row, place] - 1),
                "rank": (place + 1).astype(np.uint16),
            }
        ).write_parquet(folder / "candidates.parquet")
        pl.DataFrame({"item_id": names.gather(popular), "rank": np.arange(1, len(popular) + 1, dtype=np.uint16)}).write_parquet(
            folder / "popular.parquet"
        )
    log.info("predict: %s items for %s shoppers", f"{len(row):,}", f"{len(shoppers):,}")


if __name__ == "__main__":
    run(main)
