"""A file of any form to records of text: CSV and its kin, JSON lines and arrays, Parquet, spreadsheets, also packed.

In: a path, and what is told of its form. Out: columns of text (typed ones from Parquet), each row with the number of its record in the file; and
the records that cannot be read, with their line and the reason. Records read and unread are all that there are.

A delimited file is held line by line against the pattern of a good record. Where all lines fit, Polars reads the file itself. Where some do not
(a stray quote, a quote that does not close, a field too many), those are mended or put aside one by one, and Polars reads a copy without a name,
which goes with the process.
"""

import codecs
import contextlib
import csv
import gzip
import io
import json
import re
import tempfile
import zipfile
import zlib
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path

import polars as pl

from pipelines.data.reading.encodings import BLOCK, encoding_of
from pipelines.data.reading.mapping import Format
from pipelines.data.reading.names import COLUMN_NAMES, kind_of, plain
from pipelines.stage import StageError

RECORD = "\0record"  # a record's number in its file, from 1
UNREAD = {"file": pl.String, "record": pl.UInt32, "line": pl.UInt32, "reason": pl.String, "text": pl.String}
PACKED = (".gz", ".zst", ".zip")
DELIMITED = (".csv", ".tsv", ".tab", ".txt", ".dat", ".log", ".psv")
JSON = (".jsonl", ".ndjson", ".json")
PARQUET = (".parquet", ".pq")
SHEETS = (".xlsx", ".xlsm", ".xls", ".xlsb", ".ods")
SUFFIXES = (*DELIMITED, *JSON, *PARQUET, *SHEETS)
SEPARATORS = (",", ";", "\t", "|", "::", "\x01", "^", "~")
BLANKS = " "  # as a separator: any number of blanks
INNER = "\x1f"  # separates the columns of copies whose own separator is longer than a letter
LOOKED_AT = 300  # lines by which the form of a file is told
LONGEST = 200  # lines of one record
PREAMBLE = 20  # lines before the header, at most
COPIES: list[io.IOBase] = []  # open until the process ends; Polars reads them late
WRAPPER = 5  # keys of a JSON object around a list of records, at most
ROWS = 50_000  # of a batch of JSON records


@dataclass
class Records:
    """What a file holds: `frame` has RECORD and `columns`; `count` records are in the file, those of `unread` among them."""

    path: Path
    frame: pl.LazyFrame
    columns: list[str]
    count: int
    unread: pl.DataFrame
    form: dict = field(default_factory=dict)  # as told or detected
    notes: list[str] = field(default_factory=list)


def suffix_of(path: Path) -> str:
    """The suffix that tells the form: of shop.CSV.GZ it is .csv."""
    name = path.name.lower()
    packed = next((p for p in PACKED if name.endswith(p)), "")
    inner = Path(name.removesuffix(packed)).suffix
    return inner if inner in SUFFIXES or not packed else ".csv"


def is_readable(path: Path) -> bool:
    name = path.name.lower()
    return (
        path.is_file()
        and not name.startswith((".", "~$"))
        and (suffix_of(path) in SUFFIXES and Path(name).suffix in (*SUFFIXES, *PACKED))
    )


def read(path: Path, form: Format, explode: str | None = None, limit: int | None = None) -> Records:
    """The records of a file.

    Args:
        form: what is told of a delimited file. explode: a dotted path to a list inside each JSON or Parquet record, a row for each of its
            elements. limit: only about so many records, to look at.

    Raises:
        StageError: the file is empty, or not of a form that can be read.
    """
    if path.stat().st_size == 0:
        raise StageError(f"{path} is empty")
    suffix = suffix_of(path)
    try:
        if suffix in PARQUET:
            return _parquet(path, explode, limit)
        if suffix in SHEETS:
            return _sheet(path, form, limit)
        if suffix in JSON:
            return _json(path, form, explode, limit)
        if explode:
            raise StageError(f"{path}: explode is for JSON and Parquet; a row of this file holds no list")
        return _delimited(path, form, limit)
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, pl.exceptions.PolarsError) as error:
        raise StageError(f"{path} cannot be read: {str(error).splitlines()[0][:300]}") from error


