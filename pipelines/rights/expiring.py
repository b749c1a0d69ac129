"""What is kept of shoppers no longer than settings say: files of the log, customers who were handed over, messages of campaigns that are over.

In: the moment, settings `privacy.retention`, shops, an outbox. Out: what was removed, a place each. What tables hold is `collect`'s: it leaves older events out.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl

from marketing.outbox import Outbox
from online import log
from pipelines.rights.erasing import Done
from pipelines.settings import Retention, ServedShop
from service.complaints import HANDOVERS


def expire(now: datetime, limits: Retention, shops: dict[str, ServedShop], outbox: Outbox) -> Iterator[Done]:
    """Removes what is older; whole files, so that what is kept may be a day (of the log a minute's file) older still."""
    for shop, served in shops.items():
        folder = Path(served.events)
        if limits.events is not None:
            old = list(_old(folder / "log", now - timedelta(days=limits.events)))
            yield Done(f"the log of {shop}", _removed(old), "files removed")
        if limits.handovers is not None:
            last = f"{now - timedelta(days=limits.handovers + 1):%Y-%m-%d}"
            old = [file for file in (folder / HANDOVERS).glob("*.jsonl") if file.stem <= last]
            yield Done(f"hand-overs of {shop}", _removed(old), "days removed")
    if limits.messages is not None:
        count = outbox.expire((now - timedelta(days=limits.messages)).timestamp())
        yield Done("the outbox", count, "messages removed")


def _removed(files: list[Path]) -> int:
    for file in files:
        file.unlink()
    return len(files)


def _old(folder: Path, before: datetime) -> Iterator[Path]:
    """Rolled files all of whose rows came in before a moment, but for the newest of each partition, whose name says how far it was read."""
    rolled = [(log.position(file), file) for file in sorted(folder.glob("*.parquet"))]
    newest = {(at.topic, at.partition): file for at, file in rolled}
    for at, file in rolled:
        received = pl.scan_parquet(file).select(pl.col("received").max()).collect().item()
        if file != newest[at.topic, at.partition] and received is not None and datetime.fromtimestamp(received, UTC) < before:
            yield file
