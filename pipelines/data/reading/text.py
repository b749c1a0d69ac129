"""A file's bytes, unpacked; its lines, decoded; and Records, what reading a file of any form gives."""

import codecs
import contextlib
import gzip
import io
import resource
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import polars as pl

from pipelines.data.reading.encodings import BLOCK, encoding_of
from pipelines.data.reading.mapping import Format
from pipelines.stage import StageError

RECORD = "\0record"  # a record's number in its file, from 1
ELEMENT = "\0element"  # which element of the record's list a row is, from 1; null where the record has none
UNREAD_SCHEMA = {"file": pl.String, "record": pl.UInt32, "line": pl.UInt32, "reason": pl.String, "text": pl.String}
PACKED = (".gz", ".zst", ".zip")
DELIMITED = (".csv", ".tsv", ".tab", ".txt", ".dat", ".log", ".psv")
JSON = (".jsonl", ".ndjson", ".json")
PARQUET = (".parquet", ".pq")
SHEETS = (".xlsx", ".xlsm", ".xls", ".xlsb", ".ods")
SUFFIXES = (*DELIMITED, *JSON, *PARQUET, *SHEETS)
LOOKED_AT = 300  # lines by which the form of a file is told
COPIES: list[io.IOBase] = []  # open until the process ends; Polars reads them late


@dataclass
class Records:
    """What a file holds: `frame` has RECORD and `columns`, and ELEMENT where a list is exploded; `count` records are in the file, those of `unread`
    among them."""

    path: Path
    frame: pl.LazyFrame
    columns: list[str]
    count: int
    unread: pl.DataFrame
    form: dict = field(default_factory=dict)  # as told or detected
    lists: list[str] = field(default_factory=list)  # columns of lists that are not exploded, and not in `columns`
    notes: list[str] = field(default_factory=list)


def suffix_of(path: Path) -> str:
    """The suffix that tells the form: of shop.CSV.GZ it is .csv."""
    name = path.name.lower()
    packed = next((p for p in PACKED if name.endswith(p)), "")
    inner = Path(name.removesuffix(packed)).suffix
    return inner if inner in SUFFIXES or not packed else ".csv"


@contextlib.contextmanager
def opened(path: Path) -> Iterator[io.BufferedIOBase]:
    """The file's bytes, unpacked."""
    name = path.name.lower()
    if name.endswith(".gz"):
        with gzip.open(path, "rb") as file:
            yield file
    elif name.endswith(".zst"):
        import pyarrow as pa

        with pa.input_stream(str(path), compression="zstd") as file:
            yield file
    elif name.endswith(".zip"):
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if not m.is_dir() and not m.filename.startswith("__MACOSX")]
            if len(members) != 1:
                listed = ", ".join(m.filename for m in members[:5]) or "nothing"
                raise StageError(f"{path} holds {len(members)} files ({listed}); unpack it and name the folder")
            with archive.open(members[0]) as file:
                yield file
    else:
        with path.open("rb") as file:
            yield file


def blocks(path: Path, limit: int | None = None) -> Iterator[bytes]:
    with opened(path) as file:
        for _ in range(8) if limit else iter(int, 1):
            block = file.read(BLOCK)
            if not block:
                return
            yield block


def texts(path: Path, encoding: str) -> Iterator[str]:
    """The file's text, about BLOCK at a time."""
    decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
    for block in chain(blocks(path), [b""]):
        yield decoder.decode(block, final=not block)


def lines_of(path: Path, encoding: str) -> Iterator[list[str]]:
    """The file's lines, a list for every block; lines end with LF, CR LF, or CR where the file has no other."""
    rest, end = "", None
    for block in texts(path, encoding):
        if end is None and block:
            end = "\r" if "\r" in block and "\n" not in block else "\n"
        lines = (rest + block).split(end or "\n")
        rest = lines.pop()
        yield [line.removesuffix("\r") for line in lines] if "\r" in block else lines
    if rest:
        yield [rest.removesuffix("\r")]


def encoding_of_all(paths: list[Path], limit: int | None = None) -> str | None:
    """One encoding for the parts of a table, told by all of their text, where none is in UTF-8 or UTF-16; else None: each tells its own."""
    texts = [p for p in paths if suffix_of(p) in (*DELIMITED, *JSON)]
    if len(texts) < 2 or any(encoding_of(blocks(p, limit), quick=True)[0] for p in texts):
        return None
    return encoding_of(chain.from_iterable(chain(blocks(p, limit), [b"\n"]) for p in texts))[0]


def told_encoding(path: Path, form: Format, notes: list[str], limit: int | None = None) -> tuple[str, int]:
    if form.encoding:
        return form.encoding, 0
    encoding, wrong = encoding_of(blocks(path, limit))
    if encoding not in ("utf-8", "utf-8-sig"):
        notes.append(f"{path.name} is read as {encoding}")
    return encoding, wrong


def copy_without_a_name(mode: str = "w") -> io.IOBase:
    """A temporary file without a name: it goes with the process, however that ends."""
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if len(COPIES) > allowed // 4 and allowed < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a folder of a thousand packed parts
    copy = tempfile.TemporaryFile(mode, **({} if "b" in mode else {"encoding": "utf-8", "newline": ""}))  # noqa: SIM115
    COPIES.append(copy)
    return copy