# Bytes and lines


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[io.BufferedIOBase]:
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


def _blocks(path: Path, limit: int | None = None) -> Iterator[bytes]:
    with _opened(path) as file:
        for _ in range(8) if limit else iter(int, 1):
            block = file.read(BLOCK)
            if not block:
                return
            yield block


def _texts(path: Path, encoding: str) -> Iterator[str]:
    """The file's text, about BLOCK at a time."""
    decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
    for block in chain(_blocks(path), [b""]):
        yield decoder.decode(block, final=not block)


def _lines(path: Path, encoding: str) -> Iterator[list[str]]:
    """The file's lines, a list for every block; lines end with LF, CR LF, or CR where the file has no other."""
    rest, end = "", None
    for block in _texts(path, encoding):
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
    if len(texts) < 2 or any(encoding_of(_blocks(p, limit), quick=True)[0] for p in texts):
        return None
    return encoding_of(chain.from_iterable(chain(_blocks(p, limit), [b"\n"]) for p in texts))[0]


def _told_encoding(path: Path, form: Format, notes: list[str], limit: int | None = None) -> tuple[str, int]:
    if form.encoding:
        return form.encoding, 0
    encoding, wrong = encoding_of(_blocks(path, limit))
    if encoding not in ("utf-8", "utf-8-sig"):
        notes.append(f"{path.name} is read as {encoding}")
    return encoding, wrong


# Delimited text


@dataclass
class Layout:
    """How a delimited file is laid out: the first data line is `skipped` lines from its beginning."""

    separator: str
    quote: str | None
    names: list[str]
    header: bool
    skipped: int

    @property
    def inner(self) -> str:
        """The separator of a copy."""
        return self.separator if len(self.separator) == 1 and self.separator != BLANKS else INNER

    @property
    def pattern(self) -> str:
        """What a record on one line looks like: no quotes but around whole fields, and no more fields than columns."""
        mark = re.escape(self.separator)
        plainly = f"[^{mark}{self.quote or ''}]*"
        quoted = f"(?:{self.quote}(?:[^{self.quote}]|{self.quote * 2})*{self.quote}|{plainly})" if self.quote else plainly
        return f"^{quoted}(?:{mark}{quoted}){{0,{len(self.names) - 1}}}$"


def _delimited(path: Path, form: Format, limit: int | None) -> Records:
    notes: list[str] = []
    encoding, wrong = _told_encoding(path, form, notes, limit)
    head = list(islice(chain.from_iterable(_lines(path, encoding)), LOOKED_AT))
    if head:
        head[0] = head[0].lstrip("\ufeff")
    if not any(line.strip() for line in head):
        raise StageError(f"{path} is empty")
    layout = _layout(path, head, form, notes)
    told = {
        "separator": "blanks" if layout.separator == BLANKS else layout.separator,
        "header": layout.header,
        "encoding": encoding,
    }
    if not layout.header:
        notes.append(f"{path.name} has no header: its first row is data, and its columns are called 1 to {len(layout.names)}")
    plainly = path.suffix.lower() not in PACKED and encoding in ("utf-8", "utf-8-sig") and not wrong and not limit
    if plainly and layout.inner == layout.separator and not (encoding == "utf-8-sig" and not layout.skipped):
        lines = pl.scan_lines(path, glob=False).slice(layout.skipped)
        line = pl.col("line")
        fits = (
            lines.select((line.str.contains(layout.pattern) & (line != "")).sum(), pl.len().alias("all"))
            .collect(engine="streaming")
            .row(0)
        )
        with path.open("rb") as file:
            unix = b"\r" not in file.read(BLOCK).replace(b"\r\n", b"\n")
        if unix and fits[0] == fits[1]:
            return Records(
                path, _scan(path, layout, layout.skipped, False), layout.names, fits[1], pl.DataFrame(schema=UNREAD), told, notes
            )
    return _mended(path, encoding, layout, limit, told, notes)


