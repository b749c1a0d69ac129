"""What changed since the model was made is learnt from the log, and where nothing did, answers stay as they are."""

import json
import random
import time
from pathlib import Path

import numpy as np
import pytest

from deploy.serving import between
from deploy.serving.between import Acts, learn, read, write
from deploy.serving.recommender import Recommender
from online.log import EventLog


@pytest.fixture
def stored(finished: Path) -> Recommender:
    return Recommender(finished / "artefact")


def told(folder: Path, pairs: list[tuple[str, str]], spread: float = 3600.0) -> Acts:
    """The acts of shoppers who looked at one item and then at the other."""
    now, rows = time.time(), []
    for number, (first, second) in enumerate(pairs):
        for step, item in enumerate((first, second)):
            at = now - spread + spread * number / len(pairs) + step
            rows.append(
                {
                    "event_id": f"{number}-{step}",
                    "user_id": f"new {number}",
                    "event": "view",
                    "item_id": item,
                    "at": at,
                    "received": at,
                }
            )
    EventLog(folder / "log").append(rows)
    acts = Acts(folder, 0.0)
    assert (acts.look(), acts.look()) == (2 * len(pairs), 0)
    return acts


def test_what_follows_an_item_now_is_answered_after_it(stored: Recommender, finished: Path, tmp_path: Path):
    names = stored.items[np.arange(len(stored.items))]
    first = names[3]
    after = [item["item_id"] for item in stored.recommend(history=[first], k=len(names), exclude="nothing").items]
    second = after[-5]  # what the model would hardly name
    chance = random.Random(0)
    others = [name for name in names if name not in (first, second)]
    pairs = [(first, second) if chance.random() < 0.5 else tuple(chance.sample(others, 2)) for _ in range(1500)]
    learnt = learn(told(tmp_path / "events", pairs), stored, time.time())
    assert learnt.weight > 0
    write(tmp_path / "between", stored.version, learnt, time.time())
    write(tmp_path / "between", stored.version, learnt, time.time())
    found = read(tmp_path / "between", stored.version)
    assert all(np.array_equal(one, other) for one, other in zip(found[:4], learnt[:4], strict=True))
    live = Recommender(finished / "artefact", between=tmp_path / "between")
    answer = live.recommend(history=[first], k=10).items
    assert second in [item["item_id"] for item in answer]
    assert [item["score"] for item in answer] == sorted((item["score"] for item in answer), reverse=True)
    assert second not in [item["item_id"] for item in live.recommend(history=[first], k=10, filters={"exclude": [second]}).items]
    assert live.between.weight == learnt.weight
    (tmp_path / "between" / f"{stored.version}.npz").write_bytes(b"damaged")
    assert read(tmp_path / "between", stored.version) is None
    write(tmp_path / "between", "another", learnt, time.time())
    assert {path.stem for path in (tmp_path / "between").iterdir()} == {"another"}  # a new model drops it


def test_where_nothing_changed_answers_stay(stored: Recommender, tmp_path: Path):
    names = stored.items[np.arange(len(stored.items))]
    chance, pairs = random.Random(1), []
    for _ in range(1200):
        first = chance.choice(names)
        shown = stored.recommend(history=[first], k=10).items
        pairs.append((first, shown[min(int(chance.expovariate(0.7)), 9)]["item_id"]))
    assert learn(told(tmp_path / "events", pairs), stored, time.time()).weight == 0
    assert learn(told(tmp_path / "few", pairs[:50]), stored, time.time()).weight == 0


def test_a_new_item_is_judged_by_what_it_is_met_with(stored: Recommender, finished: Path, tmp_path: Path):
    names = stored.items[np.arange(len(stored.items))]
    best = stored.recommend(history=[names[3]], k=3).items
    pairs = [(item["item_id"], "new") for item in best for _ in range(20)]
    learnt = learn(told(tmp_path / "events", pairs), stored, time.time())
    write(tmp_path / "between", stored.version, learnt, time.time())

    class State:
        def changed(self, after: int) -> tuple[int, dict]:
            return 1, {} if after else {"new": {"title": ["unheard of", 1.0]}}

        def now(self, *_: object) -> None:
            raise AssertionError

    plain, taught = (Recommender(finished / "artefact", state=State(), between=folder) for folder in (None, tmp_path / "between"))
    assert "new" not in [item["item_id"] for item in plain.recommend(history=[names[3]], k=20).items]
    assert "new" in [item["item_id"] for item in taught.recommend(history=[names[3]], k=20).items]


def test_the_learner_goes_on_as_the_log_grows(
    finished: Path, stored: Recommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    link = tmp_path / "current"
    (tmp_path / "v1" / "bento" / "src").mkdir(parents=True)
    (tmp_path / "v1" / "bento" / "src" / "artefact").symlink_to(finished / "artefact")
    link.symlink_to("v1")
    told(tmp_path / "events", [("a", "b")] * 3)
    turns = iter([None, None])
    monkeypatch.setattr(between.time, "sleep", lambda _: next(turns))
    monkeypatch.setattr(between.sys, "argv", ["between", str(tmp_path / "events"), str(link)])
    with pytest.raises(StopIteration):
        between.main()
    [described] = (tmp_path / "events.state" / "between").glob("*.json")
    assert described.stem == stored.version
    assert json.loads(described.read_text())["weight"] == 0
