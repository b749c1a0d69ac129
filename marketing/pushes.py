"""What was pushed to whom or, by chance, held back, and what came of it; and what could be known of a push beforehand.

In: events without bots, items, users. Out: a row a push (PUSHES); for pushes that might be made, what is known of them at a moment, as numbers. The same function tells
it of pushes of the past, at the start of their campaign, and of those to come. Knows no models.
"""

from datetime import datetime, timedelta

import numpy as np
import polars as pl

from marketing.clock import local_hour, zones_of
from marketing.segments.shoppers import DAY, HALF_LIFE, PRICE_RANK, PRIOR, STRENGTH

PUSHES = {
    "campaign_id": pl.String,
    "user_id": pl.String,
    "item_id": pl.String,
    "channel": pl.String,
    "timestamp": pl.Datetime("us", "UTC"),
    "sent": pl.Boolean,  # else held out
    "propensity": pl.Float64,  # the chance of what happened; null: not logged
    "expected": pl.Float64,  # money that it was to bring when it was planned; null: not logged
    "clicked": pl.Boolean,
    "bought": pl.Boolean,  # the item, within the days that count
    "revenue": pl.Float64,  # of that
    "margin": pl.Float64,  # null where no cost is known
}
NEIGHBOURS = 100  # items that count as alike to one
AT_ONCE = 250_000  # pushes that are looked at together
PRIOR_HOURS = 200.0  # acts of everybody, from which the hours of each start: many, for offers are told of the best hour, and the best of 24 looks better than it is
NEWEST = 7.0  # days in which a sign of interest of the moment comes to count half
TIRING = 4.0  # days in which a push comes to count a third
FEW_VALUES = 40  # an attribute of users with more different values is none that tells people apart
KEY = ["user_id", "item_id"]
NO_ATTRIBUTES = ("user_id", "time_zone", "channels")  # channels are those of today: who left one tells of pushes since


def logged(events: pl.DataFrame, items: pl.DataFrame | None, answer_days: float) -> pl.DataFrame:
    """PUSHES: impressions and holdouts that name a campaign, oldest first. A purchase or a click answers the newest push of its item before it.

    events: with user_id, item_id, event, timestamp and what of campaign_id, channel, propensity, expected, price, quantity there is.
    """
    if "campaign_id" not in events.columns:
        return pl.DataFrame(schema=PUSHES)
    optional = {"channel": pl.String} | dict.fromkeys(("propensity", "expected", "price", "quantity"), pl.Float64)
    events = _with(optional, events)
    made = pl.col("campaign_id").is_not_null() & pl.col("event").is_in(["impression", "holdout"])
    ready = events.filter(made).select(
        *KEY, "campaign_id", "channel", "timestamp", "propensity", "expected", sent=pl.col("event") == "impression"
    )
    ready = ready.unique(["campaign_id", "user_id", "item_id", "timestamp"], keep="first", maintain_order=True)
    ready = ready.sort("timestamp", *KEY)
    priced = _with({"price": pl.Float64, "cost": pl.Float64}, _items(items)).select(
        "item_id", "cost", pl.col("price").alias("list_price")
    )
    paid = pl.coalesce("price", "list_price") * pl.col("quantity").fill_null(1.0)
    bought = events.filter(pl.col("event") == "purchase").join(priced, on="item_id", how="left").select(
        *KEY, "timestamp", bought=True, revenue=paid, margin=paid - pl.col("cost") * pl.col("quantity").fill_null(1.0)
    )  # fmt: skip
    clicked = events.filter(pl.col("event") == "click").select(*KEY, "timestamp", clicked=True)
    for answers in (bought, clicked):
        ready = ready.join_asof(
            answers.sort("timestamp"), on="timestamp", by=KEY, strategy="forward", tolerance=timedelta(days=answer_days), check_sortedness=False
        )  # fmt: skip
    told = pl.col("clicked", "bought").fill_null(False), pl.col("revenue", "margin").fill_null(0.0)
    return ready.with_columns(*told).select(pl.col(name).cast(kind) for name, kind in PUSHES.items())


