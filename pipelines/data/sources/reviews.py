"""Amazon review files: a JSON object a line with reviewerID, asin, overall, unixReviewTime (reviewText, summary, ...).

In: a .json, .jsonl or .json.gz file, or a folder holding one. Out: events (a review counts as the purchase it follows)
and items, known by number only. The reviewer's name and the text are personal and are not collected.
"""

from pathlib import Path

import polars as pl

from pipelines.data.tables import TIMESTAMP
from pipelines.stage import StageError


def ordered_only(settings: dict) -> bool:
    """See the package."""
    return False


def read(data: Path, settings: dict) -> dict[str, pl.LazyFrame]:
    """Raises: StageError: no such file."""
    files = [data] if data.is_file() else sorted(f for f in data.glob("*.json*"))
    if len(files) != 1:
        raise StageError(f"source.data: expected one file of JSON lines in {data}, found {len(files)}")
    schema = {"reviewerID": pl.String, "asin": pl.String, "unixReviewTime": pl.Int64}
    reviews = pl.scan_ndjson(files[0], schema=schema, ignore_errors=True)
    events = reviews.select(
        user_id="reviewerID",
        item_id="asin",
        event=pl.lit("purchase"),
        timestamp=pl.from_epoch("unixReviewTime", "s").cast(TIMESTAMP),
    )
    items = events.select("item_id").unique(maintain_order=True).with_columns(title=pl.format("Item {}", "item_id"))
    return {"events": events, "items": items}
