"""The log loses nothing that it took, the state counts nothing twice, and a history is what prepare makes of the same events."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.online.servers import RedisServer
from online import log
from online.features import met
from online.intake import Intake
from online.log import EventLog
from online.state import LONGEST, Gone, State, open_state, replay
from pipelines.data.histories import meetings
from tests.conftest import ROOT

KINDS = ["view", "favourite", "cart", "purchase"]
ACTS = st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from(KINDS)), min_size=1, max_size=30)


def event(number: int, user: str = "u", item: str = "a", kind: str = "view", at: float | None = None) -> dict:
    now = time.time()
    return {
        "event_id": f"e{number}",
        "user_id": user,
        "item_id": item,
        "event": kind,
        "at": now if at is None else at,
        "received": now,
    }


@settings(max_examples=150, deadline=None)
@given(acts=ACTS, cut=st.integers(0, 30))
def test_a_history_and_what_came_since_are_what_prepare_makes_of_all(acts: list[tuple[str, str]], cut: int):
    rows = [(item, float(second), kind) for second, (item, kind) in enumerate(acts)]
    table = pl.DataFrame(
        {"user_id": "u", "item_id": [r[0] for r in rows], "event": [r[2] for r in rows],
         "timestamp": [datetime.fromtimestamp(r[1], UTC) for r in rows], "source_row": range(len(rows))}
    ).with_columns(pl.col("timestamp").cast(pl.Datetime("us", "UTC")))  # fmt: skip

    def prepared(part: pl.DataFrame) -> list[tuple[str, float, int]]:
        if part.is_empty():
            return []
        made = meetings(part.lazy())[0]
        return [(i, t.timestamp(), a) for i, t, a in made.select("item_id", "timestamp", "action").iter_rows()]

    assert met(prepared(table.head(cut)), rows[cut:]) == prepared(table)
    assert met([], rows) == prepared(table)


@pytest.fixture(params=["sqlite", "redis"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], State]:
    """Makes empty states of an engine."""
    url = request.getfixturevalue("redis_url") if request.param == "redis" else None
    return lambda: open_state(url, tmp_path / uuid.uuid4().hex, uuid.uuid4().hex)


def test_an_event_counts_once(engine: Callable[[], State]):
    state, now = engine(), time.time()
    events = [event(n, f"u{n % 3}", f"i{n % 4}", at=now - 100 + n) for n in range(12)]
    assert (state.seen(events), state.seen(events), state.seen([*events, event(99, "u0")])) == (12, 0, 1)
    assert state.known(["e1", "e50"]) == {"e1"}
    assert [item for item, _, _ in state.now("u0", 0.0).acts] == ["i0", "i3", "i2", "i1", "a"]
    assert state.now("u0", now - 95).acts == state.now("u0", 0.0).acts[2:]
    assert state.seen([event(100, "u1", at=now - 1e6) | {"late": True}]) == 1  # known, and left to the next run
    assert state.known(["e100"]) == {"e100"}
    assert len(state.now("u1", 0.0).acts) == 4
    state.prune()
    assert len(state.now("u1", 0.0).acts) == 4


def test_only_the_newest_acts_of_a_shopper_are_kept(engine: Callable[[], State]):
    state, now = engine(), time.time()
    events = [event(n, item=f"i{n}", at=now - 1000 + n) for n in range(LONGEST + 50)]
    state.seen(events[: LONGEST + 20])
    state.seen(events[LONGEST + 20 :])
    assert [item for item, _, _ in state.now("u", 0.0).acts] == [f"i{n}" for n in range(50, LONGEST + 50)]


def test_a_visitor_who_signs_in_is_the_shopper_and_it_can_be_undone(engine: Callable[[], State]):
    state, now = engine(), time.time()

    def visit(number: int, item: str, at: float, **more: object) -> dict:
        return event(number, item=item, at=now + at) | {"user_id": None, "visitor_id": "v"} | more

    def items(user: str) -> list[str]:
        return [item for item, _, _ in state.now(user, 0.0).acts]

    state.seen([visit(1, "a", -50), event(2, "anna", "b", at=now - 40)])
    assert (items("visitor:v"), items("anna")) == (["a"], ["b"])
    state.seen([visit(3, None, -30, event="sign_in", user_id="anna"), visit(4, "c", -20)])
    assert items("anna") == ["a", "b", "c"]
    state.seen([visit(5, None, -10, event="sign_in", user_id="ben"), visit(6, "d", -5)])
    assert (items("anna"), items("ben")) == (["a", "b"], ["c", "d"])  # what came before the next sign-in is of who signed in next
    state.seen([visit(7, None, -4, event="unlink", user_id="ben")])
    assert (items("anna"), items("ben")) == (["a", "b", "c", "d"], [])
    state.forget("anna")
    assert (items("anna"), items("visitor:v")) == ([], [])


def test_what_is_popular_is_faded_weighed_and_of_a_platform(engine: Callable[[], State]):
    state, minute = engine(), int(time.time() // 60)
    at = {"now": 60.0 * minute - 30, "before": 60.0 * minute - 30 - 60 * 20, "too old": 60.0 * minute - 61 * 60}
    state.seen([event(1, item="a", at=at["now"], kind="purchase"), event(2, item="b", at=at["before"], kind="purchase") | {"platform": "app"},
                event(3, item="c", at=at["too old"]), event(4, item="d", at=at["now"], kind="return")])  # fmt: skip
    found = dict(state.popular(minute))
    assert list(found) == ["a", "b"]
    assert found["a"] == pytest.approx(2 * found["b"])
    assert [item for item, _ in state.popular(minute, "app")] == ["b"]
    assert state.popular(minute, "web") == []


def test_of_changes_of_items_the_newest_counts(engine: Callable[[], State]):
    state = engine()
    assert state.changed(0) == (0, {})
    state.change([{"item_id": "a", "at": 10.0, "price": 3.0}, {"item_id": "b", "at": 10.0, "blocked": True}])
    number, first = state.changed(0)
    assert first == {"a": {"price": [3.0, 10.0]}, "b": {"blocked": [True, 10.0]}}
    state.change([{"item_id": "a", "at": 9.0, "price": 2.0, "stock": 0.0}])
    later, second = state.changed(number)
    assert second == {"a": {"price": [3.0, 10.0], "stock": [0.0, 9.0]}}
    assert state.changed(later) == (later, {})


STREAM = st.lists(
    st.fixed_dictionaries({
        "event_id": st.integers(0, 40).map(str), "user_id": st.sampled_from([None, "u", "w"]), "visitor_id": st.sampled_from([None, "v", "x"]),
        "item_id": st.sampled_from(["a", "b", "茶:1", "d e"]), "event": st.sampled_from([*KINDS, "return", "sign_in", "unlink", "search"]),
        "ago": st.integers(0, 5000), "platform": st.sampled_from([None, "app", "mini program"]), "query": st.sampled_from([None, "绿茶"]), "late": st.booleans(),
    }).filter(lambda e: e["user_id"] or e["visitor_id"]), max_size=40,
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stream=STREAM, cuts=st.lists(st.integers(0, 40), max_size=3))
def test_engines_say_the_same_of_any_stream_however_it_is_cut(
    stream: list[dict], cuts: list[int], redis_url: str, tmp_path: Path
):
    now = time.time()
    events = [
        {k: v for k, v in e.items() if v not in (None, False)} | {"at": now - e["ago"] / 7, "received": now} for e in stream
    ]
    states = [open_state(url, tmp_path / uuid.uuid4().hex, uuid.uuid4().hex) for url in (None, redis_url, None)]
    for state, edges in zip(states, ([], [], sorted(cuts)), strict=True):
        for start, end in zip([0, *edges], [*edges, len(events)], strict=True):
            state.seen(events[start:end])
    minute = int(now // 60) + 1
    told = [
        (
            [state.now(user, since) for user in ("u", "w", "visitor:v", "visitor:x", "nobody") for since in (0.0, now - 300)],
            [state.popular(minute, platform) for platform in (None, "app", "mini program")],
            state.known([str(n) for n in range(41)]),
        )
        for state in states
    ]
    assert told[0] == told[1] == told[2]


def test_a_state_is_made_again_from_the_log(engine: Callable[[], State], tmp_path: Path):
    kept, lost, again = engine(), engine(), engine()
    book, items = EventLog(tmp_path / "log"), EventLog(tmp_path / "items")
    for start in range(0, 50, 10):
        part = [event(n, f"u{n % 5}") for n in range(start, start + 10)]
        book.append(part)
        kept.seen(part)
        if start == 20:
            book.close()
    items.append([{"item_id": "a", "at": 1.0, "price": 2.0}])
    book.append([{"offset": 50, "refused": "event: none", "row": "{}"}])
    assert len(log.files(tmp_path / "log")) == 2
    assert (replay(lost, tmp_path), replay(lost, tmp_path), replay(again, tmp_path)) == (50, 0, 50)
    for state in (lost, again):
        assert all(state.now(f"u{n}", 0) == kept.now(f"u{n}", 0) for n in range(5))
        assert state.changed(0)[1] == {"a": {"price": [2.0, 1.0]}}
    book.append([event(50)])
    book.close()
    assert (replay(kept, tmp_path), replay(lost, tmp_path)) == (1, 1)


def test_what_redis_missed_while_it_was_gone_it_learns_when_it_is_back(redis_url: str, tmp_path: Path):
    server = RedisServer(tmp_path)
    server.start()
    intake = Intake(tmp_path / "events", server.url)
    intake.take([event(1)])
    assert len(intake.state.now("u", 0.0).acts) == 1
    server.stop()
    begun = time.monotonic()
    for number in (2, 3):
        intake.take([event(number, item=f"i{number}")])  # kept all the same
    with pytest.raises(Gone):
        intake.state.now("u", 0.0)
    assert time.monotonic() - begun < 3  # nobody waits for it for long
    server.start()  # empty
    until = time.monotonic() + 10
    found: list[str] = []
    while len(found) < 3 and time.monotonic() < until:
        with contextlib.suppress(Gone):
            found = [item for item, _, _ in intake.state.now("u", 0.0).acts]
        time.sleep(0.05)
    server.stop()
    assert found == ["a", "i2", "i3"]  # with what it held before


def test_half_a_line_is_none_and_a_full_disk_takes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    book = EventLog(tmp_path)
    book.append([event(1)])
    [path] = log.files(tmp_path)
    with path.open("ab") as file:
        file.write(b'{"event_id": "e2"')
    assert [e["event_id"] for e, _ in log.read(path)] == ["e1"]

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    other = EventLog(tmp_path / "other")
    other.append([event(1)])
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", full)
        with pytest.raises(OSError, match="No space"):
            other.append([event(2), event(3)])
    other.append([event(4)])
    [path] = log.files(tmp_path / "other")
    assert [e["event_id"] for e, _ in log.read(path)] == ["e1", "e4"]


WRITER = """
import sys, time
from online.log import EventLog
from benchmarks.online.servers import RedisServer
from online import log
from pathlib import Path
book, number = EventLog(Path(sys.argv[1])), 0
log.SECONDS = 0.05
while True:
    part = [{"event_id": f"{sys.argv[2]}-{number + n}"} for n in range(7)]
    book.append(part)
    number += 7
    print(number, flush=True)
"""


def test_what_was_said_to_be_taken_is_there_whenever_the_process_is_killed(tmp_path: Path):
    for turn in range(4):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, tmp_path / "log", str(turn)], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        said = [int(writer.stdout.readline()) for _ in range(20 + 13 * turn)]
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        found = [e["event_id"] for path in log.files(tmp_path / "log") for e, _ in log.read(path)]
        assert len(found) == len(set(found))
        assert {f"{turn}-{n}" for n in range(said[-1])} <= set(found)
    assert all(json.dumps(e) for path in log.files(tmp_path / "log") for e, _ in log.read(path))
