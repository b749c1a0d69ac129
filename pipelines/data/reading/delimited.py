"""Delimited text: CSV and its kin.

A file is held line by line against the pattern of a good record. Where all lines fit, Polars reads the file itself. Where some do not (a stray quote,
a quote that does not close, a field too many), those are mended or put aside one by one, and Polars reads a copy without a name, which goes with the
process.
"""

import csv
import io
import re
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

import polars as pl

from pipelines.data.reading.encodings import BLOCK
from pipelines.data.reading.mapping import Format
from pipelines.data.reading.names import COLUMN_NAMES, kind_of, plain
from pipelines.data.reading.text import (
    ELEMENT,
    LOOKED_AT,
    PACKED,
    RECORD,
    UNREAD_SCHEMA,
    Records,
    copy_without_a_name,
    lines_of,
    told_encoding,
)
from pipelines.stage import StageError

SEPARATORS = (",", ";", "\t", "|", "::", "\x01", "^", "~")
BLANKS = " "  # as a separator: any number of blanks
INNER = "\x1f"  # separates the columns of copies whose own separator is longer than a letter
LONGEST = 200  # lines of one record
LISTED = (";", "|", ",", " ")  # what parts the elements of a list in a cell
PREAMBLE = 20  # lines before the header, at most


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
        """What a record on one line looks like: no quotes but around whole fields, and no more fields than columns, but for empty ones."""
        mark = re.escape(self.separator)
        plainly = f"[^{mark}{self.quote or ''}]*"
        quoted = f"(?:{self.quote}(?:[^{self.quote}]|{self.quote * 2})*{self.quote}|{plainly})" if self.quote else plainly
        return f"^{quoted}(?:{mark}{quoted}){{0,{len(self.names) - 1}}}(?:{mark})*$"


def read_delimited(path: Path, form: Format, limit: int | None) -> Records:
    notes: list[str] = []
    encoding, wrong = told_encoding(path, form, notes, limit)
    head = list(islice(chain.from_iterable(lines_of(path, encoding)), LOOKED_AT))
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
                path,
                _scan(path, layout, layout.skipped, False),
                layout.names,
                fits[1],
                pl.DataFrame(schema=UNREAD_SCHEMA),
                told,
                [],
                notes,
            )
    return _mended(path, encoding, layout, limit, told, notes)


def _scan(path: str | Path, layout: Layout, skipped: int, numbered: bool) -> pl.LazyFrame:
    schema = dict.fromkeys(([RECORD] if numbered else []) + layout.names, pl.String)
    frame = pl.scan_csv(
        path, separator=layout.inner, has_header=False, skip_lines=skipped, schema=schema, quote_char=layout.quote, infer_schema=False, glob=False, missing_columns="insert",
        extra_columns="ignore", truncate_ragged_lines=True,  # fields without a column, which are empty
        **({} if numbered else {"row_index_name": RECORD, "row_index_offset": 1}),
    )  # fmt: skip
    return frame.with_columns(pl.col(RECORD).cast(pl.UInt32))


def _mended(path: Path, encoding: str, layout: Layout, limit: int | None, told: dict, notes: list[str]) -> Records:
    """Reads a copy in which every record is whole, and puts aside those that are not."""
    copy, unread, fields = copy_without_a_name(), [], _Fields(layout)
    ways = (fields, _Fields(layout, escaped=True)) if layout.quote else (fields,)
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
        values = next((apart for way in ways if way.is_neat(apart := way.apart(line))), None)
        if values is None:
            values, taken = _closed_later(again, numbered, ways, line)
            line = "\n".join([line, *taken])
        closed, values = values is not None, values or fields.apart(line)
        reason = _why_not(line, values, fields, closed)
        if reason:
            unread.append((path.name, record, number, reason, line[:2000]))
        else:
            mended += any(not quoted and layout.quote and layout.quote in value for value, quoted in values)
            copy.write(f"{record}{layout.inner}{fields.written([value for value, _ in values[: len(layout.names)]])}\n")
    copy.flush()
    if mended:
        notes.append(f"{path.name}: {mended:,} records hold quotes that are text; they are read as they are written")
    frame = _scan(f"/proc/self/fd/{copy.fileno()}", layout, 0, True)
    return Records(path, frame, layout.names, record, pl.DataFrame(unread, schema=UNREAD_SCHEMA, orient="row"), told, [], notes)


