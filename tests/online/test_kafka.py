"""What a topic of Kafka's holds is in the log once, whatever is killed, and known to answers; what is no event stands there with the reason. The broker is librdkafka's, in another process."""

import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import fastavro
import pytest
from confluent_kafka import Producer

from online import log
from online.kafka import avro
from online.state import open_state
from pipelines.data.sources import log as source
from tests.conftest import ROOT

SCHEMA = {
    "type": "record",
    "name": "event",
    "fields": [{"name": n, "type": ["null", "string"]} for n in ("event_id", "user_id", "event", "item_id", "platform")],
}


def event(number: int) -> dict:
    return {"event_id": f"e{number}", "user_id": f"u{number % 50}", "event": "view", "item_id": f"i{number % 20}"}


def send(brokers: str, topic: str, values: list[bytes]) -> None:
    producer = Producer({"bootstrap.servers": brokers, "log_level": 0})
    for number, value in enumerate(values):
        producer.produce(topic, value, key=str(number % 4))
    assert producer.flush(30) == 0


def consumer(folder: Path, brokers: str, topic: str, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "online.kafka", str(folder), "--brokers", brokers, "--topic", topic, *more]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )


def offsets(folder: Path) -> list[tuple[str, int]]:
    return [(log.position(path).partition, row["offset"]) for path in log.files(folder / "log") for row, _ in log.read(path)]


def wait_for(folder: Path, count: int) -> None:
    until = time.monotonic() + 40
    while len(offsets(folder)) < count and time.monotonic() < until:
        time.sleep(0.1)


@pytest.mark.e2e
def test_messages_are_read_once_though_the_consumer_is_killed(brokers: str, tmp_path: Path):
    folder, chance = tmp_path / "events", random.Random(0)
    values = [json.dumps(event(n)).encode() for n in range(4000)]
    values += [json.dumps(event(n)).encode() for n in range(0, 4000, 20)]  # the producer repeats itself
    values += [b"{", b"[1]", json.dumps(event(1) | {"colour": "red"}).encode(), b""]
    send(brokers, "shop.events", values[:-50])
    for _ in range(6):
        running = consumer(folder, brokers, "shop.events")
        until = time.monotonic() + 20
        before = len(offsets(folder))
        while len(offsets(folder)) == before and before < len(values) - 50 and time.monotonic() < until:
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 0.05))
        running.send_signal(signal.SIGKILL)
        running.wait()
    running = consumer(folder, brokers, "shop.events")
    send(brokers, "shop.events", values[-50:])
    wait_for(folder, len(values))
    second = consumer(folder, brokers, "shop.events")
    assert "another process reads topic" in second.communicate(timeout=20)[1]
    running.send_signal(signal.SIGTERM)
    assert running.wait(20) == 0
    found = offsets(folder)
    assert len(found) == len(set(found)) == len(values)
    rows = source.read(folder, {})["events"].collect()
    assert sorted(rows["event_id"]) == sorted(f"e{n}" for n in range(4000))
    refused = [row for path in log.files(folder / "log") for row, _ in log.read(path) if "refused" in row]
    assert len(refused) == 4
    assert any("colour" in row["refused"] for row in refused)
    state = open_state(None, folder)
    assert sum(len(state.now(f"u{n}", 0.0).acts) for n in range(50)) == 4000


def test_avro_is_read_by_its_schema(brokers: str, tmp_path: Path):
    def encoded(row: dict, before: bytes = b"") -> bytes:
        out = io.BytesIO()
        fastavro.schemaless_writer(out, fastavro.parse_schema(SCHEMA), row)
        return before + out.getvalue()

    schema = tmp_path / "event.avsc"
    schema.write_text(json.dumps(SCHEMA))
    assert avro(schema)(encoded(event(1))) == event(1)
    send(brokers, "avro", [encoded(event(1)), encoded(event(2), b"\0\0\0\0\7"), b"no"])
    running = consumer(tmp_path / "events", brokers, "avro", "--schema", str(schema))
    wait_for(tmp_path / "events", 3)
    running.send_signal(signal.SIGTERM)
    assert running.wait(20) == 0
    assert sorted(source.read(tmp_path / "events", {})["events"].collect()["event_id"]) == ["e1", "e2"]