def _scan(path: str | Path, layout: Layout, skipped: int, numbered: bool) -> pl.LazyFrame:
    schema = dict.fromkeys(([RECORD] if numbered else []) + layout.names, pl.String)
    frame = pl.scan_csv(
        path, separator=layout.inner, has_header=False, skip_lines=skipped, schema=schema, quote_char=layout.quote, infer_schema=False, glob=False, missing_columns="insert",
        **({} if numbered else {"row_index_name": RECORD, "row_index_offset": 1}),
    )  # fmt: skip
    return frame.with_columns(pl.col(RECORD).cast(pl.UInt32))


def _mended(path: Path, encoding: str, layout: Layout, limit: int | None, told: dict, notes: list[str]) -> Records:
    """Reads a copy in which every record is whole, and puts aside those that are not."""
    copy, unread, fields = _copy(), [], _Fields(layout)
    numbered, again = _numbered(path, encoding, layout), deque()
    record = mended = 0
    while (limit is None or record < limit) and (found := again.popleft() if again else next(numbered, None)):
        number, line, good = found
        if not line.strip():
            continue
        record += 1
        if good:
            copy.write(f"{record}{layout.inner}{line}\n")
            continue
        values = fields.apart(line)
        if fields.opens(line):
            following = list(_until_closed(again, numbered, fields, line))
            text = "\n".join([line, *(one for _, one, _ in following)])
            if fields.is_whole(whole := fields.apart(text)):
                values, line = whole, text
            else:
                again.extendleft(reversed(following))
        reason = _why_not(line, values, fields)
        if reason:
            unread.append((path.name, record, number, reason, line[:2000]))
        else:
            mended += any(not quoted and layout.quote and layout.quote in value for value, quoted in values)
            copy.write(f"{record}{layout.inner}{fields.written([value for value, _ in values])}\n")
    copy.flush()
    if mended:
        notes.append(f"{path.name}: {mended:,} records hold quotes that are text; they are read as they are written")
    frame = _scan(f"/proc/self/fd/{copy.fileno()}", layout, 0, True)
    return Records(path, frame, layout.names, record, pl.DataFrame(unread, schema=UNREAD, orient="row"), told, notes)


def _numbered(path: Path, encoding: str, layout: Layout) -> Iterator[tuple[int, str, bool]]:
    """The lines after the header with their numbers, and whether each is a good record as it stands."""
    number, plainly = 0, layout.inner == layout.separator
    for lines in _lines(path, encoding):
        good = pl.Series(lines, dtype=pl.String).str.contains(layout.pattern).to_list() if plainly else [False] * len(lines)
        for line, fits in zip(lines, good, strict=True):
            number += 1
            if number > layout.skipped:
                yield number, line, fits and "\ufffd" not in line


def _until_closed(again: deque, numbered: Iterator, fields: "_Fields", line: str) -> Iterator[tuple[int, str, bool]]:
    """The lines that follow, up to the one with which a quoted field closes; at most LONGEST."""
    text = line
    for _ in range(LONGEST):
        found = again.popleft() if again else next(numbered, None)
        if found is None:
            return
        yield found
        text += "\n" + found[1]
        if fields.layout.quote in found[1] and fields.is_whole(fields.apart(text)):
            return


def _why_not(line: str, values: list[tuple[str, bool]], fields: "_Fields") -> str | None:
    """Why a record cannot be read, if it cannot."""
    columns, quote = len(fields.layout.names), fields.layout.quote
    if "\ufffd" in line:
        return "bytes that its encoding does not have"
    if len(values) > columns:
        return f"{len(values)} fields, where there are {columns} columns"
    if quote and quote in line and (len(values) < columns or fields.opens(line)):
        return "a quote that does not close"
    return None


