"""JSON: lines, an array, an array inside an object, values that follow one another."""

import contextlib
import json
import re
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

import polars as pl

from pipelines.data.reading.mapping import Format
from pipelines.data.reading.text import (
    ELEMENT,
    RECORD,
    UNREAD_SCHEMA,
    Records,
    copy_without_a_name,
    lines_of,
    texts,
    told_encoding,
)
from pipelines.stage import StageError

WRAPPER = 5  # keys of a JSON object around a list of records, at most
ROWS = 50_000  # of a batch of records


def read_json(path: Path, form: Format, explode: str | None, limit: int | None) -> Records:
    notes: list[str] = []
    encoding, _ = told_encoding(path, form, notes, limit)
    start = "".join(line for lines in islice(lines_of(path, encoding), 1) for line in lines[:5]).lstrip("\ufeff \t")
    one_by_line = not start.startswith("[") and _is_by_line(path, encoding, explode)
    parsed = _by_line(path, encoding) if one_by_line else _elements(path, encoding, explode)
    frames, columns, unread, count, batch, numbers, lists = [], {}, [], 0, [], [], False
    for line, value, text in parsed:
        if limit and count >= limit:
            break
        count += 1
        if not isinstance(value, dict):
            unread.append((path.name, count, line, "no JSON object", text[:2000]))
            continue
        for element, row in _exploded(value, explode):
            lists |= element is not None
            batch.append(row)
            numbers.append((count, element))
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
    return Records(path, frame, list(columns), count, pl.DataFrame(unread, schema=UNREAD_SCHEMA, orient="row"), told, [], notes)


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
    lines = list(islice((line for line in chain.from_iterable(lines_of(path, encoding)) if line.strip()), 20))
    whole = 0
    for line in lines:
        with contextlib.suppress(ValueError):
            whole += isinstance(_parsed(line.lstrip("\ufeff")), dict)
    if len(lines) == 1 and whole and _wrapped(_parsed(lines[0].lstrip("\ufeff")), explode) is not None:
        return False
    return whole >= max(1, len(lines) / 2)


def _by_line(path: Path, encoding: str) -> Iterator[tuple[int, object, str]]:
    number = 0
    for line in chain.from_iterable(lines_of(path, encoding)):
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
    for block in chain(texts(path, encoding), [None]):
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


def _exploded(value: dict, path: str | None) -> Iterator[tuple[int | None, dict[str, str | None]]]:
    """The rows of a record, one for each element of its list with the element's number, or one where it has none; keys are dotted."""
    inner = value
    for key in path.split(".") if path else []:
        inner = inner.get(key) if isinstance(inner, dict) else None
    if not path or not isinstance(inner, list) or not inner:
        yield None, _flat(value)
        return
    base = {k: v for k, v in _flat(value).items() if k != path}
    for number, element in enumerate(inner, 1):
        yield number, base | (_flat(element, path + ".") if isinstance(element, dict) else {path: _text(element)})


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


def _batch(rows: list[dict], numbers: list[tuple[int, int | None]], columns: dict) -> pl.LazyFrame:
    """A batch as Parquet in a file without a name; `numbers`: each row's record, and its element."""
    names = dict.fromkeys(key for row in rows for key in row)
    columns |= names
    hidden = {RECORD: [record for record, _ in numbers], ELEMENT: [element for _, element in numbers]}
    data = {name: pl.Series(values, dtype=pl.UInt32) for name, values in hidden.items()} | {
        name: pl.Series([row.get(name) for row in rows], dtype=pl.String) for name in names
    }
    copy = copy_without_a_name("wb")
    pl.DataFrame(data).write_parquet(copy, compression="lz4")
    copy.flush()
    return pl.scan_parquet(f"/proc/self/fd/{copy.fileno()}")
