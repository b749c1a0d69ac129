"""From checked events to what shoppers did to items: no duplicates, no bots, in order of time, with sessions.

In: events. Out: actions; what each step removed is counted. Lost: events of other kinds, purchases that were returned, repeats, all of a bot's
events.
"""

from collections.abc import Sequence

import polars as pl

from pipelines.data.tables import SOURCE_ROW
from pipelines.stage import StageError

LONGEST_LOOK = 600.0  # seconds: whoever left the page open does not look longer


def clean(
    events: pl.LazyFrame, settings: dict, kept_columns: Sequence[str] = ("platform", "price")
) -> tuple[pl.LazyFrame, dict[str, int]]:
    """Actions (user_id, item_id, event, timestamp, source_row, session_id, and kept_columns where given), ordered by user, time and
    row of the source, which breaks ties; and how many events each step removed. `looked` among kept_columns: seconds of a view, told (`duration`) or until the shopper's next action in the session, LONGEST_LOOK at most; null of other
    events and of the last of a session.

    Args:
        settings: `prepare`: history_events, bot_events_per_hour, session_gap_minutes.

    Raises:
        StageError: nothing is left.
    """
    key = ["user_id", "item_id", "event", "timestamp"]
    looked = "looked" in kept_columns
    wanted = ("session_id", *kept_columns, *(("duration",) if looked else ()))
    optional = [c for c in wanted if c in events.collect_schema()]
    total = count(events)
    acts = events.filter(pl.col("event").is_in(settings["history_events"]), pl.col("item_id").is_not_null())
    acts = acts.select(*key, *optional, SOURCE_ROW)
    kept = count(acts)
    acts = _without_what_was_returned(acts, events)
    bought = count(acts)
    unique = acts.unique(subset=key, keep="first", maintain_order=True).collect(engine="streaming").lazy()
    hourly = unique.group_by("user_id", pl.col("timestamp").dt.truncate("1h")).len()
    bots = hourly.filter(pl.col("len") > settings["bot_events_per_hour"]).select("user_id").unique().collect()
    actions = unique.join(bots.lazy(), on="user_id", how="anti").sort("user_id", "timestamp", SOURCE_ROW)
    gap = pl.col("timestamp").diff().over("user_id") > pl.duration(minutes=settings["session_gap_minutes"])
    numbered = pl.format("{}", gap.fill_null(True).cast(pl.UInt32).cum_sum().over("user_id"))
    given = [pl.col("session_id"), numbered] if "session_id" in optional else [numbered]
    actions = actions.with_columns(pl.coalesce(given).alias("session_id"))
    if looked:
        actions = actions.with_columns(looked=_looked("duration" in optional)).drop("duration", strict=False)
    actions = actions.collect(engine="streaming")
    unique_count = count(unique)
    removed = {
        "other events (searches, impressions)": total - kept,
        "purchases taken back": kept - bought,
        "repeats": bought - unique_count,
        f"events of {len(bots)} bots": unique_count - len(actions),
    }
    if actions.is_empty():
        raise StageError(f"prepare: nothing is left to learn from; removed: {removed}")
    return actions.lazy(), removed


def _looked(told: bool) -> pl.Expr:
    """See clean."""
    following = (pl.col("timestamp").shift(-1) - pl.col("timestamp")).over("user_id", "session_id").dt.total_microseconds() / 1e6
    seconds = pl.coalesce("duration", following) if told else following
    return pl.when(pl.col("event") == "view").then(seconds.clip(0, LONGEST_LOOK))


def _without_what_was_returned(acts: pl.LazyFrame, events: pl.LazyFrame) -> pl.LazyFrame:
    """Actions without the purchases that returns take back: of a shopper and an item as many as were returned, the latest before the return."""
    key = ["user_id", "item_id"]
    back = events.filter(pl.col("event") == "return").group_by(key).agg(returned=pl.len(), until=pl.col("timestamp").max())
    back = back.collect(engine="streaming")
    if back.is_empty():
        return acts
    bought = acts.filter(pl.col("event") == "purchase").join(back.lazy(), on=key).filter(pl.col("timestamp") <= pl.col("until"))
    newest = pl.struct("timestamp", SOURCE_ROW).rank("ordinal", descending=True).over(key)
    taken = bought.with_columns(newest=newest).filter(pl.col("newest") <= pl.col("returned")).select(SOURCE_ROW)
    return acts.join(taken, on=SOURCE_ROW, how="anti", maintain_order="left")


def count(frame: pl.LazyFrame) -> int:
    return frame.select(pl.len()).collect(engine="streaming").item()
