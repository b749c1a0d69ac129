"""collect reads a log whatever form its files are in, each event once; a visitor's events are of the shopper that the online state says."""

import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import get_args

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from online import log as online_log
from online.events import Event, sort_out
from online.features import owner, sole, standing
from online.log import EventLog, goes_on_at
from online.state import UNLINK, VISITOR
from pipelines.data.identity.visitors import TELLING
from pipelines.data.sources import log
from pipelines.data.sources.rolling import roll
from pipelines.data.tables import EVENT_KINDS, EVENTS
from pipelines.stage import StageError

NOW = time.time()


def came(*rows: dict) -> list[dict]:
    taken = sort_out([{"event": "view", "item_id": "a"} | row for row in rows], Event, NOW)
    assert not taken.refused
    return taken.lines


def test_the_door_takes_all_that_the_tables_hold():
    assert set(EVENTS) - {"known_by"} <= set(Event.model_fields)  # which only a reader can say
    assert set(EVENT_KINDS) | {*TELLING, log.LOOK} == set(get_args(Event.model_fields["event"].annotation))


def test_rolled_or_not_the_same_is_read(tmp_path: Path):
    book = EventLog(tmp_path / "log")
    book.append(came({"event_id": "1", "user_id": "u", "query": "茶"}, {"event_id": "2", "user_id": "u"}))
    book.close()
    book.append(came({"event_id": "2", "user_id": "u", "item_id": "again"}, {"event_id": "3", "user_id": "w", "price": 2.5}))
    book.append([{"refused": "event: none", "row": "{", "offset": 7}])
    with next((tmp_path / "log").glob("*.open")).open("ab") as file:
        file.write(b'{"event_id": "half')
    plain = log.read(tmp_path, {})["events"].collect()
    assert plain.select("event_id", "user_id", "item_id", "query", "price").rows() == [
        ("1", "u", "a", "茶", None),
        ("2", "u", "a", None, None),
        ("3", "w", "a", None, 2.5),
    ]
    assert roll(tmp_path / "log", time.time()) == 1  # what may still be written is left alone
    assert log.read(tmp_path, {})["events"].collect().equals(plain)
    assert (roll(tmp_path / "log", time.time() + 1000), roll(tmp_path / "log", time.time() + 1000)) == (1, 0)
    assert log.read(tmp_path, {})["events"].collect().equals(plain)
    roll(tmp_path / "log", time.time() + 1e7)
    assert not online_log.files(tmp_path / "log")
    assert log.read(tmp_path, {})["events"].collect().equals(plain)


def test_what_came_in_after_a_moment_is_for_the_next_run(tmp_path: Path):
    EventLog(tmp_path / "log").append(
        [*came({"event_id": "1", "user_id": "u"}), came({"event_id": "2", "user_id": "u"})[0] | {"received": NOW + 10}]
    )
    until = "1970-01-01T00:00:00+00:00"
    assert log.read(tmp_path, {"until": until})["events"].collect().is_empty()
    until = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(NOW + 5))
    assert log.read(tmp_path, {"until": until})["events"].collect()["event_id"].to_list() == ["1"]
    with pytest.raises(StageError, match="no event yet"):
        log.read(tmp_path / "nowhere", {})


def test_a_partition_goes_on_after_what_is_on_disk(tmp_path: Path):
    assert goes_on_at(tmp_path, "kafka-events", "0") == 0
    book = EventLog(tmp_path, "kafka-events", "0")
    book.append(
        [
            line | {"offset": 4 + 2 * n}
            for n, line in enumerate(came({"event_id": "1", "user_id": "u"}, {"event_id": "2", "user_id": "u"}))
        ]
    )
    assert goes_on_at(tmp_path, "kafka-events", "0") == 7
    book.close()
    roll(tmp_path, time.time())
    roll(tmp_path, time.time() + 1e7)
    assert [path.name for path in tmp_path.iterdir()] == [f"kafka-events.0.{4:020d}.{6:020d}.parquet"]
    assert goes_on_at(tmp_path, "kafka-events", "0") == 7


def test_what_was_told_of_items_comes_over_the_file(tmp_path: Path):
    EventLog(tmp_path / "log").append(came({"event_id": "1", "user_id": "u"}))
    items = EventLog(tmp_path / "items")
    items.append(
        [
            {"item_id": "a", "at": 5.0, "price": 9.0},
            {"item_id": "new", "at": 5.0, "title": "Tea", "brand": "B"},
            {"item_id": "a", "at": 4.0, "price": 8.0},
        ]
    )
    told = log.read(tmp_path, {})["items"].collect().sort("item_id")
    assert told.rows() == [("a", None, None, 9.0), ("new", "Tea", "B", None)]
    pl.DataFrame({"item_id": ["a", "b"], "title": ["A", "B"], "price": [1, 2]}).write_csv(tmp_path / "items.csv")
    told = log.read(tmp_path, {})["items"].collect().sort("item_id").select("item_id", "title", "price", "brand")
    assert told.rows() == [("a", "A", 9.0, None), ("b", "B", 2.0, None), ("new", "Tea", None, "B")]


STREAM = st.lists(
    st.tuples(st.sampled_from([None, "u", "w"]), st.sampled_from([None, "v", "x"]), st.sampled_from(["view", "sign_in", UNLINK]), st.sampled_from([*range(0, 3600, 600), *range(7200, 259_200, 20_000)])).filter(
        lambda e: (e[0] and e[1]) if e[2] != "view" else (e[0] or e[1])
    ),
    min_size=1, max_size=25,
)  # fmt: skip


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stream=STREAM)
def test_a_visitors_events_are_of_whom_the_online_state_says(stream: list[tuple], tmp_path: Path):
    rows = []
    for number, (user, visitor, event, second) in enumerate(stream):
        row = {
            "event_id": str(number),
            "user_id": user,
            "visitor_id": visitor,
            "event": event,
            "timestamp": (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=second)).isoformat(),
        }
        rows.append({k: v for k, v in row.items() if v is not None})
    events = came(*rows)
    folder = tmp_path / uuid.uuid4().hex
    EventLog(folder / "log").append(events)
    views = log.read(folder, {})["events"].filter(event="view").collect()
    found = dict(views.select("event_id", "user_id").iter_rows())
    links = {
        v: standing(
            [(e["at"], e["user_id"], e["event"] != UNLINK) for e in events if e.get("visitor_id") == v and e.get("user_id")]
        )
        for v in "vx"
    }
    expected = {
        e["event_id"]: e.get("user_id")
        or owner(links[e["visitor_id"]], e["at"], sole(links[e["visitor_id"]]))
        or VISITOR + e["visitor_id"]
        for e in events
        if e["event"] == "view"
    }
    assert found == expected
