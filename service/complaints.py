"""Whose complaint is open: they are sent nothing until it is settled.

In: folders of hand-overs (JSON lines, as deploy/serving/desk.py writes them; `{"settled": ID}` settles one). Out: who has an open complaint. A file is read again from where it was read to.
"""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

COMPLAINT = "complaint"  # the intent
HANDOVERS = "handovers"  # their folder, in that of a shop's events


class Complaints:
    """Args: folders: of hand-overs, of each shop one; they need not be there yet. every: seconds between two looks at least. For one thread at a time."""

    def __init__(self, folders: Iterable[Path], every: float = 0.0):
        self._folders, self._read_to, self._every, self._looked = list(folders), {}, every, -every
        self._open: dict[str, str] = {}  # by hand-over: whose
        self._settled: set[str] = set()

    def of(self, user_id: str) -> bool:
        """Whether a shopper has one that is open."""
        return user_id in self.all()

    def all(self) -> set[str]:
        """Whoever has one that is open."""
        if time.monotonic() - self._looked >= self._every:
            self._looked = time.monotonic()
            for file in (file for folder in self._folders for file in sorted(folder.glob("*.jsonl"))):
                self._look(file)
        return set(self._open.values())

    def lines(self) -> Iterator[dict]:
        """All that was ever kept."""
        return (told for folder in self._folders for file in sorted(folder.glob("*.jsonl")) for told in _lines(file))

    def handed_over(self) -> dict[str, dict]:
        """All hand-overs that are not settled, by their number."""
        found: dict[str, dict] = {}
        for told in self.lines():
            if settled := told.get("settled"):
                found.pop(settled, None)
            elif told.get("handover_id"):
                found[told["handover_id"]] = told
        return found

    def _look(self, file: Path) -> None:
        start = self._read_to.get(file, 0)
        if file.stat().st_size <= start:
            return
        with file.open("rb") as lines:
            lines.seek(start)
            for line in lines:
                if not line.endswith(b"\n"):
                    break  # it is being written
                self._read_to[file] = start = start + len(line)
                try:
                    told = json.loads(line)
                except ValueError:
                    continue
                if not isinstance(told, dict):
                    continue
                if settled := told.get("settled"):
                    self._settled.add(settled)
                    self._open.pop(settled, None)
                elif told.get("handover_id") not in self._settled and told.get("user_id") and _complains(told):
                    self._open[told["handover_id"]] = told["user_id"]


def _lines(file: Path) -> Iterator[dict]:
    """Whole lines of a file that hold an object."""
    with file.open("rb") as lines:
        for line in lines:
            with contextlib.suppress(ValueError):
                told = json.loads(line) if line.endswith(b"\n") else None
                if isinstance(told, dict):
                    yield told


def _complains(told: dict) -> bool:
    return bool(told.get("angry")) or COMPLAINT in told.get("intents", [])


def keep(folder: Path, told: dict) -> None:
    """Puts a line on disk, whole, whoever else writes. Raises: OSError: it cannot be kept."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{datetime.now(UTC):%Y-%m-%d}.jsonl").open("a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(json.dumps(told, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
