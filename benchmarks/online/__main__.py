"""Does what just happened reach the next answer, fast, and is no event lost? Rows on a served bento of a made catalogue and on the engines by themselves, everything on this machine.

    python -m benchmarks.online                 # all rows (make bench-online), three quarters of an hour
    python -m benchmarks.online --row kills     # one of them
    python -m benchmarks.online --tiny          # small sizes: does it run?

Prints a line a row and writes reports/online.json: {"rows": [{"name", "value", "at_least", "aim", "met", "device"}]}.
"""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.figures import take_rows
from benchmarks.online.answers import meanwhile, reflected, throughput, without_redis
from benchmarks.online.engines import equal, memory, tables
from benchmarks.online.kills import kills
from benchmarks.online.replay import replay
from benchmarks.serving import over_http

# By name: how it is taken, and of each figure its name, what is asked for at least, the aim, and whether less is better.
ROWS: dict[str, tuple[Callable[[Path, Path, int, bool], list[float]], list[tuple[str, float, float, bool]]]] = {
    "throughput": (throughput, [("/events by 100: events a second", 10_000, 20_000, False)]),
    "meanwhile": (meanwhile, [
        ("p99 of answers beside 10,000 events a second, over that without", 1.3, 1.2, True),
        ("... that without, ms", 30, 20, True),
        ("... beside them, ms", 30, 20, True),
    ]),
    "reflected": (reflected, [
        ("an event accepted, then an answer that knows it, beside 500 events and 500 answers a second: p50, ms", 5, 3, True),
        ("... p99, ms", 30, 20, True),
    ]),
    "reflected_1000": (partial(reflected, rate=1000), [
        ("the same beside 1,000 events and 1,000 answers a second: p50, ms", 5, 3, True),
        ("... p99 beside 1,000, ms", 30, 20, True),
    ]),
    "kills": (kills, [
        ("server, workers and consumers killed 200 times while senders repeat, over HTTP and two brokers: events lost", 0, 0, True),
        ("... doubled, as collect reads the log", 0, 0, True),
    ]),
    "redis": (without_redis, [
        ("Redis gone: share of requests answered, and flagged", 1, 1, False),
        ("Redis back: seconds until answers know all again", 2, 1, True),
    ]),
    "equal": (equal, [
        ("10,000 shoppers whose history online is what prepare makes: share", 1, 1, False),
        ("... of whom SQLite and Redis say the same", 1, 1, False),
    ]),
    "replay": (replay, [
        ("the simulated shop's last days replayed, NDCG@10 of the next item: frozen", 0, 0, False),
        ("... online", 0, 0, False),
        ("... online and updated", 0, 0, False),
        ("online over frozen: + %", 15, 30, False),
        ("online over frozen: where its interval begins, + %", 0, 0, False),
        ("updated over online: + %", 0, 0, False),
        ("updated over online: where its interval begins, + %", 0, 0, False),
    ]),
    "memory": (memory, [
        ("10^6 active shoppers of 50 events (measured on 10^5): GB of Redis", 2, 1, True),
        ("... GB of SQLite's file", 1.5, 0.75, True),
    ]),
    "tables": (tables, [
        ("the log of 10^7 events as tables: seconds", 60, 60, True),
        ("... GB at its peak", 2, 2, True),
        ("... seconds over Polars' own scan of the same files", 10, 3, True),
    ]),
}  # fmt: skip


def main() -> None:
    with TemporaryDirectory() as shared:
        bento = cache(lambda items: over_http.large_catalogue(Path(shared) / "shop", items) / "bento")  # of all rows

        def on_bento(take: Callable[[Path, Path, int, bool], list[float]]) -> Callable[[Path, bool], list[float]]:
            def taken(scratch: Path, tiny: bool) -> list[float]:
                items = 500 if tiny else 10_000
                return take(bento(items), scratch / "row", items, tiny)

            return taken

        take_rows(__doc__, {name: (on_bento(take), figures) for name, (take, figures) in ROWS.items()}, "online.json")


if __name__ == "__main__":
    main()
