"""The served bento over real HTTP: answers, refusals, and a swap under load."""

import json
import shutil
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from deploy.platform import processes, server
from deploy.promotion.environments import Environment
from tests.conftest import ROOT
from tests.deploy.test_environments import bento

pytestmark = pytest.mark.e2e


def with_production(folder: Path, finished: Path) -> Path:
    """A checkout whose production environment has a bento."""
    (folder / "deploy/environments").mkdir(parents=True)
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, folder)
    Environment(folder, "production").promote(bento(finished, folder / "v1", "v1"), who="t", why="first")
    return folder


@pytest.fixture(scope="module")
def checkout(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_production(tmp_path_factory.mktemp("checkout"), finished)


@pytest.fixture(scope="module")
def url(checkout: Path):
    with server.served(checkout, "production", processes.free_port()) as (served, _, _):
        yield served


@pytest.fixture(scope="module")
def ids(finished: Path) -> list[str]:
    return [i.decode() for i in np.load(finished / "artefact/item_ids.npy").tolist()]


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


def test_a_known_shopper(url: str):
    status, answer = post(f"{url}/recommend", {"user_id": "u000001", "k": 5})
    assert status == 200
    assert len(answer["items"]) == 5
    assert answer["fallback"] is None
    assert answer["model_version"] == "v1"
    assert all(item["title"] and item["score"] for item in answer["items"])


@pytest.mark.parametrize(
    ("body", "fallback"),
    [
        ({"user_id": "nobody"}, "popular"),
        ({"history": []}, "popular"),
        ({"history": ["nope"]}, "popular"),
        ({}, "popular"),
        ({"user_id": "nobody", "context": {"platform": "web"}}, "popular on web"),
    ],
)
def test_the_unknown_get_what_is_popular(url: str, body: dict, fallback: str):
    status, answer = post(f"{url}/recommend", body | {"k": 3})
    assert status == 200
    assert len(answer["items"]) == 3
    assert answer["fallback"] == fallback


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
    try:
        status, _ = post(f"{url}/recommend", None, b'{"user_id": "' + b"x" * 3_000_000 + b'"}')
    except urllib.error.URLError:  # the server may close the connection before all is sent
        return
    assert status == 413


def test_filters_that_leave_nothing_answer_an_empty_list(url: str, ids: list[str]):
    status, answer = post(f"{url}/recommend", {"history": ids[:2], "filters": {"price_max": 0}})
    assert (status, answer["items"]) == (200, [])


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
    assert {"/recommend", "/similar", "/version"} <= set(paths)


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
    production.promote(bento(finished, checkout / "v2", "v2"), who="t", why="second")
    assert eventually(lambda: seen[-20:] == ["v2"] * 20)
    production.rollback(who="t", why="third")
    assert eventually(lambda: seen[-20:] == ["v1"] * 20)
    stop.set()
    for thread in threads:
        thread.join()
    assert not failed


def test_a_damaged_promotion_is_not_swapped_in(url: str, checkout: Path, finished: Path):
    production = Environment(checkout, "production")
    broken = bento(finished, production.store / "bentos" / "v3", "v3")
    (broken / "src/artefact/model.onnx").write_bytes(b"not a model")
    partial = production.store / ".test"
    partial.symlink_to("bentos/v3")
    partial.replace(production.link)
    assert eventually(lambda: "staying with v1" in (production.store / "serve.log").read_text())
    assert post(f"{url}/recommend", {"user_id": "u000001"})[1]["model_version"] == "v1"


def eventually(true, seconds: float = 30) -> bool:
    import time

    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if true():
            return True
        time.sleep(0.2)
    return False


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
