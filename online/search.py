"""Items by text: BM25 (Robertson & Zaragoza 2009, by SQLite's FTS5) over title, brand and category.

In: texts in any language; Chinese is cut into words by jieba's dictionary (rjieba), English words are reduced to their stems (Porter). Out: items, best first. Lost: the order of words.
"""

import re
import sqlite3
import threading
from collections.abc import Iterable
from pathlib import Path

import rjieba

WEIGHTS = {"title": 4.0, "brand": 2.0, "category": 1.0}  # what a word counts where it stands
CHINESE = re.compile(r"[\u3400-\u9fff]+")
WORD = re.compile(r"\w+")
MOST_WORDS = 32  # of a query
INSERT = f"INSERT INTO texts (rowid, {', '.join(WEIGHTS)}) VALUES ({', '.join('?' * (len(WEIGHTS) + 1))})"


def words(text: str) -> list[str]:
    """The words of a text."""
    cut = CHINESE.sub(lambda found: f" {' '.join(rjieba.cut_for_search(found[0]))} ", text)
    return WORD.findall(cut.lower())


class Search:
    """An index of items by number. Safe to call from several threads.

    Args:
        file: of build(), which is only read.
    """

    def __init__(self, file: Path):
        self._file, self._own = file, threading.local()

    def find(self, query: str, count: int) -> list[tuple[int, float]]:
        """The numbers of the items that share most with a query, best first, ties by number, and how much (more is better)."""
        asked = list(dict.fromkeys(words(query)))[:MOST_WORDS]
        if not asked:
            return []
        weights = ", ".join(str(w) for w in WEIGHTS.values())
        found = (
            f"SELECT rowid, -bm25(texts, {weights}) AS score FROM texts WHERE texts MATCH ? ORDER BY score DESC, rowid LIMIT ?"
        )
        return self._base().execute(found, (" OR ".join(f'"{word}"' for word in asked), count)).fetchall()

    def _base(self) -> sqlite3.Connection:
        """A connection of this thread."""
        if not hasattr(self._own, "base"):
            self._own.base = sqlite3.connect(f"{self._file.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
        return self._own.base


def build(file: Path, items: Iterable[dict]) -> None:
    """Writes an index of items: number, and texts by the names of WEIGHTS."""
    base = sqlite3.connect(file)
    _make(base, "content=''")  # the words are found by; the texts themselves stand in the catalogue
    base.executemany(INSERT, (_row(item["number"], item) for item in items))
    base.execute("INSERT INTO texts (texts) VALUES ('optimize')")
    base.commit()
    base.execute("VACUUM")
    base.close()


def _make(base: sqlite3.Connection, *options: str) -> None:
    parts = (*WEIGHTS, "tokenize='porter unicode61 remove_diacritics 2'", *options)
    base.execute(f"CREATE VIRTUAL TABLE texts USING fts5({', '.join(parts)})")


def _row(number: int, texts: dict[str, str | None]) -> tuple:
    return number, *(" ".join(words(texts.get(name) or "")) for name in WEIGHTS)
