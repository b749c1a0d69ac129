"""The embedded engine of online/state.py: one SQLite file in WAL mode that all workers share."""

import json
import sqlite3
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from online.features import WINDOW, fading
from online.state import (
    KEPT,
    KINDS,
    LONGEST,
    REMEMBERED,
    VISITOR,
    Act,
    Now,
    counted,
    gone,
    linked,
    mark,
    merged,
    newest,
    period,
    shopper,
)

CACHE = 32 << 10  # KiB of pages that a connection holds
ACT = struct.Struct("<dIB")  # seconds, number of the item, place of the event among KINDS
TABLES = """
CREATE TABLE IF NOT EXISTS shoppers (user_id TEXT PRIMARY KEY, at REAL NOT NULL, acts BLOB NOT NULL, platform TEXT, platform_at REAL NOT NULL, query TEXT, query_at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS items (number INTEGER PRIMARY KEY, item_id TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS marks (period INTEGER, mark INTEGER, PRIMARY KEY (period, mark)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counts (platform TEXT, minute INTEGER, item INTEGER, strength INTEGER NOT NULL, PRIMARY KEY (platform, minute, item)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS links (visitor_id TEXT, user_id TEXT, at REAL, signed_in INTEGER, PRIMARY KEY (user_id, visitor_id, at, signed_in)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS of_visitor ON links (visitor_id);
CREATE TABLE IF NOT EXISTS changes (item_id TEXT PRIMARY KEY, number INTEGER NOT NULL, told TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_number ON changes (number);
CREATE TABLE IF NOT EXISTS places (file TEXT PRIMARY KEY, byte INTEGER NOT NULL) WITHOUT ROWID;
"""
UPSERT = f"""
INSERT INTO shoppers VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
  at = max(at, excluded.at),
  acts = CASE WHEN excluded.acts = x'' THEN acts ELSE substr(CAST(acts || excluded.acts AS BLOB), -{LONGEST * ACT.size}) END,
  platform = CASE WHEN excluded.platform IS NOT NULL AND excluded.platform_at >= platform_at THEN excluded.platform ELSE platform END,
  platform_at = max(platform_at, excluded.platform_at),
  query = CASE WHEN excluded.query IS NOT NULL AND excluded.query_at >= query_at THEN excluded.query ELSE query END,
  query_at = max(query_at, excluded.query_at)
"""


