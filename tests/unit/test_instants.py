"""A schedule in a time zone has each of its instants once, also on the days on which clocks are changed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import pytest
from cronsim import CronSim
from hypothesis import given, settings
from hypothesis import strategies as st

from jobstate_server.maintenance.instants import Instants

from ..support.instants import days_of, instants, micros

BERLIN, NEW_YORK, LORD_HOWE = "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"
CHANGES_OF_2026 = {
    BERLIN: (date(2026, 3, 29), date(2026, 10, 25)),
    NEW_YORK: (date(2026, 3, 8), date(2026, 11, 1)),
    LORD_HOWE: (date(2026, 4, 5), date(2026, 10, 4)),
}
HALF_HOURS = [(hour, minute) for hour in range(24) for minute in (0, 30)]


def ours(schedule: str, zone: str, first: datetime, end: datetime) -> Iterator[datetime]:
    """The instants from a moment on, as the server goes through them."""
    found, time = Instants(schedule, zone), micros(first) - 1
    while (time := found.next_after(time)) < micros(end):
        yield datetime.fromtimestamp(time / 1_000_000, UTC)


def year_of(schedule: str, zone: str) -> list[datetime]:
    """The instants on the days of 2026 in a zone whose offset is that of both its ends."""
    return list(ours(schedule, zone, *_ends(zone, date(2026, 1, 1), date(2027, 1, 1))))


def _ends(zone: str, first: date, end: date) -> tuple[datetime, datetime]:
    (start,), (stop,) = (instants([(0, 0)], zone, [day], hourly=False) for day in (first, end))
    return start, stop


@pytest.mark.parametrize("zone", CHANGES_OF_2026)
@pytest.mark.parametrize("time", [(2, 30), (2, 15), (1, 45), (0, 0)])
def test_a_time_of_day_comes_once_a_day_all_the_year(zone: str, time: tuple[int, int]) -> None:
    found = year_of(f"{time[1]} {time[0]} * * *", zone)

    assert found == instants([time], zone, days_of(2026), hourly=False)
    assert len(found) == 365


@pytest.mark.parametrize("zone", CHANGES_OF_2026)
@pytest.mark.parametrize("hours", ["*", "0-23", "*/1", "0-11,12-23"])
def test_a_schedule_of_every_hour_goes_on_through_both_changes(zone: str, hours: str) -> None:
    for day in CHANGES_OF_2026[zone]:
        days = [day - timedelta(days=1), day, day + timedelta(days=1)]
        first, end = _ends(zone, days[0], days[-1] + timedelta(days=1))
        found = list(ours(f"0,30 {hours} * * *", zone, first, end))

        assert found == instants(HALF_HOURS, zone, days, hourly=True)
        gaps = {later - earlier for earlier, later in pairwise(found)}
        assert gaps == {timedelta(minutes=30)}


def test_a_time_that_is_skipped_comes_when_clocks_are_changed() -> None:
    day = CHANGES_OF_2026[BERLIN][0]

    found = list(ours("30 2 * * *", BERLIN, *_ends(BERLIN, day, day + timedelta(days=1))))

    assert found == [datetime(2026, 3, 29, 1, 0, tzinfo=UTC)]


def test_all_times_that_are_skipped_come_as_one_and_with_that_of_the_change() -> None:
    day = CHANGES_OF_2026[BERLIN][0]

    found = list(ours("*/10 1-3 * * *", BERLIN, *_ends(BERLIN, day, day + timedelta(days=1))))

    assert len(found) == 6 + 6
    assert datetime(2026, 3, 29, 1, 0, tzinfo=UTC) in found


def test_a_time_that_is_shown_twice_comes_the_first_time() -> None:
    day = CHANGES_OF_2026[BERLIN][1]

    found = list(ours("30 2 * * *", BERLIN, *_ends(BERLIN, day, day + timedelta(days=1))))

    assert found == [datetime(2026, 10, 25, 0, 30, tzinfo=UTC)]


def test_a_day_that_a_zone_left_out_comes_at_its_end() -> None:
    found = list(
        ours("0 12 30 12 *", "Pacific/Apia", datetime(2011, 1, 1, tzinfo=UTC), datetime(2012, 1, 2, tzinfo=UTC))
    )

    assert found == [datetime(2011, 12, 30, 10, tzinfo=UTC)]


_FIELD = st.lists(st.integers(0, 59), min_size=1, max_size=3, unique=True)
_ZONES = st.sampled_from([*CHANGES_OF_2026, "Asia/Kolkata", "America/St_Johns", "Africa/Casablanca", "Europe/Dublin"])


@settings(max_examples=40, deadline=None)
@given(_FIELD, st.lists(st.integers(0, 23), min_size=1, max_size=4, unique=True), _ZONES, st.integers(0, 362))
def test_whatever_the_times_of_day_the_instants_are_those_that_clocks_show(
    minutes: list[int], hours: list[int], zone: str, day: int
) -> None:
    days = days_of(2026)[day : day + 3]
    times = [(hour, minute) for hour in hours for minute in minutes]
    schedule = f"{','.join(map(str, minutes))} {','.join(map(str, hours))} * * *"

    found = list(ours(schedule, zone, *_ends(zone, days[0], days[-1] + timedelta(days=1))))

    # A time that is skipped over midnight comes on the next day.
    assert found == instants(times, zone, days, hourly=False)


@pytest.mark.parametrize("schedule", ["* * * * *", "0 2 * * *", "0 2 * * sun", "0 0 29 2 *", "15 3 1 * *"])
@pytest.mark.parametrize("zone", ["UTC", BERLIN])
def test_the_latest_instant_is_the_last_one_before(schedule: str, zone: str) -> None:
    found = Instants(schedule, zone)
    until = micros(datetime(2026, 6, 17, 12, 34, 56, tzinfo=UTC))

    latest = found.latest(0, until)

    assert latest is not None
    assert latest <= until < found.next_after(latest)
    assert found.latest(latest - 1, until) == latest
    assert found.latest(latest, until) is None
    if zone == "UTC":
        before = CronSim(schedule, datetime(2026, 6, 17, 12, 34, 56, tzinfo=UTC), reverse=True)
        assert latest == micros(next(before))
