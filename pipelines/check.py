"""check: the raw tables against their expectations; broken rows to the quarantine, too many of them stop the run.

In:  data/raw, expectations/{events,items,users}.json, settings `check`, `baseline`.
Out: data/checked (the rows that hold), data/quarantine (the rows that do not, with the reason and their row in the source),
     reports/quality.json, reports/data_docs/raw (Great Expectations Data Docs).
When it stops, quarantine, report and Data Docs are there; data/checked is not.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl

from pipelines.quality import Checker, Failure, Verdict
from pipelines.stage import StageError, log, output, params, run, write_json
from pipelines.tables import SOURCE_ROW

RAW = Path("data/raw")


def main() -> None:
    settings, baseline, source = params("check", "baseline", "source")
    tables = {f.stem: pl.read_parquet(f) for f in sorted(RAW.glob("*.parquet"))}
    checked, broken, verdicts = {}, {}, []
    with output("data/quarantine") as quarantine, output("reports/data_docs/raw") as docs:
        checker = Checker(docs)
        for name in ("items", "users", "events"):  # items first: events refer to them
            if name not in tables:
                continue
            table = tables[name]
            verdict = checker.check(name, _derived(name, table, checked), _parameters(settings, baseline, source))
            rows = verdict.broken()
            broken[name] = table[rows["row"]].with_columns(rows["reason"])
            kept = pl.Series(range(len(table)), dtype=pl.UInt32).is_in(rows["row"].implode()).not_()
            checked[name] = table.filter(kept)
            broken[name].write_parquet(quarantine / f"{name}.parquet")
            verdicts.append(verdict)
        checker.build_docs()
    shares = {v.table: len(broken[v.table]) / max(v.rows, 1) for v in verdicts}
    stops = [_stop(v, tables[v.table], shares[v.table], settings["max_broken_share"]) for v in verdicts]
    write_json("reports/quality.json", _report(verdicts, broken, stops, tables))
    log.info("check: Data Docs at %s", Path("reports/data_docs/raw/index.html").resolve())
    for verdict in verdicts:
        log.info(
            "check: %s: %s of %s rows to the quarantine", verdict.table, f"{len(broken[verdict.table]):,}", f"{verdict.rows:,}"
        )
    if any(stops):
        raise StageError("\n".join(s for s in stops if s) + "\nThe broken rows, with reasons, are in data/quarantine.")
    with output("data/checked") as folder:
        for name, table in checked.items():
            table.write_parquet(folder / f"{name}.parquet")


def _parameters(settings: dict, baseline: dict, source: dict) -> dict:
    now = datetime.now(UTC)
    parameters = {"now": now + timedelta(days=1), "min_rows": None, "max_rows": None, "oldest_newest": None}
    if settings["max_age_days"] is not None:
        parameters["oldest_newest"] = now - timedelta(days=settings["max_age_days"])
    if baseline["rows"] and baseline["source"] == f"{source['name']}:{source['data']}":
        low, high = settings["volume_range"]
        parameters |= {"min_rows": int(low * baseline["rows"]), "max_rows": int(high * baseline["rows"])}
    return parameters


def _derived(name: str, table: pl.DataFrame, checked: dict[str, pl.DataFrame]) -> pl.DataFrame:
    """The table with the columns that its suite needs beside its own (see the notes in expectations/*.json)."""
    key = {"events": "event_id", "items": "item_id", "users": "user_id"}[name]
    table = table.with_columns(pl.when(pl.col(key).is_not_null()).then(pl.int_range(pl.len()).over(key)).alias(f"{key}_repeats"))
    if name == "events" and "items" in checked:
        known = pl.col("item_id").is_in(checked["items"]["item_id"].implode())
        table = table.with_columns(item_known=pl.col("item_id").is_null() | known)
    if name == "users":
        texts = [c for c, kind in table.schema.items() if kind == pl.String and c != "user_id"]
        table = table.with_columns(attributes=pl.concat_str(texts, separator=" ", ignore_nulls=True) if texts else None)
    return table.drop(SOURCE_ROW)


def _stop(verdict: Verdict, table: pl.DataFrame, share: float, allowed: float) -> str | None:
    """Why this table stops the run, naming expectation, column, count and three example rows; None if it does not."""
    lines = []
    critical = [f for f in verdict.failures if f.severity == "critical"]
    for failure in critical:
        if not failure.rows:
            lines.append(f"{verdict.table}: {failure.expectation}: {failure.reason} (observed {failure.observed})")
    if share > allowed:
        lines.append(
            f"{verdict.table}: {share:.1%} of {verdict.rows:,} rows are broken; check.max_broken_share allows {allowed:.0%}"
        )
        for failure in sorted(critical, key=lambda f: -len(f.rows)):
            if failure.rows:
                lines.append(f"  {failure.expectation}: {len(failure.rows):,} rows: {failure.reason}; for example")
                lines += [f"    {_shown(table, row)}" for row in failure.rows[:3]]
    return "\n".join(lines) or None


def _shown(table: pl.DataFrame, row: int) -> str:
    values = table.row(row, named=True)
    number = values.pop(SOURCE_ROW)
    return f"row {number}: " + ", ".join(
        f"{k}={v}" for k, v in values.items() if k in ("user_id", "item_id", "event", "timestamp", "price", "event_id")
    )


def _report(verdicts: list[Verdict], broken: dict[str, pl.DataFrame], stops: list, tables: dict) -> dict:
    def told(failure: Failure) -> dict:
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
                "failures": [told(f) for f in v.failures],
            }
            for v in verdicts
        },
        "absent": [t for t in ("items", "users") if t not in tables],
    }


if __name__ == "__main__":
    run(main)