class SqliteState:
    """See State.

    Args:
        file: is made where it is missing.
    """

    def __init__(self, file: Path):
        file.parent.mkdir(parents=True, exist_ok=True)
        self._file, self._own = file, threading.local()
        self._numbers: dict[str, int] = {}  # of items; never changed once given
        self._names: dict[int, str] = {}
        with self._base() as base:
            base.executescript(TABLES)

    @gone(sqlite3.OperationalError)
    def seen(self, events: list[dict]) -> int:
        if not events:
            return 0
        with self._writing() as base:
            new = self._new(base, events)
            self._number(base, {e["item_id"] for e in new if e.get("item_id")})
            shoppers: dict[str, list] = {}
            counts: defaultdict[tuple[str, int, int], int] = defaultdict(int)
            links = []
            for e in new:
                if e.get("late"):
                    continue
                at, item = e["at"], self._numbers.get(e.get("item_id"))
                row = shoppers.setdefault(shopper(e), [at, b"", None, 0.0, None, 0.0])
                row[0] = max(row[0], at)
                if item is not None and e["event"] in KINDS:
                    row[1] += ACT.pack(at, item, KINDS.index(e["event"]))
                if e.get("platform") is not None and at >= row[3]:
                    row[2:4] = e["platform"], at
                if e.get("query") is not None and at >= row[5]:
                    row[4:6] = e["query"], at
                for platform, minute, strength in counted(e):
                    counts[platform, minute, item] += strength
                if (link := linked(e)) is not None:
                    links.append((e["visitor_id"], *link))
            base.executemany(UPSERT, [(u, at, acts[-LONGEST * ACT.size :], *rest) for u, (at, acts, *rest) in shoppers.items()])
            base.executemany(
                "INSERT INTO counts VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET strength = strength + excluded.strength",
                [(*key, n) for key, n in counts.items()],
            )
            base.executemany("INSERT OR IGNORE INTO links VALUES (?, ?, ?, ?)", links)
            return len(new)

    @gone(sqlite3.OperationalError)
    def known(self, event_ids: list[str]) -> set[str]:
        by_mark = {mark(i): i for i in event_ids}
        now = int(time.time() // REMEMBERED)
        return {by_mark[m] for m in self._marked(self._base(), {now - 1, now}, list(by_mark))}

    @gone(sqlite3.OperationalError)
    def now(self, user_id: str, since: float) -> Now:
        base = self._base()
        found = base.execute("SELECT acts, platform, query, query_at FROM shoppers WHERE user_id = ?", (user_id,)).fetchone()
        acts, platform, query, query_at = found or (b"", None, None, 0.0)
        visits = []
        for (visitor,) in base.execute(
            "SELECT DISTINCT visitor_id FROM links WHERE user_id = ? ORDER BY visitor_id", (user_id,)
        ).fetchall():
            links = [
                (at, user, bool(signed_in))
                for at, user, signed_in in base.execute(
                    "SELECT at, user_id, signed_in FROM links WHERE visitor_id = ?", (visitor,)
                )
            ]
            done = base.execute("SELECT acts FROM shoppers WHERE user_id = ?", (VISITOR + visitor,)).fetchone()
            visits.append((visitor, links, self._acts(done[0]) if done else []))
        known = merged(self._acts(acts), visits, user_id, since)
        return known._replace(platform=platform, query=query, query_at=query_at)

    @gone(sqlite3.OperationalError)
    def popular(self, minute: int, platform: str | None = None) -> list[tuple[str, float]]:
        asked = "SELECT minute, item, strength FROM counts WHERE platform = ? AND minute >= ? AND minute < ? ORDER BY minute"
        weights: defaultdict[int, float] = defaultdict(float)
        for when, item, strength in self._base().execute(asked, (platform or "", minute - WINDOW, minute)):
            weights[item] += strength * fading(when, minute)
        names = self._named(list(weights))
        return sorted(((names[item], weight) for item, weight in weights.items()), key=lambda one: (-one[1], one[0]))

    @gone(sqlite3.OperationalError)
    def forget(self, user_id: str) -> None:
        with self._writing() as base:
            visitors = base.execute("SELECT DISTINCT visitor_id FROM links WHERE user_id = ?", (user_id,)).fetchall()
            base.executemany("DELETE FROM shoppers WHERE user_id = ?", [(user_id,), *((VISITOR + v,) for (v,) in visitors)])
            base.execute("DELETE FROM links WHERE user_id = ?", (user_id,))
        self._base().execute("PRAGMA wal_checkpoint(TRUNCATE)")

    @gone(sqlite3.OperationalError)
    def change(self, changes: list[dict]) -> None:
        with self._writing() as base:
            [(number,)] = base.execute("SELECT coalesce(max(number), 0) FROM changes").fetchall()
            for change in changes:
                number += 1
                found = base.execute("SELECT told FROM changes WHERE item_id = ?", (change["item_id"],)).fetchone()
                told = newest(json.loads(found[0]) if found else {}, change)
                base.execute(
                    "INSERT OR REPLACE INTO changes VALUES (?, ?, ?)",
                    (change["item_id"], number, json.dumps(told, ensure_ascii=False)),
                )

    @gone(sqlite3.OperationalError)
    def changed(self, after: int) -> tuple[int, dict[str, dict]]:
        rows = (
            self._base()
            .execute("SELECT number, item_id, told FROM changes WHERE number > ? ORDER BY number", (after,))
            .fetchall()
        )
        return rows[-1][0] if rows else after, {item: json.loads(told) for _, item, told in rows}

    @gone(sqlite3.OperationalError)
    def place(self, file: str) -> int:
        found = self._base().execute("SELECT byte FROM places WHERE file = ?", (file,)).fetchone()
        return found[0] if found else 0

    @gone(sqlite3.OperationalError)
    def reached(self, file: str, byte: int) -> None:
        with self._writing() as base:
            base.execute("INSERT OR REPLACE INTO places VALUES (?, ?)", (file, byte))

    @gone(sqlite3.OperationalError)
    def prune(self) -> None:
        now = time.time()
        with self._writing() as base:
            base.execute("DELETE FROM shoppers WHERE at < ?", (now - KEPT,))
            base.execute("DELETE FROM marks WHERE period < ?", (int(now // REMEMBERED) - 1,))
            base.execute("DELETE FROM counts WHERE minute < ?", (int(now // 60) - 2 * WINDOW,))

    def _new(self, base: sqlite3.Connection, events: list[dict]) -> list[dict]:
        """Those of the events that were not taken before; they count as taken from here on."""
        marks = [mark(e["event_id"]) for e in events]
        near = {period(e) + step for e in events for step in (-1, 0, 1)}
        known, new = self._marked(base, near, marks), []
        for e, m in zip(events, marks, strict=True):
            if m not in known:
                known.add(m)
                new.append((e, m))
        base.executemany("INSERT INTO marks VALUES (?, ?)", [(period(e), m) for e, m in new])
        return [e for e, _ in new]

    @staticmethod
    def _marked(base: sqlite3.Connection, periods: set[int], marks: list[int]) -> set[int]:
        asked = f"SELECT mark FROM marks WHERE period = ? AND mark IN ({','.join('?' * len(marks))})"
        return {m for p in sorted(periods) for (m,) in base.execute(asked, (p, *marks))}

    def _number(self, base: sqlite3.Connection, items: set[str]) -> None:
        """Gives items their numbers."""
        for item in sorted(items - self._numbers.keys()):
            found = base.execute("SELECT number FROM items WHERE item_id = ?", (item,)).fetchone()
            self._numbers[item] = found[0] if found else base.execute("INSERT INTO items (item_id) VALUES (?)", (item,)).lastrowid

    def _named(self, numbers: list[int]) -> dict[int, str]:
        for number in set(numbers) - self._names.keys():
            [self._names[number]] = self._base().execute("SELECT item_id FROM items WHERE number = ?", (number,)).fetchone()
        return self._names

    def _acts(self, packed: bytes) -> list[Act]:
        acts = list(ACT.iter_unpack(packed))
        names = self._named([item for _, item, _ in acts])
        return [(names[item], at, KINDS[kind]) for at, item, kind in acts]

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that writes; taken back where it fails, with the numbers it gave."""
        base, given = self._base(), len(self._numbers)
        base.execute("BEGIN IMMEDIATE")
        try:
            yield base
            base.execute("COMMIT")
        except BaseException:
            if len(self._numbers) > given:
                self._numbers = {}
            base.execute("ROLLBACK")
            raise

    def _base(self) -> sqlite3.Connection:
        """A connection of this thread."""
        if not hasattr(self._own, "base"):
            base = sqlite3.connect(self._file, timeout=10, isolation_level=None)
            base.execute("PRAGMA journal_mode=WAL")
            base.execute("PRAGMA synchronous=NORMAL")  # the log is what must not be lost
            base.execute("PRAGMA secure_delete=ON")  # who is forgotten does not stay in free pages
            base.execute(f"PRAGMA cache_size=-{CACHE}")
            self._own.base = base
        return self._own.base
