"""The served bento over real HTTP: answers, refusals, and a swap under load."""

import http.client
import json
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from contextlib import chdir
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from schemathesis import GenerationMode
from typer.testing import CliRunner

from deploy.cli import app
from deploy.platform import doors, processes, server
from deploy.promotion.environments import Environment
from deploy.serving.artefact import code_digest, version_of
from deploy.serving.catalogue import Ids
from online import log
from tests.conftest import ROOT, eventually
from tests.deploy.test_environments import bento
from tests.e2e.fuzzing import fuzz

pytestmark = pytest.mark.e2e
ROUTES = {
    "/consent",
    "/events",
    "/items",
    "/search",
    "/trending",
    "/recommend",
    "/similar",
    "/decide",
    "/score",
    "/score_encrypted",
    "/bid",
    "/audience",
    "/version",
}


def with_production(folder: Path, finished: Path) -> Path:
    """A checkout whose production environment has a bento."""
    (folder / "deploy/environments").mkdir(parents=True)
    shutil.copy(ROOT / "dvc.yaml", folder)
    params = (
        (ROOT / "params.yaml").read_text().replace("master_key: null", "master_key: master.key")
    )  # not in the home of who tests
    (folder / "params.yaml").write_text(params)
    Environment(folder, "production").promote(bento(finished, folder / "v1", "v1"), who="t", why="first")
    return folder


@pytest.fixture(scope="module")
def checkout(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_production(tmp_path_factory.mktemp("checkout"), finished)


@pytest.fixture(scope="module")
def url(checkout: Path):
    with chdir(checkout), server.served(checkout, "production", processes.free_port()) as (served, _, _):
        yield served


@pytest.fixture(scope="module")
def ids(finished: Path) -> list[str]:
    return Ids(finished / "artefact", "item_ids")[np.arange(50)]


def post(url: str, body: object, raw: bytes | None = None) -> tuple[int, dict]:
    data = raw if raw is not None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return answer.read().decode()


def test_a_known_shopper(url: str, checkout: Path):
    status, answer = post(f"{url}/recommend", {"user_id": "u000001", "k": 5})
    assert status == 200
    assert len(answer["items"]) == 5
    assert answer["fallback"] is None
    assert answer["model_version"] == Environment(checkout, "production").entries()["current"]["version"]
    assert all(item["title"] and item["score"] for item in answer["items"])


@pytest.mark.parametrize(
    ("body", "scope"),
    [
        ({"user_id": "nobody"}, "all"),
        ({"history": []}, "all"),
        ({"history": ["nope"]}, "all"),
        ({}, "all"),
        ({"user_id": "nobody", "context": {"platform": "web"}}, "platform:web"),
    ],
)
def test_the_unknown_get_what_is_popular(url: str, body: dict, scope: str):
    status, answer = post(f"{url}/recommend", body | {"k": 3})
    assert status == 200
    assert len(answer["items"]) == 3
    assert (answer["fallback"], answer["scope"]) == ("popular", scope)


@pytest.mark.parametrize(
    "body",
    [{"k": 0}, {"k": -1}, {"k": 101}, {"k": 10**9}, {"k": "ten"}, {"k": 1.5}, {"history": "i1"}, {"history": [1]}, {"user_id": 5},
     {"user_id": "x" * 10_000}, {"filters": {"colour": "red"}}, {"filters": []}, {"kk": 3}, [], "text", None, 3,
     {"history": ["x"] * 20_000}, {"filters": {"price_min": "cheap"}}, {"context": {"item_id": {}}}],
)  # fmt: skip
def test_wrong_requests_are_refused_clearly(url: str, body: object):
    status, answer = post(f"{url}/recommend", body)
    assert 400 <= status < 500
    assert answer


@pytest.mark.parametrize("raw", [b"{", b"\xff\xfe", b"{'k': 3}", b"[" * 10_000, b'{"k": NaN}', b'{"user_id": "\\ud800"}'])
def test_what_is_no_json_is_refused(url: str, raw: bytes):
    assert 400 <= post(f"{url}/recommend", None, raw)[0] < 500


def test_a_huge_body_is_refused(url: str):
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        head = f"POST /recommend HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: 3000000\r\n\r\n"
        connection.sendall(head.encode())  # refused by what it declares, before a byte of the body is sent
        assert connection.recv(4096).startswith(b"HTTP/1.1 413")
    chunks = b"".join(b"%x\r\n%s\r\n" % (1 << 16, b"x" * (1 << 16)) for _ in range(17)) + b"0\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        head = f"POST /recommend HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head.encode() + chunks)
        assert connection.recv(4096).startswith(b"HTTP/1.1 413")


