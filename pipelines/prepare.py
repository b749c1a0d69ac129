"""prepare: checked events to histories of item numbers, features and a split.

In:  data/checked, settings `prepare`, `baseline.vocabulary`, `source`.
Out: data/prepared/histories.parquet (a row a shopper, oldest item first), items.parquet (number 1.. = row order, features),
     impressions.parquet (what was shown to whom, and what came of it), attributes.json (what the numbers in items' `attributes`
     mean, from 1), users.parquet (features), prepared.json (sizes, platforms by number, what was removed and why).

A history holds the first time a shopper meets each item: that is what the protocol of the published tables ranks (items
already seen are filtered out). Its columns: user_id, items (list of item number), timestamps (list), actions (list: the
strongest thing done to the item before the next was met, 1 = seen, 2 = favourite, 3 = cart, 4 = purchase), platforms (list of
number from 1, 0 = not told), train_end (items before this position are for training), valid_at and test_at (position of the item to predict;
null where there is none). Items at test_at and later are never seen before the test.

An impression's columns: user (row of histories), position (how many items of the history came before), item, platform, clicked,
carted, purchased (within a session's gap after it; any action is a click), part (train, valid, test). Where none are logged, every item of
a history stands for an impression that was clicked.
"""

import math
from pathlib import Path

import numpy as np
import polars as pl

from pipelines.impressions import STRENGTH, impressions, platform_number
from pipelines.sources import source
from pipelines.stage import StageError, log, output, params, run, write_json

CHECKED = Path("data/checked")
PRIOR = 20  # impressions' worth of the mean that a rate starts from


def main() -> None:
    settings, baseline, chosen = params("prepare", "baseline", "source")
    if settings["split"] == "time" and source(chosen["name"]).ORDERED_ONLY:
        raise StageError(f"prepare.split: source {chosen['name']!r} knows the order of events, not their time; use leave_one_out")
    if settings["split"] not in ("leave_one_out", "time"):
        raise StageError(f"prepare.split is {settings['split']!r}; it must be leave_one_out or time")
    events = pl.scan_parquet(CHECKED / "events.parquet")
    actions, removed = clean(events, settings)
    history = histories(actions)
    items = vocabulary(history, baseline["vocabulary"])
    platforms = history["platform"].drop_nulls().unique().sort().to_list() if "platform" in history.columns else []
    split, cuts = divide(history, items, platforms, settings)
    shown = impressions(events, actions, split, items, platforms, settings, cuts)
    sizes = {
        "shoppers": len(split),
        "items": len(items),
        "interactions": len(history),
        "impressions": len(shown),
        "sessions": actions.select(pl.struct("user_id", "session_id").n_unique()).collect(engine="streaming").item(),
        "valid": split["valid_at"].count(),
        "test": split["test_at"].count(),
    }
    if not sizes["valid"] or not sizes["test"]:
        raise StageError("prepare: no shopper has a history long enough to validate and test on (3 different items)")
    described = item_features(items, split, shown, source(chosen["name"]).ORDERED_ONLY)
    features, names = attributes(described, settings["attributes"])
    people = user_features(actions)
    with output("data/prepared") as folder:
        split.write_parquet(folder / "histories.parquet")
        features.write_parquet(folder / "items.parquet")
        shown.write_parquet(folder / "impressions.parquet")
        write_json(folder / "attributes.json", names)
        people.write_parquet(folder / "users.parquet")
        write_json(
            folder / "prepared.json",
            {"split": settings["split"], **cuts, "platforms": platforms, "sizes": sizes, "removed": removed},
        )
    log.info("prepare: %s", ", ".join(f"{v:,} {k}" for k, v in sizes.items()))
    log.info("prepare: removed %s", ", ".join(f"{v:,} {k}" for k, v in removed.items()))


