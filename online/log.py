"""An append-only log of rows in files of lines of JSON: what append() returned from is on disk.

In: rows of a topic and partition, such as a process that takes rows over HTTP, or a partition of Kafka's. Out: `<topic>.<partition>.<first>.open`, written by one process, and once it is a minute old or
large the same as `.jsonl`, which nobody writes again. A row's offset stands in it, or is that of the file's first row and its place in the file. Half a line at the end of a file, as power failed, is none.
pipelines/data/sources/rolling.py makes `<topic>.<partition>.<first>.<last>.parquet` of a file that is not written any more.
"""

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SECONDS, BYTES = 60.0, 64 << 20  # from which a file is closed
NAME = re.compile(r"(?P<topic>[^.]+)\.(?P<partition>[^.]+)\.(?P<first>\d{20})(\.(?P<last>\d{20}))?\.(open|jsonl|parquet)")


class Position(NamedTuple):
    """What a file holds. last: None where its rows tell."""

    topic: str
    partition: str
    first: int
    last: int | None = None


class EventLog:
    """The log of one process, a topic and partition. Not for several threads at once.

    Attributes:
        next: the offset after the last that was appended.

    Args:
        folder: of all processes. topic, partition: without dots; the partition is this process where none is named. first: the offset of the first row that is appended.
    """

    def __init__(self, folder: Path, topic: str = "http", partition: str | None = None, first: int = 0):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._name = f"{topic}.{partition or f'{time.time_ns():020d}-{os.getpid()}'}"
        self.next = first
        self._file: int | None = None
        self._path, self._since = folder, 0.0

    def append(self, rows: list[dict]) -> tuple[str, int]:
        """The file's name without its ending, and how many bytes of it are on disk.

        Raises:
            OSError: they cannot be put on disk; then none of them counts as taken.
        """
        lines = b"".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n" for row in rows)
        if self._file is not None and (time.monotonic() - self._since > SECONDS or os.fstat(self._file).st_size > BYTES):
            self.close()
        if self._file is None:
            first = rows[0].get("offset", self.next)
            self._path = self.folder / f"{self._name}.{first:020d}.open"
            self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            self._since = time.monotonic()
            sync(self.folder)
        before = os.fstat(self._file).st_size
        try:
            rest = memoryview(lines)
            while rest:
                rest = rest[os.write(self._file, rest) :]
            os.fdatasync(self._file)
        except OSError:
            os.ftruncate(self._file, before)  # as a disk is full: half of them must not look as if they had been taken
            raise
        self.next = rows[-1].get("offset", self.next + len(rows) - 1) + 1
        return self._path.stem, before + len(lines)

    def close(self) -> None:
        """Ends the file that is being written."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
            self._path.rename(self._path.with_suffix(".jsonl"))
            sync(self.folder)


def sync(folder: Path) -> None:
    """Waits until the names of a folder's files are on disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def files(folder: Path) -> list[Path]:
    """Files of lines, oldest first of each partition."""
    return sorted(path for path in folder.glob("*.*.*") if path.suffix in (".open", ".jsonl"))


def position(path: Path) -> Position:
    """What a file holds, by its name."""
    found = NAME.fullmatch(path.name)
    return Position(found["topic"], found["partition"], int(found["first"]), int(found["last"]) if found["last"] else None)


def goes_on_at(folder: Path, topic: str, partition: str) -> int:
    """The offset after the largest that the log holds of a partition; 0 where it holds none."""
    after = 0
    for path in folder.glob(f"{topic}.{partition}.*"):
        at = position(path)
        if at.last is not None:
            after = max(after, at.last + 1)
        else:
            rows = [row for row, _ in read(path)]
            after = max(after, rows[-1].get("offset", at.first + len(rows) - 1) + 1 if rows else 0)
    return after


def read(path: Path, start: int = 0) -> Iterator[tuple[dict, int]]:
    """The rows of a file from a byte on, each with the byte at which the next begins."""
    with path.open("rb") as file:
        file.seek(start)
        for line in file:
            if not line.endswith(b"\n"):
                return
            start += len(line)
            yield json.loads(line), start
