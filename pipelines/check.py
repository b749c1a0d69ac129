"""check: the raw tables against their expectations; broken rows to the quarantine, too many of them stop the run.

In:  data/raw, data/links (by which ids become people), reports/freshness.json (that the newest event is fresh), expectations/{events,items,users}.json, settings `check`, `baseline`,
     `source.mapping` (its limits).
Out: data/checked (the rows that hold), data/quarantine (the rows that do not, with the reason and their row in the source, and the records that
     could not be read; texts of rows with personal data are left out), reports/quality.json, reports/data_docs/raw (Great Expectations Data Docs).
When it stops, quarantine, report and Data Docs are there; data/checked is not.
"""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl

from pipelines.data.expectations import Checker, Failure, Verdict
from pipelines.data.identity.links import FOLDER, by_person
from pipelines.data.privacy import personal
from pipelines.data.tables import SOURCE_FILE, SOURCE_ROW, UNREAD
from pipelines.stage import StageError, log, output, params, run, shop_name, write_json

RAW = Path("data/raw")
LONGEST_ID = 512  # characters; the service takes no longer ones either
TABLES = ("items", "users", "events")  # items first: events refer to them
LEAST_LIMITS = {"price": 1e6, "quantity": 1e5}  # up to which prices and quantities are possible whatever the others are
TIMES_THE_MEDIAN = 1000  # up to which they are possible in a currency of many noughts
KINDS_SHOWN = 50  # different unknown events that the Data Docs name


def main() -> None:
    settings, baseline, source = params("check", "baseline", "source")
    tables = {name: pl.scan_parquet(RAW / f"{name}.parquet") for name in TABLES if (RAW / f"{name}.parquet").exists()}
    tables = by_person(tables, FOLDER)
    unread = _without_personal_texts(pl.read_parquet(RAW / "unread.parquet")) if (RAW / "unread.parquet").exists() else None
    parameters = _parameters(settings, baseline) | _limits(tables["events"], source["mapping"])
    checked, broken, verdicts = {}, {}, []
    with output("data/quarantine") as quarantine, output("reports/data_docs/raw") as docs:
        checker = Checker(docs)
        for name, lazy in tables.items():
            seen = as_seen(
                name, lazy.collect(), checked
            )  # of ten million rows there is no room for the whole table beside Great Expectations
            verdict = checker.check(name, seen, parameters)
            rows, numbered = verdict.broken(), lazy.with_row_index("row")
            broken[name] = _without_personal(numbered, seen, rows)
            checked[name] = numbered.filter(~pl.col("row").is_in(rows["row"].implode())).drop("row").drop(UNREAD, strict=False)
            broken[name].write_parquet(quarantine / f"{name}.parquet")
            verdicts.append(verdict)
        if unread is not None:
            unread.write_parquet(quarantine / "unread.parquet")
        checker.build_docs()
    lost = {"events": unread} if unread is not None else {}
    stops = [_stop(v, tables[v.table], len(broken[v.table]), lost.get(v.table), settings["max_broken_share"]) for v in verdicts]
    write_json("reports/quality.json", _report(verdicts, broken, stops, tables, unread))
    log.info("check: Data Docs at reports/data_docs/raw/index.html")
    for verdict in verdicts:
        log.info(
            "check: %s: %s of %s rows to the quarantine", verdict.table, f"{len(broken[verdict.table]):,}", f"{verdict.rows:,}"
        )
    if unread is not None and len(unread):
        log.info("check: %s records could not be read at all; they are in data/quarantine/unread.parquet", f"{len(unread):,}")
    if any(stops):
        raise StageError("\n".join(s for s in stops if s) + "\nThe broken rows, with reasons, are in data/quarantine.")
    with output("data/checked") as folder:
        for name, table in checked.items():
            table.sink_parquet(folder / f"{name}.parquet")


def _limits(events: pl.LazyFrame, mapping: dict | str | None) -> dict[str, float]:
    """The highest price and quantity that are possible: what the mapping says, else so many times the median."""
    told = (mapping.get("limits") or {}) if isinstance(mapping, dict) else {}
    found = {}
    for column, least in LEAST_LIMITS.items():
        there = column in events.collect_schema()
        usual = events.select(pl.col(column).median()).collect().item() if there else None
        found[f"max_{column}"] = float(told.get(column) or max(least, TIMES_THE_MEDIAN * (usual or 0.0)))
    return found


def _without_personal_texts(unread: pl.DataFrame) -> pl.DataFrame:
    return unread.with_columns(pl.when(~personal("text")).then("text").alias("text"))


