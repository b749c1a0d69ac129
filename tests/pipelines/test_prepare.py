"""Preparation against slow definitions, on generated logs (hypothesis)."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import prepare
from pipelines.impressions import impressions
from pipelines.stage import StageError
from pipelines.tables import TIMESTAMP
from tests.conftest import run_stages, small_params

SETTINGS = small_params()["prepare"] | {"min_item_events": 1}
START = datetime(2026, 1, 1, tzinfo=UTC)
EVENT = st.tuples(
    st.sampled_from(["u1", "u2", "u3", "u4"]),
    st.sampled_from([*"abcdefgh", None]),
    st.sampled_from(["view", "purchase", "search", "impression"]),
    st.integers(0, 5000),
)


def frame(rows: list[tuple]) -> pl.LazyFrame:
    times = [START + timedelta(minutes=m) for *_, m in rows]
    return pl.LazyFrame(
        {"user_id": [r[0] for r in rows], "item_id": [r[1] for r in rows], "event": [r[2] for r in rows], "timestamp": times},
        schema={"user_id": pl.String, "item_id": pl.String, "event": pl.String, "timestamp": TIMESTAMP},
    )


def slow_histories(rows: list[tuple], minimum: int) -> dict[str, list[str]]:
    acts = {(u, i, e, m) for u, i, e, m in rows if e in SETTINGS["history_events"] and i is not None}
    count = {i: sum(a[1] == i for a in acts) for _, i, _, _ in acts}
    first: dict[str, dict[str, int]] = {}
    for u, i, _, m in acts:
        if count[i] >= minimum:
            first.setdefault(u, {})[i] = min(m, first.get(u, {}).get(i, m))
    return {u: sorted(items, key=lambda i: (items[i], i)) for u, items in first.items()}


@settings(max_examples=60, deadline=None)
@given(st.lists(EVENT, min_size=1, max_size=60), st.integers(1, 3))
def test_histories_are_first_meetings_in_order_of_time(rows: list[tuple], minimum: int):
    expected = slow_histories(rows, minimum)
    chosen = SETTINGS | {"min_item_events": minimum}
    if not expected:
        with pytest.raises(StageError, match="nothing is left"):
            prepare.clean(frame(rows), chosen)
        return
    actions, removed = prepare.clean(frame(rows), chosen)
    history = prepare.histories(actions)
    found = {u: rows["item_id"].to_list() for (u,), rows in history.group_by("user_id", maintain_order=True)}
    assert found == expected
    assert sum(removed.values()) + len(actions.collect()) == len(rows)


@settings(max_examples=40, deadline=None)
@given(st.lists(EVENT.filter(lambda e: e[1] is not None), min_size=1, max_size=60), st.sampled_from(["leave_one_out", "time"]))
def test_no_split_learns_from_the_future(rows: list[tuple], split: str):
    rows = [(u, i, "view", m) for u, i, _, m in rows]
    history = prepare.histories(prepare.clean(frame(rows), SETTINGS)[0])
    items = prepare.vocabulary(history, None)
    divided, cuts = prepare.divide(history, items, [], SETTINGS | {"split": split, "valid_share": 0.2, "test_share": 0.2})
    assert divided["items"].list.len().sum() == len(history)
    for user in divided.iter_rows(named=True):
        times, valid, test = user["timestamps"], user["valid_at"], user["test_at"]
        assert times == sorted(times)
        if split == "leave_one_out":
            enough = len(times) >= 3
            assert (valid, test) == ((len(times) - 2, len(times) - 1) if enough else (None, None))
            assert user["train_end"] == len(times) - 2 * enough
        else:
            cut = datetime.fromisoformat(cuts["valid_from"])
            assert all(t < cut for t in times[: user["train_end"]])
            assert all(t >= cut for t in times[user["train_end"] :])
            assert valid is None or cut <= times[valid] < datetime.fromisoformat(cuts["test_from"])
            assert test is None or times[test] >= datetime.fromisoformat(cuts["test_from"])


@settings(max_examples=30, deadline=None)
@given(st.lists(EVENT.filter(lambda e: e[1] is not None), min_size=1, max_size=40), st.permutations("abcxyz"))
def test_a_vocabulary_grows_without_renumbering(tmp_path_factory, rows: list[tuple], earlier: list[str]):
    path = tmp_path_factory.mktemp("v") / "item_ids.npy"
    np.save(path, np.array([i.encode() for i in earlier]))
    history = prepare.histories(prepare.clean(frame([(u, i, "view", m) for u, i, _, m in rows]), SETTINGS)[0])
    grown = prepare.vocabulary(history, str(path))
    assert grown["item_id"].to_list()[: len(earlier)] == earlier
    assert grown["item"].to_list() == list(range(1, len(grown) + 1))
    assert set(grown["item_id"]) == set(earlier) | set(history["item_id"])


SHOWN = st.tuples(
    st.sampled_from(["u1", "u2"]),
    st.sampled_from([*"abcd"]),
    st.sampled_from(["view", "cart", "purchase", "impression"]),
    st.integers(0, 120),
)


@settings(max_examples=80, deadline=None)
@given(st.lists(SHOWN, min_size=1, max_size=50), st.sampled_from(["leave_one_out", "time"]))
def test_impressions_by_definition(rows: list[tuple], split: str):
    rows = list(dict.fromkeys(rows))
    first = slow_histories(rows, 1)
    if not first:
        return
    chosen = SETTINGS | {"split": split, "valid_share": 0.2, "test_share": 0.2}
    actions, _ = prepare.clean(frame(rows), chosen)
    history = prepare.histories(actions)
    items = prepare.vocabulary(history, None)
    divided, cuts = prepare.divide(history, items, [], chosen)
    found = impressions(frame(rows), actions, divided, items, [], chosen, cuts)
    names, people = items["item_id"].to_list(), divided["user_id"].to_list()
    met = {(u, i): min(m for x, y, e, m in rows if (x, y) == (u, i) and e != "impression") for u in first for i in first[u]}
    expected = []
    for u, i, e, m in rows:
        if e == "impression" and u in first and i in names and met.get((u, i), m) >= m:
            within = {
                x
                for v, y, x, n in rows
                if (v, y) == (u, i) and x != "impression" and m <= n <= m + SETTINGS["session_gap_minutes"]
            }
            position = sum(met[u, j] < m for j in first[u])
            valid_at = divided["valid_at"][people.index(u)]
            if split == "time":
                when = START + timedelta(minutes=m)
                late = [when >= datetime.fromisoformat(cuts[c]) for c in ("valid_from", "test_from")]
            else:
                late = [valid_at is not None and position >= valid_at + more for more in (0, 1)]
            part = "test" if late[1] else "valid" if late[0] else "train"
            expected.append(
                (people.index(u), position, names.index(i) + 1, bool(within), "cart" in within, "purchase" in within, part)
            )
    if any(e == "impression" and u in first and i in names for u, i, e, _ in rows):
        assert sorted(found.drop("platform").rows()) == sorted(expected)
    else:  # nothing was logged: what was met stands for it
        assert len(found) == len(history)
        assert found["clicked"].all()


def test_actions_are_the_strongest_before_the_next_item():
    rows = [
        ("u", "a", "view", 0),
        ("u", "a", "cart", 3),
        ("u", "b", "view", 5),
        ("u", "a", "purchase", 9),
        ("u", "b", "favourite", 9),
    ]
    assert prepare.histories(prepare.clean(frame(rows), SETTINGS)[0])["action"].to_list() == [3, 2]


def test_sessions_end_with_the_gap():
    rows = [("u", "a", "view", 0), ("u", "b", "view", 29), ("u", "c", "view", 60), ("v", "a", "view", 61)]
    actions = prepare.clean(frame(rows), SETTINGS)[0].collect()
    assert actions["session_id"].to_list() == ["1", "1", "2", "1"]


def test_bots_are_removed(workspace):
    workspace()
    run_stages("collect", "check", "prepare")
    users = pl.read_parquet("data/prepared/users.parquet")["user_id"]
    assert not users.str.starts_with("crawler").any()
    assert json.loads(Path("data/prepared/prepared.json").read_text())["removed"]["events of 2 bots"] > 1000


def test_preparing_twice_gives_the_same_bytes(workspace):
    workspace()
    run_stages("collect", "check", "prepare")
    first = {f.name: f.read_bytes() for f in Path("data/prepared").iterdir()}
    run_stages("prepare")
    assert {f.name: f.read_bytes() for f in Path("data/prepared").iterdir()} == first


def test_order_without_time_cannot_be_split_by_time(workspace, tmp_path: Path):
    (tmp_path / "s.txt").write_text("".join(f"{u} 1 2 3 4\n" for u in range(5)))
    workspace(source__name="sequences", source__data=str(tmp_path / "s.txt"), prepare__split="time")
    with pytest.raises(StageError, match="leave_one_out"):
        run_stages("collect", "check", "prepare")


def test_what_is_known_of_items_becomes_numbers():
    items = pl.DataFrame(
        {
            "item": [1, 2, 3, 4, 5],
            "category": ["home > lamps", "home > cups", "toys", "toys > trains", None],
            "brand": ["A", "A", None, "B", "B"],
            "price": [5.0, 5.0, 5.0, 900.0, None],
            "log_price": [0.0] * 5,
            "attributes": ["7 9", None, "9", "", "9"],
            "title": ["Red lamp", "red cup", None, "A train", "A drum"],
        }
    )
    known, names = prepare.attributes(items, ["category", "brand", "price", "attributes", "words"])
    told = [{names[n - 1] for n in numbers} for numbers in known["attributes"].to_list()]
    assert told == [
        {"category:home", "brand:A", "words:red"},
        {"category:home", "brand:A", "words:red"},
        {"category:toys"},
        {"category:toys", "brand:B"},
        {"brand:B"},
    ]  # "attributes:9" and the price of three are said of more than half, the rest of one item alone
    assert prepare.attributes(items, [])[0]["attributes"].to_list() == [[]] * 5
    with pytest.raises(StageError, match=r"prepare.attributes: colour is not one of"):
        prepare.attributes(items, ["colour"])
