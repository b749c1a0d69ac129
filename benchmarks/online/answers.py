"""Rows of a served bento: how many events it takes, how soon an answer knows them, what answers cost meanwhile, and what becomes of them while Redis is gone."""

import http.client
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.online.client import BATCH, Client, rows_of, together
from benchmarks.online.servers import redis_server
from benchmarks.serving import over_http

SENDERS = 4
BURDEN = 10_000  # events a second beside which answers are timed


def throughput(bento: Path, folder: Path, items: int, tiny: bool) -> list[float]:
    """Events a second by SENDERS connections, BATCH a request."""
    seconds, sent = 1.0 if tiny else 15.0, [0] * SENDERS
    with over_http.serving([str(bento)], {"PUSHCART_EVENTS": str(folder)}) as (url, _, _):

        def send(sender: int) -> None:
            client, until = Client(url), time.perf_counter() + seconds
            while time.perf_counter() < until:
                status, answer = client.post("/events", {"events": rows_of(sender, sent[sender], items)})
                assert (status, answer["accepted"]) == (202, BATCH)
                sent[sender] += 1

        together(send, SENDERS)
    return [sum(sent) * BATCH / seconds]


def meanwhile(bento: Path, folder: Path, items: int, tiny: bool) -> list[float]:
    """The 99th percentile of an answer's time beside BURDEN events a second, over that without, by turns; and both in ms."""
    seconds, rounds = (0.5, 2) if tiny else (5.0, 7)
    plain, burdened = [], []
    with over_http.serving([str(bento)], {"PUSHCART_EVENTS": str(folder)}) as (url, _, _):
        for turn in range(2 * rounds):
            stop = threading.Event()

            def send(number: int = turn, stop: threading.Event = stop) -> None:
                client, begun, sent = Client(url), time.perf_counter(), 0
                while not stop.is_set():
                    client.post("/events", {"events": rows_of(number, sent, items)})
                    sent += 1
                    time.sleep(max(0.0, begun + sent * BATCH / BURDEN - time.perf_counter()))

            if turn % 2:
                sender = threading.Thread(target=send)
                sender.start()
                burdened.append(_p99(url, seconds))
                stop.set()
                sender.join()
            else:
                plain.append(_p99(url, seconds))
    return [float(np.median(burdened) / np.median(plain)), float(np.median(plain)), float(np.median(burdened))]


def _p99(url: str, seconds: float) -> float:
    """Milliseconds, of answers asked for 100 times a second by one connection."""
    client, taken, begun = Client(url), [], time.perf_counter()
    while (now := time.perf_counter()) < begun + seconds:
        client.post("/recommend", {"user_id": f"u{len(taken) % 2000:06d}"})
        taken.append(1000 * (time.perf_counter() - now))
        time.sleep(max(0.0, begun + len(taken) / 100 - time.perf_counter()))
    return float(np.quantile(taken, 0.99))


def reflected(bento: Path, folder: Path, items: int, tiny: bool, rate: int = 500) -> list[float]:
    """Milliseconds from an event's acceptance to an answer that knows it, p50 and p99, while as many events and answers a second pass by."""
    count, taken, stop = 50 if tiny else 2000, [], threading.Event()
    with over_http.serving([str(bento)], {"PUSHCART_EVENTS": str(folder)}) as (url, _, _):

        def passing(sender: int) -> None:
            client, number, begun = Client(url), 0, time.perf_counter()
            while not stop.is_set():
                client.post("/recommend", {"user_id": f"u{number % 2000:06d}"})
                client.post("/events", {"events": rows_of(sender, number, items)[:1]})
                number += 1
                time.sleep(max(0.0, begun + number * SENDERS / rate - time.perf_counter()))

        senders = [threading.Thread(target=passing, args=(n,)) for n in range(SENDERS)]
        for sender in senders:
            sender.start()
        client = Client(url)
        for number in range(count):
            user = f"new {number}"
            event = {"event_id": user, "user_id": user, "event": "view", "item_id": f"sku{number % items:07d}"}
            client.post("/events", {"events": [event]})
            begun = time.perf_counter()
            _, answer = client.post("/recommend", {"user_id": user})
            taken.append(1000 * (time.perf_counter() - begun))
            assert answer["fallback"] is None, "the next answer does not know the event"
        stop.set()
        for sender in senders:
            sender.join()
    return [float(np.median(taken)), float(np.quantile(taken, 0.99))]


def without_redis(bento: Path, folder: Path, items: int, tiny: bool) -> list[float]:
    """The share of requests that are answered, and flagged, while Redis is gone; and the seconds from its return to an answer that knows what came in meanwhile, and all before."""
    count, begun = (40 if tiny else 1000), time.perf_counter()
    good = 0
    with TemporaryDirectory() as place, redis_server(Path(place)) as engine:
        settings = {"PUSHCART_EVENTS": str(folder), "PUSHCART_STATE": engine.url}
        with over_http.serving([str(bento)], settings) as (url, _, _):
            client = Client(url)

            def tell(user: str) -> None:
                event = {"event_id": user, "user_id": user, "event": "view", "item_id": "sku0000001"}
                assert client.post("/events", {"events": [event]})[0] == 202

            tell("before")
            assert client.post("/recommend", {"user_id": "before"})[1]["fallback"] is None
            engine.stop()
            for number in range(count):
                if number % 10 == 0:
                    tell(f"meanwhile {number}")
                try:
                    status, answer = client.post("/recommend", {"user_id": f"u{number:06d}"})
                    good += status == 200 and bool(answer["items"]) and bool(answer["unchecked"])
                except (OSError, http.client.HTTPException):
                    continue
            engine.start()
            begun = time.perf_counter()
            for user in ("before", f"meanwhile {count - 10}"):
                while client.post("/recommend", {"user_id": user})[1]["fallback"] is not None:
                    time.sleep(0.01)
            back = time.perf_counter() - begun
    return [good / count, back]
