"""All that a checkout knows of somebody, readable: rows of tables, what came in over HTTP, what is known just now, messages and opt-outs.

In: by which names they are known. Out: a document of JSON, by place. What is counted over many (models, popularity) is nobody's and stands in none.
"""

import os
from pathlib import Path

import polars as pl

from marketing.outbox import Outbox
from online.state import open_state
from pipelines.data.sources.log import rows_of
from pipelines.rights.erasing import Names, who
from pipelines.settings import ServedShop
from service.complaints import HANDOVERS, Complaints

PURPOSES = {
    "data/raw": "what the shop's systems told, as it came",
    "data/links": "which ids are one person's, and why",
    "data/checked": "the same, checked",
    "data/quarantine": "rows that were refused, with the reason",
    "data/prepared": "what recommendations are learnt from",
    "data/segments": "what is known of shoppers, for campaigns",
    "data/candidates": "items among which campaigns choose",
    "data/uplift": "what a message is expected to change",
    "data/plans": "what campaigns plan to send, and why not",
}


def told(names: Names, shops: dict[str, ServedShop], outbox: Outbox) -> dict:
    """By place."""
    tables = {
        str(path): _rows(pl.scan_parquet(path), names, who(path))
        for folder in PURPOSES
        for path in sorted(Path(folder).rglob("*.parquet"))
    }
    found: dict[str, object] = {"purposes": PURPOSES, "tables": {place: rows for place, rows in tables.items() if rows}}
    for shop, served in shops.items():
        folder = Path(served.events)
        if (folder / "log").exists():
            state = open_state(served.state and os.path.expandvars(served.state), folder, shop)
            found[f"events that came in, of {shop}"] = _rows(rows_of(folder), names, ["user_id", "visitor_id"])
            found[f"what they wrote to customer service, of {shop}"] = [
                told for told in Complaints([folder / HANDOVERS]).lines() if names.own(told)
            ]
            found[f"what is known just now, of {shop}"] = {name: state.now(name, 0.0)._asdict() for name in names.all}
    return found | {"the outbox": outbox.told(names.all)}


def _rows(table: pl.LazyFrame, names: Names, columns: list[str]) -> list[dict]:
    """Theirs, without what is not told of them."""
    if not columns:
        return []
    found = table.filter(names.rows(columns)).collect(engine="streaming").to_dicts()
    return [{name: value for name, value in row.items() if value is not None} for row in found]