def _numbered(path: Path, encoding: str, layout: Layout) -> Iterator[tuple[int, str, bool]]:
    """The lines after the header with their numbers, and whether each is a good record as it stands."""
    number, plainly = 0, layout.inner == layout.separator
    for lines in lines_of(path, encoding):
        good = pl.Series(lines, dtype=pl.String).str.contains(layout.pattern).to_list() if plainly else [False] * len(lines)
        for line, fits in zip(lines, good, strict=True):
            number += 1
            if number > layout.skipped:
                yield number, line, fits and "\ufffd" not in line


def _closed_later(
    again: deque, numbered: Iterator, ways: tuple["_Fields", ...], line: str
) -> tuple[list[tuple[str, bool]] | None, list[str]]:
    """The fields of a record that goes on in the lines that follow, and those lines, which are taken; the fewer the likelier. None, and
    nothing is taken, where no quoted field closes within LONGEST lines.
    """
    found: list[tuple[int, list[tuple[str, bool]]]] = []
    for way in ways:
        if not way.opens(line):
            continue
        seen, text, most = [], line, min((count for count, _ in found), default=LONGEST)
        while len(seen) < most and (following := again.popleft() if again else next(numbered, None)):
            seen.append(following)
            text += "\n" + following[1]
            if way.layout.quote in following[1] and way.is_whole(apart := way.apart(text)):
                found.append((len(seen), apart))
                break
        again.extendleft(reversed(seen))
    if not found:
        return None, []
    count, values = min(found, key=lambda one: one[0])
    return values, [again.popleft()[1] for _ in range(count)]


def _why_not(line: str, values: list[tuple[str, bool]], fields: "_Fields", closed: bool) -> str | None:
    """Why a record cannot be read, if it cannot. `closed`: its quotes are known to close."""
    columns, quote = len(fields.layout.names), fields.layout.quote
    if "\ufffd" in line:
        return "bytes that its encoding does not have"
    if any(value for value, _ in values[columns:]):
        return f"{len(values)} fields, where there are {columns} columns"
    if quote and quote in line and not closed and (len(values) < columns or fields.opens(line)):
        return "a quote that does not close"
    return None


class _Fields:
    """Takes lines apart into fields. `escaped`: a quote inside a field is written \\", as databases do, and not doubled."""

    def __init__(self, layout: Layout, escaped: bool = False):
        self.layout, self.escaped = layout, escaped
        q, end = re.escape(layout.quote or ""), f"(?={re.escape(layout.separator)}|$)"
        inside = rf"[^{q}\\]|\\.|{q}{q}" if escaped else rf"[^{q}]|{q}{q}"
        self._quoted = re.compile(rf"\s*{q}((?:{inside})*){q}\s*?{end}") if layout.quote else None
        self._marked = re.compile(rf"\\.|{q}{q}" if escaped else f"{q}{q}")  # a letter that another one marks
        self._rest = re.compile(rf"\s*{q}(?:{inside})*$") if layout.quote else None

    def apart(self, line: str) -> list[tuple[str, bool]]:
        """The fields, each with whether its quotes are those of the form; a quote that is not around a whole field, and not escaped, is text."""
        separator, quote = self.layout.separator, self.layout.quote
        if separator == BLANKS:
            return [(value, False) for value in line.split()]
        if not quote or quote not in line:
            return [(value, False) for value in line.split(separator)]
        values, at = [], 0
        while True:
            found = self._quoted.match(line, at)
            if found:
                values.append((self._marked.sub(lambda mark: mark[0][1], found[1]), True))
                at = found.end()
            else:
                end = line.find(separator, at)
                end = len(line) if end < 0 else end
                text = line[at:end]
                marked = self.escaped and quote not in text.replace(f"\\{quote}", "")
                values.append((text.replace(f"\\{quote}", quote), True) if marked else (text, False))
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

    def is_neat(self, values: list[tuple[str, bool]]) -> bool:
        """Is there a field for every column, and no quote but around fields?"""
        quote = self.layout.quote
        return len(values) == len(self.layout.names) and all(
            quoted or not quote or quote not in value for value, quoted in values
        )

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
    if "quote" not in form.model_fields_set and _is_quoted(lines, "'"):
        quote = "'"
        notes.append(f"{path.name}: fields are quoted with '")
    if separator is None:
        separator = _separator(lines, quote)
    fields, rows = _taken_apart(lines, separator or INNER, quote)
    if form.skip_rows is None:
        filled = max(i for row in rows for i, (value, _) in enumerate(row, 1) if value.strip())
        usual = min(Counter(map(len, rows)).most_common(1)[0][0], filled)
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
    header = is_header(first, body) if form.header is None else form.header
    if not header:
        width = max(len(first), Counter(map(len, body)).most_common(1)[0][0] if body else 0)
        return Layout(separator or INNER, quote, [str(i + 1) for i in range(width)], False, skipped)
    return Layout(separator or INNER, quote, named(path, first), True, skipped + 1)