def test_filters_that_leave_nothing_answer_an_empty_list(url: str, ids: list[str]):
    status, answer = post(f"{url}/recommend", {"history": ids[:2], "filters": {"price_max": 0}})
    assert (status, answer["items"]) == (200, [])


def test_an_event_changes_the_next_answer_of_every_worker_and_is_kept(url: str, checkout: Path, ids: list[str]):
    user = "somebody new"
    assert post(f"{url}/recommend", {"user_id": user})[1]["fallback"] == "popular"
    seen = {"event_id": "e2e-1", "user_id": user, "item_id": ids[3], "event": "view"}
    wrong = seen | {"event_id": "e2e-2", "event": "stare"}
    status, answer = post(f"{url}/events", {"events": [seen, wrong]})
    assert (status, answer["accepted"], answer["repeated"], [r["row"] for r in answer["refused"]]) == (202, 1, 0, [1])
    answers = [post(f"{url}/recommend", {"user_id": user, "k": 5})[1] for _ in range(20)]
    assert all(a["fallback"] is None and a["items"] == answers[0]["items"] for a in answers)
    assert post(f"{url}/events", {"events": [seen]})[1]["repeated"] == 1
    post(
        f"{url}/events",
        {"events": [seen | {"event_id": "e2e-3", "item_id": answers[0]["items"][0]["item_id"], "event": "purchase"}]},
    )
    bought = answers[0]["items"][0]["item_id"]
    assert all(bought not in {i["item_id"] for i in post(f"{url}/recommend", {"user_id": user})[1]["items"]} for _ in range(10))
    kept = [e["event_id"] for path in log.files(checkout / ".events/log") for e, _ in log.read(path)]
    assert sorted(e for e in kept if e.startswith("e2e-")) == ["e2e-1", "e2e-3"]  # a file a worker


def test_who_does_not_consent_is_answered_from_the_context_alone(url: str, checkout: Path, ids: list[str]):
    signed_in = {"event_id": "e2e-sign-in", "user_id": "u000002", "visitor_id": "their-browser", "event": "sign_in"}
    assert post(f"{url}/events", {"events": [signed_in]})[0] == 202
    assert post(f"{url}/recommend", {"user_id": "u000002"})[1]["withheld"] == []
    assert post(f"{url}/consent", {"user_id": "u000002", "history": False}) == (200, {"history": False, "links": None})
    assert post(f"{url}/recommend", {"visitor_id": "their-browser"})[1]["withheld"] == ["history"], "it is they"
    for _ in range(10):  # every worker knows
        _, answer = post(f"{url}/recommend", {"user_id": "u000002"})
        assert (answer["fallback"], answer["withheld"], answer["repeats"]) == ("popular", ["history"], [])
    _, beside = post(f"{url}/recommend", {"user_id": "u000002", "context": {"item_id": ids[3]}})
    assert (beside["fallback"], beside["withheld"]) == (None, ["history"])
    assert "consent" in post(f"{url}/decide", {"user_id": "u000002"})[1]["why"]
    assert post(f"{url}/consent", {"user_id": "u000002", "history": True})[0] == 200
    assert post(f"{url}/recommend", {"user_id": "u000002"})[1]["withheld"] == []
    assert post(f"{url}/consent", {"history": True})[0] == 400
    assert post(f"{url}/consent", {"user_id": "u000002"})[0] == 400
    assert post(f"{url}/consent", {"user_id": "u000002", "links": False}) == (200, {"history": None, "links": False})


def test_what_to_send_now_is_decided_or_why_not(url: str, finished: Path):
    offers = pl.read_parquet(finished / "data/uplift/offers.parquet")
    at = {"context": {"at": "2026-01-31T04:00:00Z"}}  # noon in most of the small shop's homes
    answers = [post(f"{url}/decide", at | {"user_id": user}) for user in offers["user_id"].unique().sort().head(30)]
    assert {status for status, _ in answers} == {200}
    for _, answer in answers:
        assert (answer["item"] is None) == (answer["why"] is not None)
        if answer["item"]:
            assert answer["worth"] > 0
    assert post(f"{url}/score", {"offers": [{"user_id": "u000001", "item_id": "nope", "channel": "sms"}]})[1]["scores"] == [None]
    assert post(f"{url}/decide", {"user_id": "nobody"})[1]["why"]
    assert 400 <= post(f"{url}/decide", {})[0] < 500
    some = offers.head(5).select("user_id", "item_id", "channel").to_dicts()
    status, scored = post(f"{url}/score", {"offers": some})
    assert (status, len(scored["scores"])) == (200, len(some))


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["as it allows", "as it forbids"])
def test_routes_do_as_their_openapi_document_says(url: str, mode: GenerationMode):
    """What the document allows is answered as it says, or refused with a reason; what it forbids is refused."""
    fuzz(url, ROUTES, mode)


