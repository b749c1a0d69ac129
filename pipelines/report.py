"""report: what campaigns of the past brought, beside those whom chance held out.

In:  data/checked, campaigns/*.yaml (the share that each was to hold out), settings `uplift.answer_days`.
Out: reports/campaigns.json (marketing/report.py: brought).
"""

from datetime import timedelta
from pathlib import Path

import polars as pl

from marketing import pushes, report
from pipelines.data.tables import checked
from pipelines.plan import files, read
from pipelines.stage import StageError, log, params, run, write_json

REPORT = Path("reports/campaigns.json")
BEFORE = timedelta(days=28)  # what people brought in so many days before a campaign takes noise away


def main() -> None:
    days = params("uplift")["answer_days"]
    events = checked("events")
    made, now = pushes.logged(events, checked("items"), days), events["timestamp"].max()
    ended = made.filter(
        pl.col("timestamp").max().over("campaign_id") <= now - timedelta(days=days)
    )  # the others are still being answered
    rows = report.brought(ended, spent_before(ended, events), holdouts())
    write_json(REPORT, {"answer_days": days, "campaigns": rows})
    if not rows:
        log.info("report: no campaign of the past is logged with what chance held out")
    for row in rows[-1:]:
        log.info("report: %s campaigns; %s", f"{max(len(rows) - 1, 1):,}", in_words(row))


def spent_before(made: pl.DataFrame, events: pl.DataFrame) -> pl.DataFrame:
    """What each brought before each campaign that reached or held them out: campaign_id, user_id, revenue."""
    if made.is_empty() or "price" not in events.columns:
        return pl.DataFrame(schema={"campaign_id": pl.String, "user_id": pl.String, "revenue": pl.Float64})
    bought = events.filter(pl.col("event") == "purchase").select("user_id", "price", pl.col("timestamp").alias("at"))
    parts = []
    for (name,), campaign in made.group_by("campaign_id", maintain_order=True):
        start = campaign["timestamp"].min()
        near = bought.filter(pl.col("at").is_between(start - BEFORE, start, closed="left"))
        parts.append(near.group_by("user_id").agg(revenue=pl.col("price").sort().sum()).with_columns(campaign_id=pl.lit(name)))
    return pl.concat(parts)


def holdouts() -> dict[str, float]:
    """The share that each campaign was to hold out, by its name, as far as its file is there and can be read."""
    found = {}
    for file in files():
        try:
            found[file.stem] = read(file).holdout
        except StageError:
            continue
    return found


def in_words(row: dict) -> str:
    """What a campaign, or all together, brought."""
    if "reason" in row:
        return f"{row['sent']:,} sent, {row['held_out']:,} held out: {row['reason']}"
    margin = row["margin"]
    low, high = margin["interval"]
    planned = f"; {row['expected']['margin']:,.0f} were planned" if "expected" in row else ""
    return f"{row['sent']:,} messages added {row['orders']['added']:,.0f} orders and {margin['added']:,.0f} of margin ({low:,.0f} to {high:,.0f}){planned}"


if __name__ == "__main__":
    run(main)
