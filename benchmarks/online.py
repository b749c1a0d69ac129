"""Does what just happened reach the next answer, fast, and is no event lost? Rows on a served bento of a made catalogue, everything on this machine.

    python -m benchmarks.online                 # all rows (make bench-online)
    python -m benchmarks.online --row kills     # one of them
    python -m benchmarks.online --tiny          # small sizes: does it run?

Prints a line a row and writes reports/online.json: {"rows": [{"name", "value", "at_least", "aim", "met", "device"}]}.
"""

import argparse
import http.client
import json
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil

from benchmarks.figures import cpu, row
from benchmarks.serving import over_http
from deploy.platform import processes, server
from online import log
from pipelines.stage import write_json

BATCH, SENDERS = 100, 4
REPEATED = 0.05  # share of requests that are sent twice


class Client:
    """One connection to a server, opened again where it broke."""

    def __init__(self, url: str):
        self._host, _, port = url.removeprefix("http://").partition(":")
        self._port, self._connection = int(port), None

    def post(self, path: str, body: dict) -> tuple[int, dict]:
        if self._connection is None:
            self._connection = http.client.HTTPConnection(self._host, self._port, timeout=10)
        try:
            self._connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            answer = self._connection.getresponse()
            return answer.status, json.loads(answer.read())
        except (OSError, http.client.HTTPException):
            self._connection = None
            raise


def rows_of(sender: int, number: int, items: int) -> list[dict]:
    """A request's events: of a few shoppers each."""
    return [
        {"event_id": f"{sender}-{number}-{n}", "user_id": f"u{(number * BATCH + n) % 2000:06d}", "event": "view", "item_id": f"sku{(n * 37 + number) % items:07d}"}
        for n in range(BATCH)
    ]  # fmt: skip


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


def reflected(bento: Path, folder: Path, items: int, tiny: bool) -> list[float]:
    """Milliseconds from an event's acceptance to an answer that knows it, p50 and p99, while 500 events and 500 answers a second pass by."""
    count, taken, stop = 50 if tiny else 2000, [], threading.Event()
    with over_http.serving([str(bento)], {"PUSHCART_EVENTS": str(folder)}) as (url, _, _):

        def passing(sender: int) -> None:
            client, number, begun = Client(url), 0, time.perf_counter()
            while not stop.is_set():
                client.post("/recommend", {"user_id": f"u{number % 2000:06d}"})
                client.post("/events", {"events": rows_of(sender, number, items)[:1]})
                number += 1
                time.sleep(max(0.0, begun + number * SENDERS / 500 - time.perf_counter()))

        senders = [threading.Thread(target=passing, args=(n,)) for n in range(SENDERS)]
        for sender in senders:
            sender.start()
        client = Client(url)
        for number in range(count):
            user = f"new {number}"
            client.post(
                "/events",
                {"events": [{"event_id": user, "user_id": user, "event": "view", "item_id": f"sku{number % items:07d}"}]},
            )
            begun = time.perf_counter()
            _, answer = client.post("/recommend", {"user_id": user})
            taken.append(1000 * (time.perf_counter() - begun))
            assert answer["fallback"] is None, "the next answer does not know the event"
        stop.set()
        for sender in senders:
            sender.join()
    return [float(np.median(taken)), float(np.quantile(taken, 0.99))]


def kills(bento: Path, folder: Path, items: int, tiny: bool) -> list[float]:
    """Events lost and doubled while the server and its workers are killed again and again, senders repeating what was not answered and now and then what was."""
    times, chance, accepted, stop = 2 if tiny else 40, random.Random(0), [0] * SENDERS, threading.Event()
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
    for turn in range(times + 1):
        with (
            TemporaryDirectory() as place,
            server.serving([str(bento)], port, Path(place), {"PUSHCART_EVENTS": str(folder)}) as (_, running),
        ):
            time.sleep(chance.uniform(0.1, 1.0))
            if turn < times:
                workers = psutil.Process(running.pid).children(recursive=True)
                running.kill()
                running.wait()
                psutil.wait_procs(workers, timeout=30)  # they end with it, and the port with them
        print(f"\rkilled {min(turn + 1, times)} times", end="", flush=True)
    stop.set()
    for sender in senders:
        sender.join()
    print()
    kept = [event["event_id"] for path in log.files(folder / "log") for event, _ in log.read(path)]
    whole = {
        row["event_id"]
        for sender, count in enumerate(accepted)
        for number in range(count)
        for row in rows_of(sender, number, items)
    }
    from pipelines.data.sources.log import read

    collected = read(folder, {})["events"].collect()["event_id"]
    print(
        f"{len(whole):,} events, {len(kept) - len(set(kept)):,} of them twice in the log, as a crash came between the log and the state"
    )
    return [float(len(whole - set(collected))), float(len(collected) - collected.n_unique())]


def together(work: Callable[[int], None], count: int) -> None:
    failed: list[BaseException] = []

    def one(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=one, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


# By name: how it is taken, and of each figure its name, what is asked for at least, the aim, and whether less is better.
ROWS: dict[str, tuple[Callable[[Path, Path, int, bool], list[float]], list[tuple[str, float, float, bool]]]] = {
    "throughput": (throughput, [("/events by 100: events a second", 10_000, 20_000, False)]),
    "reflected": (reflected, [
        ("an event accepted, then an answer that knows it, beside 500 events and 500 answers a second: p50, ms", 5, 3, True),
        ("... p99, ms", 30, 20, True),
    ]),
    "kills": (kills, [
        ("server and workers killed while senders repeat: events lost", 0, 0, True),
        ("... doubled, as collect reads the log", 0, 0, True),
    ]),
}  # fmt: skip


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--row", choices=ROWS, help="one row alone")
    cli.add_argument("--tiny", action="store_true")
    cli.add_argument("--out", type=Path, default=Path("reports"))
    chosen, rows = cli.parse_args(), []
    with TemporaryDirectory() as scratch:
        items = 500 if chosen.tiny else 10_000
        bento = over_http.large_catalogue(Path(scratch) / "shop", items) / "bento"
        for name, (take, figures) in ROWS.items():
            if chosen.row in (None, name):
                values = take(bento, Path(scratch) / name, items, chosen.tiny)
                rows += [
                    row(told, value, at_least, aim, cpu(), less)
                    for value, (told, at_least, aim, less) in zip(values, figures, strict=True)
                ]
                write_json(chosen.out / "online.json", {"rows": rows})


if __name__ == "__main__":
    main()
