"""The hours of people's days, wherever they live: when it is what time for whom, and when a message may come.

In: moments (UTC), names of time zones. Out: local times; the first moment at which a message may come.
"""

from collections.abc import Collection
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import polars as pl


def local_hour(at: pl.Series, zones: pl.Series) -> pl.Series:
    """The hour of the day, 0 to below 24, with its minutes as a fraction. at: (N,) UTC; zones: (N,) names. (N,) Float64."""
    table = pl.DataFrame({"at": at, "zone": zones}).with_row_index("row")
    parts = []
    for (zone,), part in table.group_by("zone", maintain_order=True):
        there = pl.col("at").dt.convert_time_zone(zone or "UTC")
        parts.append(part.select("row", hour=there.dt.hour() + there.dt.minute() / 60))
    if not parts:
        return pl.Series("hour", [], dtype=pl.Float64)
    return pl.concat(parts).sort("row")["hour"].cast(pl.Float64)


def zones_of(user_ids: pl.Series, users: pl.DataFrame | None, otherwise: str = "UTC") -> pl.Series:
    """The time zone of each person: the column time_zone of users, where it is a name that there is."""
    people = pl.DataFrame({"user_id": user_ids})
    if users is None or "time_zone" not in users.columns:
        return people.select(pl.repeat(otherwise, pl.len()).alias("time_zone"))["time_zone"]
    told = (
        users.unique("user_id", keep="first")
        .select("user_id", "time_zone")
        .filter(pl.col("time_zone").is_in(available_timezones()))
    )
    return people.join(told, on="user_id", how="left", maintain_order="left")["time_zone"].fill_null(otherwise)


def is_quiet(hour: float, quiet: tuple[int, int] | None) -> bool:
    """Is this hour of a day among the quiet ones, from the first to before the second, over midnight where the first is later?"""
    if quiet is None or quiet[0] == quiet[1]:
        return False
    start, end = quiet
    return start <= hour < end if start < end else hour >= start or hour < end


def nearest_allowed(hour: int, quiet: tuple[int, int] | None) -> int:
    """The hour of the day that is nearest to this one and not quiet; of two as near, the later one."""
    around = [step for n in range(13) for step in (n, -n)]
    return next((hour + step) % 24 for step in around if not is_quiet((hour + step) % 24, quiet))


def moment(
    not_before: datetime, zone: str, hour: int, quiet: tuple[int, int] | None = None, not_on: Collection[date] = ()
) -> datetime:
    """The first quarter of an hour (UTC), not before this moment, at which it is this hour of the day in the zone, or the allowed hour nearest to it, and none of these days. Where a
    day leaves the hour out, as clocks go forward, it is that of the next day.
    """
    there, wanted = ZoneInfo(zone), nearest_allowed(hour, quiet)
    quarter = timedelta(minutes=15)
    at = not_before - (not_before - datetime(2000, 1, 1, tzinfo=UTC)) % -quarter
    while at.astimezone(there).hour != wanted or at.astimezone(there).date() in not_on:
        at += quarter
    return at
