"""The canonical tables: what every source translates into and every later stage reads. No code below a source knows
where the data came from.

A column marked optional may be absent; what is computed from it is then left out.
"""

from pathlib import Path

import polars as pl

CHECKED = Path("data/checked")  # where the tables stand of which every row holds
TIMESTAMP = pl.Datetime("us", "UTC")

# A holdout is a push that was ready and, by chance, was not sent: it names the item, channel and campaign that would have been.
EVENT_KINDS = ["view", "search", "favourite", "cart", "purchase", "return", "impression", "holdout", "click", "question"]

# By which an id may be known again on another platform (pipelines/data/identity), never read for anything else; the address is the network's.
KNOWN_AGAIN_BY = ("email_hash", "phone_hash", "device_hash", "address_hash")

EVENTS = {
    "event_id": pl.String,  # idempotency key: the same event delivered twice carries the same one
    "user_id": pl.String,
    "item_id": pl.String,  # null for a search
    "event": pl.String,  # one of EVENT_KINDS
    "timestamp": TIMESTAMP,
    "session_id": pl.String,
    "platform": pl.String,
    "query": pl.String,
    "duration": pl.Float64,  # seconds looked at
    "quantity": pl.Float64,
    "price": pl.Float64,
    "currency": pl.String,
    "order_id": pl.String,
    "visitor_id": pl.String,  # what a browser or an app keeps, whoever uses it
    "known_by": pl.String,  # by what it is known whose it is (pipelines/data/identity/visitors.py); null: they said so
    **dict.fromkeys(KNOWN_AGAIN_BY, pl.String),
    # Of an impression or a holdout; a click or a purchase names the request that it answers.
    "request_id": pl.String,
    "slot": pl.String,  # where on a page
    "position": pl.Float64,  # in a list, from 1
    "channel": pl.String,
    "campaign_id": pl.String,
    "propensity": pl.Float64,  # the chance that it had, of all that might have been shown or not
    "expected": pl.Float64,  # money that it was to bring when it was planned, its cost not taken off
}

ITEMS = {
    "item_id": pl.String,
    "title": pl.String,
    "description": pl.String,
    "category": pl.String,  # a path, written "kitchen > kettles"
    "brand": pl.String,
    "attributes": pl.String,  # further labels, separated by spaces
    "price": pl.Float64,
    "cost": pl.Float64,
    "in_stock": pl.Boolean,
    "stock": pl.Float64,
    "image": pl.String,  # a file beside the shop's data, a data URI, or an address
    "sound": pl.String,
}

# Where in the source a row came from (1 = first data row), so that a broken row can be found there.
SOURCE_ROW = "source_row"
SOURCE_FILE = "source_file"  # of which file, where a table comes from several
UNREAD = "unread"  # what the source wrote in a cell that could not be read, with the column's name; null where all could
PROVENANCE = (SOURCE_FILE, UNREAD)


def checked(name: str) -> pl.DataFrame | None:
    """A checked table: events, items or users; None where the shop has none of the name."""
    file = CHECKED / f"{name}.parquet"
    return pl.read_parquet(file) if file.exists() else None


def conform(frame: pl.LazyFrame, schema: dict, *, name: str) -> pl.LazyFrame:
    """Casts the columns of `schema` that `frame` has and keeps them in canonical order, `source_row` last.

    Values that do not fit their type become null, for the check to find. Columns the schema does not know are dropped,
    save in the users table, where any further column is an attribute.
    """
    present = frame.collect_schema()
    columns = [pl.col(column).cast(kind, strict=False) for column, kind in schema.items() if column in present]
    if name == "users":
        columns += [pl.col(c) for c in present if c not in (*schema, SOURCE_ROW, *PROVENANCE)]
    columns += [pl.col(c).cast(pl.String) for c in PROVENANCE if c in present]
    return numbered(frame).select(*columns, pl.col(SOURCE_ROW).cast(pl.UInt32))


def with_event_ids(events: pl.LazyFrame) -> pl.LazyFrame:
    """Adds an `event_id` to events that came without: the row in the source, which no two share and no library makes another of."""
    return numbered(events).with_columns(event_id=pl.format("row-{}", pl.col(SOURCE_ROW)))


def numbered(frame: pl.LazyFrame) -> pl.LazyFrame:
    """Rows with their number in the source, from 1, where they have none."""
    return frame if SOURCE_ROW in frame.collect_schema() else frame.with_row_index(SOURCE_ROW, offset=1)
