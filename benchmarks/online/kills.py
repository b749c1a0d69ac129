"""Is an event lost or doubled where what takes it is killed at random moments, over HTTP and from two brokers, while who sends repeats itself?"""

import http.client
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
from confluent_kafka import KafkaException, Producer

from benchmarks.online.client import Client, rows_of
from benchmarks.online.servers import mock, tansu
from deploy.platform import processes, server
from online import log
from pipelines.data.sources.log import read

SENDERS = 4
REPEATED = 0.05  # share of what is sent that is sent twice
EVENTS = 100_000  # over all, at least
TOPIC = "events"


def kills(bento: Path, folder: Path, items: int, tiny: bool) -> list[float]:
    """Events lost and doubled, over HTTP, librdkafka's mock broker and Tansu together."""
    times = {"http": 2, "mock": 2, "Tansu": 2} if tiny else {"http": 80, "mock": 60, "Tansu": 60}
    lost, doubled, count = 0, 0, 0
    for name, turns in times.items():
        place = folder / name
        if name == "http":
            sent = over_http(bento, place, items, turns)
        else:
            with mock() if name == "mock" else tansu(TOPIC) as brokers:
                sent = over_kafka(brokers, place, turns, 2000 if tiny else EVENTS // 4)
        collected = read(place, {})["events"].collect()["event_id"]
        kept = [row["event_id"] for path in log.files(place / "log") for row, _ in log.read(path) if "event_id" in row]
        missing, twice = len(sent - set(collected)), len(collected) - collected.n_unique()
        print(
            f"\r{name}: killed {turns} times, {len(sent):,} events, {missing} lost, {twice} doubled as collect reads the log (which holds {len(kept) - len(set(kept)):,} twice: sent again)"
        )
        lost, doubled, count = lost + missing, doubled + twice, count + len(sent)
    print(f"{sum(times.values())} kills over {count:,} events")
    return [float(lost), float(doubled)]


def over_http(bento: Path, folder: Path, items: int, turns: int) -> set[str]:
    """The events that the server said to have taken, while it and its workers were killed so often."""
    chance, accepted, stop = random.Random(0), [0] * SENDERS, threading.Event()
    port = processes.free_port()

    def send(sender: int) -> None:
        client, own = Client(f"http://127.0.0.1:{port}"), random.Random(sender)
        while not stop.is_set():
            try:
                status, _ = client.post("/events", {"events": rows_of(sender, accepted[sender], items)})
            except (OSError, http.client.HTTPException, ValueError):
                time.sleep(0.02)
                continue
            if status == 202 and own.random() >= REPEATED:
                accepted[sender] += 1
            time.sleep(0.01)

    senders = [threading.Thread(target=send, args=(n,), daemon=True) for n in range(SENDERS)]
    for sender in senders:
        sender.start()
    for turn in range(turns + 1):
        with (
            TemporaryDirectory() as place,
            server.serving([str(bento)], port, Path(place), {"PUSHCART_EVENTS": str(folder)}) as (_, running),
        ):
            time.sleep(chance.uniform(0.1, 1.0))
            if turn < turns:
                workers = psutil.Process(running.pid).children(recursive=True)
                running.kill()
                running.wait()
                psutil.wait_procs(workers, timeout=30)  # they end with it, and the port with them
        _progress("http", turn, turns)
    stop.set()
    for sender in senders:
        sender.join()
    return {
        row["event_id"]
        for sender, count in enumerate(accepted)
        for number in range(count)
        for row in rows_of(sender, number, items)
    }


def over_kafka(brokers: str, folder: Path, turns: int, events: int) -> set[str]:
    """The events that a producer sent to a topic while the consumer was killed so often."""
    chance, sent = random.Random(1), set()
    producer = Producer({"bootstrap.servers": brokers, "log_level": 0})
    each = -(-events // (turns + 1))
    for turn in range(turns + 1):
        for number in range(each):
            event = {
                "event_id": f"{turn}-{number}",
                "user_id": f"u{number % 2000}",
                "event": "view",
                "item_id": f"i{number % 50}",
            }
            for _ in range(1 + (chance.random() < REPEATED)):
                producer.produce(TOPIC, json.dumps(event), key=str(number % 8))
            sent.add(event["event_id"])
        if producer.flush(60):
            raise KafkaException(f"{brokers} did not take all messages")
        command = [sys.executable, "-m", "online.kafka", str(folder), "--brokers", brokers, "--topic", TOPIC]
        running = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": os.getcwd()})
        if turn < turns:
            before = _size(folder)
            _until(lambda before=before: _size(folder) > before)
            time.sleep(chance.uniform(0, 0.1))
            running.kill()
        else:
            _until(lambda: sent <= {row.get("event_id") for path in log.files(folder / "log") for row, _ in log.read(path)}, 120)
            running.terminate()
        running.wait()
        _progress(brokers, turn, turns)
    return sent


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in log.files(folder / "log"))


def _until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not true() and time.monotonic() < until:
        time.sleep(0.01)


def _progress(name: str, turn: int, turns: int) -> None:
    print(f"\r{name}: killed {min(turn + 1, turns)} of {turns} times", end="", flush=True)
