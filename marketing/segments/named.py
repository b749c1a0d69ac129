"""Segments that people name: conditions in SQL over the columns of the table of shoppers (marketing/segments/shoppers.py), in a YAML file.

In: the file's text, a table of shoppers. Out: who is in which, how many, and how many are in two at once. A condition sees the columns of one
shopper and nothing else: no other table, no file.
"""

import difflib
import re
from collections.abc import Mapping

import polars as pl
import yaml
from polars.exceptions import PolarsError

from marketing.segments.shoppers import SHOPPERS

NAME = re.compile(r"[a-z][a-z0-9_]{0,40}")
LONGEST = 2000  # characters of a condition


class SegmentError(ValueError):
    """A segment cannot be used: the message names it, and what to write instead."""


def read(text: str, file: str) -> dict[str, str]:
    """The conditions of a file by the segments' names.

    Raises:
        SegmentError: it is no mapping of names to conditions that can be asked of shoppers; all that is wrong is said.
    """
    try:
        found = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise SegmentError(f"{file} is no YAML: {error}") from error
    if not isinstance(found, dict):
        raise SegmentError(f"{file} must map names of segments to conditions, such as `loyal: orders >= 4`")
    wrong = []
    for name, condition in found.items():
        if not isinstance(name, str) or not NAME.fullmatch(name):
            wrong.append(f"{name!r} is no name: small letters, digits and _ alone, a letter first")
        elif not isinstance(condition, str) or len(condition) > LONGEST:
            wrong.append(f"{name}: the condition must be a text of at most {LONGEST} characters")
        else:
            try:
                parsed(condition)
            except SegmentError as error:
                wrong.append(f"{name}: {error}")
    if wrong:
        raise SegmentError("\n".join(f"{file}: {line}" for line in wrong))
    return found


def parsed(condition: str, columns: Mapping[str, pl.DataType] = SHOPPERS) -> pl.Expr:
    """A condition as an expression over a table's columns: those of shoppers, or others.

    Raises:
        SegmentError: it is no condition over them.
    """
    nobody = pl.DataFrame(schema=columns)
    try:
        expression = pl.sql_expr(condition)
        unknown = sorted(set(expression.meta.root_names()) - set(columns))
        if unknown:
            near = difflib.get_close_matches(unknown[0], columns, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(columns)}"
            raise SegmentError(f"there is no column {unknown[0]}; {hint}")
        kind = nobody.select(expression.alias("in")).schema["in"]
    except PolarsError as error:
        raise SegmentError(f"`{condition}` cannot be asked: {str(error).splitlines()[0]}") from error
    if kind != pl.Boolean:
        raise SegmentError(f"`{condition}` says {kind}, not yes or no; compare it with something")
    return expression


def members(shoppers: pl.DataFrame, segments: Mapping[str, str]) -> pl.DataFrame:
    """Of each shopper, in their order, whether they are in each segment: Boolean; what cannot be told is no."""
    return shoppers.select(parsed(condition).fill_null(False).alias(name) for name, condition in segments.items())


def overlaps(inside: pl.DataFrame) -> dict[str, dict[str, int]]:
    """How many shoppers are in one segment and in another, by both names; in a segment and itself: its size."""
    names = inside.columns
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i:]]
    counts = inside.select((pl.col(a) & pl.col(b)).sum().alias(f"{a}|{b}") for a, b in pairs).row(0) if names else ()
    found: dict[str, dict[str, int]] = {name: {} for name in names}
    for (a, b), count in zip(pairs, counts, strict=True):
        found[a][b] = found[b][a] = count
    return found