def clean(events: pl.LazyFrame, settings: dict) -> tuple[pl.LazyFrame, dict[str, int]]:
    """What shoppers did to items: no duplicates, no bots, no rare items, in order of time, with sessions.

    Returns the actions (user_id, item_id, event, timestamp, session_id, and price, platform where given) and how many events
    each step removed.
    """
    key = ["user_id", "item_id", "event", "timestamp"]
    optional = [c for c in ("session_id", "platform", "price") if c in events.collect_schema()]
    total = _count(events)
    acts = events.filter(pl.col("event").is_in(settings["history_events"]), pl.col("item_id").is_not_null())
    acts = acts.select(*key, *optional)
    kept = _count(acts)
    unique = acts.unique(subset=key, keep="any" if not optional else "first", maintain_order=bool(optional))
    unique = unique.collect(engine="streaming").lazy()
    hourly = unique.group_by("user_id", pl.col("timestamp").dt.truncate("1h")).len()
    bots = hourly.filter(pl.col("len") > settings["bot_events_per_hour"]).select("user_id").unique().collect()
    human = unique.join(bots.lazy(), on="user_id", how="anti")
    common = human.group_by("item_id").len().filter(pl.col("len") >= settings["min_item_events"]).select("item_id")
    actions = human.join(common, on="item_id", how="semi").sort("user_id", "timestamp", "event", "item_id")
    gap = pl.col("timestamp").diff().over("user_id") > pl.duration(minutes=settings["session_gap_minutes"])
    numbered = pl.format("{}", gap.fill_null(True).cast(pl.UInt32).cum_sum().over("user_id"))
    given = [pl.col("session_id"), numbered] if "session_id" in optional else [numbered]
    actions = actions.with_columns(pl.coalesce(given).alias("session_id")).collect(engine="streaming")
    unique_count, human_count = _count(unique), _count(human)
    removed = {
        "other events (searches, impressions)": total - kept,
        "repeats": kept - unique_count,
        f"events of {len(bots)} bots": unique_count - human_count,
        "events of rare items": human_count - len(actions),
    }
    if actions.is_empty():
        raise StageError(f"prepare: nothing is left to learn from; removed: {removed}")
    return actions.lazy(), removed


def histories(actions: pl.LazyFrame) -> pl.DataFrame:
    """The first time each shopper meets each item, in order of time: columns user_id, item_id, timestamp, action (UInt8), and
    platform where events have it.
    """
    key = ["user_id", "item_id"]
    first = actions.group_by(key).agg(pl.col("timestamp").min()).sort("user_id", "timestamp", "item_id")
    first = first.collect(engine="streaming")
    until = first.with_columns(until=pl.col("timestamp").shift(-1).over("user_id")).rename({"timestamp": "met"})
    done = actions.join(until.lazy(), on=key)
    at_once = pl.col("timestamp") == pl.col("met")
    done = done.filter(at_once | pl.col("until").is_null() | (pl.col("timestamp") < pl.col("until")))
    told = {"action": pl.col("event").replace_strict(STRENGTH, default=1, return_dtype=pl.UInt8).max()}
    if "platform" in actions.collect_schema():
        told["platform"] = pl.col("platform").filter(at_once).max()
    strongest = done.group_by(key).agg(**told).collect(engine="streaming")
    return first.join(strongest, on=key, how="left", maintain_order="left")


def vocabulary(history: pl.DataFrame, earlier: str | None) -> pl.DataFrame:
    """Numbers items 1, 2, ...: those of the earlier vocabulary keep theirs, new ones follow by first appearance.

    Args:
        earlier: a file of ids in order of number (an artefact's item_ids.npy), or None.
    """
    order = history.group_by("item_id").agg(pl.col("timestamp").min()).sort("timestamp", "item_id").select("item_id")
    if earlier:
        try:
            before = [i.decode() for i in np.load(earlier, allow_pickle=False).tolist()]
        except (OSError, ValueError, AttributeError) as error:
            raise StageError(f"baseline.vocabulary: {earlier} holds no vocabulary ({error})") from error
        known = pl.DataFrame({"item_id": before}, schema={"item_id": pl.String})
        order = pl.concat([known, order.join(known, on="item_id", how="anti", maintain_order="left")])
    return order.with_row_index("item", 1)