def brings(rows: pl.DataFrame, items: pl.DataFrame | None) -> np.ndarray:
    """(N,) what a purchase of the item of each row brings: its margin where its cost is known, else its price; 0 where neither is."""
    known = _with({"price": pl.Float64, "cost": pl.Float64}, _items(items)).unique("item_id", keep="first")
    money = known.select("item_id", money=pl.coalesce(pl.col("price") - pl.col("cost"), "price"))
    return rows.select("item_id").join(money, on="item_id", how="left", maintain_order="left")["money"].fill_null(0.0).to_numpy()


def past(pushes: pl.DataFrame, events: pl.DataFrame, items: pl.DataFrame | None, users: pl.DataFrame | None) -> pl.DataFrame:
    """What was known of each of these pushes when its campaign began: columns of `known`, in the order of the pushes."""
    parts = []
    rows = pushes.with_row_index("row")
    for _, campaign in rows.group_by("campaign_id", maintain_order=True):
        at = campaign["timestamp"].min()
        hour = local_hour(campaign["timestamp"], zones_of(campaign["user_id"], users))
        asked = campaign.select("row", *KEY, "channel").with_columns(hour=hour)
        parts.append(known(asked, at, events, pushes, items, users).with_columns(row=asked["row"]))
    return pl.concat(parts, how="diagonal").sort("row").drop("row")


def known(
    asked: pl.DataFrame,
    at: datetime,
    events: pl.DataFrame,
    pushes: pl.DataFrame,
    items: pl.DataFrame | None,
    users: pl.DataFrame | None,
) -> pl.DataFrame:
    """What is known at a moment of pushes that are asked about, a column each, Float64: of the shopper, of the item, of both, of channel, hour and pushes before. Channels and
    attributes of people are numbers of their values in order.

    asked: user_id, item_id, channel, hour (0 to 24, of the shopper's day). events: of actions; those at the moment and after are not looked at, nor are pushes.
    """
    acts = events.filter((pl.col("timestamp") < at) & pl.col("event").is_in(list(STRENGTH)))
    goods = _goods(items)
    acts = acts.select(*KEY, "event", "timestamp").join(goods, on="item_id", how="left")
    age = (pl.lit(at) - pl.col("timestamp")).dt.total_seconds() / DAY
    strength = pl.col("event").replace_strict(STRENGTH, return_dtype=pl.Float64)
    acts = acts.with_columns(age=age, weight=strength * 0.5 ** (age / HALF_LIFE), newest=strength * 0.5 ** (age / NEWEST))
    weight = pl.col("weight").sort().sum()
    found = asked.join(goods, on="item_id", how="left", maintain_order="left")
    for table, key in (
        (_of_people(acts), ["user_id"]),
        (acts.group_by("item_id").agg(item_interest=weight.log1p()), ["item_id"]),
        (_rate(acts, "item_id").rename({"rate": "item_rate"}), ["item_id"]),
        (_rate(acts, "user_id").rename({"rate": "own_rate"}), ["user_id"]),
        (
            acts.group_by("user_id", "category").agg(own_category=weight, newest_category=pl.col("newest").sort().sum()),
            ["user_id", "category"],
        ),
        (acts.group_by("user_id", "brand").agg(own_brand=weight), ["user_id", "brand"]),
        (acts.group_by(KEY).agg(own_item=weight, item_days=pl.col("age").min()), KEY),
        (_tired(pushes, at), ["user_id"]),
        (_answered(pushes, at, ["user_id"], "answered"), ["user_id"]),
        (_answered(pushes, at, ["user_id", "channel"], "answered_here"), ["user_id", "channel"]),
    ):
        found = found.join(table, on=key, how="left", maintain_order="left")
    filled = (
        "events",
        "interest",
        "newest_interest",
        "orders",
        "own_category",
        "newest_category",
        "own_brand",
        "own_item",
        "item_interest",
        "tired",
    )
    found = found.with_columns(pl.col(*filled).fill_null(0.0))
    total = pl.col("interest") + PRIOR
    found = found.with_columns(
        category_share=(pl.col("own_category") + PRIOR * pl.col("category_usual").fill_null(0.0)) / total,
        newest_share=pl.col("newest_category") / (pl.col("newest_interest") + PRIOR),
        brand_share=pl.col("own_brand") / total,
        dearer=(pl.col("log_price") - pl.col("usual_price") - pl.col("liked_price")).abs(),
        awake=_awake(found, acts, users),
    )
    found = found.with_columns(alike=_alike(found, acts))
    own = found.select(
        "events", "orders", "recency", "order_recency", "own_rate", "liked_price", "log_price", "price_rank", "dearer", "category_share", "newest_share", "brand_share",
        "alike", "own_item", "item_days", "item_interest", "item_rate", "tired", "answered", "answered_here", "awake", "hour",
    )  # fmt: skip
    return own.cast(pl.Float64).with_columns(channel=_codes(asked["channel"], pushes["channel"]), **_attributes(asked, users))