class _Fields:
    """Takes lines apart into fields."""

    def __init__(self, layout: Layout):
        self.layout = layout
        q, end = re.escape(layout.quote or ""), f"(?={re.escape(layout.separator)}|$)"
        self._quoted = re.compile(rf"\s*{q}((?:[^{q}]|{q}{q})*){q}\s*?{end}") if layout.quote else None
        self._rest = re.compile(rf"\s*{q}(?:[^{q}]|{q}{q})*$") if layout.quote else None

    def apart(self, line: str) -> list[tuple[str, bool]]:
        """The fields, each with whether it was quoted; a quote that is not around a whole field is text."""
        separator, quote = self.layout.separator, self.layout.quote
        if separator == BLANKS:
            return [(value, False) for value in line.split()]
        if not quote or quote not in line:
            return [(value, False) for value in line.split(separator)]
        values, at = [], 0
        while True:
            found = self._quoted.match(line, at)
            if found:
                values.append((found[1].replace(quote * 2, quote), True))
                at = found.end()
            else:
                end = line.find(separator, at)
                end = len(line) if end < 0 else end
                values.append((line[at:end], False))
                at = end
            if at >= len(line):
                return values
            at += len(separator)

    def opens(self, line: str) -> bool:
        """Does the line end inside a quoted field?"""
        separator, quote, at = self.layout.separator, self.layout.quote, 0
        if not quote or separator == BLANKS or quote not in line:
            return False
        while at < len(line):
            found = self._quoted.match(line, at)
            if not found and self._rest.match(line, at):
                return True
            end = found.end() if found else line.find(separator, at)
            if end < 0:
                return False
            at = end + len(separator)
        return False

    def is_whole(self, values: list[tuple[str, bool]]) -> bool:
        """Are these the fields of one record over several lines?"""
        return len(values) == len(self.layout.names) and all(quoted or "\n" not in value for value, quoted in values)

    def written(self, values: list[str]) -> str:
        """The fields as one record of the copy."""
        quote, inner = self.layout.quote or '"', self.layout.inner
        if not self.layout.quote:
            return inner.join(values)
        return inner.join(
            quote + v.replace(quote, quote * 2) + quote if quote in v or inner in v or "\n" in v or "\r" in v else v
            for v in values
        )


def _layout(path: Path, head: list[str], form: Format, notes: list[str]) -> Layout:
    """The layout that the first lines show, and that what is told completes."""
    skipped, separator, quote = form.skip_rows or 0, form.separator, form.quote
    if form.skip_rows is None and (said := re.fullmatch(r"sep=(.+?)\s*", head[0], re.IGNORECASE)):
        skipped, separator = 1, separator or said[1]
    lines = head[skipped:]
    if not any(line.strip() for line in lines):
        raise StageError(f"{path} holds no row after the first {skipped} lines")
    if separator is None:
        separator = _separator(lines, quote)
    fields = _Fields(Layout(separator or INNER, quote, [], True, 0))
    if form.skip_rows is None:
        usual = Counter(len(fields.apart(row)) for row in _whole_rows(lines, fields)).most_common(1)[0][0]
        wide = (i for i, line in enumerate(lines) if line.strip() and (usual < 3 or len(fields.apart(line)) >= usual))
        before = next(wide, 0)
        if 0 < before <= PREAMBLE:
            if any(line.strip() for line in lines[:before]):
                notes.append(f"{path.name}: the first {before} lines are no table and are skipped")
            skipped, lines = skipped + before, lines[before:]
    rows = _whole_rows(lines, fields)
    first = [v.strip() for v, _ in fields.apart(rows[0])]
    if not any(first):
        raise StageError(f"{path}: line {skipped + 1} should be the header, and is empty")
    body = [[v for v, _ in fields.apart(row)] for row in rows[1:]]
    header = _is_header(first, body) if form.header is None else form.header
    if not header:
        width = max(len(first), Counter(map(len, body)).most_common(1)[0][0] if body else 0)
        return Layout(separator or INNER, quote, [str(i + 1) for i in range(width)], False, skipped)
    return Layout(separator or INNER, quote, named(path, first), True, skipped + 1)