def divide(history: pl.DataFrame, items: pl.DataFrame, platforms: list[str], settings: dict) -> tuple[pl.DataFrame, dict]:
    """One row a shopper with the positions of the split (see the module's first lines), and the cuts of a time split."""
    numbered = history.lazy().join(items.lazy(), on="item_id", maintain_order="left").sort("user_id", "timestamp", "item_id")
    numbered = numbered.with_columns(platform=platform_number(platforms) if platforms else pl.lit(0, pl.UInt8))
    lists = numbered.group_by("user_id", maintain_order=True).agg(
        pl.col("item").alias("items"), pl.col("timestamp").alias("timestamps"), pl.col("action").alias("actions"),
        pl.col("platform").alias("platforms"),
    )  # fmt: skip
    length = pl.col("items").list.len().cast(pl.Int64)
    if settings["split"] == "leave_one_out":
        enough = length >= 3
        split = lists.with_columns(
            train_end=pl.when(enough).then(length - 2).otherwise(length),
            valid_at=pl.when(enough).then(length - 2),
            test_at=pl.when(enough).then(length - 1),
        )
        return split.collect(engine="streaming"), {}
    held_out = settings["valid_share"] + settings["test_share"]
    valid_from, test_from = (history["timestamp"].quantile(1 - share, "nearest") for share in (held_out, settings["test_share"]))
    before = {
        name: pl.col("timestamps").list.eval(pl.element() < cut).list.sum().cast(pl.Int64)
        for name, cut in (("valid", valid_from), ("test", test_from))
    }
    split = lists.with_columns(train_end=before["valid"], before_test=before["test"]).with_columns(
        # A shopper is asked for one item a part, the first of it, and only if something came before.
        valid_at=pl.when((pl.col("train_end") > 0) & (pl.col("train_end") < pl.col("before_test"))).then("train_end"),
        test_at=pl.when((pl.col("before_test") > 0) & (pl.col("before_test") < length)).then("before_test"),
    )
    return split.drop("before_test").collect(engine="streaming"), {"valid_from": str(valid_from), "test_from": str(test_from)}


def item_features(items: pl.DataFrame, split: pl.DataFrame, shown: pl.DataFrame, ordered_only: bool) -> pl.DataFrame:
    """The vocabulary with what is known of each item and what training shows of it.

    popularity: shoppers in training who met it; recency: the same, each weighted by 2^(-age / 30 days) at the end of
    training (all weigh 1 where times tell order only). Standardised over the catalogue, for networks: log_popularity, ln(1 +
    popularity); log_price, ln(1 + price), and relative_price, what that is above the mean of the item's category (both absent if no
    item has a price); click_rate and purchase_rate, clicks an impression and purchases a click in training, in logarithms, drawn to the mean where
    there are few (absent where all are equal).
    """
    training = split.lazy().select(
        pl.col("items").list.head(pl.col("train_end")).alias("item"),
        pl.col("timestamps").list.head(pl.col("train_end")).alias("timestamp"),
    ).explode("item", "timestamp").drop_nulls()  # fmt: skip
    age = (pl.col("timestamp").max() - pl.col("timestamp")).dt.total_seconds() / 86400
    seen = (
        training.with_columns(weight=pl.lit(1.0) if ordered_only else 0.5 ** (age / 30))
        .group_by("item").agg(popularity=pl.len(), recency=_sum(pl.col("weight")))
        .collect(engine="streaming")
    )  # fmt: skip
    features = (
        items.join(seen, on="item", how="left", maintain_order="left")
        .with_columns(pl.col("popularity", "recency").fill_null(0))
        .with_columns(log_popularity=_standardised((1 + pl.col("popularity")).log()))
    )
    counts = shown.filter(part="train").group_by("item").agg(pl.len(), pl.col("clicked", "purchased").sum())
    for rate, wins, tries in (("click_rate", "clicked", "len"), ("purchase_rate", "purchased", "clicked")):
        mean = counts[wins].sum() / max(counts[tries].sum(), 1)
        if 0 < mean < 1:
            drawn = ((pl.col(wins) + PRIOR * mean) / (pl.col(tries) + PRIOR)).log()
            rates = counts.select("item", drawn.alias(rate))
            features = features.join(rates, on="item", how="left", maintain_order="left").with_columns(
                _standardised(pl.col(rate).fill_null(math.log(mean)))
            )
    if (CHECKED / "items.parquet").exists():
        described = pl.read_parquet(CHECKED / "items.parquet").drop("source_row")
        features = features.join(described, on="item_id", how="left", maintain_order="left")
        if "price" in described.columns and described["price"].count():
            log_price = (1 + pl.col("price")).log()
            category = log_price.mean().over("category") if "category" in features.columns else log_price.mean()
            features = features.with_columns(
                log_price=_standardised(log_price), relative_price=_standardised(log_price - category)
            )
    return features.sort("item")


