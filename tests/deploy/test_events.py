"""Events that come in change the next answer, each once; what is wrong with a row is said and the rest is taken."""

import asyncio
import json
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from deploy.serving.events import Door
from deploy.serving.histories import NEVER, StoredHistories
from deploy.serving.recommender import Recommender
from deploy.serving.shops import ONLY, settings
from online import log
from online.intake import Intake
from online.log import EventLog
from online.state import VISITOR, Gone
from pipelines.artefact.catalogue import linked, stored_purchases
from pipelines.artefact.manifest import seal
from pipelines.artefact.without import MADE
from pipelines.data.sources import source
from pipelines.data.tables import TIMESTAMP
from pipelines.stage import StageError


@pytest.fixture
def door(tmp_path: Path) -> Door:
    return Door(Intake(tmp_path))


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
    assert asyncio.run(door.take(rows[:1])) == {"accepted": 0, "late": 0, "repeated": 1, "refused": []}
    kept = [event for path in log.files(tmp_path / "log") for event, _ in log.read(path)]
    assert [event["event_id"] for event in kept] == ["e1", "e6"]
    assert datetime.fromisoformat(kept[0]["timestamp"]).tzinfo == UTC


@pytest.mark.parametrize(("said", "meant"), [("false", False), ("0", False), ("True", True)])
def test_a_switch_of_the_environment_means_what_it_says(said: str, meant: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PUSHCART_PROXIED", said)
    monkeypatch.setenv("PUSHCART_LEARN", said)
    found = settings.__wrapped__()[ONLY]
    assert (found.proxied, found.learn) == (meant, meant)
    monkeypatch.setenv("PUSHCART_LEARN", "perhaps")
    with pytest.raises(ValueError, match="PUSHCART_LEARN"):
        settings.__wrapped__()


def test_requests_at_once_are_all_kept(door: Door):
    async def many() -> list[dict]:
        return await asyncio.gather(*(door.take([view(10 * n + k, f"i{k}", f"u{n}") for k in range(10)]) for n in range(50)))

    assert sum(answer["accepted"] for answer in asyncio.run(many())) == 500
    assert all(len(door.state.now(f"u{n}", 0.0).acts) == 10 for n in range(50))


def test_a_log_that_cannot_be_written_takes_nothing(door: Door, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(EventLog, "append", full)
        with pytest.raises(OSError, match="No space"):
            asyncio.run(door.take([view(1, "a")]))
    assert asyncio.run(door.take([view(1, "a")]))["accepted"] == 1  # sent again, it is new


def test_the_next_answer_knows_what_just_happened(finished: Path, tmp_path: Path):
    door = Door(Intake(tmp_path))
    before, live = Recommender(finished / "artefact"), Recommender(finished / "artefact", state=door.state)
    user = before.histories.users[np.array([3])][0]
    assert live.recommend(user_id=user, k=10) == before.recommend(user_id=user, k=10)
    first, second = (item["item_id"] for item in before.recommend(user_id=user, k=2).items)
    asyncio.run(door.take([view(1, first, user), view(2, second, user) | {"event": "purchase"}]))
    after = live.recommend(user_id=user, k=10)
    assert after.items != before.recommend(user_id=user, k=10).items
    assert second not in {item["item_id"] for item in after.items}  # it was just bought
    history = live.histories.of(user, live.items).history
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


def test_collect_reads_what_came_in(tmp_path: Path):
    intake = Intake(tmp_path)
    door = Door(intake)
    rows = [view(n, f"i{n % 5}", f"u{n % 7}", platform="web") for n in range(40)] + [
        {"event_id": "s", "user_id": "u1", "event": "search", "query": "绿茶"}
    ]
    assert asyncio.run(door.take(rows))["accepted"] == len(rows)
    intake.close()
    asyncio.run(door.take([view(99, "i1")]))
    EventLog(tmp_path / "log").append(
        [view(0, "i0", "u0") | {"timestamp": "2026-01-01T00:00:00+00:00", "at": 0.0, "received": 0.0}]
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
    door = Door(Intake(tmp_path))
    live = Recommender(finished / "artefact", state=door.state)
    for row in range(200):
        user = live.histories.users[np.array([row])][0]
        bought = live.histories.of(user, live.items).bought
        cyclic = bought.items[bought.due_from < 1 << 62]
        if len(cyclic):
            break
    item = live.items[cyclic[:1] - 1][0]
    asyncio.run(door.take([view(1, item, user) | {"event": "purchase"}]))
    again = live.histories.of(user, live.items).bought
    place = again.items == cyclic[0]
    assert abs(again.last[place][0] - time.time()) < 60
    assert again.due_from[place][0] > time.time() + 86_400
    assert not again.due(time.time())[place].any()


@pytest.fixture
def live(finished: Path, door: Door) -> Recommender:
    return Recommender(finished / "artefact", state=door.state)


def looked(live: Recommender) -> Recommender:
    """The same, after it looked at what changed."""
    live.catalogue._looked = -1.0
    return live


def ids_of(shown: list[dict]) -> list[str]:
    return [item["item_id"] for item in shown]


def test_what_went_out_of_stock_or_is_blocked_is_not_offered_and_a_new_price_counts(live: Recommender, door: Door):
    user = live.histories.users[np.array([3])][0]
    first, second, third = ids_of(live.recommend(user_id=user, k=3).items)
    told = asyncio.run(door.change([{"item_id": first, "stock": 0}, {"item_id": second, "blocked": True}, {"item_id": third, "price": 0.01}, {"price": 3}]))  # fmt: skip
    assert (told["accepted"], [r["row"] for r in told["refused"]]) == (3, [3])
    after = looked(live).recommend(user_id=user, k=10).items
    assert not {first, second} & set(ids_of(after))
    assert (after[0]["item_id"], after[0]["price"]) == (third, 0.01)
    assert ids_of(live.recommend(user_id=user, filters={"price_max": 0.01}).items) == [third]
    assert not {first, second} & set(ids_of(live.recommend(k=100).items))
    assert first not in ids_of(live.search(after[1]["title"], k=50))
    asyncio.run(door.change([{"item_id": first, "stock": 5}, {"item_id": second, "blocked": False}]))
    assert ids_of(looked(live).recommend(user_id=user, k=3).items) == [first, second, third]


def test_a_new_item_is_recommended_to_those_whom_items_like_it_suit(live: Recommender, door: Door):
    user = live.histories.users[np.array([3])][0]
    best = live.recommend(user_id=user, k=1).items[0]
    new = {"item_id": "new", "title": best["title"], "category": best["category"], "brand": best["brand"], "price": 5.0}
    strange = {"item_id": "strange", "title": "zzz qqq", "category": "xxx"}
    asyncio.run(door.change([new, strange]))
    shown = looked(live).recommend(user_id=user, k=20).items
    assert "new" in ids_of(shown)
    assert "strange" not in ids_of(shown)
    assert [i["score"] for i in shown] == sorted((i["score"] for i in shown), reverse=True)
    [one] = [item for item in shown if item["item_id"] == "new"]
    assert (one["title"], one["price"], one["in_stock"]) == (best["title"], 5.0, None)
    assert "new" in ids_of(live.search(best["title"], k=10))
    for filters in ({"price_max": 4.0}, {"brand": "another"}, {"category": "xxx"}, {"in_stock": True}, {"exclude": ["new"]}):
        assert "new" not in ids_of(live.recommend(user_id=user, k=20, filters=filters).items)
    asyncio.run(door.take([view(1, "new", user) | {"event": "purchase"}]))
    assert "new" not in ids_of(live.recommend(user_id=user, k=20).items)
    asyncio.run(door.change([{"item_id": "new", "blocked": True}]))
    assert "new" not in ids_of(looked(live).recommend(user_id=live.histories.users[np.array([4])][0], k=20).items)


def test_a_search_finds_by_words_and_orders_by_taste(live: Recommender, door: Door):
    title = live.recommend(k=1).items[0]["title"]
    assert title in [item["title"] for item in live.search(title, k=5)]
    assert live.search("!!", k=5) == live.search("qqqq", k=5) == []
    word = title.split()[0]
    plain = live.search(word, k=20)
    orders = {tuple(ids_of(live.search(word, k=20, user_id=live.histories.users[np.array([row])][0]))) for row in range(20)}
    assert len(orders) > 1  # tastes differ
    assert all(set(order) <= set(ids_of(live.search(word, k=100))) for order in orders)
    assert [item["score"] for item in plain] == sorted((item["score"] for item in plain), reverse=True)


def test_the_search_of_a_moment_ago_weighs_in_until_something_follows(live: Recommender, door: Door):
    user = live.histories.users[np.array([3])][0]
    before = live.recommend(user_id=user, k=10)
    wanted = live.recommend(user_id=user, k=100).items[60]
    asyncio.run(door.take([{"event_id": "s", "user_id": user, "event": "search", "query": wanted["title"]}]))
    after = live.recommend(user_id=user, k=10)
    assert (before.query, after.query) == (None, wanted["title"])
    assert wanted["item_id"] in ids_of(after.items)
    assert live.recommend(user_id=user, context={"at": datetime.fromtimestamp(time.time() + 3600, UTC)}).query is None
    asyncio.run(door.take([view(2, wanted["item_id"], user, timestamp=datetime.fromtimestamp(time.time() + 5, UTC).isoformat())]))
    assert live.recommend(user_id=user, k=10).query is None


def test_strangers_are_answered_what_is_popular_within_the_hour(live: Recommender, door: Door):
    usual = live.recommend(k=30).items
    item, other = usual[20]["item_id"], usual[25]["item_id"]
    early = datetime.fromtimestamp(time.time() - 90, UTC).isoformat()
    rows = [view(n, item, f"s{n}", timestamp=early) | {"event": "purchase"} for n in range(60)]
    rows += [view(100 + n, other, f"t{n}", timestamp=early, platform="app") | {"event": "cart"} for n in range(60)]
    assert live.trending()[0] == []
    live._trends = {}
    asyncio.run(door.take(rows))
    answer = live.recommend(k=5)
    assert (ids_of(answer.items)[:2], answer.scope) == ([item, other], "trending:all")
    app = live.recommend(k=5, context={"platform": "app"})
    assert (ids_of(app.items)[0], app.scope) == (other, "trending:platform:app")
    shown, scope = live.trending(k=5)
    assert (ids_of(shown), scope) == ([item, other], "all")
    assert ids_of(live.trending(k=5, filters={"exclude": [item]})[0]) == [other]


def test_a_visitor_is_known_before_and_after_signing_in(live: Recommender, door: Door):
    first = live.recommend(k=1).items[0]["item_id"]
    asyncio.run(door.take([{"event_id": "1", "visitor_id": "v", "event": "view", "item_id": first}]))
    visitor = live.recommend(visitor_id="v", k=5)
    assert (visitor.fallback, live.recommend(user_id="new one", k=5).fallback) == (None, "popular")
    asyncio.run(door.take([{"event_id": "2", "visitor_id": "v", "user_id": "new one", "event": "sign_in"}]))
    assert live.recommend(user_id="new one", k=5).items == visitor.items


def test_what_was_sent_back_is_neither_offered_nor_due(live: Recommender, door: Door):
    user = live.histories.users[np.array([3])][0]
    item = live.recommend(user_id=user, k=1).items[0]["item_id"]
    asyncio.run(door.take([view(1, item, user) | {"event": "purchase"}, view(2, item, user) | {"event": "return"}]))
    assert item not in ids_of(live.recommend(user_id=user, k=20).items)
    known = live.histories.of(user, live.items).bought
    assert not known.due(time.time() + 86_400 * np.array([1000]))[known.items == live.items.places([item])[0] + 1].any()


def test_of_what_was_sent_back_the_artefact_says_that_it_is_never_due():
    at = datetime(2026, 1, 1, tzinfo=UTC)
    bought = {
        "user_id": "u",
        "last_bought": at,
        "due_from": at,
        "due_until": at,
        "cycle_days": 10.0,
        "spread": 0.1,
        "returning": 0.5,
    }
    repeats = pl.DataFrame([bought | {"item_id": item} for item in ("a", "b")])
    returns = pl.DataFrame([{"user_id": "u", "item_id": item, "timestamp": at} for item in ("b", "c", "c")])
    items = pl.DataFrame({"item": [1, 2, 3], "item_id": ["a", "b", "c"]})
    told = stored_purchases(pl.Series(["u"]), repeats, returns, items)
    assert (told["bought_items"].tolist(), told["bought_offsets"].tolist()) == ([1, 2, 3], [0, 3])
    assert (told["bought_due_from"] == NEVER).tolist() == [False, True, True]


def test_what_was_looked_at_on_one_platform_is_known_on_the_other_at_the_next_answer(finished: Path, tmp_path: Path, door: Door):
    one, other = (Recommender(finished / "artefact").histories.users[np.array([row])][0] for row in (3, 4))
    folder = tmp_path / "artefact"
    shutil.copytree(finished / "artefact", folder)
    people = pl.DataFrame({"user_id": [one, "elsewhere", "visitor:phone"], "person_id": one})
    for name, array in linked(people).items():
        np.save(folder / f"{name}.npy", array)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").unlink()
    seal(folder, {key: value for key, value in manifest.items() if key not in MADE})
    live = Recommender(folder, state=door.state)
    assert live.recommend(user_id="elsewhere", k=5).items == live.recommend(user_id=one, k=5).items
    met = live.recommend(user_id=one, k=3).items
    rows = [
        view(1, met[0]["item_id"], "elsewhere"),
        {"event_id": "e2", "visitor_id": "phone", "event": "purchase", "item_id": met[1]["item_id"]},
    ]
    asyncio.run(door.take(rows))
    for user in (one, "elsewhere"):
        known = live.histories.of(user, live.items)
        assert {met[0]["item_id"], met[1]["item_id"]} <= {live.items[np.array([n - 1])][0] for n in known.history.items}
        assert met[1]["item_id"] not in ids_of(live.recommend(user_id=user, k=5).items)  # bought just now
    assert live.recommend(visitor_id="phone", k=5).items == live.recommend(user_id=one, k=5).items
    sign_in = {"event": "sign_in", "ago": 60}
    rows = [sign_in | {"event_id": "s1", "visitor_id": "own", "user_id": "elsewhere"}]
    rows += [sign_in | {"event_id": f"s{n}", "visitor_id": "tablet", "user_id": user} for n, user in ((2, one), (3, other))]
    asyncio.run(door.take(rows))
    for user in (one, "elsewhere"):
        assert sorted(live.histories.names(user)) == sorted([one, "elsewhere", "visitor:phone", "visitor:own"])
    assert live.histories.names(other) == [other], "who else uses the tablet does not answer for all"
    assert live.recommend(user_id=other, k=5).items == Recommender(finished / "artefact").recommend(user_id=other, k=5).items


def test_a_visitor_whom_the_artefact_knows_brings_that_history_along(
    live: Recommender, door: Door, monkeypatch: pytest.MonkeyPatch
):
    one, other = (live.histories.users[np.array([row])][0] for row in (3, 4))
    stored = live.histories.stored
    before, known = stored.of(one, live.items).history, stored.of(other, live.items).history
    asked = StoredHistories.of
    monkeypatch.setattr(
        StoredHistories, "of", lambda self, user, items: asked(self, other if user == VISITOR + "v" else user, items)
    )
    first = {"event_id": "0", "visitor_id": "v", "user_id": one, "event": "sign_in", "ago": 86_390}
    asyncio.run(door.take([first]))
    assert live.histories.of(one, live.items).history.items.tolist() == before.items.tolist()  # one sign-in may be a guest's
    asyncio.run(door.take([{"event_id": "1", "visitor_id": "v", "user_id": one, "event": "sign_in"}]))
    history = live.histories.of(one, live.items).history
    assert set(history.items) == set(before.items) | set(known.items)
    assert len(set(history.items)) == len(history.items)
    assert history.times.tolist() == sorted(history.times)
    asyncio.run(door.take([{"event_id": "2", "visitor_id": "v", "user_id": one, "event": "unlink"}]))
    assert live.histories.of(one, live.items).history.items.tolist() == before.items.tolist()


def test_where_the_state_is_gone_answers_say_so(finished: Path):
    class Lost:
        def __getattr__(self, _: str):
            def gone(*_: object) -> None:
                raise Gone("no")

            return gone

    live, stored = Recommender(finished / "artefact", state=Lost()), Recommender(finished / "artefact")
    user = live.histories.users[np.array([3])][0]
    answer = live.recommend(user_id=user, k=5)
    assert (answer.items, answer.unchecked) == (stored.recommend(user_id=user, k=5).items, ["events since the model was made"])
    assert "events since the model was made" in live.decide(user)[0].unchecked
    assert live.recommend(k=5).items == stored.recommend(k=5).items
    assert live.trending()[0] == []
