"""What is decided for a shopper now, against brute force; and what opt-outs, messages of before and the hour of their day do to it."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.serving.catalogue import Ids
from deploy.serving.decisions import Decisions
from deploy.serving.histories import Linked
from marketing.outbox import Outbox
from pipelines.artefact.catalogue import ids as id_columns
from pipelines.artefact.catalogue import linked
from pipelines.artefact.decisions import KEPT, decisions
from pipelines.bundle import save

NOON = datetime(2026, 3, 3, 11, tzinfo=UTC)  # in Tokyo it is eight in the evening
PEOPLE, GOODS, WAYS = [f"u{n}" for n in range(6)], [f"i{n}" for n in range(30)], ["push", "mail", "sms"]
RULES = {
    "channels": {"push": 0.1, "mail": 0.05, "sms": 0.6},
    "leaving_cost": 0.05,
    "quiet_hours": [21, 9],
    "contact_limits": [{"at_most": 2, "days": 7.0, "channel": None}, {"at_most": 1, "days": 7.0, "channel": "sms"}],
}


def offers(seed: int = 0) -> pl.DataFrame:
    """Of five of the six people, most goods by every channel."""
    rng = np.random.default_rng(seed)
    rows = [(u, i, w) for u in PEOPLE[:5] for i in GOODS for w in WAYS if rng.random() < 0.8]
    table = pl.DataFrame(rows, schema=["user_id", "item_id", "channel"], orient="row")
    chances = {name: rng.normal(0.01, 0.02, len(rows)) for name in ("extra", "click", "response")}
    return table.with_columns(pl.Series(n, c) for n, c in chances.items())


def made(folder: Path, table: pl.DataFrame, outbox: Path | None = None) -> Decisions:
    folder.mkdir(exist_ok=True)
    users = pl.Series(PEOPLE)
    items = pl.DataFrame({"item_id": GOODS}).with_row_index("item", 1)
    goods = pl.DataFrame({"item_id": GOODS, "price": 100.0, "cost": [float(n) for n in range(30)]})
    zones = pl.DataFrame({"user_id": PEOPLE, "time_zone": ["Europe/Berlin", "Asia/Tokyo", None, "nowhere", None, None]})
    arrays, rules = decisions(users, items, table, goods, zones, RULES, "UTC")
    people = pl.DataFrame({"user_id": ["u0", "u0 elsewhere"], "person_id": "u0"})
    save(folder, arrays | id_columns("user_ids", users) | linked(people), {"decide": rules})
    return Decisions(folder, Ids(folder, "user_ids"), Linked(folder), outbox)


def worth(table: pl.DataFrame) -> pl.DataFrame:
    number = pl.col("item_id").str.slice(1).cast(pl.Int64)
    cost = pl.col("channel").replace_strict(RULES["channels"], return_dtype=pl.Float64)
    return table.with_columns(item=number + 1, worth=pl.col("extra") * (100 - number) - cost - 0.05)


EVERY = np.array([False] + [True] * len(GOODS))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 5), user=st.sampled_from(PEOPLE), channels=st.one_of(st.none(), st.lists(st.sampled_from([*WAYS, "fax"]))),
       blocked=st.sets(st.integers(1, 30), max_size=8))  # fmt: skip
def test_the_offer_that_is_worth_most_is_decided(
    tmp_path_factory, seed: int, user: str, channels: list[str] | None, blocked: set[int]
):
    table = offers(seed)
    allowed = EVERY.copy()
    allowed[list(blocked)] = False
    answer = made(tmp_path_factory.mktemp("d"), table).decide(user, allowed, NOON, channels)
    left = worth(table).filter(pl.col("user_id") == user).sort("channel", "worth", descending=[False, True])
    left = left.filter(pl.int_range(pl.len()).over("channel") < KEPT)
    left = left.filter(~pl.col("item").is_in(list(blocked)), pl.col("channel").is_in(WAYS if channels is None else channels))
    best = left.sort("worth", descending=True).head(1)
    if len(best) and best["worth"].item() > 0:
        assert (answer.item, answer.channel) == (best["item"].item(), best["channel"].item())
        assert answer.worth == pytest.approx(best["worth"].item(), abs=1e-5)
        assert answer.why is None
    else:
        assert answer.item is None
        assert answer.why
    assert set(answer.unchecked) == (set() if answer.why in WHY_BEFORE else {"messages sent before", "opt-outs"})


WHY_BEFORE = ("nothing is known of what a push changes for them", "no channel of the campaign reaches them")


def good(user: str = "u0") -> pl.DataFrame:
    return pl.DataFrame(
        {"user_id": user, "item_id": ["i1", "i2", "i3"], "channel": ["push", "mail", "sms"], "extra": [0.2, 0.1, 0.3], "click": 0.1, "response": 0.4}
    )  # fmt: skip


@pytest.mark.parametrize(("hour", "quiet"), [(7, True), (8, False), (19, False), (20, True), (23, True)])
def test_nothing_is_sent_in_the_quiet_hours_of_the_shoppers_day(tmp_path: Path, hour: int, quiet: bool):
    found = made(tmp_path, good()).decide("u0", EVERY, NOON.replace(hour=hour))  # Berlin is an hour ahead
    assert (found.item is None) == quiet
    assert not quiet or "hour of their day" in found.why


def test_opt_outs_and_messages_of_before_are_read_from_the_outbox(tmp_path: Path):
    file = tmp_path / "outbox.sqlite"
    box = Outbox(f"sqlite:///{file}")
    choose = made(tmp_path, good(), file)

    def decided(at: datetime = NOON, topic: str | None = None) -> tuple[str | None, str | None]:
        found = choose.decide("u0", EVERY, at, topic=topic)
        assert found.unchecked == []
        return found.channel, found.why

    assert decided() == ("sms", None)
    assert choose.decide("u0 elsewhere", EVERY, NOON).channel == "sms"  # the same person
    box.opt_out("u0 elsewhere", 0.0, "sms")
    assert decided() == ("push", None)
    box.opt_out("u0", 0.0, "push", "offers")
    assert decided(topic="offers") == ("mail", None)
    assert decided(topic="news") == ("push", None)
    sent(box, "u0", NOON - timedelta(days=1), 2)
    assert decided() == (None, "they were contacted often enough")
    assert decided(NOON + timedelta(days=8)) == ("push", None)
    box.opt_out("u0", 0.0)
    assert decided(NOON + timedelta(days=8)) == (None, "they opted out")


def sent(box: Outbox, user: str, at: datetime, count: int) -> None:
    """So many messages that went out to a shopper at a moment."""
    import sqlalchemy as sa

    from marketing.outbox import MESSAGES, SENT

    rows = [
        {"key": f"k{n}", "campaign": f"c{n}", "user_id": user, "step": 0, "item_id": "i1", "channel": "mail", "topic": "offers", "body": "{}", "send_at": 0.0, "until": 0.0,
         "state": SENT, "tries": 1, "next_at": 0.0, "sent_at": at.timestamp()}
        for n in range(count)
    ]  # fmt: skip
    with box.engine.begin() as connection:
        connection.execute(sa.insert(MESSAGES), rows)


def test_where_the_outbox_cannot_be_read_it_is_said(tmp_path: Path):
    found = made(tmp_path, good(), tmp_path / "nowhere.sqlite").decide("u0", EVERY, NOON)
    assert found.channel == "sms"
    assert found.unchecked == ["messages sent before", "opt-outs"]


def test_scores_are_those_of_the_offers(tmp_path: Path):
    choose = made(tmp_path, good())
    assert choose.score("u0", 2, "push") == pytest.approx(
        {"worth": 0.2 * 99 - 0.15, "extra": 0.2, "click": 0.1, "response": 0.4}, abs=1e-5
    )
    assert [
        choose.score(*asked)
        for asked in (("u0", 2, "mail"), ("u1", 2, "push"), ("nobody", 2, "push"), ("u0", 0, "push"), ("u0", 2, "fax"))
    ] == [None] * 5


def test_of_nobody_anything_is_known_where_no_push_was_made(tmp_path: Path):
    found = made(tmp_path, good().with_columns(extra=pl.lit(None, pl.Float64))).decide("u0", EVERY, NOON)
    assert found.why == "nothing is known of what a push changes for them"


def test_the_terms_of_an_offer_are_the_shops_own_and_sum_to_its_worth(tmp_path: Path):
    made_of = made(tmp_path, offers())
    found = made_of.decide("u0", np.ones(31, dtype=bool), NOON)
    terms = made_of.terms(found)
    assert terms["value"] == pytest.approx(100 - (found.item - 1), abs=0.01)  # price less cost
    assert terms["cost"] == RULES["channels"][found.channel]
    assert terms["extra"] * terms["value"] - terms["cost"] - terms["leaving_cost"] == pytest.approx(terms["worth"], abs=1e-5)
    assert made_of.terms(made_of.decide("u5", np.ones(31, dtype=bool), NOON)) is None
