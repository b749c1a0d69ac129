"""What is known of items and shoppers, as numbers.

In: the vocabulary, the catalogue, the split, impressions. Out: a row an item, a row a shopper. Whatever counts events counts those of the
training part alone.
"""

import math

import polars as pl

PRIOR = 20  # impressions' worth of the mean that a rate starts from
RECENT = 30  # days in which an event comes to count half
MOST = 64  # attributes kept of one item, the rarest: a title of a thousand words would make a thousand columns for all


def item_features(
    items: pl.DataFrame,
    catalogue: pl.DataFrame | None,
    split: pl.DataFrame,
    shown: pl.DataFrame,
    ordered_only: bool,
    minimum: int,
) -> pl.DataFrame:
    """The vocabulary with what is known of each item and what training shows of it.

    popularity: shoppers in training who met it; trained: are these at least `minimum`, so that it has a vector of its own?; recency:
    popularity, each shopper weighted by 2^(-age / 30 days) at the end of training (all weigh 1 where times tell order only). Standardised
    over the catalogue, for networks: log_popularity, ln(1 + popularity); log_price, ln(1 + price), and relative_price, what that is above
    the mean of the item's category (both absent if no item has a price); click_rate and purchase_rate, clicks an impression and purchases
    a click in training, in logarithms, drawn to the mean where there are few (absent where all are equal).
    """
    training = split.lazy().select(
        pl.col("items").list.head(pl.col("train_end")).alias("item"),
        pl.col("timestamps").list.head(pl.col("train_end")).alias("timestamp"),
    ).explode("item", "timestamp").drop_nulls()  # fmt: skip
    features = items.join(popularity(training, ordered_only), on="item", how="left", maintain_order="left")
    features = features.with_columns(pl.col("popularity", "recency").fill_null(0)).with_columns(
        trained=pl.col("popularity") >= minimum, log_popularity=_standardised((1 + pl.col("popularity")).log())
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
    if catalogue is not None:
        features = features.join(catalogue, on="item_id", how="left", maintain_order="left")
        if "price" in catalogue.columns and catalogue["price"].count():
            log_price = (1 + pl.col("price")).log()
            category = log_price.mean().over("category") if "category" in features.columns else log_price.mean()
            features = features.with_columns(
                log_price=_standardised(log_price), relative_price=_standardised(log_price - category)
            )
    return features.sort("item")


def popularity(events: pl.LazyFrame, ordered_only: bool, *by: str) -> pl.DataFrame:
    """Popularity and recency of items by columns item, timestamp and `by`: see item_features."""
    age = (pl.col("timestamp").max() - pl.col("timestamp")).dt.total_seconds() / 86400
    weighted = events.with_columns(weight=pl.lit(1.0) if ordered_only else 0.5 ** (age / RECENT))
    return weighted.group_by(*by, "item").agg(popularity=pl.len(), recency=_sum(pl.col("weight"))).collect(engine="streaming")


def attributes(features: pl.DataFrame, kinds: list[str]) -> tuple[pl.DataFrame, list[str]]:
    """Adds a column `attributes`: what is known of each item as a list of numbers from 1, at most MOST; and the names of the numbers.

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
    long = [
        features.select("item", name=labels[kind]).explode("name").drop_nulls()
        .select("item", name=pl.format("{}:{}", pl.lit(kind), "name")).unique()
        for kind in kinds if labels[kind] is not None
    ]  # fmt: skip
    pairs = pl.concat([*long, pl.DataFrame(schema={"item": features.schema["item"], "name": pl.String})])
    names = pairs.group_by("name").len().filter(pl.col("len") > 1, pl.col("len") <= len(features) / 2).sort("name")
    names = names.with_row_index("number", 1)
    rarest = pl.col("number").sort_by("len", "number").head(MOST).sort().cast(pl.Int64)
    numbers = pairs.join(names, on="name").group_by("item").agg(attributes=rarest)
    joined = features.drop("attributes", strict=False).join(numbers, on="item", how="left", maintain_order="left")
    return joined.with_columns(pl.col("attributes").fill_null([])), names["name"].to_list()


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
