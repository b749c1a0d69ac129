"""The log loses nothing that it took, the state counts nothing twice, and a history is what prepare makes of the same events."""

import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from online import log
from online.features import met
from online.log import EventLog
from online.state import State
from pipelines.data.histories import meetings
from pipelines.data.impressions import STRENGTH
from tests.conftest import ROOT

KINDS = ["view", "favourite", "cart", "purchase"]
ACTS = st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from(KINDS)), min_size=1, max_size=30)


def event(number: int, user: str = "u", item: str = "a", kind: str = "view", at: float | None = None) -> dict:
    return {"event_id": f"e{number}", "user_id": user, "item_id": item, "event": kind, "at": time.time() if at is None else at}


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


def test_strengths_are_those_of_prepare():
    from online.features import STRENGTH as online

    assert online == STRENGTH


def test_the_state_counts_an_event_once_and_is_shared(tmp_path: Path):
    state = State(tmp_path / "s.sqlite")
    now = time.time()
    events = [event(n, f"u{n % 3}", f"i{n % 4}", at=now - 100 + n) for n in range(12)]
    assert (state.take(events), state.take(events), state.take([*events, event(99, "u0")])) == (12, 0, 1)
    assert state.known(["e1", "e50"]) == {"e1"}
    assert [item for item, _, _ in state.history("u0", 0.0)] == ["i0", "i3", "i2", "i1", "a"]
    assert state.history("u0", now - 95) == state.history("u0", 0.0)[2:]
    assert State(tmp_path / "s.sqlite").history("u1", 0.0) == state.history("u1", 0.0)  # of another process


def test_a_state_is_made_again_from_the_log(tmp_path: Path):
    kept, lost = State(tmp_path / "a.sqlite"), State(tmp_path / "b.sqlite")
    book = EventLog(tmp_path / "log")
    for start in range(0, 50, 10):
        part = [event(n, f"u{n % 5}") for n in range(start, start + 10)]
        book.append(part)
        kept.take(part)
        if start == 20:
            book.close()
    assert len(log.files(tmp_path / "log")) == 2
    assert (lost.replay(tmp_path / "log"), lost.replay(tmp_path / "log")) == (50, 0)
    assert all(lost.history(f"u{n}", 0) == kept.history(f"u{n}", 0) for n in range(5))
    book.append([event(50)])
    book.close()
    assert (kept.replay(tmp_path / "log"), lost.replay(tmp_path / "log")) == (1, 1)


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
