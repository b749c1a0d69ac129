"""Messages as lines of JSON in a file, for whatever takes them from there. A key stands in it once."""

import fcntl
import json
import os
from dataclasses import asdict
from pathlib import Path

from marketing.outbox import Message


class File:
    """See marketing/channels."""

    known_again = True

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.keys, self.read = path, set(), 0

    def deliver(self, key: str, message: Message) -> None:
        """See Channel."""
        with self.path.open("ab+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(self.read)
            for line in file:
                if line.endswith(b"\n"):
                    self.keys.add(_key(line))
                    self.read += len(line)
            if key in self.keys:
                return
            whole = file.seek(0, os.SEEK_END) == self.read
            row = (
                {"key": key}
                | {n: v for n, v in asdict(message).items() if n not in ("body", "until", "propensity", "expected")}
                | message.body
            )
            file.write(
                (b"" if whole else b"\n") + json.dumps(row, ensure_ascii=False).encode() + b"\n"
            )  # after half a line, as power failed
            file.flush()
            os.fsync(file.fileno())


def _key(line: bytes) -> str | None:
    try:
        return json.loads(line)["key"]
    except (ValueError, KeyError):
        return None
