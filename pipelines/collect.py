"""collect: the source's data, translated into the canonical tables.

In:  source.data (a file or folder; for the simulated shop its catalogue), settings `source`.
Out: data/raw/events.parquet and, where the source has them, items.parquet and users.parquet;
     data/truth/*.parquet from a simulated source (for evaluation only; empty otherwise).
"""

from pathlib import Path

import polars as pl

from pipelines.data import tables
from pipelines.data.sources import source
from pipelines.stage import StageError, log, output, params, run


def main() -> None:
    settings = params("source")
    data = Path(settings["data"]).expanduser()
    if not data.exists():
        raise StageError(f"source.data: {data} is not there (relative paths start at {Path.cwd()})")
    log.info("collect: %s from %s", settings["name"], data)
    found = source(settings["name"]).read(data, settings)
    events = found["events"]
    if "event_id" not in events.collect_schema():
        events = tables.with_event_ids(events)
    found["events"] = tables.conform(events, tables.EVENTS, name="events")
    if "items" in found:
        found["items"] = tables.conform(found["items"], tables.ITEMS, name="items")
    if "users" in found:
        found["users"] = tables.conform(found["users"], {"user_id": pl.String}, name="users")
    with output("data/raw") as raw, output("data/truth") as truth:
        for name, table in found.items():
            folder, stem = (truth, name.removeprefix("truth_")) if name.startswith("truth_") else (raw, name)
            table.sink_parquet(folder / f"{stem}.parquet")
        rows = {f.stem: pl.scan_parquet(f).select(pl.len()).collect().item() for f in sorted(raw.iterdir())}
        if not rows["events"]:
            raise StageError(f"source.data: {data} holds no events")
    log.info("collect: %s", ", ".join(f"{count:,} {name}" for name, count in rows.items()))


if __name__ == "__main__":
    run(main)