def _alike(asked: pl.DataFrame, acts: pl.DataFrame) -> pl.Series:
    """How alike each item is to what the shopper met: the sum over these items of the cosine by who met both (of each item's NEIGHBOURS nearest), each shopper's weights summing to 1."""
    import scipy.sparse as sp
    from sparse_dot_topn import sp_matmul_topn

    met = acts.group_by(KEY).agg(weight=pl.col("weight").sort().sum()).sort(KEY)
    if met.is_empty():
        return pl.repeat(0.0, len(asked), eager=True)
    people, goods = (met[name].unique().sort() for name in KEY)

    def places(table: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the people and the items of each row; -1 of those who met nothing, and whom nobody met."""
        who = table["user_id"].replace_strict(people, range(len(people)), default=-1, return_dtype=pl.Int64)
        what = table["item_id"].replace_strict(goods, range(len(goods)), default=-1, return_dtype=pl.Int64)
        return who.to_numpy(), what.to_numpy()

    (rows, columns), (who, what) = places(met), places(asked)
    shape = len(people), len(goods)
    weights = sp.csr_matrix((met["weight"].to_numpy(), (rows, columns)), shape)
    weights = sp.diags(1 / weights.sum(1).A1) @ weights
    met_by = sp.csr_matrix((np.ones(len(met)), (rows, columns)), shape)
    met_by = (met_by @ sp.diags(1 / np.sqrt(met_by.sum(0).A1))).tocsr()
    near = sp_matmul_topn(met_by.T.tocsr(), met_by, top_n=min(NEIGHBOURS + 1, len(goods)), sort=True, n_threads=1).tocoo()
    other = near.row != near.col
    both = sp.csr_matrix((near.data[other], (near.row[other], near.col[other])), near.shape)
    found, there = np.zeros(len(asked)), np.flatnonzero((who >= 0) & (what >= 0))
    for part in np.array_split(there, max(1, len(there) // AT_ONCE)):  # a product of all people with all items would not fit
        mine, row = np.unique(who[part], return_inverse=True)
        found[part] = np.asarray((weights[mine] @ both)[row, what[part]]).ravel()
    return pl.Series(found)


def _of_people(acts: pl.DataFrame) -> pl.DataFrame:
    bought = acts.filter(pl.col("event") == "purchase")
    weight = pl.col("weight").sort().sum()
    people = acts.group_by("user_id").agg(
        events=pl.len().cast(pl.Float64).log1p(), interest=weight, newest_interest=pl.col("newest").sort().sum(), recency=pl.col("age").min(),
        liked_price=((pl.col("log_price") - pl.col("usual_price")) * pl.col("weight")).sort().sum() / (weight + PRIOR),
    )  # fmt: skip
    orders = bought.group_by("user_id").agg(orders=pl.len().cast(pl.Float64).log1p(), order_recency=pl.col("age").min())
    return people.join(orders, on="user_id", how="left")


def _goods(items: pl.DataFrame | None) -> pl.DataFrame:
    """Items with what is usual in their category: its mean log price, their place among its prices, its share of all items."""
    items = _with({"category": pl.String, "brand": pl.String, "price": pl.Float64}, _items(items)).unique(
        "item_id", keep="first", maintain_order=True
    )
    usual = pl.len().over("category") / pl.len()
    log_price = pl.col("price").log1p()
    return items.select(
        "item_id",
        "category",
        "brand",
        log_price=log_price,
        usual_price=log_price.mean().over("category"),
        price_rank=PRICE_RANK,
        category_usual=usual,
    )


def _tired(pushes: pl.DataFrame, at: datetime) -> pl.DataFrame:
    """How much each person was pushed of late: each push counts 1 and falls by exp(-days / TIRING)."""
    age = (pl.lit(at) - pl.col("timestamp")).dt.total_seconds() / DAY
    before = pushes.filter((pl.col("timestamp") < at) & pl.col("sent"))
    return before.group_by("user_id").agg(tired=(-age / TIRING).exp().sort().sum())


def _rate(acts: pl.DataFrame, key: str) -> pl.DataFrame:
    """Purchases for each other act, of an item or a shopper, drawn to everybody's by ten acts."""
    bought = (pl.col("event") == "purchase").sum()
    usual = (acts["event"] == "purchase").sum() / max(len(acts), 1)
    return acts.group_by(key).agg(rate=(bought + 10 * usual) / (pl.len() + 10))


def _answered(pushes: pl.DataFrame, at: datetime, key: list[str], name: str) -> pl.DataFrame:
    """The share of pushes that were clicked on, drawn to everybody's by two pushes; those of the last day are left out, as answers may be on their way."""
    before = pushes.filter((pl.col("timestamp") < at - timedelta(days=1)) & pl.col("sent"))
    usual = before["clicked"].mean() or 0.0
    return before.group_by(key).agg(((pl.col("clicked").sum() + 2 * usual) / (pl.len() + 2)).alias(name))


def _awake(asked: pl.DataFrame, acts: pl.DataFrame, users: pl.DataFrame | None) -> pl.Series:
    """How much likelier than at any other hour each is to be there at the hour asked about, within two hours of it, drawn to everybody's hours by PRIOR_HOURS."""
    hours = acts.select("user_id", hour=local_hour(acts["timestamp"], zones_of(acts["user_id"], users)).floor().cast(pl.Int64))
    spread = pl.concat(hours.with_columns((pl.col("hour") + step) % 24) for step in (-2, -1, 0, 1, 2))
    usual = spread.group_by("hour").agg(usual=pl.len() / max(len(hours), 1))
    own = spread.group_by("user_id", "hour").agg(here=pl.len())
    total = hours.group_by("user_id").agg(all=pl.len())
    wanted = asked.select("user_id", hour=pl.col("hour").floor().cast(pl.Int64) % 24)
    for table, key in ((usual, ["hour"]), (own, ["user_id", "hour"]), (total, ["user_id"])):
        wanted = wanted.join(table, on=key, how="left", maintain_order="left")
    wanted = wanted.with_columns(pl.col("usual", "here", "all").fill_null(0.0))
    return wanted.select(awake=(pl.col("here") + PRIOR_HOURS * pl.col("usual")) / (pl.col("all") + PRIOR_HOURS))["awake"]


def _codes(values: pl.Series, among: pl.Series) -> pl.Series:
    """Each value's place among the different ones, in order; null for one that is not among them."""
    there = among.drop_nulls().unique().sort()
    return values.replace_strict(there, range(len(there)), default=None, return_dtype=pl.Float64)


def _attributes(asked: pl.DataFrame, users: pl.DataFrame | None) -> dict[str, pl.Series]:
    """What the shop tells of people, as codes; what has too many values to tell them apart, and what nobody differs in, is left out."""
    if users is None:
        return {}
    joined = asked.select("user_id").join(users.unique("user_id", keep="first"), on="user_id", how="left", maintain_order="left")
    told = [
        c
        for c, kind in users.schema.items()
        if kind == pl.String and c not in NO_ATTRIBUTES and 2 <= users[c].n_unique() <= FEW_VALUES
    ]
    return {f"user_{name}": _codes(joined[name], users[name]) for name in told}


def _items(items: pl.DataFrame | None) -> pl.DataFrame:
    return pl.DataFrame(schema={"item_id": pl.String}) if items is None else items


def _with(wanted: dict, table: pl.DataFrame) -> pl.DataFrame:
    """The table with these columns, null where it had none."""
    return table.with_columns(pl.lit(None, kind).alias(name) for name, kind in wanted.items() if name not in table.columns)
