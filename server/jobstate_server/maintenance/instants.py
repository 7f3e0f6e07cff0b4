"""The instants of a schedule: a crontab expression in a time zone.

A schedule names times of day as clocks on a wall show them, and those are changed twice a year in many zones:

* A time that a change skips is run at the moment of the change.
* A time that a change repeats is run once, at the first of the two, unless the schedule names every hour of the day:
  such a schedule goes on through the change.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from apscheduler.triggers.cron import CronTrigger

_LOOK_BACK_SPANS = (
    timedelta(hours=1),
    timedelta(days=1),
    timedelta(days=32),
    timedelta(days=366),
    timedelta(days=9 * 366),
)
"""How far back to search for the latest instant, step by step: frequent instants are found at once, and rare ones are
few. The rarest is 29 February, with eight years between two around 2100."""

_TICK = timedelta(microseconds=1)

_CHANGES_APART = timedelta(days=1)
"""Two changes of a zone's offset have been less than a day apart nowhere since crontabs are used."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Instants:
    """The instants of one schedule. All times are microseconds since the epoch."""

    def __init__(self, schedule: str, time_zone: str = "UTC") -> None:
        """
        Args:
            schedule: a crontab expression that ``crontab`` accepts.
            time_zone: the name of a zone that ``ZoneInfo`` knows.
        """
        # Times of day are reckoned with as if they were UTC, which has them all once.
        self._times_of_day = CronTrigger.from_crontab(schedule, timezone=UTC)
        self._zone = None if time_zone == "UTC" else ZoneInfo(time_zone)
        self._is_hourly = self._names_every_hour()

    def _names_every_hour(self) -> bool:
        """Whether the hours are all 24 of a day, however that is written."""
        hours = self._times_of_day.fields[CronTrigger.FIELD_NAMES.index("hour")]
        noon = datetime(2000, 1, 1, 12, tzinfo=UTC)
        return all(hours.get_next_value(noon.replace(hour=hour)) == hour for hour in range(24))

    def next_after(self, time: int) -> int:
        """The first instant after a time."""
        return _micros(self._at_or_after(_moment(time) + _TICK))

    def latest(self, since: int, until: int) -> int | None:
        """The latest instant after ``since`` and up to ``until``. None if there is none."""
        first, last = _moment(since) + _TICK, _moment(until)
        # To look forward for one instant is quick; to look back for the latest is not.
        if self._at_or_after(first) > last:
            return None
        for span in _LOOK_BACK_SPANS:
            latest = None
            instant = self._at_or_after(max(first, last - span))
            while instant <= last:
                latest = instant
                instant = self._at_or_after(instant + _TICK)
            if latest is not None:
                return _micros(latest)
            if first >= last - span:
                break
        return None

    def _at_or_after(self, moment: datetime) -> datetime:
        if self._zone is None:
            return self._time_of_day(moment)
        offset = self._offset(moment)
        while True:
            time_of_day = self._time_of_day(moment + offset)
            instant = time_of_day - offset
            change = self._change_between(moment, instant, offset)
            if change is not None:
                old, offset = offset, self._offset(change)
                if time_of_day - change < offset > old:
                    # Clocks were set forward past this time of day.
                    return change
                moment = change
            elif self._is_hourly or not self._is_second(time_of_day, offset):
                return instant
            else:
                moment = instant + _TICK

    def _time_of_day(self, earliest: datetime) -> datetime:
        """The first time of day that the expression names, at or after one."""
        found: datetime | None = self._times_of_day.get_next_fire_time(None, earliest)
        assert found is not None, "the settings refuse what never comes"
        return found

    def _offset(self, moment: datetime) -> timedelta:
        offset = moment.astimezone(self._zone).utcoffset()
        assert offset is not None
        return offset

    def _is_second(self, time_of_day: datetime, offset: timedelta) -> bool:
        """Whether clocks showed this time of day before, and were set back since."""
        first = time_of_day.replace(tzinfo=self._zone, fold=0).utcoffset()
        return first is not None and first > offset

    def _change_between(self, start: datetime, end: datetime, offset: timedelta) -> datetime | None:
        """The moment up to the end at which ``offset``, which holds at the start, changes. None if it does not."""
        low = start
        while low < end:
            high = min(low + _CHANGES_APART, end)
            if self._offset(high) != offset:
                # Zones change at whole seconds.
                while high - low > _TICK:
                    middle = low + (high - low) / 2
                    low, high = (middle, high) if self._offset(middle) == offset else (low, middle)
                return high
            low = high
        return None


def _moment(time: int) -> datetime:
    return _EPOCH + timedelta(microseconds=time)


def _micros(moment: datetime) -> int:
    return round((moment - _EPOCH) / _TICK)
