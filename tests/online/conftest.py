"""A Redis server of this machine, for tests of what is kept in it."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis


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