def _whole_rows(lines: list[str], fields: _Fields) -> list[str]:
    """Lines as rows: one that ends inside a quoted field goes on in the next, where that field closes soon."""
    rows, at = [], 0
    while at < len(lines):
        end, row = at, lines[at]
        while fields.opens(row) and end + 1 < len(lines) and end - at < LONGEST:
            end += 1
            row += "\n" + lines[end]
        if fields.opens(row):
            end, row = at, lines[at]
        if row.strip():
            rows.append(row)
        at = end + 1
    return rows


def named(path: Path, first: list[str]) -> list[str]:
    """The names of a header: those left out get the column's position.

    Raises:
        StageError: two columns have one name.
    """
    names = [name or str(i + 1) for i, name in enumerate(first)]
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice:
        raise StageError(f"{path}: two columns are called {twice}; rename one of them in the file")
    return names


def _separator(lines: list[str], quote: str | None) -> str | None:
    """The separator by which most rows have equally many fields, the more the better; None: there is one column."""
    best = (0, None)
    for separator in (*SEPARATORS, BLANKS):
        if separator == BLANKS and best[1]:
            break
        fields = _Fields(Layout(separator, quote, [], True, 0))
        rows = _whole_rows(lines, fields)
        width, count = Counter(len(fields.apart(row)) for row in rows).most_common(1)[0]
        if width > (2 if separator == BLANKS else 1) and count >= (0.95 if separator == BLANKS else 0.6) * len(rows):
            best = max(best, (width * count, separator), key=lambda b: b[0])
    return best[1]


_NUMBER = re.compile(r"[-+]?\d[\d.,]*(?:[eE][-+]?\d+)?")
_TIME = re.compile(r"\d{1,4}[-/.年]\d{1,2}[-/.月]\d{1,4}.*|\d{1,2}:\d{2}.*")


def _is_header(first: list[str], body: list[list[str]]) -> bool:
    """Are the first row's cells names? They are none where they look like the cells below them."""
    words = {plain(cell) for cell in first}
    if first in ([str(i) for i in range(len(first))], [str(i + 1) for i in range(len(first))]):
        return True  # as pandas and R write where there are no names
    known = {name for names in COLUMN_NAMES.values() for name in names}
    if words & known and not any(_NUMBER.fullmatch(cell) or _TIME.fullmatch(cell) for cell in first):
        return True
    alike = 0
    for i, cell in enumerate(first):
        below = [row[i].strip() for row in body if i < len(row) and row[i].strip()]
        if not below or not cell:
            continue
        for looks in (_NUMBER, _TIME):
            if sum(bool(looks.fullmatch(b)) for b in below) > 0.9 * len(below):
                if not looks.fullmatch(cell):
                    return True
                alike += 1
                break
        else:
            alike += cell in below and bool(kind_of(cell))
    return not alike


# JSON


def _json(path: Path, form: Format, explode: str | None, limit: int | None) -> Records:
    notes: list[str] = []
    encoding, _ = _told_encoding(path, form, notes, limit)
    start = "".join(line for lines in islice(_lines(path, encoding), 1) for line in lines[:5]).lstrip("\ufeff \t")
    one_by_line = not start.startswith("[") and _is_by_line(path, encoding, explode)
    parsed = _by_line(path, encoding) if one_by_line else _elements(path, encoding, explode)
    frames, columns, unread, count, batch, numbers, lists = [], {}, [], 0, [], [], 0
    for line, value, text in parsed:
        if limit and count >= limit:
            break
        count += 1
        if not isinstance(value, dict):
            unread.append((path.name, count, line, "no JSON object", text[:2000]))
            continue
        for row in _exploded(value, explode):
            lists += 1
            batch.append(row)
            numbers.append(count)
        if len(batch) >= ROWS:
            frames.append(_batch(batch, numbers, columns))
            batch, numbers = [], []
    if batch or not frames:
        frames.append(_batch(batch, numbers, columns))
    if not columns:
        raise StageError(f"{path} holds no JSON object" + (f"; line {unread[0][2]} is {unread[0][4][:60]!r}" if unread else ""))
    if explode and not lists:
        raise StageError(f"{path}: no record has a list called {explode}")
    frame = pl.concat(frames, how="diagonal") if len(frames) > 1 else frames[0]
    told = {"form": "JSON lines" if one_by_line else "JSON", "encoding": encoding}
    return Records(path, frame, list(columns), count, pl.DataFrame(unread, schema=UNREAD, orient="row"), told, notes)


