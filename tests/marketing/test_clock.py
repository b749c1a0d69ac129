"""Hours of people's days in every zone, over the changes of clocks."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from marketing import clock

HOURS = st.integers(0, 23)
QUIET = st.none() | st.tuples(HOURS, HOURS).filter(lambda q: (q[1] - q[0]) % 24 < 24)
MOMENTS = st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC))


def local(at: datetime, zone: str) -> datetime:
    return at.astimezone(ZoneInfo(zone))


@given(MOMENTS, st.sampled_from(sorted(available_timezones())), HOURS, QUIET)
def test_a_moment_is_not_too_early_not_quiet_and_at_the_hour(not_before, zone, hour, quiet):
    at = clock.moment(not_before, zone, hour, quiet)
    there = local(at, zone)
    assert not_before <= at <= not_before + timedelta(days=2)
    assert not clock.is_quiet(there.hour + there.minute / 60, quiet)
    assert there.hour == clock.nearest_allowed(hour, quiet)


def test_quiet_hours_hold_over_every_change_of_clocks_in_every_zone():
    for zone in sorted(available_timezones()):
        quiet_holds(zone)


def quiet_holds(zone: str) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    offsets = [local(start + timedelta(days=d), zone).utcoffset() for d in range(367)]
    changes = [d for d in range(366) if offsets[d] != offsets[d + 1]] or [100]
    for day in changes:
        for hours in range(-6, 54, 7):
            for hour in (0, 2, 3, 23):
                at = clock.moment(start + timedelta(days=day, hours=hours), zone, hour, (21, 9))
                assert 9 <= local(at, zone).hour < 21


def test_an_hour_that_a_day_leaves_out_comes_the_day_after():
    before = datetime(2026, 3, 28, 12, tzinfo=UTC)  # Berlin goes from 1:59 to 3:00 on the 29th
    assert local(clock.moment(before, "Europe/Berlin", 2), "Europe/Berlin") == datetime(
        2026, 3, 30, 2, tzinfo=ZoneInfo("Europe/Berlin")
    )


def test_quiet_hours_go_over_midnight_and_none_means_none():
    assert [hour for hour in range(24) if clock.is_quiet(hour, (21, 9))] == [*range(9), 21, 22, 23]
    assert [hour for hour in range(24) if clock.is_quiet(hour, (1, 5))] == [1, 2, 3, 4]
    assert not any(clock.is_quiet(hour, quiet) for hour in range(24) for quiet in (None, (7, 7)))
    assert clock.nearest_allowed(22, (21, 9)) == 20
    assert clock.nearest_allowed(3, (21, 9)) == 9


def test_people_s_hours_are_those_of_their_zones():
    at = pl.Series([datetime(2026, 7, 1, 12, 30, tzinfo=UTC)] * 3)
    assert clock.local_hour(at, pl.Series(["Asia/Shanghai", "America/New_York", "Asia/Kolkata"])).to_list() == [20.5, 8.5, 18.0]
    users = pl.DataFrame({"user_id": ["a", "b"], "time_zone": ["Asia/Tokyo", "Mars/Olympus"]})
    assert clock.zones_of(pl.Series(["b", "a", "c"]), users, "UTC").to_list() == ["UTC", "Asia/Tokyo", "UTC"]
    assert clock.zones_of(pl.Series(["a"]), None, "UTC").to_list() == ["UTC"]
