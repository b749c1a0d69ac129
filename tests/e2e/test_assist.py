"""Customers are answered over HTTP and on the chat page: quotes with their source, items, own purchases behind a proof, a person where one is needed."""

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
import yaml
from schemathesis import GenerationMode

from deploy.platform import processes, server
from deploy.promotion.environments import Environment
from deploy.serving.access import proof_of
from pipelines.data.sources import log
from service.passages import read
from tests.conftest import ROOT, run_stages
from tests.e2e.fuzzing import fuzz

pytestmark = pytest.mark.e2e
SECRET = b"of the shop alone"


@pytest.fixture(scope="module")
def checkout(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace, folder = tmp_path_factory.mktemp("assist") / "run", tmp_path_factory.mktemp("checkout")
    shutil.copytree(finished, workspace, symlinks=True)
    params = yaml.safe_load((workspace / "params.yaml").read_text())
    params["assist"]["enabled"] = True
    params["shops"]["shop"]["identity"] = "secret"
    (workspace / "params.yaml").write_text(yaml.safe_dump(params))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workspace)
        run_stages("assist", "bundle")
        (folder / "deploy/environments").mkdir(parents=True)
        shutil.copy("params.yaml", folder)
        (folder / "secret").write_bytes(SECRET + b"\n")
        Environment(folder, "production").promote(workspace / "bento", who="t", why="answers", force="small data")
    return folder


@pytest.fixture(scope="module")
def url(checkout: Path) -> Iterator[str]:
    with server.served(checkout, "production", processes.free_port()) as (served, _, _):
        yield served


def ask(url: str, message: str, **more: str) -> dict:
    return processes.ask(f"{url}/assist", {"message": message} | more)


@pytest.mark.parametrize(("message", "heading"), [
    ("I forgot my password", "Forgotten password"), ("忘记密码了怎么办", "找回密码"), ("which cards do you accept", "Ways to pay"), ("怎么开发票", "开具发票"), ("wher is my pakage", "Following a parcel"),
])  # fmt: skip
def test_answers_are_the_shops_own_words(url: str, message: str, heading: str):
    answer = ask(url, message)
    quoted = [text for text in answer["texts"] if text["source"]]
    assert [text["source"]["heading"] for text in quoted] == [heading]
    assert quoted[0]["text"] in [passage.text for passage in read(ROOT / "help")]
    assert answer["confidence"] > 0.5
    assert not answer["person"]


def test_what_is_not_known_is_said_to_be_so(url: str):
    for message in ("what is the capital of France", "帮我写一首关于大海的诗"):
        answer = ask(url, message)
        assert answer["intent"] is None
        assert not [text for text in answer["texts"] if text["source"]]
        assert answer["next"] == ["person"]


def test_two_wishes_are_both_answered(url: str):
    answer = ask(url, "How can I cancel my order? And also I forgot my password.")
    assert set(answer["intents"]) == {"cancel_order", "recover_password"}
    assert len([text for text in answer["texts"] if text["source"]]) == 2


def test_items_keep_to_what_was_asked(url: str, finished: Path):
    items = pl.read_parquet(finished / "data/prepared/items.parquet").drop_nulls("price")
    answer = ask(url, "I am looking for a kettle under 200")
    assert answer["intent"] == "find_item"
    assert answer["items"]
    assert all(item["price"] <= 200 and item["why"] for item in answer["items"])
    seen = items.sort("price", descending=True)["item_id"][0]
    price = items.filter(item_id=seen)["price"].item()
    answer = ask(url, "something like this but cheaper", item_id=seen)
    assert answer["items"]
    assert all(item["price"] < price and item["item_id"] != seen for item in answer["items"])


def test_purchases_are_shown_to_whom_they_belong(url: str, finished: Path):
    histories = pl.read_parquet(finished / "data/prepared/histories.parquet").filter(pl.col("actions").list.contains(4))
    user, other = histories["user_id"].head(2)
    soon = int(time.time()) + 60
    mine = ask(url, "where is my order", user_id=user, proof=proof_of(SECRET, user, soon))
    assert mine["orders"]
    for proof in (
        proof_of(SECRET, other, soon),
        proof_of(b"guessed", user, soon),
        proof_of(SECRET, user, soon - 120),
        "x",
        ".",
        f"{soon}.é",
    ):
        assert ask(url, "where is my order", user_id=user, proof=proof)["orders"] == []
    assert "Sign in" in ask(url, "where is my order", user_id=user)["texts"][-1]["text"]


def test_a_person_takes_what_angers(url: str, checkout: Path):
    answer = ask(url, "THIS IS A SCAM, the cup arrived broken and nobody answers!!!", user_id="u000003")
    assert answer["person"]
    kept = [
        json.loads(line) for file in (checkout / ".events/handovers").glob("*.jsonl") for line in file.read_text().splitlines()
    ]
    [found] = [one for one in kept if one["handover_id"] == answer["handover_id"]]
    assert found["angry"]
    assert found["user_id"] == "u000003"
    assert "cup" in found["message"]


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_assist_does_as_its_openapi_document_says(url: str, mode: GenerationMode):
    fuzz(url, {"/assist"}, mode)


def test_a_question_about_an_item_becomes_an_event_of_the_shopper(url: str, checkout: Path, finished: Path):
    item = pl.read_parquet(finished / "data/prepared/items.parquet")["item_id"][0]
    ask(url, "does this come in blue", user_id="asker", item_id=item)
    ask(url, "does this come in blue", item_id=item)  # nobody's
    events = log.read(checkout / ".events", {})["events"].filter(event="question").collect()
    assert events.filter(user_id="asker").select("user_id", "item_id").rows() == [("asker", item)]
    answer = processes.ask(f"{url}/recommend", {"user_id": "asker", "k": 3})
    assert answer["fallback"] is None  # what they asked about says what they like


def test_the_chat_page_in_a_browser(url: str, tmp_path: Path, chromium):
    page = chromium.new_page(viewport={"width": 360, "height": 640}, locale="zh-CN")
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda told: errors.append(told.text) if told.type == "error" else None)
    page.goto(f"{url}/chat.html")
    assert page.title() == "联系客服"
    page.keyboard.type("怎么退货")  # the field has the focus
    page.keyboard.press("Enter")
    page.get_by_text("出自").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.select_option("#language", "en")
    page.fill("#message", "<b>what</b> is the capital of France")
    page.keyboard.press("Enter")
    button = page.get_by_role("button", name="Talk to a person")
    button.wait_for()
    assert page.locator(".own b").count() == 0  # what is written stays text
    button.focus()
    page.keyboard.press("Enter")
    page.get_by_text("Handed over as").wait_for()
    page.screenshot(path=tmp_path / "chat.png")
    assert errors == []