def _is_quoted(lines: list[str], quote: str) -> bool:
    """Do most lines hold fields inside such quotes, and none inside the usual ones?"""
    field = re.compile(rf"(?:^|[,;\t|]){quote}[^{quote}]*{quote}(?:$|[,;\t|])")
    return not any('"' in line for line in lines) and sum(bool(field.search(line)) for line in lines) > 0.9 * len(lines)


def _taken_apart(lines: list[str], separator: str, quote: str | None) -> tuple[_Fields, list[list[tuple[str, bool]]]]:
    """Lines as rows of fields, with quotes inside fields doubled or escaped: whichever leaves more rows of one width."""
    ways = []
    for escaped in (False, True) if quote and any(f"\\{quote}" in line for line in lines) else (False,):
        fields = _Fields(Layout(separator, quote, [], True, 0), escaped)
        rows = [fields.apart(row) for row in _whole_rows(lines, fields)]
        ways.append((Counter(map(len, rows)).most_common(1)[0][1] / len(rows), fields, rows))
    return max(ways, key=lambda way: way[0])[1:]


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
        _, rows = _taken_apart(lines, separator, quote)
        width, count = Counter(map(len, rows)).most_common(1)[0]
        if width > (2 if separator == BLANKS else 1) and count >= (0.95 if separator == BLANKS else 0.6) * len(rows):
            best = max(best, (width * count, separator), key=lambda b: b[0])
    return best[1]


_NUMBER = re.compile(r"[-+]?\d[\d.,]*(?:[eE][-+]?\d+)?")
_TIME = re.compile(r"\d{1,4}[-/.年]\d{1,2}[-/.月]\d{1,4}.*|\d{1,2}:\d{2}.*")


def is_header(first: list[str], body: list[list[str]]) -> bool:
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


def with_lists_apart(found: Records, column: str) -> Records:
    """The records with a row for each element of the lists that a column's cells hold: ["a", "b"], or a;b.

    Raises:
        StageError: there is no such column, or it holds objects.
    """
    if column not in found.columns:
        raise StageError(f"{found.path}: explode names {column}, but the columns are {', '.join(found.columns)}")
    shown = found.frame.select(column).drop_nulls().head(1000).collect()[column].str.strip_chars(" []")
    if shown.str.starts_with("{").any():
        raise StageError(
            f"{found.path}: {column} holds objects such as {shown[0][:60]}; give the file as JSON, of which objects can be exploded"
        )
    mark = max(LISTED, key=lambda mark: shown.str.contains(mark, literal=True).sum())
    elements = pl.col(column).str.strip_chars(" []").str.split(mark).list.eval(pl.element().str.strip_chars(" \"'"))
    elements = elements.list.eval(pl.element().filter(pl.element() != ""))
    some = elements.list.len() > 0
    numbers = pl.int_ranges(1, elements.list.len() + 1, dtype=pl.UInt32)
    frame = found.frame.with_columns(pl.when(some).then(numbers).alias(ELEMENT), pl.when(some).then(elements).alias(column))
    parted = "blanks" if mark == " " else mark
    notes = [*found.notes, f"{found.path.name}: {column} holds lists, parted by {parted}"]
    return replace(found, frame=frame.explode(ELEMENT, column), notes=notes)


def quoted(values: list[str]) -> str:
    """Values as one line of CSV, to show."""
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow(values)
    return out.getvalue()
