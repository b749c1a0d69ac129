"""An append-only log of events in files of lines of JSON: what append() returned from is on disk.

In: events. Out: `<start>-<process>.open`, written by one process, and once it is a minute old or large `<start>-<process>.jsonl`, which nobody writes again. Half a line at the end of an open file, as
power failed, is none.
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

SECONDS, BYTES = 60.0, 64 << 20  # from which a file is closed


class EventLog:
    """The log of one process. Not for several threads at once.

    Args:
        folder: of all processes.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._file: int | None = None
        self._path, self._since = folder, 0.0

    def append(self, events: list[dict]) -> None:
        """Raises OSError where they cannot be put on disk; then none of them counts as taken."""
        lines = b"".join(json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode() + b"\n" for event in events)
        if self._file is not None and (time.monotonic() - self._since > SECONDS or os.fstat(self._file).st_size > BYTES):
            self.close()
        if self._file is None:
            self._path = self.folder / f"{time.time_ns():020d}-{os.getpid()}.open"
            self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            self._since = time.monotonic()
            self._sync_folder()
        before = os.fstat(self._file).st_size
        try:
            rest = memoryview(lines)
            while rest:
                rest = rest[os.write(self._file, rest) :]
            os.fdatasync(self._file)
        except OSError:
            os.ftruncate(self._file, before)  # as a disk is full: half of them must not look as if they had been taken
            raise

    def close(self) -> None:
        """Ends the file that is being written."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
            self._path.rename(self._path.with_suffix(".jsonl"))
            self._sync_folder()

    def _sync_folder(self) -> None:
        handle = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def files(folder: Path) -> list[Path]:
    """Those of the log, oldest first."""
    return sorted(path for path in folder.glob("*-*") if path.suffix in (".open", ".jsonl"))


def read(path: Path, start: int = 0) -> Iterator[tuple[dict, int]]:
    """The events of a file from a byte on, each with the byte at which the next begins."""
    with path.open("rb") as file:
        file.seek(start)
        for line in file:
            if not line.endswith(b"\n"):
                return
            start += len(line)
            yield json.loads(line), start
