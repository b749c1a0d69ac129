"""People: how well ids are linked where it is known whose they are, and what that brings to answers."""

from contextlib import chdir
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.content.items import SHOP
from benchmarks.quality import prepared, trained
from online.state import VISITOR
from pipelines.data.identity.visitors import BROWSER, is_visitor

SIZE, TINY = (6000, 600, 60), (800, 200, 30)
BOOTSTRAP = 2000
UNTRAINED = ["popularity", "transitions", "transitions_back", "two_hops", "item_knn", "ease", "content"]


def simulated(scratch: Path, links: str, tiny: bool, split: str = "leave_one_out") -> Path:
    """A workspace of the simulated shop whose platforms know people by different ids, up to `check_prepared`. links: which are taken."""
    told = dict(zip(("shoppers", "items", "days"), TINY if tiny else SIZE, strict=True)) | {"identities": "many"}
    return prepared(scratch / links, "shop", SHOP, split, told, sections={"identity": {"links": links}})


def links(scratch: Path, tiny: bool) -> list[float]:
    """Of ids that were linked, those that are of the person they were linked to: share; of people who have two accounts or more and do not refuse, those whose accounts were all found to be theirs: share; of anonymous
    events that were given to somebody, those that are theirs; and how many of all were given."""
    with chdir(simulated(scratch, "likely", tiny)):
        people = pl.read_parquet("data/links/people.parquet")
        accounts, visits = (pl.read_parquet(f"data/truth/{name}.parquet") for name in ("people", "visits"))
        raw = (
            pl.read_parquet("data/raw/events.parquet")
            .unique("event_id", keep="first", maintain_order=True)
            .join(visits, on="event_id")
        )
        checked = pl.read_parquet("data/checked/events.parquet", columns=["event_id", "user_id"])
        users = pl.read_parquet("data/raw/users.parquet")
    used = raw.filter(pl.col("visitor_id").is_not_null()).group_by("visitor_id").agg(
        pl.coalesce(pl.col("person").filter(pl.col("known_by") == BROWSER).mode().sort().first(), pl.col("person").mode().sort().first())
    )  # fmt: skip
    browsers = used.select((pl.lit(VISITOR) + pl.col("visitor_id")).alias("user_id"), "person")
    whose = dict(pl.concat([accounts, browsers]).iter_rows())
    right = [whose[one] == whose[person] for one, person in people.iter_rows() if one != person]
    person_of = dict(people.iter_rows())
    may = set(users.filter("may_link")["user_id"])
    several = (
        accounts.filter(pl.col("user_id").is_in(sorted(may)))
        .group_by("person")
        .agg("user_id")
        .filter(pl.col("user_id").list.len() > 1)
    )
    whole = [len({person_of.get(one, one) for one in ids}) == 1 for ids in several["user_id"]]
    anonymous = raw.filter(pl.col("known_by") == BROWSER).select("event_id", "person").join(checked, on="event_id")
    given = [
        (whose.get(user), person)
        for user, person in anonymous.select("user_id", "person").iter_rows()
        if not user.startswith(VISITOR)
    ]
    return [
        float(np.mean(right)),
        float(np.mean(whole)),
        float(np.mean([found == person for found, person in given])),
        len(given) / max(len(anonymous), 1),
    ]


def answers(scratch: Path, tiny: bool) -> list[float]:
    """NDCG@10 of the first new item that shoppers with two accounts or more meet in the last tenth of the time, linked over not linked, - 1; the lower end of its interval; both; how many shoppers.

    Not linked, an account is asked with what it did itself; one that did nothing before is answered by what is popular.
    """
    from models import metrics
    from pipelines.learning import prepared as histories

    asked = {}
    for taken in ("likely", "none"):
        base = simulated(scratch, taken, tiny, "time")
        row = trained(base, "auto", {"model": "auto", "seed": 42, "blend": {"parts": UNTRAINED, "budget": 1.0e9}})
        with chdir(base):
            told = pl.read_parquet("data/prepared/histories.parquet").filter(pl.col("test_at").is_not_null())
            items = pl.read_parquet("data/prepared/items.parquet").select("item_id", item=pl.col("item").cast(pl.Int64))
            popularity = histories.load().popularity
        place = pl.col("test_at")
        told = told.select(
            "user_id", item=pl.col("items").list.get(place).cast(pl.Int64), at=pl.col("timestamps").list.get(place)
        )
        asked[taken] = told.with_columns(gain=pl.Series(row["gains"])).join(items, on="item", how="left", maintain_order="left")
    rank = np.argsort(np.argsort(-popularity[1:], kind="stable"), kind="stable")
    items = items.with_columns(popular=pl.Series(metrics.ndcg(rank[items["item"].to_numpy() - 1], 10)))
    people = pl.read_parquet(scratch / "likely" / "data/links/people.parquet").filter(~is_visitor("user_id"))
    people = people.filter(pl.len().over("person_id") > 1)
    linked = asked["likely"].filter(pl.col("user_id").is_in(people["person_id"].unique().implode()))
    apart = asked["none"].join(people, on="user_id").select("at", "item_id", alone="gain", user_id="person_id")
    both = linked.join(apart, on=["user_id", "item_id", "at"], how="left").join(items.select("item_id", "popular"), on="item_id")
    elsewhere = both.join(apart, on="user_id", how="semi")["user_id"]  # who is asked for something else, not linked
    both = both.filter(pl.col("alone").is_not_null() | ~pl.col("user_id").is_in(elsewhere.implode()))
    gains, alone = both["gain"].to_numpy(), both.select(pl.coalesce("alone", "popular")).to_series().to_numpy()
    draws = np.random.default_rng(0).integers(len(both), size=(BOOTSTRAP, len(both)))
    ratios = gains[draws].mean(1) / np.maximum(alone[draws].mean(1), 1e-9) - 1
    brought = gains.mean() / max(alone.mean(), 1e-9) - 1
    return [float(n) for n in (brought, np.quantile(ratios, 0.025), gains.mean(), alone.mean(), len(both))]