def _parsed(text: str):
    """JSON with its numbers as they are written, for an id is no number."""
    return json.loads(text, parse_float=str, parse_int=str, parse_constant=str)


def _wrapped(value: object, explode: str | None) -> list | None:
    """The one list of records inside a JSON object that is no record itself, such as {"orders": [...]}."""
    if not isinstance(value, dict) or (explode and explode.partition(".")[0] in value):
        return None
    lists = [v for v in value.values() if isinstance(v, list) and v and isinstance(v[0], dict)]
    return lists[0] if len(lists) == 1 and len(value) <= WRAPPER else None


def _is_by_line(path: Path, encoding: str, explode: str | None) -> bool:
    """Is there a JSON value on each line, broken ones apart, and not one value over many lines?"""
    lines = list(islice((line for line in chain.from_iterable(_lines(path, encoding)) if line.strip()), 20))
    whole = 0
    for line in lines:
        with contextlib.suppress(ValueError):
            whole += isinstance(_parsed(line.lstrip("\ufeff")), dict)
    if len(lines) == 1 and whole and _wrapped(_parsed(lines[0].lstrip("\ufeff")), explode) is not None:
        return False
    return whole >= max(1, len(lines) / 2)


def _by_line(path: Path, encoding: str) -> Iterator[tuple[int, object, str]]:
    number = 0
    for line in chain.from_iterable(_lines(path, encoding)):
        number += 1
        line = line.lstrip("\ufeff")
        if not line.strip():
            continue
        try:
            yield number, _parsed(line), line
        except (ValueError, RecursionError):
            yield number, None, line


def _elements(path: Path, encoding: str, explode: str | None) -> Iterator[tuple[int, object, str]]:
    """The elements of a JSON array, of the one array inside a JSON object, or of values that follow one another.

    Raises:
        StageError: the JSON breaks off or is broken: what follows cannot be told apart.
    """
    decoder = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=str)
    gap, text, number, enough = re.compile(r"[\s,\[\ufeff]*"), "", 1, 0
    for block in chain(_texts(path, encoding), [None]):
        text += block or ""
        if block is not None and len(text) < enough:
            continue  # one value over many blocks is not tried at each of them
        at = 0
        while True:
            start = gap.match(text, at).end()
            number += text.count("\n", at, start)
            at = start
            if at >= len(text) or text[at] == "]":
                break
            try:
                value, end = decoder.raw_decode(text, at)
            except (ValueError, RecursionError):
                break  # goes on in the next block, or is broken
            inside = _wrapped(value, explode) if number == 1 and not text[end:].strip() and text[at] == "{" else None
            if inside is not None:
                yield from ((1, element, str(element)) for element in inside)
            else:
                yield number, value, text[at:end]
            number += text.count("\n", at, end)
            at = end
        text, enough = text[at:], 2 * len(text[at:])
    if rest := text.strip("] \n\t\r"):
        raise StageError(f"{path}: the JSON is broken or breaks off at line {number}: {rest[:60]!r}")


def _exploded(value: dict, path: str | None) -> Iterator[dict[str, str | None]]:
    """The row of a record, or a row for each element of its list; keys are dotted."""
    if not path:
        yield _flat(value)
        return
    inner = value
    for key in path.split("."):
        inner = inner.get(key) if isinstance(inner, dict) else None
    base = {k: v for k, v in _flat(value).items() if k != path}
    for element in inner if isinstance(inner, list) else []:
        yield base | (_flat(element, path + ".") if isinstance(element, dict) else {path: _text(element)})


def _flat(value: dict, before: str = "") -> dict[str, str | None]:
    row = {}
    for key, inner in value.items():
        if isinstance(inner, dict):
            row |= _flat(inner, f"{before}{key}.")
        else:
            row[f"{before}{key}"] = _text(inner)
    return row


def _text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value, ensure_ascii=False)


