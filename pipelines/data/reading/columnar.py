"""Parquet and spreadsheets, whose columns a library tells."""

from pathlib import Path

import polars as pl

from pipelines.data.reading.delimited import is_header, named
from pipelines.data.reading.mapping import Format
from pipelines.data.reading.text import ELEMENT, LOOKED_AT, RECORD, UNREAD_SCHEMA, Records
from pipelines.stage import StageError


def read_parquet(path: Path, explode: str | None, limit: int | None) -> Records:
    frame = pl.scan_parquet(path, glob=False).with_row_index(RECORD, 1)
    frame = frame.head(limit) if limit else frame
    count = frame.select(pl.len()).collect().item()
    if explode:
        if explode not in frame.collect_schema():
            raise StageError(
                f"{path}: explode names {explode}, but the columns are {', '.join(frame.collect_schema().names()[1:])}"
            )
        numbers = pl.int_ranges(1, pl.col(explode).list.len() + 1, dtype=pl.UInt32)
        numbers = pl.when(pl.col(explode).list.len() > 0).then(numbers)
        frame = frame.with_columns(numbers.alias(ELEMENT)).explode(explode, ELEMENT)
    while structs := {name: kind for name, kind in frame.collect_schema().items() if isinstance(kind, pl.Struct)}:
        inner = [pl.col(n).struct.field(f.name).alias(f"{n}.{f.name}") for n, kind in structs.items() for f in kind.fields]
        frame = frame.with_columns(inner).drop(list(structs))
    lists = [name for name, kind in frame.collect_schema().items() if isinstance(kind, pl.List | pl.Array)]
    hidden = [RECORD, ELEMENT] if explode else [RECORD]
    columns = [name for name in frame.collect_schema() if name not in (*hidden, *lists)]
    unread = pl.DataFrame(schema=UNREAD_SCHEMA)
    return Records(path, frame.select(*hidden, *columns), columns, count, unread, {"form": "Parquet"}, lists)


def read_sheet(path: Path, form: Format, limit: int | None) -> Records:
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
    header = is_header(rows[skipped], rows[skipped + 1 :]) if form.header is None else form.header
    names = named(path, rows[skipped]) if header else [str(i + 1) for i in range(sheet.width)]
    sheet = sheet.slice(skipped + header).rename(dict(zip(sheet.columns, names, strict=True)))
    sheet = sheet.filter(~pl.all_horizontal(pl.all().is_null())).with_row_index(RECORD, 1)
    sheet = sheet.head(limit) if limit else sheet
    return Records(
        path,
        sheet.lazy(),
        names,
        len(sheet),
        pl.DataFrame(schema=UNREAD_SCHEMA),
        {"form": "spreadsheet", "header": header},
        [],
        notes,
    )
