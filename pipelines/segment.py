"""segment: what is known of each shopper, and how many stand in each named segment.

In:  data/checked, campaigns/segments.yaml, settings `segment`, `prepare` (what a bot is), `source`.
Out: data/segments/shoppers.parquet (a row a shopper: marketing/segments/shoppers.py), repurchases.parquet (a row a shopper and category that they buy
     again and again), repeats.parquet (a row a shopper and item bought: marketing/segments/repeats.py), reports/segments.json (size of each segment now and `segment.compare_days` ago, overlaps, parameters of lifetime value, how well
     repeats are told in advance, what cannot be told).

Where times tell order alone there is nothing to segment: the tables are empty and the report says so.
"""

from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl

from marketing.segments import named, outlook, repeats, shoppers
from pipelines.data.cleaning import clean
from pipelines.data.sources import source
from pipelines.data.tables import CHECKED, checked
from pipelines.stage import StageError, log, output, params, run, write_json

SEGMENTS = Path("campaigns/segments.yaml")
REPORT = Path("reports/segments.json")


def main() -> None:
    settings, cleaning, chosen = params("segment", "prepare", "source")
    try:
        segments = named.read(SEGMENTS.read_text(encoding="utf-8-sig"), SEGMENTS.as_posix())
    except named.SegmentError as error:
        raise StageError(str(error)) from error
    except (OSError, UnicodeDecodeError) as error:
        raise StageError(f"{SEGMENTS.as_posix()} cannot be read: {error}") from error
    if source(chosen["name"]).ordered_only(chosen):
        save(*(pl.DataFrame(schema=s) for s in (shoppers.SHOPPERS, shoppers.REPURCHASES, repeats.REPEATS)))
        reason = f"source {chosen['name']!r} tells the order of events, not their time: there is nothing to segment"
        write_json(
            REPORT,
            {
                "at": None,
                "shoppers": 0,
                "segments": [],
                "overlaps": {},
                "repeats": None,
                "outlook": None,
                "cannot_be_told": [reason],
            },
        )
        log.info("segment: %s", reason)
        return
    acts, _ = clean(
        pl.scan_parquet(CHECKED / "events.parquet"),
        cleaning | {"history_events": list(shoppers.STRENGTH)},
        ("platform", "price", "quantity", "order_id", "looked"),
    )
    events = acts.collect()
    items, users = checked("items"), checked("users")
    rules = shoppers.Rules(
        **{name: settings[name] for name in ("new_days", "active_days", "lost_days", "ahead_days", "time_zone")}
    )
    at = events["timestamp"].max()
    earlier_at = at - timedelta(days=settings["compare_days"])
    now, before = (shoppers.known(events, items, moment, rules, users) for moment in (at, earlier_at))
    acts, days = with_category(events, items), settings["repeat_days"]
    bought = acts.filter(pl.col("event") == "purchase")
    ahead = outlook.learnt(
        lambda moment: shoppers.known(events, items, moment, rules, users).shoppers, acts, at, settings["outlook_days"]
    )
    told = {"repeats": repeats.told_in_advance(bought, at, days), "outlook": ahead.report}
    people, people_before = (ahead.of(k.shoppers, acts, moment) for k, moment in ((now, at), (before, earlier_at)))
    save(people, now.repurchases, repeats.known(bought, at, days))
    inside, earlier = (named.members(table, segments) for table in (people, people_before))
    rows = counted(inside, earlier, segments)
    write_json(REPORT, report(at, settings["compare_days"], now, rows, named.overlaps(inside), told))
    for row in rows:
        log.info("segment: %-20s %s shoppers (%s %s days ago)", row["segment"], f"{row['size']:,}", f"{row['before']:,}", settings["compare_days"])  # fmt: skip
    for reason in now.reasons:
        log.info("segment: %s", reason)


def save(people: pl.DataFrame, repurchases: pl.DataFrame, again: pl.DataFrame) -> None:
    with output("data/segments") as folder:
        people.write_parquet(folder / "shoppers.parquet")
        repurchases.write_parquet(folder / "repurchases.parquet")
        again.write_parquet(folder / "repeats.parquet")


def with_category(events: pl.DataFrame, items: pl.DataFrame | None) -> pl.DataFrame:
    """user_id, item_id, event, timestamp, category of what was done; null where no category is known."""
    acts = events.select("user_id", "item_id", "event", "timestamp")
    if items is None or "category" not in items.columns:
        return acts.with_columns(category=pl.lit(None, pl.String))
    return acts.join(
        items.select("item_id", "category").unique("item_id", keep="first"), on="item_id", how="left", maintain_order="left"
    )


def counted(inside: pl.DataFrame, earlier: pl.DataFrame, segments: dict[str, str]) -> list[dict]:
    """A row a segment: its condition, its size, its share of all shoppers, its size at the moment before. inside, earlier: named.members."""
    rows = []
    for name, condition in segments.items():
        size, before = (int(people[name].sum()) for people in (inside, earlier))
        share = size / max(len(inside), 1)
        rows.append({"segment": name, "condition": condition, "size": size, "share": share, "before": before})
    return rows


def report(
    at: datetime, days: int, now: shoppers.Known, rows: list[dict], overlaps: dict[str, dict[str, int]], told: dict
) -> dict:
    lifecycle = dict(now.shoppers["lifecycle"].value_counts().sort("lifecycle").iter_rows())
    return {
        "at": at.isoformat(),
        "compare_days": days,
        "shoppers": len(now.shoppers),
        "lifecycle": lifecycle,
        "segments": rows,
        "overlaps": overlaps,
        **told,
        "purchasing": now.purchasing and asdict(now.purchasing),
        "spending": now.spending and asdict(now.spending),
        "cannot_be_told": now.reasons,
    }


if __name__ == "__main__":
    run(main)
