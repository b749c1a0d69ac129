"""What is popular: the fallback for shoppers of whom nothing is known."""

import numpy as np
import polars as pl

from models.retrieval.blend import Blend
from pipelines.data.features import popularity

POPULAR = 1000  # entries kept a list


def by_bias(blend: Blend, listed: np.ndarray) -> list[int]:
    """Item numbers as a blend's own popularity orders them, which may be noised."""
    order = np.argsort(-blend.bias.mean(0).cpu().numpy(), kind="stable")
    return order[listed[order]][:POPULAR].tolist()


def popular(histories: pl.DataFrame, listed: np.ndarray, platforms: list[str], ordered_only: bool) -> dict[str, list[int]]:
    """Item numbers, most popular first, recent meetings counting more: over all ("all"), and by the platform where they happened.

    histories: of data/prepared, whole. listed: (V,) bool, which items may be answered.
    """
    rows = histories.lazy().select(
        pl.col("items").alias("item"), pl.col("timestamps").alias("timestamp"), pl.col("platforms").alias("platform")
    ).explode("item", "timestamp", "platform").filter(pl.col("item").is_in(np.flatnonzero(listed).tolist()))  # fmt: skip

    def best(*by: str) -> pl.DataFrame:
        return popularity(rows, ordered_only, *by).sort(*by, "recency", "item", descending=[*(False for _ in by), True, False])

    lists = {"all": best()["item"].head(POPULAR).to_list()}
    if platforms:
        for (number,), of_platform in best("platform").group_by("platform", maintain_order=True):
            if number:
                lists[platforms[number - 1]] = of_platform["item"].head(POPULAR).to_list()
    return lists
