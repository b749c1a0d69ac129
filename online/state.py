"""What the newest events say of a shopper, in one SQLite file in WAL mode that all workers share.

In: events, each once whatever is sent again. Out: a shopper's acts since a moment. All of it can be made again from the log.
"""

import sqlite3
import threading
import time
from pathlib import Path

from online import log

KEPT = 30 * 86_400.0  # seconds that events are remembered
TABLES = """
CREATE TABLE IF NOT EXISTS acts (event_id TEXT PRIMARY KEY, user_id TEXT NOT NULL, item_id TEXT, event TEXT NOT NULL, at REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS of_user ON acts (user_id, at);
CREATE INDEX IF NOT EXISTS by_time ON acts (at);
CREATE TABLE IF NOT EXISTS replayed (file TEXT PRIMARY KEY, until INTEGER NOT NULL);
"""


class State:
    """Safe to call from several threads and processes.

    Args:
        file: is made where it is missing.
    """

    def __init__(self, file: Path):
        file.parent.mkdir(parents=True, exist_ok=True)
        self._file, self._own = file, threading.local()
        with self._base() as base:
            base.executescript(TABLES)

    def take(self, events: list[dict]) -> int:
        """How many of the events are new: event_id, user_id, event, at (seconds), and item_id where there is one."""
        rows = [(e["event_id"], e["user_id"], e.get("item_id"), e["event"], e["at"]) for e in events]
        with self._base() as base:
            before = base.total_changes
            base.executemany("INSERT OR IGNORE INTO acts VALUES (?, ?, ?, ?, ?)", rows)
            return base.total_changes - before

    def known(self, event_ids: list[str]) -> set[str]:
        """Those of the events that were taken before."""
        marks = ",".join("?" * len(event_ids))
        return {i for (i,) in self._base().execute(f"SELECT event_id FROM acts WHERE event_id IN ({marks})", event_ids)}

    def history(self, user_id: str, since: float) -> list[tuple[str, float, str]]:
        """Item, seconds and event of a shopper's acts on items after a moment, oldest first."""
        asked = "SELECT item_id, at, event FROM acts WHERE user_id = ? AND at > ? AND item_id IS NOT NULL ORDER BY at, event_id"
        return self._base().execute(asked, (user_id, since)).fetchall()

    def replay(self, folder: Path) -> int:
        """Takes what of a log is not here yet, as after a crash; how many events were new."""
        new = 0
        for path in log.files(folder):
            [(start,)] = (
                self._base().execute("SELECT coalesce(max(until), 0) FROM replayed WHERE file = ?", (path.stem,)).fetchall()
            )
            part, until = [], start
            for event, end in log.read(path, start):
                part.append(event)
                until = end
                if len(part) == 10_000:
                    new += self.take(part)
                    part = []
            new += self.take(part)
            if until > start:
                with self._base() as base:
                    base.execute("INSERT OR REPLACE INTO replayed VALUES (?, ?)", (path.stem, until))
        with self._base() as base:
            base.execute("DELETE FROM acts WHERE at < ?", (time.time() - KEPT,))
        return new

    def _base(self) -> sqlite3.Connection:
        """A connection of this thread."""
        if not hasattr(self._own, "base"):
            base = sqlite3.connect(self._file, timeout=10)
            base.execute("PRAGMA journal_mode=WAL")
            base.execute("PRAGMA synchronous=NORMAL")  # the log is what must not be lost
            self._own.base = base
        return self._own.base
