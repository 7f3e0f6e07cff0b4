"""The instants of daily schedules, found by trying every offset of a zone: independent of the server's search."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

_MINUTE = timedelta(minutes=1)


def instants(times: Iterable[tuple[int, int]], zone_name: str, days: Iterable[date], *, hourly: bool) -> list[datetime]:
    """The moments at which clocks of a zone show these times (hour, minute) on these days, in order.

    Args:
        hourly: a time that is shown twice counts twice, and not only the first time.
    """
    zone, times, found = ZoneInfo(zone_name), list(times), set[datetime]()
    for day in days:
        offsets = _offsets(zone, day)
        for hour, minute in times:
            shown = datetime(day.year, day.month, day.day, hour, minute)
            moments = sorted(_moments(zone, shown, offsets))
            if not moments:
                found.add(_first_after(zone, shown))
            found.update(moments if hourly else moments[:1])
    return sorted(found)


def _offsets(zone: ZoneInfo, day: date) -> set[timedelta]:
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    found = ((start + timedelta(hours=hours)).astimezone(zone).utcoffset() for hours in range(-48, 73, 6))
    return {offset for offset in found if offset is not None}


def _moments(zone: ZoneInfo, shown: datetime, offsets: set[timedelta]) -> Iterator[datetime]:
    for offset in offsets:
        moment = (shown - offset).replace(tzinfo=UTC)
        if moment.astimezone(zone).replace(tzinfo=None) == shown:
            yield moment


def _first_after(zone: ZoneInfo, shown: datetime) -> datetime:
    """The first minute at which clocks show a later time than one that they never show."""
    moment = (shown - timedelta(hours=30)).replace(tzinfo=UTC)
    while moment.astimezone(zone).replace(tzinfo=None) < shown:
        moment += _MINUTE
    return moment


def days_of(year: int) -> list[date]:
    """Every day of a year."""
    first = date(year, 1, 1)
    return [first + timedelta(days=number) for number in range((date(year + 1, 1, 1) - first).days)]


def micros(moment: datetime) -> int:
    """Microseconds since the epoch."""
    return round(moment.timestamp()) * 1_000_000