def _batch(rows: list[dict], numbers: list[int], columns: dict) -> pl.LazyFrame:
    """A batch as Parquet in a file without a name."""
    names = dict.fromkeys(key for row in rows for key in row)
    columns |= names
    data = {RECORD: pl.Series(numbers, dtype=pl.UInt32)} | {
        name: pl.Series([row.get(name) for row in rows], dtype=pl.String) for name in names
    }
    copy = _copy("wb")
    pl.DataFrame(data).write_parquet(copy, compression="lz4")
    copy.flush()
    return pl.scan_parquet(f"/proc/self/fd/{copy.fileno()}")


# Parquet and spreadsheets


def _parquet(path: Path, explode: str | None, limit: int | None) -> Records:
    frame = pl.scan_parquet(path, glob=False).with_row_index(RECORD, 1)
    frame = frame.head(limit) if limit else frame
    count = frame.select(pl.len()).collect().item()
    if explode:
        if explode not in frame.collect_schema():
            raise StageError(
                f"{path}: explode names {explode}, but the columns are {', '.join(frame.collect_schema().names()[1:])}"
            )
        frame = frame.explode(explode).filter(pl.col(explode).is_not_null())
    while structs := {name: kind for name, kind in frame.collect_schema().items() if isinstance(kind, pl.Struct)}:
        inner = [pl.col(n).struct.field(f.name).alias(f"{n}.{f.name}") for n, kind in structs.items() for f in kind.fields]
        frame = frame.with_columns(inner).drop(list(structs))
    lists = [name for name, kind in frame.collect_schema().items() if isinstance(kind, pl.List | pl.Array)]
    columns = [name for name in frame.collect_schema() if name != RECORD and name not in lists]
    return Records(path, frame.select(RECORD, *columns), columns, count, pl.DataFrame(schema=UNREAD), {"form": "Parquet"}, [])


def _sheet(path: Path, form: Format, limit: int | None) -> Records:
    import fastexcel

    notes: list[str] = []
    try:
        book = fastexcel.read_excel(path)
        sheets = [book.load_sheet(name, dtypes="string", header_row=None).to_polars() for name in book.sheet_names]
    except fastexcel.FastExcelError as error:
        raise StageError(f"{path} cannot be read as a spreadsheet: {str(error).splitlines()[0][:200]}") from error
    full = [i for i, sheet in enumerate(sheets) if len(sheet)]
    if not full:
        raise StageError(f"{path} is empty")
    if len(full) > 1:
        notes.append(f"{path.name}: the sheet {book.sheet_names[full[0]]!r} is read; the others are not")
    sheet = sheets[full[0]]
    rows = [["" if v is None else v.strip() for v in row] for row in sheet.head(LOOKED_AT).rows()]
    skipped = (
        form.skip_rows
        if form.skip_rows is not None
        else next((i for i, row in enumerate(rows) if sum(map(bool, row)) * 2 > len(row)), 0)
    )
    header = _is_header(rows[skipped], rows[skipped + 1 :]) if form.header is None else form.header
    names = named(path, rows[skipped]) if header else [str(i + 1) for i in range(sheet.width)]
    sheet = sheet.slice(skipped + header).rename(dict(zip(sheet.columns, names, strict=True)))
    sheet = sheet.filter(~pl.all_horizontal(pl.all().is_null())).with_row_index(RECORD, 1)
    sheet = sheet.head(limit) if limit else sheet
    return Records(
        path, sheet.lazy(), names, len(sheet), pl.DataFrame(schema=UNREAD), {"form": "spreadsheet", "header": header}, notes
    )


def _copy(mode: str = "w") -> io.IOBase:
    """A temporary file without a name: it goes with the process, however that ends."""
    copy = tempfile.TemporaryFile(mode, **({} if "b" in mode else {"encoding": "utf-8", "newline": ""}))  # noqa: SIM115
    COPIES.append(copy)
    return copy


def quoted(values: list[str]) -> str:
    """Values as one line of CSV, to show."""
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow(values)
    return out.getvalue()
