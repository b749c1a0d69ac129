"""The log of events that came in over HTTP (online/log.py), each once, in the order in which they were taken.

In: a folder with log/, as `make up` fills .events, and where there are such files items.parquet or items.csv and users.parquet or users.csv, with the canonical columns. Out: the
canonical tables. Lost: half a line at the end of a file, which was never said to be taken; events that were sent again.
"""

from pathlib import Path

import polars as pl

from online import log
from pipelines.data.tables import EVENTS, TIMESTAMP
from pipelines.stage import StageError

READ = {name: kind for name, kind in EVENTS.items() if name != "timestamp"}


def ordered_only(settings: dict) -> bool:
    """See the package."""
    return False


def read(data: Path, settings: dict) -> dict[str, pl.LazyFrame]:
    """Raises: StageError: no event is there."""
    rows = [event for path in log.files(data / "log") for event, _ in log.read(path)]
    if not rows:
        raise StageError(f"source.data: {data}/log holds no event yet")
    events = pl.DataFrame(rows, schema=READ | {"timestamp": pl.String}).lazy()
    at = pl.col("timestamp").str.to_datetime(time_unit="us", time_zone="UTC").cast(TIMESTAMP)
    tables = {"events": events.with_columns(timestamp=at).unique("event_id", keep="first", maintain_order=True)}
    for name in ("items", "users"):
        for file in (data / f"{name}.parquet", data / f"{name}.csv"):
            if file.exists():
                tables[name] = pl.scan_parquet(file) if file.suffix == ".parquet" else pl.scan_csv(file, infer_schema_length=None)
                break
    return tables
