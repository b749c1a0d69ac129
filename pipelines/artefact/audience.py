"""The table of shoppers as `/audience` asks it (deploy/serving/audience.py): one SQLite file."""

import sqlite3
from pathlib import Path

import polars as pl

TYPES = {pl.String: "TEXT", pl.Float64: "REAL"}


def write_shoppers(file: Path, shoppers: pl.DataFrame) -> None:
    """shoppers: of marketing/segments/shoppers.py. Times are texts of ISO 8601, which sort as they should."""
    table = shoppers.with_columns(pl.col(pl.Datetime).dt.strftime("%Y-%m-%d %H:%M:%S"))
    columns = ", ".join(f'"{name}" {TYPES.get(kind, "INTEGER")}' for name, kind in table.schema.items())
    with sqlite3.connect(file) as base:
        base.execute(f"CREATE TABLE shoppers ({columns})")
        base.executemany(f"INSERT INTO shoppers VALUES ({', '.join('?' * table.width)})", table.iter_rows())
    base.close()
