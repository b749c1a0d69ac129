"""Rows without a server: do online and offline tell the same of a shopper, and SQLite and Redis; what a million active shoppers take; how fast the log becomes tables."""

import json
import os
import random
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from benchmarks.online.servers import redis_server
from online.events import Event, sort_out
from online.features import met
from online.state import REMEMBERED, State, beside, open_state
from pipelines.data.histories import meetings

KINDS = ("view", "view", "view", "favourite", "cart", "purchase")
EACH = 50  # events of an active shopper
WHOLE = 1_000_000  # shoppers that the memory is told of
SAMPLE = 100_000  # shoppers that are measured
READ = """
import resource, sys, time
from pathlib import Path
import polars as pl
from pipelines.data import tables
from pipelines.data.sources import log
folder, begun = Path(sys.argv[1]), time.perf_counter()
if sys.argv[2] == "scan":
    pl.scan_ndjson(sorted((folder / "log").glob("*.jsonl")), schema=log.LINES).sink_parquet(folder / "out.parquet")
else:
    tables.conform(log.read(folder, {})["events"], tables.EVENTS, name="events").sink_parquet(folder / "out.parquet")
print(time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


def equal(bento: Path, folder: Path, items: int, tiny: bool) -> list[float]:
    """Of shoppers whose histories, part of them offline and the rest online, are what prepare makes of all their events; and of which SQLite and Redis say the same."""
    shoppers, chance, now = 300 if tiny else 10_000, random.Random(0), time.time()
    begin, cutoff, rows = now - 20 * 86_400, now - 2 * 86_400, []
    for user in range(shoppers):
        for _ in range(chance.randrange(2, 30)):
            at = chance.uniform(begin, now - 10)
            rows.append(
                {
                    "user_id": f"u{user}",
                    "item_id": f"i{chance.randrange(200)}",
                    "event": chance.choice(KINDS),
                    "timestamp": datetime.fromtimestamp(at, UTC).isoformat(),
                }
            )
    rows = [row | {"event_id": str(number)} for number, row in enumerate(sorted(rows, key=lambda row: row["timestamp"]))]
    lines = sort_out(rows, Event, now).lines
    at = pl.col("timestamp").str.to_datetime(time_unit="us", time_zone="UTC")
    table = pl.DataFrame(lines).with_columns(at).with_row_index("source_row").sort("user_id", "timestamp", "source_row")
    whole, before = (histories(part) for part in (table, table.filter(pl.col("at") <= cutoff)))
    with TemporaryDirectory() as place, redis_server(Path(place)) as engine:
        states = [open_state(None, folder), open_state(engine.url, folder)]
        for state in states:
            late = chance.sample(lines, len(lines))  # in any order
            for start in range(0, len(late), 1000):
                state.seen(late[start : start + 1000])
        told = [{user: state.now(user, cutoff) for user in whole} for state in states]
    same = sum(met(before.get(user, []), told[0][user].acts) == history for user, history in whole.items())
    alike = sum(told[0][user] == told[1][user] for user in whole)
    return [same / len(whole), alike / len(whole)]


def histories(events: pl.DataFrame) -> dict[str, list[tuple[str, float, int]]]:
    """What prepare makes of events."""
    made = meetings(events.lazy())[0].with_columns(at=pl.col("timestamp").dt.epoch("us"))
    found: dict[str, list] = {}
    for user, item, at, action in made.select("user_id", "item_id", "at", "action").iter_rows():
        found.setdefault(user, []).append((item, at / 1e6, action))
    return found


def memory(bento: Path, folder: Path, items: int, tiny: bool) -> list[float]:
    """GB of a million active shoppers of EACH events, over 25 days: of Redis and of SQLite's file. Measured on SAMPLE shoppers."""
    shoppers = 2000 if tiny else SAMPLE
    with TemporaryDirectory() as place, redis_server(Path(place)) as engine:
        state = open_state(engine.url, folder)
        oldest = fill(state, shoppers)
        for period in range(oldest, int(time.time() // REMEMBERED) - 1):  # which would have expired by now
            for key in state._redis.scan_iter(match=f"*marks:{period}:*", count=10_000):
                state._redis.unlink(key)
        time.sleep(1)
        used = state._redis.info("memory")["used_memory"]
    embedded = open_state(None, folder)
    fill(embedded, shoppers)
    embedded.prune()
    size = sum(file.stat().st_size for file in beside(folder).iterdir())
    return [used / shoppers * WHOLE / 1e9, size / shoppers * WHOLE / 1e9]


def fill(state: State, shoppers: int) -> int:
    """EACH events of each shopper, in the order of time; the first period of them."""
    chance, now, users = random.Random(0), time.time(), list(range(shoppers))
    for turn in range(EACH):
        at = now - (EACH - turn) * 43_200
        chance.shuffle(users)
        for start in range(0, shoppers, 1000):
            part = users[start : start + 1000]
            state.seen(
                [{"event_id": f"{turn}-{user}", "user_id": f"u{user:07d}", "event": "view", "item_id": f"sku{chance.randrange(100_000):06d}", "at": at, "received": at + 7200} for user in part]
            )  # fmt: skip
        if turn % 8 == 7:
            state.prune()
        print(f"\r{turn + 1} of {EACH} events of {shoppers:,} shoppers", end="", flush=True)
    print()
    return int((now - EACH * 43_200) // REMEMBERED)


def tables(bento: Path, folder: Path, items: int, tiny: bool) -> list[float]:
    """Seconds and GB for the log of 10^7 events as tables, and the seconds over those of Polars' own scan of the same files."""
    events, chance = 20_000 if tiny else 10_000_000, random.Random(0)
    (folder / "log").mkdir(parents=True)
    now, each = time.time() - events * 0.1, max(events // 200, 1000)
    for first in range(0, events, each):
        with (folder / "log" / f"http.1.{first:020d}.jsonl").open("w") as file:
            for number in range(first, first + each):
                at = now + number * 0.1
                row = {"event_id": f"{number:x}-{chance.getrandbits(64):016x}", "user_id": f"u{chance.randrange(10**6):07d}", "event": "view", "item_id": f"sku{chance.randrange(10**5):06d}", "platform": "app",
                       "session_id": f"s{number // 20}", "timestamp": datetime.fromtimestamp(at, UTC).isoformat(), "at": at, "received": at + 0.2}  # fmt: skip
                file.write(json.dumps(row, separators=(",", ":")) + "\n")
        print(f"\r{first + each:,} events written", end="", flush=True)
    print()
    taken = {"scan": [], "read": []}
    for what in ("scan", "read") * (1 if tiny else 3):
        done = subprocess.run(
            [sys.executable, "-c", READ, str(folder), what],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PYTHONPATH": os.getcwd()},
        )
        taken[what].append([float(n) for n in done.stdout.split()])
    seconds, peak = (sorted(one[part] for one in taken["read"])[len(taken["read"]) // 2] for part in (0, 1))
    floor = sorted(one[0] for one in taken["scan"])[len(taken["scan"]) // 2]
    assert pl.scan_parquet(folder / "out.parquet").select(pl.len()).collect().item() == events
    return [seconds, peak, seconds / floor]
