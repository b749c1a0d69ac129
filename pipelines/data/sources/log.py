"""The log of events that came in over HTTP, by Kafka or as files (online/log.py), each once.

In: a folder with log/ and items/, as `make up` fills .events, and where there are such files items.parquet or items.csv and users.parquet or users.csv, with the canonical columns. Out: the
canonical tables; what a visitor did before they signed in is of the shopper they signed in as; what was told of items over HTTP comes over what the file says. Lost: half a line at the end of a file, which was
never said to be taken; events that were sent again; rows that were refused, which stay in the log with the reason.
"""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import polars as pl

from online import log
from online.state import newest
from pipelines.data.identity.visitors import owned
from pipelines.data.tables import EVENTS, ITEMS, SOURCE_ROW, TIMESTAMP, numbered
from pipelines.stage import StageError

LINES = {name: kind for name, kind in EVENTS.items() if name != "timestamp"} | {
    "timestamp": pl.String,
    "received": pl.Float64,
    "offset": pl.Int64,
    "refused": pl.String,
    "row": pl.String,
    "of": pl.String,
}
LOOK = "look"  # an event that only says how long a view lasted


def ordered_only(settings: dict) -> bool:
    """See the package."""
    return False


def read(data: Path, settings: dict) -> dict[str, pl.LazyFrame]:
    """What came in up to settings["until"] (ISO 8601; all where there is none).

    Raises:
        StageError: no event is there.
    """
    parts = list(_parts(data / "log"))
    if not parts:
        raise StageError(f"source.data: {data}/log holds no event yet")
    rows = numbered(pl.concat(parts)).filter(pl.col("refused").is_null())
    if settings.get("until"):
        rows = rows.filter(pl.col("received") <= datetime.fromisoformat(str(settings["until"])).timestamp())
    at = pl.col("timestamp").str.to_datetime(time_unit="us", time_zone="UTC").cast(TIMESTAMP)
    rows = _once(rows.with_columns(timestamp=at))
    events = _looked(owned(rows)).filter(pl.col("event") != LOOK).select(*EVENTS, SOURCE_ROW)
    tables = {"events": events}
    for name in ("items", "users"):
        for file in (data / f"{name}.parquet", data / f"{name}.csv"):
            if file.exists():
                tables[name] = pl.scan_parquet(file) if file.suffix == ".parquet" else pl.scan_csv(file, infer_schema_length=None)
                break
    if told := _told(data / "items"):
        tables["items"] = _with(tables.get("items"), told)
    return tables


def rows_of(data: Path) -> pl.LazyFrame:
    """All that a log holds, as LINES; also what was sent again or refused."""
    return pl.concat([*_parts(data / "log"), pl.LazyFrame(schema=LINES)])


def visitors_of(data: Path, names: list[str]) -> list[str]:
    """The visitors that signed in as a shopper and as nobody else. names: of the shopper."""
    told = rows_of(data).filter(pl.col("user_id").is_not_null() & pl.col("visitor_id").is_not_null())
    told = told.select("visitor_id", theirs=pl.col("user_id").is_in(names))
    only = told.group_by("visitor_id").agg(pl.col("theirs").all()).filter("theirs").collect(engine="streaming")
    return only["visitor_id"].sort().to_list()


def lines(path: Path) -> pl.LazyFrame:
    """The whole lines of a file, as LINES."""
    if path.suffix == ".jsonl" and _ends_whole(path):
        return pl.scan_ndjson(path, schema=LINES)
    text = path.read_bytes()
    return pl.read_ndjson(text[: text.rfind(b"\n") + 1] or b"\n", schema=LINES).lazy()


def _parts(folder: Path) -> Iterator[pl.LazyFrame]:
    """All that a log holds: of each file the rolled one where there is one."""
    rolled = {path.name.rsplit(".", 2)[0]: path for path in sorted(folder.glob("*.parquet"))}
    if rolled:
        yield pl.scan_parquet(list(rolled.values()))
    left = [path for path in log.files(folder) if path.stem not in rolled and path.stat().st_size]
    whole = [path for path in left if path.suffix == ".jsonl" and _ends_whole(path)]
    if whole:
        yield pl.scan_ndjson(whole, schema=LINES)
    for path in left:
        if path not in whole:
            yield lines(path)


def _once(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Each event the first time. Repeats are found by hashes first: the ids of all events are never in memory at once."""
    hashes = rows.select(pl.col("event_id").hash()).collect(engine="streaming").to_series()
    repeated = hashes.filter(hashes.is_duplicated()).unique()
    if repeated.is_empty():
        return rows
    alike = rows.filter(pl.col("event_id").hash().is_in(repeated.implode())).select(SOURCE_ROW, "event_id")
    later = alike.collect(engine="streaming").sort(SOURCE_ROW).filter(~pl.col("event_id").is_first_distinct())[SOURCE_ROW]
    return rows.filter(~pl.col(SOURCE_ROW).is_in(later.implode()))


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read() == b"\n"


def _looked(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Rows with the durations that looks tell of views."""
    looks = rows.filter(event="look").group_by(event_id="of").agg(looked=pl.col("duration").max()).collect(engine="streaming")
    if looks.is_empty():
        return rows
    return rows.join(looks.lazy(), on="event_id", how="left", maintain_order="left").with_columns(
        duration=pl.coalesce("duration", "looked")
    )


def _told(folder: Path) -> dict[str, dict]:
    """Of each item, of each column the newest value and when it was told."""
    told: dict[str, dict] = {}
    for path in log.files(folder):
        for change, _ in log.read(path):
            columns = {name: change[name] for name in (*ITEMS, "at") if name in change}
            told[change["item_id"]] = newest(told.get(change["item_id"], {}), columns)
    return told


def _with(items: pl.LazyFrame | None, told: dict[str, dict]) -> pl.LazyFrame:
    """Items with what was told of them."""
    rows = [{"item_id": item} | {name: value for name, (value, _) in columns.items()} for item, columns in told.items()]
    news = pl.DataFrame(rows, schema={name: kind for name, kind in ITEMS.items() if any(name in row for row in rows)}).lazy()
    if items is None:
        return news
    kinds = {name: kind for name, kind in ITEMS.items() if name in items.collect_schema()}
    known = items.with_columns(pl.col(name).cast(kind, strict=False) for name, kind in kinds.items())
    more = {name: kind for name, kind in news.collect_schema().items() if name not in kinds}
    return known.with_columns(pl.lit(None, kind).alias(name) for name, kind in more.items()).update(
        news, on="item_id", how="full"
    )