def attributes(features: pl.DataFrame, kinds: list[str]) -> tuple[pl.DataFrame, list[str]]:
    """Adds a column `attributes`: what is known of each item as a list of numbers from 1; and names the numbers.

    kinds: of category (every level of the path), brand, price (the tenth of the catalogue it falls into), attributes (labels),
    words (of the title). What is said of one item alone, or of more than half of them, tells items apart badly and is left out.
    """
    tenth = (10 * (pl.col("price").rank() - 1) / pl.col("price").count()).floor()
    labels = {
        "category": pl.col("category").str.split(" > ") if "category" in features.columns else None,
        "brand": pl.concat_list("brand") if "brand" in features.columns else None,
        "price": pl.concat_list(tenth.cast(pl.Int8).cast(pl.String)) if "log_price" in features.columns else None,
        "attributes": pl.col("attributes").str.extract_all(r"\S+") if "attributes" in features.columns else None,
        "words": pl.col("title").str.to_lowercase().str.extract_all(r"\w{2,}") if "title" in features.columns else None,
    }
    unknown = set(kinds) - set(labels)
    if unknown:
        raise StageError(f"prepare.attributes: {', '.join(sorted(unknown))} is not one of {', '.join(labels)}")
    long = [
        features.select("item", name=labels[kind]).explode("name").drop_nulls()
        .select("item", name=pl.format("{}:{}", pl.lit(kind), "name")).unique()
        for kind in kinds if labels[kind] is not None
    ]  # fmt: skip
    said = pl.concat([*long, pl.DataFrame(schema={"item": features.schema["item"], "name": pl.String})])
    told = said.group_by("name").len().filter(pl.col("len") > 1, pl.col("len") <= len(features) / 2).sort("name")
    told = told.with_row_index("number", 1)
    numbers = said.join(told, on="name").group_by("item").agg(attributes=pl.col("number").sort().cast(pl.Int64))
    joined = features.drop("attributes", strict=False).join(numbers, on="item", how="left", maintain_order="left")
    return joined.with_columns(pl.col("attributes").fill_null([])), told["name"].to_list()


def user_features(actions: pl.LazyFrame) -> pl.DataFrame:
    """Per shopper: events, sessions, days since the last event (at the end of the data), mean standardised log price."""
    end = actions.select(pl.col("timestamp").max()).collect().item()
    features = {
        "events": pl.len(),
        "sessions": pl.col("session_id").n_unique(),
        "days_since": (pl.lit(end) - pl.col("timestamp").max()).dt.total_seconds() / 86400,
    }
    if "price" in actions.collect_schema():
        priced = pl.col("price").count()
        features["mean_log_price"] = _sum((1 + pl.col("price")).log()) / pl.when(priced > 0).then(priced)
    frame = actions.group_by("user_id").agg(**features).sort("user_id").collect(engine="streaming")
    if "mean_log_price" in frame.columns:
        frame = frame.with_columns(_standardised(pl.col("mean_log_price")))
    return frame


def _standardised(values: pl.Expr) -> pl.Expr:
    return (values - values.mean()) / pl.max_horizontal(values.std(), pl.lit(1e-6))


def _sum(values: pl.Expr) -> pl.Expr:
    """A sum in fixed point, which is the same whatever the order in which threads add; of floats it is not."""
    unit = 2.0**32
    return (values * unit).round().cast(pl.Int64).sum() / unit


def _count(frame: pl.LazyFrame) -> int:
    return frame.select(pl.len()).collect(engine="streaming").item()


if __name__ == "__main__":
    run(main)
