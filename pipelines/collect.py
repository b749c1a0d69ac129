"""collect: the source's data, translated into the canonical tables.

In:  source.data (a file or folder; for the simulated shop its catalogue), settings `source`, `privacy`; where there is one, the vault.
Out: data/raw/events.parquet and, where the source has them, items.parquet and users.parquet, unread.parquet (records that could not be read),
     left_out.parquet (rows that a mapping leaves out, by reason) and records.parquet (how many records and rows there were);
     data/truth/*.parquet from a simulated source (for evaluation only; empty otherwise).
"""

from datetime import timedelta
from pathlib import Path

import polars as pl

from pipelines.data import tables
from pipelines.data.identity.visitors import owned
from pipelines.data.pseudonyms import people, protected
from pipelines.data.sources import source
from pipelines.data.tables import SOURCE_ROW
from pipelines.stage import StageError, log, output, params, run

LEFT_OUT = "the shopper asked to be forgotten, or does not consent to the use of what they did"
OLD = "they are older than they are to be kept (privacy.retention.events)"


def main() -> None:
    settings, private = params("source", "privacy")
    data = Path(settings["data"]).expanduser()
    if not data.exists():
        raise StageError(f"source.data: {data} is not there (relative paths start at {Path.cwd()})")
    log.info("collect: %s from %s", settings["name"], data)
    found = source(settings["name"]).read(data, settings)
    events = found["events"]
    if "event_id" not in events.collect_schema():
        events = tables.with_event_ids(events)
    columns = events.collect_schema()
    if {"visitor_id", "user_id", "timestamp"} <= set(columns) and "known_by" not in columns:
        events = owned(tables.numbered(events))
    found["events"] = tables.conform(events, tables.EVENTS, name="events")
    if "items" in found:
        found["items"] = tables.conform(found["items"], tables.ITEMS, name="items")
    if "users" in found:
        found["users"] = tables.conform(found["users"], {"user_id": pl.String}, name="users")
    kept, old = private["retention"]["events"], 0
    if kept is not None and not source(settings["name"]).ordered_only(settings):
        found["events"], old = recent(found["events"], kept)
    found, forgotten = protected(found, people(private))
    out = {LEFT_OUT: forgotten} | ({OLD: old} if kept is not None else {})
    if "left_out" in found:
        told = pl.LazyFrame({"reason": list(out), "rows": list(out.values())}, schema=found["left_out"].collect_schema())
        found["left_out"] = pl.concat([found["left_out"], told])
    for reason, count in out.items():
        if count and "left_out" not in found:
            log.info("collect: %s rows left out: %s", f"{count:,}", reason)
    if not private["pseudonyms"]:
        log.info("collect: pseudonyms are off: all that is made knows shoppers by the shop's own ids (privacy.pseudonyms)")
    with output("data/raw") as raw, output("data/truth") as truth:
        for name, table in found.items():
            folder, stem = (truth, name.removeprefix("truth_")) if name.startswith("truth_") else (raw, name)
            table.sink_parquet(folder / f"{stem}.parquet")
        rows = {f.stem: pl.scan_parquet(f).select(pl.len()).collect().item() for f in sorted(raw.iterdir())}
        if not rows["events"] and not rows.get("unread"):
            raise StageError(f"source.data: {data} holds no events")
        if "records" in rows:
            reconcile(raw, rows["events"])
    log.info("collect: %s", ", ".join(f"{count:,} {name}" for name, count in rows.items()))


def recent(events: pl.LazyFrame, days: float) -> tuple[pl.LazyFrame, int]:
    """The events but for those so many days before the newest one, and how many these are. An event without a moment stays, for the checks."""
    newest = events.select(pl.col("timestamp").max()).collect(engine="streaming").item()
    if newest is None:
        return events, 0
    old = (pl.col("timestamp") < newest - timedelta(days=days)).fill_null(False)
    return events.filter(~old), events.select(old.sum()).collect(engine="streaming").item()


def reconcile(raw: Path, events: int) -> None:
    """Holds the rows that were written against the records that are in the source, so that nothing is lost without a word.

    Raises:
        StageError: they differ.
    """
    told = pl.read_parquet(raw / "records.parquet").row(0, named=True)
    left_out = pl.read_parquet(raw / "left_out.parquet")
    out = left_out["rows"].sum()
    for reason, count in left_out.filter(pl.col("rows") > 0).iter_rows():
        log.info("collect: %s rows left out: %s", f"{count:,}", reason)
    if events + out != told["rows"]:
        rows = pl.read_parquet(raw / "events.parquet", columns=[SOURCE_ROW])[SOURCE_ROW].to_numpy()
        repeated = rows[1:][rows[1:] == rows[:-1]][:1]
        where = (
            f"row {repeated[0]:,} stands twice"
            if len(repeated)
            else f"the last one read is row {rows[-1]:,}"
            if len(rows)
            else "none was read"
        )
        raise StageError(
            f"collect: the source holds {told['rows']:,} rows, but {events:,} were read and {out:,} left out on purpose ({where}); this is a fault of "
            "Pushcart's: please report it with the form of the file"
        )


if __name__ == "__main__":
    run(main)