def test_answers_say_why_on_the_swagger_page_in_two_languages(url: str, checkout: Path, request: pytest.FixtureRequest):
    status, answer = post(f"{url}/recommend", {"user_id": "u000001", "k": 5, "explain": True})
    assert status == 200
    assert all(item["reasons"] and item["because"]["en"].startswith("Because you ") for item in answer["items"])
    assert all("reasons" not in item for item in post(f"{url}/recommend", {"user_id": "u000001"})[1]["items"])
    page = request.getfixturevalue("chromium").new_page(viewport={"width": 1200, "height": 1600})
    page.goto(url)
    route = page.locator("div.opblock", has=page.locator("[data-path='/recommend']"))
    route.locator(".opblock-summary").click()
    route.get_by_role("button", name="Try it out").click()
    route.locator("textarea").fill(json.dumps({"user_id": "u000001", "k": 2, "explain": True}))
    route.get_by_role("button", name="Execute").click()
    told = route.locator(".live-responses-table .highlight-code").first
    told.wait_for(timeout=10_000)
    page.screenshot(path=str(checkout / "swagger.png"), full_page=True)
    assert "Because you" in told.inner_text()
    assert "因为您" in told.inner_text()


def test_similar(url: str, ids: list[str]):
    status, answer = post(f"{url}/similar", {"item_id": ids[0], "k": 4})
    assert status == 200
    assert len(answer["items"]) == 4
    assert post(f"{url}/similar", {"item_id": "nope"})[0] == 404


def test_health_metrics_and_openapi(url: str):
    for path in ("/livez", "/readyz"):
        get(url + path)
    post(f"{url}/recommend", {"user_id": "nobody"})
    assert "pushcart_answers_total" in get(f"{url}/metrics")
    paths = json.loads(get(f"{url}/docs.json"))["paths"]
    assert set(paths) >= ROUTES


def test_requests_at_once_with_different_filters_do_not_mix(url: str, ids: list[str]):
    wrong = []

    def ask(category: str) -> None:
        for _ in range(25):
            _, answer = post(f"{url}/recommend", {"history": ids[:3], "k": 5, "filters": {"category": category}})
            wrong.extend(i for i in answer["items"] if not i["category"].startswith(category))

    threads = [threading.Thread(target=ask, args=(c,)) for c in ("kitchen", "digital", "fashion", "toys")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_promotion_and_rollback_swap_without_a_failed_request(url: str, checkout: Path, finished: Path):
    production = Environment(checkout, "production")
    seen, failed, stop = [], [], threading.Event()

    def ask() -> None:
        while not stop.is_set():
            status, answer = post(f"{url}/recommend", {"user_id": "u000001"})
            (seen if status == 200 else failed).append(answer["model_version"] if status == 200 else status)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    first = production.entries()["current"]["version"]
    second = production.promote(bento(finished, checkout / "v2", "v2"), who="t", why="second")["version"]
    assert eventually(lambda: seen[-20:] == [second] * 20)
    production.rollback(who="t", why="third")
    assert eventually(lambda: seen[-20:] == [first] * 20)
    stop.set()
    for thread in threads:
        thread.join()
    assert not failed


def test_a_damaged_promotion_is_not_swapped_in_and_is_once_it_is_mended(url: str, checkout: Path, finished: Path):
    production = Environment(checkout, "production")
    before = production.entries()["current"]["version"]
    made = bento(finished, checkout / "v3", "v3")
    version = production.promote(made, who="t", why="damaged afterwards")["version"]
    model = production.bento(version) / "src/artefact/model.onnx"
    production.rollback(who="t", why="to damage it")
    assert eventually(lambda: post(f"{url}/version", {})[1]["version"] == before)
    production.promote(production.bento(version), who="t", why="again", force=True)
    whole = model.read_bytes()
    model.write_bytes(b"not a model")
    swapped = post(f"{url}/version", {})[1]["version"] == version  # one worker was faster than the damage
    if not swapped:
        told = []  # by whichever worker answers
        assert eventually(lambda: told.append(post(f"{url}/version", {})[1]["problem"] or "") or "sha256 differs" in told[-1])
        assert str(checkout) not in told[-1]
        assert post(f"{url}/recommend", {"user_id": "u000001"})[1]["model_version"] == before
        status = CliRunner().invoke(app, ["status", "production"]).output
        assert f"answers with {before}, not with what is promoted" in status
    model.write_bytes(whole)
    assert eventually(lambda: f"answers with {version}\n" in CliRunner().invoke(app, ["status", "production"]).output)
    production.rollback(who="t", why="as it was")


def test_version_tells_no_paths(url: str, checkout: Path):
    assert str(checkout) not in json.dumps(post(f"{url}/version", {})[1])
    assert "/" not in post(f"{url}/version", {})[1]["data"]["source"]


def test_a_fix_of_the_serving_code_is_served_by_new_code(url: str, checkout: Path, finished: Path):
    production = Environment(checkout, "production")
    fixed = bento(finished, checkout / "v4", "v4")
    code = fixed / "src/deploy/serving/recommender.py"
    code.write_text(code.read_text().replace('{"item_id": i, "score": round(score, 6)}', '{"item_id": i, "score": 42.0}'))
    path = fixed / "src/artefact/manifest.json"
    manifest = json.loads(path.read_text()) | {"serving_sha256": code_digest(code.parents[2])}
    path.write_text(json.dumps(manifest | {"version": version_of(manifest)}))
    version = production.promote(fixed, who="t", why="the fix")["version"]
    failed, stop = [], threading.Event()

    def ask() -> None:
        while not stop.is_set():
            status, _ = post(f"{url}/recommend", {"user_id": "u000001"})
            failed.extend([status] if status != 200 else [])

    thread = threading.Thread(target=ask)
    thread.start()

    def fixed_everywhere() -> bool:
        answers = [post(f"{url}/recommend", {"user_id": "u000001"})[1] for _ in range(20)]
        return all(a["model_version"] == version and a["items"][0]["score"] == 42.0 for a in answers)

    assert eventually(fixed_everywhere, 60)
    stop.set()
    thread.join()
    assert not failed


def test_a_service_manager_stops_all_of_it(finished: Path, tmp_path: Path):
    checkout, port = with_production(tmp_path / "checkout", finished), processes.free_port()
    command = [str(Path(sys.executable).parent / "pushcart"), "serve", "production", "--port", str(port)]
    # A shell without job control starts what it puts in the background with SIGINT ignored.
    ignoring = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *command]
    for sign in (signal.SIGTERM, signal.SIGINT):
        with subprocess.Popen(ignoring, cwd=checkout, stdout=subprocess.PIPE, text=True) as serving:
            assert f":{port} serves production" in serving.stdout.readline()
            assert post(f"http://127.0.0.1:{port}/recommend", {"user_id": "u000001"})[0] == 200
            serving.send_signal(sign)
            assert serving.wait(40) == 0
        with pytest.raises(urllib.error.URLError):
            get(f"http://127.0.0.1:{port}/livez")


