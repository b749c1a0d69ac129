"""freshness: is the newest event young enough? Looks at the clock, so DVC runs it every time (`always_changed`), and Airflow with it.

In:  data/raw, settings `check.max_age_days`.
Out: reports/freshness.json: the newest event, and how old it may be. A feed that has stopped stops the run.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl

from pipelines.stage import StageError, log, params, run, write_json


def main() -> None:
    allowed = params("check")["max_age_days"]
    newest = pl.scan_parquet(Path("data/raw/events.parquet")).select(pl.col("timestamp").max()).collect().item()
    if allowed is not None and newest is not None and newest < datetime.now(UTC) - timedelta(days=allowed):
        age = (datetime.now(UTC) - newest).total_seconds() / 86400
        raise StageError(
            f"the newest event is too old: it is of {newest:%Y-%m-%d %H:%M} UTC, {age:.1f} days ago; check.max_age_days allows {allowed:g}"
        )
    write_json("reports/freshness.json", {"newest": newest and newest.isoformat(), "max_age_days": allowed})
    log.info("freshness: the newest event is of %s", newest)


if __name__ == "__main__":
    run(main)
