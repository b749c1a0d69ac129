"""check_prepared: the prepared data against its expectations, before anything is trained on it.

In:  data/prepared, expectations/prepared.json.
Out: reports/verified.json, reports/data_docs/prepared (Great Expectations Data Docs). Any failure stops the run.
"""

from pathlib import Path

import numpy as np
import polars as pl

from pipelines.data.expectations import Checker
from pipelines.data.histories import flat
from pipelines.stage import StageError, log, output, read_json, run, write_json

PREPARED = Path("data/prepared")


def main() -> None:
    facts = read_json(PREPARED / "prepared.json")
    histories = pl.read_parquet(PREPARED / "histories.parquet")
    rows = events(histories, facts.get("valid_from"))
    with output("reports/data_docs/prepared") as docs:
        checker = Checker(docs)
        verdict = checker.check("prepared", rows, {"items": facts["sizes"]["items"]})
        checker.build_docs()
    failures = [
        f"{f.expectation}: {f.reason}: {len(f.rows) or 'all'} rows"
        + "".join(f"\n    {rows.row(i, named=True)}" for i in f.rows[:3])
        for f in verdict.failures
    ]
    failures += [f"flat/{name}.npy is not what histories.parquet says; run prepare again" for name in differing(histories)]
    write_json("reports/verified.json", {"passed": not failures, "rows": verdict.rows, "failures": failures})
    log.info("check_prepared: Data Docs at reports/data_docs/prepared/index.html")
    if failures:
        raise StageError("the prepared data is not fit to train on:\n" + "\n".join(failures))
    log.info("check_prepared: %s events of histories hold all %s expectations", f"{verdict.rows:,}", verdict.checked)


def differing(histories: pl.DataFrame) -> list[str]:
    """The flat files, from which training reads, that do not hold what the table holds."""
    arrays, _ = flat(histories)
    return [name for name, array in arrays.items() if not np.array_equal(np.load(PREPARED / "flat" / f"{name}.npy"), array)]


def events(histories: pl.DataFrame, valid_from: str | None) -> pl.DataFrame:
    """One row an event of a history; its columns are described in the notes of expectations/prepared.json."""
    rows = (
        histories.with_row_index("user")
        .drop("user_id", "actions", "platforms")
        .with_columns(position=pl.int_ranges(pl.col("items").list.len()))
        .explode("items", "timestamps", "position")
        .rename({"items": "item", "timestamps": "timestamp"})
    )
    part = (
        pl.when(pl.col("position") < pl.col("train_end")).then(pl.lit("train"))
        .when(pl.col("position") == pl.col("valid_at")).then(pl.lit("valid"))
        .when(pl.col("position") == pl.col("test_at")).then(pl.lit("test"))
        .otherwise(pl.lit("later"))
    )  # fmt: skip
    before = pl.col("timestamp").shift().cum_max().over("user")
    rows = rows.select("user", "position", "item", "timestamp", part.alias("part"), before.alias("newest_before"))
    if valid_from:
        cut = pl.lit(valid_from).str.to_datetime(time_unit="us", time_zone="UTC")
        rows = rows.with_columns(after_cut=(pl.col("part") == "train") & (pl.col("timestamp") >= cut))
    return rows


if __name__ == "__main__":
    run(main)
