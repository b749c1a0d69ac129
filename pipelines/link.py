"""link: which ids of shoppers are one person's, from what is certain and from what is likely enough.

In:  data/raw, campaigns/undone_links.csv (links that a person took back: columns one, other), settings `identity`, `privacy` (who refuses, from the vault).
Out: data/links/links.parquet (a row a link and reason: one, other, reason, chance, taken: `taken`, or why it was not), people.parquet (of each id of a person who has several: user_id, person_id), reports/links.json (how many of what, and of links that are likely how often such were right).
"""

from pathlib import Path

import polars as pl

from pipelines.data.identity.links import FOLDER, found, nothing, read_undone
from pipelines.data.pseudonyms import people
from pipelines.stage import log, output, params, run, write_json

RAW, UNDONE = Path("data/raw"), Path("campaigns/undone_links.csv")


def main() -> None:
    settings, private = params("identity", "privacy")
    tables = {
        name: pl.scan_parquet(RAW / f"{name}.parquet")
        for name in ("events", "items", "users")
        if (RAW / f"{name}.parquet").exists()
    }
    told = nothing() if settings["links"] == "none" else found(tables, settings, people(private).links_said, read_undone(UNDONE))
    with output(FOLDER) as folder:
        for name in ("links", "people"):
            getattr(told, name).write_parquet(folder / f"{name}.parquet")
    write_json("reports/links.json", told.report)
    if told.report:
        log.info("link: %s ids are of %s people", *(f"{told.report[n]:,}" for n in ("ids_of_people", "people")))
        for row in told.report["links"]:
            log.info("link: %8s by %s: %s", f"{row['links']:,}", row["reason"], row["outcome"])


if __name__ == "__main__":
    run(main)
