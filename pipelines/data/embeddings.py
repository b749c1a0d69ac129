"""Vectors that are kept from one run to the next, by the hash of what they were made from and of the encoder: a daily run encodes what is new.

A SQLite file that any number of processes may share; losing it costs time alone.
"""

import hashlib
import sqlite3
from pathlib import Path

import numpy as np

from pipelines.stage import log

AT_ONCE = 500  # keys a query


class Embeddings:
    """Args: file: made where there is none. encoder: the hash of what encodes, other vectors than whose are not found."""

    def __init__(self, file: Path, encoder: str):
        self._encoder = bytes.fromhex(encoder)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._base = opened(file)
        except (OSError, sqlite3.Error) as error:
            log.warning("embed: %s cannot be used (%s): everything is encoded again, and nothing is kept", file, error)
            self._base = opened(Path(":memory:"))

    def key(self, content: bytes) -> bytes:
        return hashlib.sha256(self._encoder + content).digest()

    def known(self, keys: list[bytes]) -> dict[bytes, np.ndarray]:
        """Those of the vectors, float16, that are kept."""
        found = {}
        for start in range(0, len(keys), AT_ONCE):
            some = keys[start : start + AT_ONCE]
            marks = ",".join("?" * len(some))
            rows = self._base.execute(f"SELECT key, vector FROM vectors WHERE key IN ({marks})", some)  # nosec B608: marks alone
            found |= {key: np.frombuffer(vector, np.float16) for key, vector in rows}
        return found

    def keep(self, vectors: dict[bytes, np.ndarray]) -> None:
        with self._base:
            self._base.executemany(
                "INSERT OR IGNORE INTO vectors VALUES (?, ?)", [(k, v.astype(np.float16).tobytes()) for k, v in vectors.items()]
            )

    def close(self) -> None:
        self._base.close()


def opened(file: Path) -> sqlite3.Connection:
    """A base with its table, made where there is none."""
    base = sqlite3.connect(file, timeout=60)
    base.execute("PRAGMA journal_mode=WAL")
    base.execute("CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, vector BLOB NOT NULL) WITHOUT ROWID")
    base.commit()
    return base