def test_keys_certificates_and_pseudonyms_over_the_wire(finished: Path, tmp_path: Path):
    folder = with_production(tmp_path / "checkout", finished)
    params = (
        (folder / "params.yaml")
        .read_text()
        .replace("access: null", "access: .keys")
        .replace("pseudonyms: false", "pseudonyms: true")
    )
    (folder / "params.yaml").write_text(params)
    doors.make_certificates(folder / ".certs", ["127.0.0.1"])
    key = doors.add_key(folder / ".keys", "site", ["answers", "events"], days=1)
    trusted = ssl.create_default_context(cafile=str(folder / ".certs/ca.pem"))

    def ask(path: str, body: dict, key: str | None, context: ssl.SSLContext) -> tuple[int, dict]:
        headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
        request = urllib.request.Request(url + path, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=10, context=context) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    with server.served(folder, "production", processes.free_port(), certificates=folder / ".certs") as (url, _, _):
        assert url.startswith("https://")
        assert ask("/recommend", {"user_id": "u000001"}, key, trusted)[0] == 200
        assert ask("/recommend", {"user_id": "u000001"}, None, trusted)[0] == 401
        assert ask("/audience", {"condition": "1 = 1"}, key, trusted)[0] == 401
        with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
            ask("/recommend", {}, key, ssl.create_default_context())
        with pytest.raises((urllib.error.URLError, ConnectionError, http.client.HTTPException)):
            urllib.request.urlopen(url.replace("https:", "http:") + "/livez", timeout=5)
        event = {"event_id": "w1", "user_id": "alice", "visitor_id": "her telephone", "event": "view", "item_id": "sku00051"}
        assert ask("/events", {"events": [event]}, key, trusted) == (
            202,
            {"accepted": 1, "late": 0, "repeated": 0, "refused": []},
        )
        assert ask("/recommend", {"user_id": "alice"}, key, trusted)[1]["fallback"] is None  # known by what she just did
        with chdir(folder):
            assert CliRunner().invoke(app, ["forget", "alice", "--later"]).exit_code == 0
        refused = ask("/events", {"events": [event | {"event_id": "w2"}]}, key, trusted)[1]["refused"]
        assert [one["reason"] for one in refused] == ["the shopper asked to be forgotten"]
    content = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file() and ".vault" not in path.parts)
    assert not any(word in content for word in (b"alice", b"her telephone"))
