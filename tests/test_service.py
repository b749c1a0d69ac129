"""Answers to customers: what is asked of items is read, pages are split, and a model's words are held to their sources."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.content import customers
from marketing.outbox import Message, Outbox
from pipelines.learning.intents import fit, learn
from pipelines.learning.passages import indexed
from service.answers import Answer, Assistant
from service.complaints import Complaints, keep
from service.conditions import conditions, number
from service.intents import NONE, Intents
from service.passages import Passages, split
from service.rewording import reworded, unfounded

PAGE = """# Delivery

Before any heading.

## How long
<!-- intent: delivery_period, track_order -->
<!-- asked: when does it come | how many days -->

Three to five days. Costs CNY 8.

```
## no heading in here
```

## 送达时间
需要三至五天。
"""
MESSAGES = {
    "cancel_order": [
        "cancel my order",
        "please cancel the order",
        "I want to cancel",
        "取消订单",
        "我要取消",
        "帮我取消这个订单",
    ],
    "find_item": [
        "show me a kettle",
        "a present under 50",
        "something like this but cheaper",
        "我想找水壶",
        "便宜一点的",
        "推荐一个礼物",
    ],
    "complaint": ["I want to complain", "this is a complaint", "terrible service", "我要投诉", "服务太差", "很不满意"],
    NONE: ["what is the weather", "write a poem", "who won the match", "天气怎么样", "写一首诗", "谁赢了比赛"],
}


@pytest.fixture(scope="module")
def head() -> Intents:
    return fit(*zip(*[(message, intent) for intent, said in MESSAGES.items() for message in said], strict=True))


def test_a_page_is_split_at_its_headings():
    first, second, third = split(PAGE, "en/delivery.md")
    assert (first.heading, first.text) == ("Delivery", "Before any heading.")
    assert second.heading == "How long"
    assert second.intents == ("delivery_period", "track_order")
    assert second.asked == ("when does it come", "how many days")
    assert "<!--" not in second.text
    assert "## no heading in here" in second.text
    assert third.chinese
    assert not second.chinese
    assert third.topic == "delivery.md 2"


@pytest.mark.parametrize(("message", "most", "least"), [
    ("a present for my mother under 50", 50, None), ("kettle below CNY 199.5", 199.5, None), ("between 20 and 80", 80, 20), ("over 300 please", None, 300),
    ("五十块以内的礼物", 50, None), ("两百元以下", 200, None), ("一千二百以上", None, 1200), ("不超过100", 100, None), ("100到200之间", 200, 100), ("the same in blue", None, None),
])  # fmt: skip
def test_prices_are_read(message: str, most: float | None, least: float | None):
    found = conditions(message)
    assert (found.price_max, found.price_min) == (most, least)


def test_what_else_is_asked_of_items():
    found = conditions("something like this but cheaper, in blue")
    assert (found.like, found.cheaper, found.words) == (True, True, "blue")
    assert conditions("同款蓝色的有吗").words == "蓝色"
    assert [number(text) for text in ("十五", "二十", "一百零五", "三万五千", "3,5")] == [15, 20, 105, 35_000, 3.5]


def test_a_head_is_written_and_read_again(head: Intents, tmp_path: Path):
    head.write(tmp_path, "intents")
    again, asked = Intents.read(tmp_path, "intents"), ["cancel that order", "写诗", ""]
    for one, other in zip(head.chances(asked), again.chances(asked), strict=True):
        assert one == pytest.approx(other, abs=1e-6)
    chances, known = again.chances(asked)
    assert chances.sum(1) == pytest.approx(1, abs=1e-5)
    assert again.names[int(chances[0].argmax())] == "cancel_order"
    assert known[0] > known[1]


def test_held_out_messages_say_how_good_a_head_is():
    told = [(f"{word} {n}", word) for word in ("alpha", "beta") for n in range(10)]
    _, report = learn(*zip(*told, strict=True))
    assert report["accuracy"] == 1
    assert set(report["by_intent"]) == {"alpha", "beta"}
    with pytest.raises(ValueError, match="at least two"):
        fit(["a", "b"], ["x", "x"])


def test_passages_are_found_in_the_language_of_the_question(tmp_path: Path):
    indexed(split(PAGE, "en/delivery.md")).write(tmp_path)
    index = Passages.load(tmp_path)
    assert index.find("how many days does it take", 1)[0][0].heading == "How long"
    assert index.find("要几天送到", 1)[0][0].heading == "送达时间"
    assert Passages([], np.zeros((0, 512)), np.zeros((0, 512)), None).find("x", 1) == []


def test_who_complains_is_sent_nothing_until_it_is_settled(tmp_path: Path):
    folder, other = tmp_path / "handovers", tmp_path / "none"
    complaints = Complaints([folder, other])
    assert complaints.all() == set()
    keep(folder, {"handover_id": "1", "user_id": "u1", "intents": ["complaint"], "angry": False})
    keep(folder, {"handover_id": "2", "user_id": "u2", "intents": [], "angry": True})
    keep(folder, {"handover_id": "3", "user_id": "u3", "intents": ["contact_human_agent"], "angry": False})
    keep(folder, {"handover_id": "4", "user_id": None, "intents": ["complaint"], "angry": True})
    keep(folder, {"handover_id": "5", "user_id": "u1", "intents": ["complaint"], "angry": False})
    assert complaints.all() == {"u1", "u2"}
    box, now = Outbox(f"sqlite:///{tmp_path}/outbox.sqlite", complains=complaints.of), 1000.0
    box.open("spring", approved=True)
    box.put([Message("spring", f"u{n}", 0, "i", "email", "t", {"text": "x"}, now, now + 100) for n in range(1, 4)])
    reasons = {message.user_id: box.begin(key, "me", now) for key, message in box.lease("me", now, 10, 60)}
    assert reasons == {"u1": "a complaint is open", "u2": "a complaint is open", "u3": None}
    keep(folder, {"settled": "1"})
    assert complaints.of("u1")  # another of theirs is open
    keep(folder, {"settled": "5"})
    assert complaints.all() == {"u2"}
    with (folder / "2026-01-01.jsonl").open("a") as file:
        file.write('{"handover_id": "6", "user_id"')  # being written
    assert complaints.all() == Complaints([folder]).all() == {"u2"}


class Tables:
    """A shop of two kettles."""

    items = [{"item_id": "a", "title": "red kettle", "price": 80.0}, {"item_id": "b", "title": "blue kettle", "price": 40.0}]  # noqa: RUF012

    def search(self, query: str, k: int, price_min: float | None, price_max: float | None) -> list[dict]:
        return self.items

    def similar(self, item_id: str, k: int) -> list[dict]:
        return [item for item in self.items if item["item_id"] != item_id]

    def item(self, item_id: str) -> dict | None:
        return next((item for item in self.items if item["item_id"] == item_id), None)

    def orders(self) -> None:
        return None


@pytest.fixture(scope="module")
def assistant(head: Intents, tmp_path_factory: pytest.TempPathFactory) -> Assistant:
    folder = tmp_path_factory.mktemp("assist")
    head.write(folder, "intents")
    page = "# Orders\n\n## Cancelling\n<!-- intent: cancel_order -->\n\nPress Cancel until it is packed.\n\n## 取消\n<!-- intent: cancel_order -->\n\n打包前可以取消。\n"
    indexed(split(page, "orders.md")).write(folder)
    return Assistant(folder)


def said(answer: Answer) -> list[str]:
    return [text["text"] for text in answer.texts]


def test_answers(assistant: Assistant):
    assert "Press Cancel until it is packed." in said(assistant.answer("please cancel my order", Tables()))
    assert "打包前可以取消。" in said(assistant.answer("帮我取消订单", Tables()))
    cheaper = assistant.answer("something like this but cheaper", Tables(), "a")
    assert [item["item_id"] for item in cheaper.items] == ["b"]
    assert cheaper.items[0]["why"][0] == "like red kettle"
    assert assistant.answer("something like this but cheaper", Tables(), "b").items == []
    for message in ("what is the weather today", "  ", "?", "ß" * 2000):
        unknown = assistant.answer(message, Tables())
        assert unknown.intent is None
        assert not any(text["source"] for text in unknown.texts)


@pytest.mark.parametrize(
    "message",
    ["I want to complain about this", "我要投诉", "cancel my order, you SCAM artists!!!", "CANCEL MY ORDER RIGHT NOW YOU PEOPLE"],
)
def test_a_person_takes_what_angers(assistant: Assistant, message: str):
    answer = assistant.answer(message, Tables())
    assert answer.person
    assert answer.summary["message"] == message


@pytest.mark.parametrize(("answer", "wrong"), [
    ("It takes 3 to 5 days.", []), ("It takes 4 days.", ["4"]), ("See https://x.example/a now.", ["https://x.example/a"]), ("Mail me@x.cn", ["me@x.cn"]), ("It takes five days.", ["five"]),
    ("Ask for Bob today.", ["today", "Bob"]), ("退款需要八天", ["八"]), ("免费", ["免费"]), ("Visit win.top", ["win.top"]), ("100% sure", ["100", "%"]),
])  # fmt: skip
def test_what_stands_in_no_source_is_found(answer: str, wrong: list[str]):
    assert set(unfounded(answer, "It takes 3 to 5 working days.")) == set(wrong)


def test_a_model_that_does_not_answer_changes_nothing():
    assert reworded("x", ["y"], "http://127.0.0.1:1", "m", None) is None


@pytest.mark.e2e
def test_rows_of_the_bench(tmp_path: Path):
    assert customers.founded(tmp_path, tiny=True)[0] == 0
    assert customers.passages(tmp_path, tiny=True)[0] > 0.75
