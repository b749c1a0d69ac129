"""Who will buy, who stays away and what comes next is told from days of the past."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

from marketing.segments import outlook, shoppers

START = datetime(2026, 1, 1, tzinfo=UTC)
AT = START + timedelta(days=60)
RULES = shoppers.Rules()


def acts(people: int = 1200, seed: int = 0) -> pl.DataFrame:
    """Half of the people come and buy twice a week, of the category that they turned to of late; the others view, rarely."""
    rng, rows = np.random.default_rng(seed), []
    for person in range(people):
        keen = person % 2 == 0
        for _ in range(int(rng.poisson(17 if keen else 2)) + 1):
            day = float(rng.uniform(0, 60))
            category = ("tea", "lamps")[int(day > 20) if person % 4 < 2 else int(day <= 20)]
            event = "purchase" if keen and rng.random() < 0.4 else "view"
            rows.append((f"u{person:04d}", f"{category}{rng.integers(3)}", event, day, category))
    return pl.DataFrame(rows, schema=["user_id", "item_id", "event", "day", "category"], orient="row").select(
        pl.all().exclude("day"), timestamp=pl.lit(START) + pl.duration(microseconds=(pl.col("day") * 86_400e6).cast(pl.Int64))
    )  # fmt: skip


def known(events: pl.DataFrame, at: datetime) -> pl.DataFrame:
    return shoppers.known(events.drop("category"), None, at, RULES).shoppers


def test_the_keen_buy_and_the_others_stay_away():
    events = acts()
    learnt = outlook.learnt(lambda at: known(events, at), events, AT, 10.0)
    people = known(events, AT)
    assert people["purchase_chance"].null_count() == len(people)
    found = learnt.of(people, events, AT)
    assert found.schema == shoppers.SHOPPERS
    keen = found["user_id"].str.slice(1).cast(pl.Int64) % 2 == 0
    assert found.filter(keen)["purchase_chance"].mean() > 0.6
    assert found.filter(~keen)["purchase_chance"].mean() < 0.1
    assert found.filter(~keen)["leaving_chance"].mean() > found.filter(keen)["leaving_chance"].mean() + 0.3
    assert learnt.report["purchase_chance"]["share"] > 0.2
    best = min(learnt.report["purchase_chance"]["told"], key=lambda t: t["log_loss"])
    assert best["kind"] == learnt.report["purchase_chance"]["by"] != "the same for all"
    late = dict(found.filter(keen).select("user_id", "next_category").iter_rows())
    right = [late[u] == ("lamps" if int(u[1:]) % 4 < 2 else "tea") for u in late]
    assert np.mean(right) > 0.95
    assert learnt.report["next_category"]["told"] > learnt.report["next_category"]["told_by_the_usual_one"]


def test_a_shop_of_a_few_days_gets_shares_of_all_and_no_error():
    events = acts(20)
    learnt = outlook.learnt(lambda at: known(events, at), events, START + timedelta(days=3), 10.0)
    found = learnt.of(known(events, AT), events, AT)
    assert found["purchase_chance"].is_between(0, 1).all()
