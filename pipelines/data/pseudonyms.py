"""What of the canonical tables may leave `collect`: pseudonyms instead of shoppers' ids where settings say so, and no row of anybody who asked to be forgotten or does not consent.

In: the tables of a source. Out: the same, with how many rows of events were left out. Lost, where pseudonyms are on: the texts of records that could not be read, as ids may stand in them.
"""

import polars as pl

from pipelines.data.tables import UNREAD
from pipelines.stage import StageError, checkout
from privacy.people import LINKING, People, of_settings
from privacy.vault import VISITOR, Vault, VaultError, bare


def people(settings: dict) -> People:
    """By which names shoppers are known. settings: `privacy`.

    Raises:
        StageError: the vault cannot be opened.
    """
    try:
        return of_settings(checkout(), *(settings[name] for name in ("vault", "master_key", "pseudonyms", "consent")))
    except VaultError as error:
        raise StageError(str(error)) from error


def protected(tables: dict[str, pl.LazyFrame], people: People) -> tuple[dict[str, pl.LazyFrame], int]:
    """The tables as the rest of the house may know them, and how many rows of events are left out, of shoppers who were forgotten or do not consent to the use of what they did."""
    if people.vault is None and not people.opt_in:
        return tables, 0
    named, found, ids = (
        [name for name, table in tables.items() if "user_id" in table.collect_schema()],
        dict(tables),
        _ids(tables),
    )
    gone, out = sorted(people.forgotten(ids) | people.withheld(ids)), 0
    if gone:
        theirs = pl.col("user_id").is_in(gone)
        out = tables["events"].select(theirs.sum()).collect(engine="streaming").item()
        found |= {name: tables[name].filter(~theirs.fill_null(False)) for name in named}
    if people.pseudonyms:
        told = people.vault.pseudonyms(ids)
        found |= {name: _renamed(found[name], told, people.vault) for name in named}
        if "unread" in found:
            found["unread"] = found["unread"].with_columns(text=pl.lit(None, pl.String))
    return found, out


def _ids(tables: dict[str, pl.LazyFrame]) -> list[str]:
    """Ids of all shoppers and visitors."""
    found: set[str] = set()
    for name in ("events", "users"):
        columns = tables[name].collect_schema() if name in tables else {}
        for column, before in (("user_id", ""), ("visitor_id", VISITOR)):
            if column in columns:
                different = tables[name].select(pl.col(column).drop_nulls().unique()).collect(engine="streaming").to_series()
                found.update(before + told for told in different)
    return sorted(found)


def _renamed(table: pl.LazyFrame, told: dict[str, str], vault: Vault) -> pl.LazyFrame:
    """A table with pseudonyms, and without what else leads to a person."""
    there = table.collect_schema()
    columns = [_replaced(pl.col("user_id"), told)]
    if "visitor_id" in there:
        visitors = {bare(i): bare(p) for i, p in told.items() if i.startswith(VISITOR)}
        columns.append(_replaced(pl.col("visitor_id"), visitors))
    columns += [
        pl.col(name).map_batches(lambda values: _hashed(values, vault), return_dtype=pl.String, is_elementwise=True)
        for name in LINKING
        if name in there
    ]
    columns += [pl.lit(None, pl.String).alias(UNREAD)] if UNREAD in there else []
    return table.with_columns(columns)


def _replaced(column: pl.Expr, told: dict[str, str]) -> pl.Expr:
    return column.replace_strict(list(told), list(told.values()), default=None, return_dtype=pl.String)


def _hashed(values: pl.Series, vault: Vault) -> pl.Series:
    different = values.drop_nulls().unique()
    return values.replace_strict(different, [vault.hashed(v) for v in different], default=None, return_dtype=pl.String)
