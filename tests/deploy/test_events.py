"""Events that come in change the next answer, each once; what is wrong with a row is said and the rest is taken."""

import asyncio
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from deploy.serving.events import Door
from deploy.serving.recommender import Recommender
from online import log
from pipelines.data.sources import source
from pipelines.data.tables import TIMESTAMP
from pipelines.stage import StageError


@pytest.fixture
def door(tmp_path: Path) -> Door:
    return Door(tmp_path)


def view(number: int, item: str, user: str = "u000001", **more: object) -> dict:
    return {"event_id": f"e{number}", "user_id": user, "item_id": item, "event": "view"} | more


def test_a_bad_row_is_refused_with_its_reason_and_the_rest_is_taken(door: Door, tmp_path: Path):
    rows = [view(1, "a"), view(2, "a") | {"event": "hover"}, {"event_id": "e3", "user_id": "u", "event": "view"}, view(4, "b", timestamp="2099-01-01T00:00:00Z"),
            view(5, "b", colour="red"), view(1, "a"), {"event_id": "e6", "user_id": "u", "event": "search", "query": "tea"}]  # fmt: skip
    answer = asyncio.run(door.take(rows))
    assert (answer["accepted"], answer["repeated"]) == (2, 1)
    assert [r["row"] for r in answer["refused"]] == [1, 2, 3, 4]
    assert [
        part in r["reason"]
        for part, r in zip(("event", "item_id is missing", "future", "colour"), answer["refused"], strict=True)
    ] == [True] * 4
    assert asyncio.run(door.take(rows[:1])) == {"accepted": 0, "repeated": 1, "refused": []}
    kept = [event for path in log.files(tmp_path / "log") for event, _ in log.read(path)]
    assert [event["event_id"] for event in kept] == ["e1", "e6"]
    assert datetime.fromisoformat(kept[0]["timestamp"]).tzinfo == UTC


def test_requests_at_once_are_all_kept(door: Door):
    async def many() -> list[dict]:
        return await asyncio.gather(*(door.take([view(10 * n + k, f"i{k}", f"u{n}") for k in range(10)]) for n in range(50)))

    assert sum(answer["accepted"] for answer in asyncio.run(many())) == 500
    assert all(len(door.state.history(f"u{n}", 0.0)) == 10 for n in range(50))


def test_a_log_that_cannot_be_written_takes_nothing(door: Door, monkeypatch: pytest.MonkeyPatch):
    def full(_: list) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(door._log, "append", full)
        with pytest.raises(OSError, match="No space"):
            asyncio.run(door.take([view(1, "a")]))
    assert asyncio.run(door.take([view(1, "a")]))["accepted"] == 1  # sent again, it is new


def test_the_next_answer_knows_what_just_happened(finished: Path, tmp_path: Path):
    door = Door(tmp_path)
    before, live = Recommender(finished / "artefact"), Recommender(finished / "artefact", state=door.state)
    user = before.histories.users[np.array([3])][0]
    assert live.recommend(user_id=user, k=10) == before.recommend(user_id=user, k=10)
    first, second = (item["item_id"] for item in before.recommend(user_id=user, k=2).items)
    asyncio.run(door.take([view(1, first, user), view(2, second, user) | {"event": "purchase"}]))
    after = live.recommend(user_id=user, k=10)
    assert after.items != before.recommend(user_id=user, k=10).items
    assert second not in {item["item_id"] for item in after.items}  # it was just bought
    history = live.histories.of(user, live.items)
    assert live.items[history.items[-2:] - 1] == [first, second]
    assert history.actions[-2:].tolist() == [1, 4]
    assert abs(history.times[-1] - time.time()) < 60
    assert live.recommend(user_id="a stranger", k=5).fallback == "popular"
    asyncio.run(door.take([view(3, first, "a stranger")]))
    stranger = live.recommend(user_id="a stranger", k=5)
    assert stranger.fallback is None
    assert stranger.items == live.recommend(history=[first], k=5, exclude="nothing").items
    asyncio.run(door.take([view(4, "an item of tomorrow", user)]))
    assert live.recommend(user_id=user, k=10) == after  # the catalogue does not have it yet


def test_collect_reads_what_came_in(door: Door, tmp_path: Path):
    rows = [view(n, f"i{n % 5}", f"u{n % 7}", platform="web") for n in range(40)] + [
        {"event_id": "s", "user_id": "u1", "event": "search", "query": "绿茶"}
    ]
    assert asyncio.run(door.take(rows))["accepted"] == len(rows)
    door._log.close()
    asyncio.run(door.take([view(99, "i1")]))
    door._log.append(
        [
            {
                "event_id": "e0",
                "user_id": "u0",
                "item_id": "i0",
                "event": "view",
                "timestamp": "2026-01-01T00:00:00+00:00",
                "at": 0.0,
            }
        ]
    )  # as after a crash
    pl.DataFrame({"item_id": [f"i{n}" for n in range(5)], "price": 3.0}).write_csv(tmp_path / "items.csv")
    tables = source("log").read(tmp_path, {})
    events = tables["events"].collect()
    assert len(events) == len(rows) + 1
    assert set(events["event_id"]) == {row["event_id"] for row in rows} | {"e99"}
    assert events.filter(event="search")["query"].to_list() == ["绿茶"]
    assert events.schema["timestamp"] == TIMESTAMP
    assert tables["items"].collect()["price"].to_list() == [3.0] * 5
    with pytest.raises(StageError, match="no event yet"):
        source("log").read(tmp_path / "nowhere", {})


def test_what_is_due_is_not_after_it_was_bought_again(finished: Path, tmp_path: Path):
    door = Door(tmp_path)
    live = Recommender(finished / "artefact", state=door.state)
    for row in range(200):
        user = live.histories.users[np.array([row])][0]
        bought = live.histories.bought(user, live.items)
        cyclic = bought.items[bought.due_from < 1 << 62]
        if len(cyclic):
            break
    item = live.items[cyclic[:1] - 1][0]
    asyncio.run(door.take([view(1, item, user) | {"event": "purchase"}]))
    again = live.histories.bought(user, live.items)
    place = again.items == cyclic[0]
    assert abs(again.last[place][0] - time.time()) < 60
    assert again.due_from[place][0] > time.time() + 86_400
    assert not again.due(time.time())[place].any()
