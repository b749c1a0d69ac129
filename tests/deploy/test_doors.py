"""Who is let in: keys with scopes and an end, certificates of an authority of the checkout; and one sentence where somebody is not."""

import json
import re
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from typer.testing import CliRunner

from deploy.cli import app
from deploy.platform import doors, server
from deploy.platform.processes import PlatformError
from deploy.promotion.environments import Environment
from deploy.serving import edge, shops
from deploy.serving.access import ROUTES, SCOPES, AccessError, Keys
from deploy.serving.edge import Edge
from tests.conftest import ROOT


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A function that makes a client of an edge whose shop has these settings."""

    def make(**told: object) -> TestClient:
        async def answer(request):
            return PlainTextResponse("answered")

        monkeypatch.setattr(edge, "settings", lambda: {"shop": shops.Settings(**told)})
        inner = Starlette()
        inner.add_route("/{path:path}", answer, methods=["GET", "POST"])
        return TestClient(Edge(inner))

    return make


def test_a_key_opens_what_it_is_for_and_nothing_else(client, tmp_path: Path):
    file = tmp_path / "keys"
    key = doors.add_key(file, "site", ["answers", "events"], days=None)
    assert key not in file.read_text()
    assert file.stat().st_mode & 0o077 == 0
    asked = client(access=str(file))
    bearer = {"authorization": f"Bearer {key}"}
    assert asked.post("/recommend", headers=bearer).status_code == 200
    assert asked.post("/events", headers={"x-api-key": key}).status_code == 200
    for path, headers in (
        ("/audience", bearer),
        ("/decide", bearer),
        ("/items", bearer),
        ("/recommend", {}),
        ("/recommend", {"x-api-key": "guess"}),
        ("/metrics", {}),
        ("/shops/shop/recommend", {}),
    ):
        answer = asked.post(path, headers=headers)
        assert answer.status_code == 401, path
        assert "API key" in answer.json()["error"]
    for path in ("/livez", "/readyz", "/docs.json"):
        assert asked.get(path).status_code == 200
    doors.remove_key(file, "site")
    assert asked.post("/recommend", headers=bearer).status_code == 401  # from the next request on


def test_every_route_has_a_scope():
    named = set(re.findall(r'route="(/\w+)"', (ROOT / "deploy/serving/service.py").read_text(encoding="utf-8")))
    assert {path for path, scope in ROUTES.items() if scope in ("marketing", "events", "items")} <= named
    assert {ROUTES.get(path, "answers") for path in named} <= SCOPES.keys()


def test_a_key_is_rotated_and_ends(tmp_path: Path):
    file = tmp_path / "keys"
    old, new = (doors.add_key(file, "site", ["answers"], days=1) for _ in range(2))
    keys = Keys(file)
    assert (keys.allow(old, "/recommend"), keys.allow(new, "/recommend")) == (False, True)
    told = json.loads(file.read_text())
    told["site"]["until"] = (datetime.now(UTC).date() - timedelta(days=1)).isoformat()
    file.write_text(json.dumps(told))
    assert not Keys(file).allow(new, "/recommend")
    with pytest.raises(PlatformError, match="no scope everything"):
        doors.add_key(file, "site", ["everything"], days=1)


def test_a_key_asks_no_faster_than_its_rate(client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    now = [1000.0]
    monkeypatch.setattr(edge.time, "monotonic", lambda: now[0])
    file = tmp_path / "keys"
    slow, other = doors.add_key(file, "partner", ["answers"], rate=2.0), doors.add_key(file, "site", ["answers"])
    asked = client(access=str(file))

    def codes(key: str, count: int) -> list[int]:
        return [asked.post("/recommend", headers={"x-api-key": key}).status_code for _ in range(count)]

    assert codes(slow, 12) == [200] * 10 + [429] * 2, "five seconds' worth may come at once"
    assert codes(other, 12) == [200] * 12
    now[0] += 1
    assert codes(slow, 3) == [200, 200, 429]
    refused = asked.post("/recommend", headers={"x-api-key": slow})
    assert refused.headers["retry-after"] == "1"
    assert "2 requests a second by one key" in refused.json()["error"]


def test_a_page_sends_with_its_write_key_alone(client, tmp_path: Path):
    file = tmp_path / "keys"
    doors.add_key(file, "site", ["answers"], days=None)
    asked = client(access=str(file), keys=["w1"])
    assert asked.post("/events", headers={"x-write-key": "w1"}).status_code == 200
    assert asked.post("/events").status_code == 403
    assert asked.post("/recommend", headers={"x-write-key": "w1"}).status_code == 401


def test_a_lost_file_lets_nobody_in(client, tmp_path: Path):
    file = tmp_path / "keys"
    key = doors.add_key(file, "site", ["answers"], days=None)
    asked = client(access=str(file))
    file.unlink()
    answer = asked.post("/recommend", headers={"x-api-key": key})
    assert answer.status_code == 503
    assert str(tmp_path) not in answer.text
    with pytest.raises(AccessError, match="cannot be read"):
        Keys(file)
    file.write_text("{}x")
    with pytest.raises(AccessError, match="no file of API keys"):
        Keys(file)


def test_beyond_this_machine_nothing_is_served_without_keys(checkout: Path):
    (Environment(checkout, "production").store).mkdir(parents=True)
    with pytest.raises(PlatformError, match=r"shops\.shop\.access"), server.served(checkout, "production", 1, "0.0.0.0"):
        pass
    assert [server.is_loopback(h) for h in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "10.0.0.7")] == [
        True,
        True,
        True,
        False,
        False,
    ]


def test_a_certificate_is_trusted_through_the_authority_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    doors.make_certificates(tmp_path, ["shop.example", "127.0.0.1"])
    authority = (tmp_path / "ca.pem").read_bytes()
    doors.make_certificates(tmp_path, ["shop.example"])
    assert (tmp_path / "ca.pem").read_bytes() == authority  # clients need not be told again
    for name in ("ca.key", "server.key"):
        assert (tmp_path / name).stat().st_mode & 0o077 == 0
    ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    doors.check_certificate(tmp_path)
    monkeypatch.setattr(doors, "SERVER", timedelta(minutes=1))
    doors.make_certificates(tmp_path, ["shop.example"])
    with pytest.raises(PlatformError, match="held until"):
        doors.check_certificate(tmp_path)
    (tmp_path / "server.pem").unlink()
    with pytest.raises(PlatformError, match="pushcart certs"):
        doors.check_certificate(tmp_path)


def test_the_command_line_makes_lists_and_removes_keys(checkout: Path):
    params = checkout / "params.yaml"
    assert "access names no file" in CliRunner().invoke(app, ["key", "list"]).output
    params.write_text(params.read_text().replace("access: null", "access: .keys"))
    key = CliRunner().invoke(app, ["key", "add", "site", "--scope", "answers", "--days", "30"]).output.strip()
    assert Keys(checkout / ".keys").allow(key, "/recommend")
    assert "site: answers, until" in CliRunner().invoke(app, ["key", "list"]).output
    assert "let in no more" in CliRunner().invoke(app, ["key", "remove", "site"]).output
    assert CliRunner().invoke(app, ["key", "remove", "site"]).exit_code == 1
