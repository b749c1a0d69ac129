"""RecBole atomic files: tab-separated, header fields typed as `name:token`, one NAME.inter and, optionally, .item and .user.

In: the folder, or the .inter file. Out: events (views; a rating says that the item was used, whatever it says of it),
items and users (their attributes kept by name, save a postal code, which is personal).
"""

from pathlib import Path

import polars as pl

from pipelines.data.tables import TIMESTAMP
from pipelines.stage import StageError

TITLES = ("title", "movie_title", "name", "item_name")
CATEGORIES = ("category", "categories", "class", "genre", "genres")
PERSONAL = ("zip_code", "name", "email", "phone", "address")


def ordered_only(settings: dict) -> bool:
    """See the package."""
    return False


def read(data: Path, settings: dict) -> dict[str, pl.LazyFrame]:
    """Raises: StageError: no .inter file, or one without user, item and time."""
    files = [data] if data.is_file() else sorted(data.glob("*.inter"))
    if len(files) != 1:
        raise StageError(f"source.data: expected one .inter file in {data}, found {len(files)}")
    interactions = _atomic(files[0])
    missing = {"user_id", "item_id", "timestamp"} - set(interactions.collect_schema())
    if missing:
        raise StageError(f"{files[0]}: no column {', '.join(sorted(missing))}")
    seconds = pl.col("timestamp").cast(pl.Float64, strict=False)
    tables = {
        "events": interactions.select(
            "user_id", "item_id", event=pl.lit("view"), timestamp=pl.from_epoch(seconds, "s").cast(TIMESTAMP)
        )
    }
    items = files[0].with_suffix(".item")
    if items.exists():
        frame = _atomic(items)
        present = set(frame.collect_schema())
        chosen = {"title": _first(TITLES, present), "category": _first(CATEGORIES, present)}
        chosen |= {c: c for c in ("brand", "price", "description") if c in present} | {"attributes": chosen["category"]}
        tables["items"] = frame.select("item_id", **{to: pl.col(by) for to, by in chosen.items() if by})
    users = files[0].with_suffix(".user")
    if users.exists():
        tables["users"] = _atomic(users).drop(PERSONAL, strict=False)
    return tables


def _atomic(path: Path) -> pl.LazyFrame:
    frame = pl.scan_csv(path, separator="\t", infer_schema=False, quote_char=None)
    return frame.rename(lambda column: column.split(":")[0])


def _first(names: tuple[str, ...], present: set[str]) -> str | None:
    return next((name for name in names if name in present), None)
