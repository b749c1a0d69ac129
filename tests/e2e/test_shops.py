"""Several shops on one server, and a shop's pages in a real browser: no shop sees another's events, and what a page tells arrives once."""

import http.client
import http.server
import json
import shutil
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml
from confluent_kafka import Producer

from deploy.platform import processes, server
from deploy.promotion.environments import Environment
from deploy.serving.catalogue import Ids
from pipelines.data.sources import log
from tests.conftest import ROOT, eventually
from tests.deploy.test_environments import bento

pytestmark = pytest.mark.e2e
TEA, COFFEE = "/shops/tea", "/shops/coffee"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A shop's own web server: its origin and the folder of its pages."""
    folder = tmp_path_factory.mktemp("pages")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    serving = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{serving.server_port}", folder
    serving.shutdown()


@pytest.fixture(scope="module")
def checkout(finished: Path, pages: tuple[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shops with models of their own."""
    folder = tmp_path_factory.mktemp("checkout")
    (folder / "deploy/environments").mkdir(parents=True)
    shutil.copy(ROOT / "dvc.yaml", folder)
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    own = params["shops"]["shop"]
    params["environments"] = ["production", "coffee"]
    params["shops"] = {
        "tea": own | {"events": ".events/tea", "keys": ["leaf"], "origins": [pages[0]], "rate": 20.0},
        "coffee": own | {"events": ".events/coffee", "environment": "coffee"},
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    for environment, version in (("production", "v1"), ("coffee", "v2")):
        Environment(folder, environment).promote(bento(finished, folder / version, version), who="t", why="first")
    return folder


@pytest.fixture(scope="module")
def url(checkout: Path) -> Iterator[str]:
    with server.served(checkout, "production", processes.free_port()) as (served, _, _):
        yield served


@pytest.fixture(scope="module")
def ids(finished: Path) -> list[str]:
    return Ids(finished / "artefact", "item_ids")[np.arange(50)]


def ask(url: str, body: object = None, **headers: str) -> tuple[int, dict, dict]:
    data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"} | headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.loads(answer.read() or b"{}"), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read() or b"{}"), dict(error.headers)


def event(number: str, user: str, item: str) -> dict:
    return {"event_id": number, "user_id": user, "event": "view", "item_id": item}


def test_shops_see_nothing_of_each_other(url: str, checkout: Path, ids: list[str]):
    assert {shop: ask(f"{url}{shop}/version", {})[1]["version"] for shop in ("", TEA, COFFEE)} == {
        "": ask(f"{url}/version", {})[1]["version"],
        TEA: ask(f"{url}/version", {})[1]["version"],
        COFFEE: Environment(checkout, "coffee").entries()["current"]["version"],
    }
    assert ask(f"{url}{TEA}/version", {})[1]["version"] != ask(f"{url}{COFFEE}/version", {})[1]["version"]
    assert ask(f"{url}/shops/milk/version", {})[0] == 404
    assert ask(f"{url}{COFFEE}/events", {"events": [event("1", "both", ids[0])]})[1]["accepted"] == 1
    assert ask(f"{url}{COFFEE}/items", {"items": [{"item_id": ids[5], "blocked": True}]})[1]["accepted"] == 1
    time.sleep(0.2)

    def answered(shop: str, **asked: object) -> dict:
        return ask(f"{url}{shop}/recommend", {"k": 100, **asked})[1]

    assert (answered(COFFEE, user_id="both")["fallback"], answered(TEA, user_id="both")["fallback"]) == (None, "popular")
    assert [ids[5] in {i["item_id"] for i in answered(shop)["items"]} for shop in (TEA, COFFEE, "")] == [True, False, True]
    keyed = {"X-Write-Key": "leaf"}
    assert (
        ask(f"{url}{TEA}/events", {"events": [event("1", "both", ids[1]), event("2", "b", ids[1])]}, **keyed)[1]["accepted"] == 2
    )
    found = {shop: set(log.read(checkout / ".events" / shop, {})["events"].collect()["event_id"]) for shop in ("tea", "coffee")}
    assert found == {"tea": {"1", "2"}, "coffee": {"1"}}


def test_who_may_send(url: str, ids: list[str], pages: tuple[str, Path]):
    rows = {"events": [event("k", "u", ids[0])]}
    assert ask(f"{url}{TEA}/events", rows)[0] == 403
    assert ask(f"{url}{TEA}/events?key=wrong", rows)[0] == 403
    assert ask(f"{url}{TEA}/events?key=leaf", rows, Origin="https://elsewhere.example")[0] == 403
    status, answer, headers = ask(
        f"{url}{TEA}/events?key=leaf", json.dumps(rows).encode(), Origin=pages[0], **{"Content-Type": "text/plain"}
    )
    assert (status, answer["accepted"], headers["access-control-allow-origin"]) == (202, 1, pages[0])
    assert ask(f"{url}{TEA}/items", {"items": []}, Origin=pages[0])[0] == 403  # pages send events, and nothing else
    assert ask(f"{url}{TEA}/recommend", {"k": 1}, Origin=url)[0] == 200  # but for the server's own
    connection = http.client.HTTPConnection(url.removeprefix("http://"))
    connection.request("OPTIONS", f"{TEA}/events", headers={"Origin": pages[0], "Access-Control-Request-Method": "POST"})
    preflight = connection.getresponse()
    assert (preflight.status, preflight.getheader("access-control-allow-methods")) == (204, "POST")
    codes = {ask(f"{url}{TEA}/events?key=leaf", rows, Origin=pages[0])[0] for _ in range(400)}
    assert codes == {202, 429}
    assert ask(f"{url}{TEA}/events?key=leaf", rows)[0] == 202  # the shop's own servers are not pages


def test_a_search_is_answered_to_get_too_and_becomes_an_event(url: str, checkout: Path):
    status, found, _ = ask(f"{url}{COFFEE}/search?q=headphones&k=3&user_id=seeker&price_max=100000")
    assert status == 200
    assert all("headphones" in item["title"] for item in found["items"])
    assert ask(f"{url}{COFFEE}/search", {"q": "headphones", "k": 3})[1]["items"] == found["items"]
    [row] = log.read(checkout / ".events/coffee", {})["events"].collect().filter(user_id="seeker").iter_rows(named=True)
    assert (row["event"], row["query"], row["request_id"]) == ("search", "headphones", found["request_id"])
    assert ask(f"{url}{COFFEE}/search?k=3")[0] == 400
    assert ask(f"{url}{COFFEE}/search?q=a&nothing=b")[0] == 400


def test_events_by_kafka_change_answers_that_read_redis(
    finished: Path, brokers: str, redis_url: str, ids: list[str], tmp_path: Path
):
    (tmp_path / "deploy/environments").mkdir(parents=True)
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    own = params["shops"]["shop"] | {"state": redis_url, "kafka": {"brokers": brokers, "topic": "live"}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params | {"shops": {"tea": own}}))
    Environment(tmp_path, "production").promote(bento(finished, tmp_path / "v1", "v1"), who="t", why="first")
    producer = Producer({"bootstrap.servers": brokers, "log_level": 0})
    with server.served(tmp_path, "production", processes.free_port()) as (url, _, _):
        for sent in range(2):  # the topic is there before it is read
            for number in range(100 * sent, 100 * sent + 100):
                producer.produce("live", json.dumps(event(f"k{number}", f"by kafka {sent}", ids[number % 50])))
            assert producer.flush(30) == 0
            with server.gathering(tmp_path, "tea", own) as running:
                assert set(running) == {"tea's rolling", "tea's learning", "tea's Kafka"}
                asked = {"user_id": f"by kafka {sent}", "k": 5}
                assert eventually(lambda asked=asked: ask(f"{url}/recommend", asked)[1]["fallback"] is None)
                came = 100 * sent + 100  # not all of them may have come with the first
                assert eventually(lambda came=came: len(log.read(tmp_path / ".events", {})["events"].collect()) == came)
                assert ask(f"{url}/events", {"events": [event("k1", "by kafka 0", ids[1])]})[1]["repeated"] == 1
                assert all(one.poll() is None for one, _ in running.values())
    events = log.read(tmp_path / ".events", {})["events"].collect()
    assert sorted(events["event_id"]) == sorted(f"k{n}" for n in range(200))


PAGE = """<!doctype html><meta charset="utf-8"><title>{item}</title>
<script src="{url}{shop}/pushcart.js" data-key="leaf" {who} data-platform="web" defer></script>
<main data-pushcart-view="{item}">{item}</main>
<ul data-pushcart-request="r1"><li data-pushcart-item="{other}"><a href="{other}.html">next</a></li></ul>
<button onclick="pushcart('cart', '{item}', {{quantity: 2}})">cart</button>"""


def test_what_a_page_tells_arrives_once_also_when_it_is_left_or_offline(
    url: str, checkout: Path, ids: list[str], pages: tuple[str, Path], chromium
):
    origin, folder = pages
    first, second = ids[10], ids[11]
    for item, other in ((first, second), (second, first)):
        (folder / f"{item}.html").write_text(PAGE.format(url=url, shop=TEA, item=item, other=other, who='data-visitor="guest"'))
    (folder / "in.html").write_text(
        PAGE.format(url=url, shop=TEA, item=ids[12], other=first, who='data-visitor="guest" data-user="ann"')
    )
    (folder / "out.html").write_text("left")

    def rows() -> list[dict]:
        found = log.read(checkout / ".events/tea", {})["events"].collect().filter(platform="web").sort("timestamp")
        return found.to_dicts()

    time.sleep(6)  # what another test used of the rate comes back
    context = chromium.new_context()
    page, wrong = context.new_page(), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(f"{origin}/{first}.html")
    page.wait_for_timeout(700)
    page.click("button")
    page.click("a")  # to the second page
    assert eventually(
        lambda: (
            {(r["event"], r["item_id"]) for r in rows()}
            >= {("view", first), ("cart", first), ("click", second), ("view", second)}
        )
    )
    context.set_offline(True)
    page.evaluate(f"pushcart('favourite', '{second}')")
    page.wait_for_timeout(300)
    assert not [r for r in rows() if r["event"] == "favourite"]
    context.set_offline(False)
    assert eventually(lambda: [r for r in rows() if r["event"] == "favourite"])
    page.goto(f"{origin}/in.html")
    page.wait_for_timeout(400)
    page.goto(f"{origin}/out.html")
    page.wait_for_timeout(400)
    assert context.cookies() == []
    found = rows()
    assert not wrong
    assert [(r["event"], r["item_id"]) for r in found] == [
        ("view", first), ("cart", first), ("click", second), ("view", second), ("favourite", second), ("view", ids[12])
    ]  # fmt: skip
    assert {r["user_id"] for r in found} == {"ann"}  # she signed in where the guest was
    views = {r["item_id"]: r["duration"] for r in found if r["event"] == "view"}
    assert 0.6 < views[first] < 5
    assert all(duration > 0.2 for duration in views.values())
    [click] = [r for r in found if r["event"] == "click"]
    assert click["request_id"] == "r1"
    [cart] = [r for r in found if r["event"] == "cart"]
    assert cart["quantity"] == 2
    assert (ROOT / "deploy/serving/pushcart.js").stat().st_size < 3072
