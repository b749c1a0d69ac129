"""A Redis server, a broker that speaks Kafka's protocol and a Chromium, on this machine, each in a process of its own."""

import shutil
from collections.abc import Iterator

import pytest

from benchmarks.online.servers import mock, redis_server


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a server on a socket of its own, which keeps nothing on disk."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed (Debian: redis-server)")
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server.url


@pytest.fixture(scope="session")
def brokers() -> Iterator[str]:
    with mock() as address:
        yield address


@pytest.fixture
def chromium() -> Iterator:
    """A browser (Playwright's Browser)."""
    sync = pytest.importorskip("playwright.sync_api")
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("chromium is not installed")
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()