def as_seen(name: str, table: pl.DataFrame, checked: dict[str, pl.LazyFrame]) -> pl.DataFrame:
    """The table as its suite sees it (see the notes in expectations/*.json): the columns that it names, and what is asked of texts, never the texts themselves."""
    key = {"events": "event_id", "items": "item_id", "users": "user_id"}[name]
    texts = [c for c, kind in table.schema.items() if kind == pl.String]
    given = pl.Enum(["given"])
    columns = [pl.when(pl.col(c).is_not_null()).then(pl.lit("given")).cast(given).alias(c) for c in texts if c != "event"]
    columns += [pl.col(c) for c in table.columns if c not in texts and c != SOURCE_ROW]
    repeats = pl.col(key).is_not_null() & ~pl.col(key).is_first_distinct()
    columns.append(repeats.alias(f"{key}_repeats"))
    columns += [
        (pl.col(c).str.len_chars() > LONGEST_ID).fill_null(False).alias(f"{c}_long") for c in ("user_id", "item_id") if c in texts
    ]
    columns += [personal(c).alias(f"{c}_personal") for c in ("user_id", "query") if c in texts]
    if name == "users":
        attributes = [personal(c) for c in texts if c != "user_id"]
        columns.append(
            pl.any_horizontal(attributes).alias("attributes_personal")
            if attributes
            else pl.lit(False).alias("attributes_personal")
        )
    if name == "events":
        columns.append(_kind(table).alias("event"))
        columns.append((pl.col("timestamp") > datetime.now(UTC) + timedelta(days=1)).fill_null(False).alias("in_future"))
        if "items" in checked:
            known = pl.col("item_id").is_in(checked["items"].select("item_id").collect()["item_id"].implode())
            columns.append((pl.col("item_id").is_null() | known).alias("item_known"))
    asked = Checker.looks_at(name)
    return table.select(c for c in columns if re.search(rf"\b{re.escape(c.meta.output_name())}\b", asked))


def _kind(table: pl.DataFrame) -> pl.Expr:
    """The event's kind, of unknown ones the most frequent; none that could be markup or personal data."""
    shown = table["event"].drop_nulls().value_counts(sort=True)["event"].head(KINDS_SHOWN)
    harmless = [k for k in shown if k.replace("_", "").replace("-", "").replace(" ", "").isalpha() and len(k) <= 40]
    return (
        pl.when(pl.col("event").is_null() | pl.col("event").is_in(harmless))
        .then("event")
        .otherwise(pl.lit("(another)"))
        .cast(pl.Categorical)
    )


def _parameters(settings: dict, baseline: dict) -> dict:
    if baseline["rows"] and baseline["shop"] == shop_name():
        low, high = settings["volume_range"]
        return {"min_rows": int(low * baseline["rows"]), "max_rows": int(high * baseline["rows"])}
    return {"min_rows": None, "max_rows": None}


def _without_personal(numbered: pl.LazyFrame, seen: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    """The broken rows with their reasons; of those that hold personal data no text is kept. numbered: the table with `row`; rows: rising."""
    flags = [c for c in seen.columns if c.endswith("_personal")]
    table = numbered.filter(pl.col("row").is_in(rows["row"].implode())).drop("row").collect()
    broken = table.with_columns(rows["reason"])
    if not flags:
        return broken
    holds = seen[rows["row"]].select(pl.any_horizontal(flags)).to_series()
    texts = [c for c, kind in table.schema.items() if kind == pl.String and c not in ("event", "event_id")]
    return broken.with_columns(pl.when(~holds).then(pl.col(c)).alias(c) for c in texts)


def _stop(verdict: Verdict, table: pl.LazyFrame, broken: int, unread: pl.DataFrame | None, allowed: float) -> str | None:
    """Why this table stops the run, naming expectation, column, count and three rows of the source; None if it does not."""
    lines = []
    critical = [f for f in verdict.failures if f.severity == "critical"]
    for failure in critical:
        if not failure.rows:
            lines.append(f"{verdict.table}: {failure.expectation}: {failure.reason} (observed {failure.observed})")
    lost = len(unread) if unread is not None else 0
    rows = verdict.rows + lost
    share = (broken + lost) / max(rows, 1)
    if share > allowed:
        lines.append(f"{verdict.table}: {share:.1%} of {rows:,} rows are broken; check.max_broken_share allows {allowed:.0%}")
        for failure in sorted(critical, key=lambda f: -len(f.rows)):
            if failure.rows:
                lines.append(f"  {failure.expectation}: {len(failure.rows):,} rows: {failure.reason}; in the source")
                lines += [f"    {_place(table, row)}" for row in failure.rows[:3]]
        if lost:
            lines.append(f"  {lost:,} records that cannot be read; in the source")
            lines += [f"    {row['file']}, line {row['line']:,}: {row['reason']}" for row in unread.head(3).iter_rows(named=True)]
    return "\n".join(lines) or None


def _place(table: pl.LazyFrame, row: int) -> str:
    """Where in the source a row came from."""
    [found] = (
        table.select(pl.col(SOURCE_ROW, *([SOURCE_FILE] if SOURCE_FILE in table.collect_schema() else [])))
        .slice(row, 1)
        .collect()
        .rows(named=True)
    )
    name = f" ({found[SOURCE_FILE]})" if SOURCE_FILE in found else ""
    return f"row {found[SOURCE_ROW]:,}{name}"


def _report(
    verdicts: list[Verdict], broken: dict[str, pl.DataFrame], stops: list, tables: dict, unread: pl.DataFrame | None
) -> dict:
    def described(failure: Failure) -> dict:
        shown = {"expectation": failure.expectation, "reason": failure.reason, "severity": failure.severity}
        return shown | {"rows": len(failure.rows), "observed": str(failure.observed) if failure.observed is not None else None}

    return {
        "passed": not any(stops),
        "tables": {
            v.table: {
                "rows": v.rows,
                "broken": len(broken[v.table]),
                "expectations": v.checked,
                "left_out": v.left_out,
                "failures": [described(f) for f in v.failures],
            }
            for v in verdicts
        },
        "absent": [t for t in ("items", "users") if t not in tables],
        "unread": 0 if unread is None else len(unread),
    }


if __name__ == "__main__":
    run(main)
