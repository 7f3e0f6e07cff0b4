"""Crontab expressions for the schedules of maintenance tasks: in UTC, and unambiguous."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated

from apscheduler.triggers.cron import CronTrigger
from pydantic import BeforeValidator

from jobstate_server.domain.texts import quoted

_FIELDS = ("minute", "hour", "day of month", "month", "weekday")
_WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_NUMBERS = re.compile(r"\*(/[0-9]{1,4})?|[0-9]{1,4}(-[0-9]{1,4})?|([0-9]{1,4})-(?!\3/)[0-9]{1,4}/[0-9]{1,4}")
_MONTHS = re.compile(r"[a-z]{3}(-[a-z]{3})?", re.IGNORECASE)
_DAYS = re.compile(r"(mon|tue|wed|thu|fri|sat|sun)(?:-(mon|tue|wed|thu|fri|sat|sun))?", re.IGNORECASE)


def crontab(value: object) -> str:
    """A crontab expression that has the same meaning everywhere and occurs at some time.

    Programs disagree about which days 0, 1 and 7 are, and whether two day fields are joined by "and" or by "or". Both
    are refused.
    """
    if not isinstance(value, str):
        raise ValueError("must be a crontab expression such as '*/5 * * * *'")
    fields = value.split()
    if len(fields) != len(_FIELDS):
        raise ValueError(
            f"{quoted(value)} is not a crontab expression: it has {len(fields)} fields, not the five"
            " minute, hour, day of month, month, weekday"
        )
    for name, field in zip(_FIELDS, fields, strict=True):
        for part in field.split(","):
            _check_part(value, name, part)
    if fields[2] != "*" and fields[4] != "*":
        raise ValueError(
            f"{quoted(value)} names days of the month and weekdays, which some read as both and some as either;"
            " leave one of the two *"
        )
    return _coming(value)


def _check_part(expression: str, field: str, part: str) -> None:
    """Refuse a part of a field that is not a number, a range, a name, ``*`` or one of these with a step."""
    if field == "weekday":
        _check_weekday(expression, part)
    elif not (_NUMBERS.fullmatch(part) or (field == "month" and _MONTHS.fullmatch(part))):
        hint = "; a step needs a range or *, as in 5-59/15" if "/" in part else ""
        raise ValueError(f"{quoted(expression)} is not a crontab expression: {quoted(part)} is no {field}{hint}")


def _check_weekday(expression: str, part: str) -> None:
    if part == "*":
        return
    match = _DAYS.fullmatch(part)
    if match is None:
        raise ValueError(
            f"{quoted(expression)}: {quoted(part)} is not a weekday here; write names, such as sun or mon-fri: programs"
            " differ in which day a number is"
        )
    if match[2] and _WEEKDAYS.index(match[1].lower()) > _WEEKDAYS.index(match[2].lower()):
        raise ValueError(f"{quoted(expression)}: weekdays run from mon to sun; write {part} as a list of days")


def _coming(value: str) -> str:
    try:
        trigger = CronTrigger.from_crontab(value, timezone=UTC)
    except ValueError as error:
        raise ValueError(f"{quoted(value)} is not a crontab expression: {error}") from error
    # The calendar repeats after 400 years at most, and 29 February after eight.
    if trigger.get_next_fire_time(None, datetime(2000, 1, 1, tzinfo=UTC)) is None:
        raise ValueError(f"{quoted(value)} never comes: no month that it names has such a day")
    return value


Crontab = Annotated[str, BeforeValidator(crontab)]
"""A crontab expression, in UTC."""
