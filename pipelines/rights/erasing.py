"""Takes somebody out of files: rows of tables, lines of logs, names in texts.

In: a folder and by which names they are known. Out: the same files without them, and what was done where. A table is written beside and renamed; a line of the log of events is overwritten in its place, as a server may be
appending to the file; what is numbered by shoppers (data/prepared) goes whole, the next run makes it again.
"""

import csv
import io
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import polars as pl

from pipelines.artefact import without
from pipelines.stage import write_whole
from privacy.overwriting import overwrite
from privacy.people import FORGOTTEN

WHO = ("user_id", "visitor_id", "person_id", "one", "other")  # columns that say whose a row is; the last three of data/links
TEXTS = {".json", ".html", ".txt", ".log", ".md", ".yaml", ".yml", ".js", ".journal", ".lock"}
LINES = {".jsonl", ".open"}
NUMBERED = "histories.parquet"  # where it stands, the other files of the folder count shoppers by its rows
LARGEST = 64 << 20  # bytes of a text that is looked at
ERASED = b"[erased]"


class Done(NamedTuple):
    """What was done in a place. count: of rows, lines or names."""

    place: str
    count: int
    what: str


class Names:
    """By which names somebody is known.

    Args:
        names: ids, pseudonyms, and those of visitors that only they were.
    """

    def __init__(self, names: Iterable[str]):
        self.all = sorted(set(names))
        found = [re.escape(json.dumps(n, ensure_ascii=quoted)[1:-1].encode()) for n in self.all for quoted in (False, True)]
        numbers = [n.isdigit() for n in self.all for _ in range(2)]
        plain = b"|".join(one for one, number in zip(found, numbers, strict=True) if not number)
        quoted = b"|".join(one for one, number in zip(found, numbers, strict=True) if number)  # 7 may be a count, "7" is a name
        self._texts = [re.compile(rb"(?<![\w-])(?:" + plain + rb")(?![\w-])")] if plain else []
        self._texts += [re.compile(rb"(?<=[\"'>])(?:" + quoted + rb")(?=[\"'<])")] if quoted else []

    def rows(self, columns: Iterable[str]) -> pl.Expr:
        """Which rows of a table are theirs."""
        return pl.any_horizontal(pl.col(column).cast(pl.String).is_in(self.all).fill_null(False) for column in columns)

    def masked(self, text: bytes) -> tuple[bytes, int]:
        """The text without them, and how often they stood in it."""
        count = 0
        for pattern in self._texts:
            text, found = pattern.subn(ERASED, text)
            count += found
        return text, count

    def own(self, row: object) -> bool:
        """Whether a row of a log is theirs."""
        return isinstance(row, dict) and any(row.get(column) in self.all for column in WHO)


def holds(path: Path, names: Names, name: str | None = None) -> bool:
    """Whether a file names somebody. name: under which to know its kind, where it stands under another."""
    suffix = Path(name or path.name).suffix
    if suffix == ".parquet" or (not suffix and _begins(path, b"PAR1")):
        return bool(_theirs(path, names))
    if Path(name or path.name).name in without.HASHES:
        return without.named(path, names.all)
    if suffix == ".sqlite":
        return without.in_base(path, names.all) > 0
    if path.stat().st_size > LARGEST and suffix not in LINES | {".csv"}:
        return False
    return suffix in TEXTS | LINES | {".csv", ""} and names.masked(path.read_bytes())[1] > 0


def erase(folder: Path, names: Names, left_out: Iterable[Path] = ()) -> Iterator[Done]:
    """Takes somebody out of all files of a folder, but for what stands in some folders."""
    left_out = set(left_out)
    for path, _, files in os.walk(folder):
        here = Path(path)
        if any(here == one or one in here.parents for one in left_out):
            continue
        if NUMBERED in files and "prepared.json" in files:
            if holds(here / NUMBERED, names):
                shutil.rmtree(here)
                yield Done(str(here), 1, "removed whole: its arrays count shoppers by their place; the next run makes it again")
            continue
        if "manifest.json" in files and without.HASHES[0] in files:
            if without.rewrite(here, names.all):
                yield Done(str(here), 1, "made again without them")
            continue
        for file in sorted(files):
            if (done := _in_file(here / file, names)) is not None:
                yield done


def _in_file(path: Path, names: Names) -> Done | None:
    """What was done to a file; None: they were not in it."""
    if path.is_symlink() or not path.is_file():
        return None
    if path.suffix == ".parquet":
        count = _theirs(path, names)
        if count:
            rest = pl.scan_parquet(path).filter(~names.rows(who(path)))
            write_whole(path, rest.sink_parquet)
        return Done(str(path), count, "rows removed") if count else None
    if path.suffix in LINES:
        count = _lines(path, names)
        return Done(str(path), count, "lines overwritten") if count else None
    if path.suffix == ".sqlite" or path.stat().st_size > LARGEST:
        return None  # of the platform's own, told to forget by who keeps them
    if path.suffix == ".csv":
        rest, count = _without_rows(path.read_text(encoding="utf-8", errors="surrogateescape"), names)
        if count:
            write_whole(path, lambda beside: beside.write_text(rest, encoding="utf-8", errors="surrogateescape", newline=""))
        return Done(str(path), count, "rows removed") if count else None
    if path.suffix not in TEXTS:
        return None
    text, count = names.masked(path.read_bytes())
    if count:
        write_whole(path, lambda beside: beside.write_bytes(text))
    return Done(str(path), count, "names masked") if count else None


def who(path: Path) -> list[str]:
    """Columns of a table that say whose a row is."""
    return [column for column in pl.read_parquet_schema(path) if column in WHO]


def _theirs(path: Path, names: Names) -> int:
    """How many rows of a table are theirs."""
    columns = who(path)
    return pl.scan_parquet(path).select(names.rows(columns).sum()).collect(engine="streaming").item() if columns else 0


def _lines(path: Path, names: Names) -> int:
    """Overwrites lines that are theirs; how many."""

    def instead(line: bytes) -> bytes | None:
        if not names.masked(line)[1] or not names.own(row := _row(line)):
            return None
        said = {"refused": FORGOTTEN, "row": ""} | {key: row[key] for key in ("received", "offset") if key in row}
        told = json.dumps(said, separators=(",", ":")).encode()
        return told if len(told) < len(line) else b"{}"

    return overwrite(path, instead)


def _row(line: bytes) -> object:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _without_rows(text: str, names: Names) -> tuple[str, int]:
    """A table of comma-separated values without their rows, and how many there were."""
    kept, count, theirs, rows = io.StringIO(newline=""), 0, set(names.all), csv.reader(io.StringIO(text, newline=""))
    writer, header = csv.writer(kept, lineterminator="\n"), next(rows, [])
    columns = [place for place, column in enumerate(header) if column in WHO]
    writer.writerow(header)
    for row in rows:
        if theirs.intersection(row[place] for place in columns if place < len(row)):
            count += 1
        else:
            writer.writerow(row)
    return kept.getvalue(), count


def _begins(path: Path, mark: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(mark)) == mark
