"""A Redis server and a broker that speaks Kafka's protocol, on this machine, each in a process of its own."""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

BROKER = """
import time
from confluent_kafka import Producer
broker = Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "none", "log_level": 0})
[address] = broker.list_topics(timeout=10).brokers.values()
print(f"{address.host}:{address.port}", flush=True)
time.sleep(1e6)
"""


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a server on a socket of its own, which keeps nothing on disk."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed (Debian: redis-server)")
    folder = tmp_path_factory.mktemp("redis")
    with running(folder) as url:
        yield url


class running:
    """A Redis server in a folder; stop() and start() as a machine would lose it."""

    def __init__(self, folder: Path):
        self.socket = folder / "s"
        self._folder = folder

    def start(self) -> None:
        command = ["redis-server", "--port", "0", "--unixsocket", str(self.socket), "--save", "", "--dir", str(self._folder)]
        self._server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        client = redis.Redis(unix_socket_path=str(self.socket))
        for _ in range(100):
            try:
                client.ping()
                return
            except redis.ConnectionError:
                time.sleep(0.05)
        raise TimeoutError("redis-server does not answer")

    def stop(self) -> None:
        self._server.kill()
        self._server.wait()

    def __enter__(self) -> str:
        self.start()
        return f"unix://{self.socket}"

    def __exit__(self, *_: object) -> None:
        self.stop()


@pytest.fixture(scope="session")
def brokers() -> Iterator[str]:
    running = subprocess.Popen([sys.executable, "-c", BROKER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    yield running.stdout.readline().strip()
    running.kill()
