"""Ids become people by what is certain and what is likely enough, within limits; who refuses, what was undone and what several people share stays apart."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from benchmarks.content.people import links as links_row
from online.state import VISITOR
from pipelines.data.identity import evidence
from pipelines.data.identity.links import by_person, found, ids_of_people, read_undone
from pipelines.data.identity.people import ACCOUNTS, DIFFERENT, SEVERAL, TAKEN, UNDONE
from pipelines.data.identity.visitors import owned
from pipelines.data.sources import source
from pipelines.data.tables import EVENTS, SOURCE_ROW, conform, numbered
from pipelines.stage import StageError
from tests.conftest import ROOT

START = datetime(2026, 3, 1, tzinfo=UTC)
CERTAIN = {"links": "certain", "precision": 0.99, "consent": "opt_out", "limits": {"ids": 4}}


def events(*rows: dict) -> pl.LazyFrame:
    """Each an hour after the one before, or `day` days after the start."""
    told = [
        {"event_id": f"e{n}", "item_id": "a", "event": "view", "platform": None, "user_id": None, "visitor_id": None, "channel": None, "request_id": None,
         "order_id": None, "email_hash": None, "phone_hash": None, "device_hash": None, **row, "timestamp": START + timedelta(days=row.get("day", 0), hours=n)}
        for n, row in enumerate(rows)
    ]  # fmt: skip
    table = pl.DataFrame([{k: v for k, v in row.items() if k != "day"} for row in told], infer_schema_length=None)
    return conform(owned(numbered(table.lazy())), EVENTS, name="events")


def users(*rows: dict) -> pl.LazyFrame:
    return numbered(pl.DataFrame(rows, infer_schema_length=None).lazy())


def people(
    told: pl.LazyFrame, accounts: pl.LazyFrame | None = None, undone: set = frozenset(), said: dict | None = None, **more: object
) -> tuple:
    tables = {"events": told} | ({"users": accounts} if accounts is not None else {})
    made = found(tables, CERTAIN | more, lambda ids: said or {}, undone)
    outcome = {(one, other, reason): taken for one, other, reason, _, taken in made.links.iter_rows()}
    return dict(made.people.iter_rows()), outcome


def seen(user: str, platform: str, **more: object) -> dict:
    return {"user_id": user, "platform": platform} | more


def test_the_same_hashed_address_number_order_or_push_is_the_same_person():
    told = events(
        seen("w1", "web", email_hash="m" * 32), seen("a1", "app", email_hash="m" * 32),
        seen("a2", "app", phone_hash="p" * 32),
        seen("w3", "web", event="purchase", order_id="o"), seen("c3", "counter", event="return", order_id="o"),
        seen("e4", "email", event="impression", channel="email", request_id="q"), seen("w4", "web", event="click", request_id="q"),
    )  # fmt: skip
    found_, outcome = people(told, users({"user_id": "m2", "phone_hash": "p" * 32, "may_link": True}))
    assert found_ == {
        one: person for person, other in (("w1", "a1"), ("a2", "m2"), ("w3", "c3"), ("e4", "w4")) for one in (person, other)
    }
    assert set(outcome.values()) == {TAKEN}
    assert {reason for _, _, reason in outcome} == {*evidence.HASHES.values(), evidence.ORDER, evidence.PUSH}


def test_a_person_is_known_by_their_oldest_account_whatever_is_added_later():
    first = seen("w1", "web", email_hash="m" * 32)
    for added in ("a1", "z1"):
        assert people(events(first, seen(added, "app", email_hash="m" * 32)))[0] == {"w1": "w1", added: "w1"}
    visits = [seen("w1", "web", visitor_id="v", day=day) for day in (2, 4)]
    found_, _ = people(
        events({"visitor_id": "v", "day": 1}, *visits, seen("a1", "app", email_hash="m" * 32, day=6), first | {"day": 5})
    )
    assert found_["w1"] == found_[VISITOR + "v"] == "w1", "an account before a browser that is older"


def test_a_value_of_two_accounts_on_one_platform_or_of_too_many_ids_says_nothing():
    family = [seen(f"w{n}", "web", email_hash="f" * 32) for n in (1, 2)] + [seen("a1", "app", email_hash="f" * 32)]
    office = [seen(f"x{n}", f"platform {n}", phone_hash="o" * 32) for n in range(5)]
    assert people(events(*family, *office)) == ({}, {})


def test_accounts_that_know_different_addresses_are_not_joined_by_a_number():
    told = events(
        seen("w1", "web", email_hash="m" * 32, phone_hash="p" * 32), seen("a1", "app", email_hash="n" * 32, phone_hash="p" * 32)
    )
    assert people(told) == ({}, {("a1", "w1", "the same telephone number"): DIFFERENT})


def test_a_chain_ends_where_a_person_would_have_two_accounts_on_one_platform():
    told = events(
        seen("w1", "web", email_hash="m" * 32), seen("a1", "app", email_hash="m" * 32), seen("a1", "app", phone_hash="p" * 32),
        seen("w2", "web", phone_hash="p" * 32),
    )  # fmt: skip
    found_, outcome = people(told)
    assert found_ == {"a1": "w1", "w1": "w1"}
    assert sorted(outcome.values()) == sorted([TAKEN, ACCOUNTS])


def test_what_was_undone_stays_undone(tmp_path: Path):
    told = events(seen("w1", "web", email_hash="m" * 32), seen("a1", "app", email_hash="m" * 32))
    (tmp_path / "undone.csv").write_text("one,other\na1,w1\n")
    found_, outcome = people(told, undone=read_undone(tmp_path / "undone.csv"))
    assert (found_, set(outcome.values())) == ({}, {UNDONE})
    assert read_undone(tmp_path / "none.csv") == set()
    (tmp_path / "undone.csv").write_text("a,b\n1,2\n")
    with pytest.raises(StageError, match=r"undone\.csv.*one and other"):
        read_undone(tmp_path / "undone.csv")


@pytest.mark.parametrize(
    ("consent", "may", "said", "linked"),
    [("opt_out", None, {}, True), ("opt_out", False, {}, False),
        ("opt_out", "否", {}, False), ("opt_out", True, {"w1": False}, False), ("opt_in", None, {}, False),
     ("opt_in", True, {}, True), ("opt_in", None, {"w1": True, "a1": True}, True)],
)  # fmt: skip
def test_nobody_is_linked_against_their_word(consent: str, may: bool | str | None, said: dict, linked: bool):
    told = events(seen("w1", "web", email_hash="m" * 32), seen("a1", "app", email_hash="m" * 32))
    accounts = users(*({"user_id": user, "may_link": may} for user in ("w1", "a1")))
    found_, _ = people(told, accounts, said=said, consent=consent)
    assert bool(found_) == linked


def test_a_browser_is_theirs_who_alone_sign_in_there_and_nobodys_where_several_do(tmp_path: Path):
    told = events(
        seen("w1", "web", visitor_id="own"), {"visitor_id": "own", "day": 5}, seen("w1", "web", visitor_id="own", day=9),
        seen("w2", "web", visitor_id="guest"), {"visitor_id": "guest", "day": 5},
        *(seen(user, "web", visitor_id="family", day=day) for day in (1, 2) for user in ("w3", "w4")), {"visitor_id": "family", "day": 5},
    )  # fmt: skip
    found_, outcome = people(told)
    assert found_ == {VISITOR + "own": "w1", "w1": "w1"}
    assert [taken for (one, other, _), taken in outcome.items() if "family" in one + other] == [SEVERAL, SEVERAL]
    pl.DataFrame(list(found_.items()), schema=["user_id", "person_id"], orient="row").write_parquet(tmp_path / "people.parquet")
    resolved = by_person({"events": told}, tmp_path)["events"].collect()
    whose = dict(
        resolved.filter(pl.col("timestamp") > START + timedelta(days=5)).select("visitor_id", "user_id").unique().iter_rows()
    )
    assert whose == {"own": "w1", "guest": VISITOR + "guest", "family": VISITOR + "family"}
    assert not set(resolved.columns) & {"known_by", "email_hash", "device_hash"}
    assert ids_of_people(tmp_path)["w1"] == [VISITOR + "own", "w1"]


def test_a_device_where_several_sign_in_makes_its_browsers_nobodys():
    device = {"device_hash": "d" * 32}
    told = events(
        *(seen("w1", "web", visitor_id="first", day=day, **device) for day in (0, 3)), {"visitor_id": "first", "day": 6, **device},
        seen("w2", "web", visitor_id="second", day=1, **device),
    )  # fmt: skip
    found_, outcome = people(told)
    assert (found_, set(outcome.values())) == ({}, {SEVERAL}) or (VISITOR + "first") not in found_


def test_a_person_has_one_row_of_users_with_all_channels_that_reach_them(tmp_path: Path):
    pl.DataFrame({"user_id": ["a1", "w1"], "person_id": "a1"}).write_parquet(tmp_path / "people.parquet")
    accounts = users(
        {"user_id": "w1", "age": None, "channels": "email", "email_hash": "m" * 32}, {"user_id": "x", "age": "18", "channels": "sms", "email_hash": None},
        {"user_id": "a1", "age": "35", "channels": "app_push email", "email_hash": None}, {"user_id": None, "age": "40", "channels": None, "email_hash": None},
    )  # fmt: skip
    twice = pl.concat([accounts.drop(SOURCE_ROW).collect(), accounts.drop(SOURCE_ROW).collect()[1:3]])
    made = (
        by_person({"events": events(seen("w1", "web")), "users": numbered(twice.lazy())}, tmp_path)["users"]
        .drop(SOURCE_ROW)
        .collect()
    )
    again = [("x", "18", "sms"), ("a1", "35", "app_push email")]  # which the check refuses
    assert made.rows() == [("a1", "35", "app_push email"), ("x", "18", "sms"), (None, "40", None), *again]


def test_an_address_that_is_not_hashed_is_refused():
    with pytest.raises(StageError, match="email_hash, row 1: is an address or a number itself"):
        people(events(seen("w1", "web", email_hash="anna@shop.example")))


def test_the_simulated_shop_knows_people_by_several_ids_and_is_the_same_each_time():
    told = {"seed": 3, "shoppers": 150, "items": 100, "days": 20, "dirt": 0.0, "content": "plain", "identities": "many"}
    shop = Path("pipelines/data/sources/shop.yaml")
    one, again = ({k: v.collect() for k, v in source("shop").read(ROOT / shop, {"shop": told}).items()} for _ in range(2))
    assert all(table.equals(again[name]) for name, table in one.items())
    plain = source("shop").read(ROOT / shop, {"shop": told | {"identities": "one"}})
    columns = ["event_id", "item_id", "event", "timestamp"]
    assert one["events"].select(columns).equals(plain["events"].select(columns).collect())  # only who and where differ
    whose = dict(one["truth_people"].iter_rows())
    named = one["events"].join(one["truth_visits"], on="event_id").filter(pl.col("user_id").is_not_null())
    assert named.select((pl.col("user_id").replace_strict(whose) == pl.col("person")).all()).item()
    visits = one["events"].filter(pl.col("session_id").is_not_null(), pl.col("event") == "view")
    visits = visits.group_by("session_id").agg(pl.col("user_id").is_null().first(), pl.col("visitor_id").is_not_null().first())
    assert visits["user_id"].mean() == pytest.approx(0.4, abs=0.06)
    assert visits.filter("user_id")["visitor_id"].all()
    assert set(one["users"]["user_id"].str.head(1)) == set("wamce")


@pytest.mark.e2e
def test_links_of_the_simulated_shop_are_right_and_many(tmp_path: Path):
    precision, recall, given, _ = links_row(tmp_path, tiny=True)
    assert precision > 0.98
    assert recall > 0.5
    assert given > 0.95
