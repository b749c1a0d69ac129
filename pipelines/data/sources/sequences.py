"""Sequence files of the Amazon benchmarks: `user item item ...` a line, oldest first, no times.

In: a .txt file, or a folder holding one and, optionally, `*_item2attributes.json` (item -> attribute ids); beside it the CSV file that
`source.titles` names (columns item, title and, if it has them, further ones of the canonical items).
Out: events (all of them purchases, one a day from 2000-01-01, so that order is kept) and items.
"""

import json
from pathlib import Path

import polars as pl

from pipelines.data.tables import ITEMS, TIMESTAMP
from pipelines.stage import StageError


def ordered_only(settings: dict) -> bool:
    """See the package."""
    return True


def read(data: Path, settings: dict) -> dict[str, pl.LazyFrame]:
    """Raises: StageError: no .txt file, a line with a shopper and no item (file and line are named), or no file of titles where one is named."""
    files = [data] if data.is_file() else sorted(data.glob("*.txt"))
    if len(files) != 1:
        raise StageError(f"source.data: expected one .txt sequence file in {data}, found {len(files)}")
    lines = pl.scan_csv(files[0], has_header=False, new_columns=["line"], separator="\n", quote_char=None)
    tokens = lines.with_row_index("line_number", 1).with_columns(pl.col("line").str.extract_all(r"\S+"))
    short = tokens.filter(pl.col("line").list.len() == 1).select("line_number").head(1).collect()
    if len(short):
        raise StageError(f"{files[0]} line {short.item()}: a shopper without items")
    day = pl.int_range(pl.len()).over("line_number")
    events = (
        tokens.select("line_number", user_id=pl.col("line").list.first(), item_id=pl.col("line").list.slice(1))
        .explode("item_id")
        .drop_nulls("item_id")
        .with_columns(
            event=pl.lit("purchase"),
            timestamp=(pl.datetime(2000, 1, 1, time_zone="UTC") + pl.duration(days=day)).cast(TIMESTAMP),
        )
        .drop("line_number")
    )
    items = events.select("item_id").unique(maintain_order=True)
    attributes = list(files[0].parent.glob("*_item2attributes.json"))
    if attributes:
        ids = json.loads(attributes[0].read_text(encoding="utf-8"))
        described = pl.LazyFrame({"item_id": list(ids), "attributes": [" ".join(map(str, a)) for a in ids.values()]})
        items = items.join(described, on="item_id", how="left", maintain_order="left")
    items = items.with_columns(title=pl.format("Item {}", "item_id"))
    if settings.get("titles"):
        told = _titles(files[0].parent / settings["titles"])
        further = [c for c in told.collect_schema() if c not in items.collect_schema()]
        items = items.update(told.drop(further), on="item_id").join(
            told.select("item_id", *further), on="item_id", how="left", maintain_order="left"
        )
    return {"events": events, "items": items}


def _titles(path: Path) -> pl.LazyFrame:
    """Raises: StageError: there is no such file, or it lacks a column."""
    if not path.is_file():
        raise StageError(f"source.titles: {path} is not there")
    titles = pl.scan_csv(path, infer_schema=False)
    if missing := {"item", "title"} - set(titles.collect_schema()):
        raise StageError(f"source.titles: {path} has no column {', '.join(sorted(missing))}")
    further = [c for c in titles.collect_schema() if c in ITEMS and c not in ("item_id", "title")]
    told = titles.select(pl.col("item").alias("item_id"), "title", *(pl.col(c).cast(ITEMS[c], strict=False) for c in further))
    return told.drop_nulls(["item_id", "title"]).unique("item_id", keep="first", maintain_order=True)
