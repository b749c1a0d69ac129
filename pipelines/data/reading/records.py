"""A file of any form to records of text: CSV and its kin, JSON lines and arrays, Parquet, spreadsheets, also packed.

In: a path, and what is told of its form. Out: columns of text (typed ones from Parquet), each row with the number of its record in the file; and
the records that cannot be read, with their line and the reason. Records read and unread are all that there are.
"""

import zipfile
import zlib
from pathlib import Path

import polars as pl

from pipelines.data.reading.columnar import read_parquet, read_sheet
from pipelines.data.reading.delimited import read_delimited, with_lists_apart
from pipelines.data.reading.documents import read_json
from pipelines.data.reading.mapping import Format
from pipelines.data.reading.text import JSON, PACKED, PARQUET, SHEETS, SUFFIXES, Records, suffix_of
from pipelines.stage import StageError


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
        form: what is told of a delimited file. explode: a dotted path to a list inside each record, or a column whose cells hold lists: a row for
            each of its elements, and one for a record without. limit: only about so many records, to look at.

    Raises:
        StageError: the file is empty, or not of a form that can be read.
    """
    if path.stat().st_size == 0:
        raise StageError(f"{path} is empty")
    suffix = suffix_of(path)
    try:
        if suffix in PARQUET:
            return read_parquet(path, explode, limit)
        if suffix in JSON:
            return read_json(path, form, explode, limit)
        found = read_sheet(path, form, limit) if suffix in SHEETS else read_delimited(path, form, limit)
        return with_lists_apart(found, explode) if explode else found
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, pl.exceptions.PolarsError) as error:
        raise StageError(f"{path} cannot be read: {str(error).splitlines()[0][:300]}") from error
