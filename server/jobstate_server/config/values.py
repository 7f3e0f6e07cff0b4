"""The kinds of values that settings have, each checked by itself, with a sentence when it cannot work."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import Annotated

from apscheduler.triggers.cron import CronTrigger
from pydantic import AfterValidator, BeforeValidator

from jobstate_server.domain.durations import DAY, HOUR, MILLISECOND, MINUTE, SECOND

_UNITS = {"ms": MILLISECOND, "s": SECOND, "m": MINUTE, "min": MINUTE, "h": HOUR, "d": DAY, None: SECOND}
_SPAN = re.compile(r"(-?[0-9]+(?:\.[0-9]+)?)\s*(ms|s|min|m|h|d)?")

SPAN_MAX = 3_650 * DAY
"""Ten years. Whoever writes more means another unit, and sums of times stay far within 64 bits."""

_QUOTED_MAX = 60
"""Characters of a value that a refusal quotes."""


def quoted(value: str) -> str:
    """A value as a refusal shows it: long ones cut."""
    return repr(value) if len(value) <= _QUOTED_MAX else repr(value[:_QUOTED_MAX]) + "…"


def span(value: object) -> int:
    """Microseconds of a span such as "90s", "7.5min", "30d"; a bare number, or a text that is one, is seconds."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError('must be a span such as "30s", "5min", "24h" or "7d"')
    if isinstance(value, str):
        match = _SPAN.fullmatch(value.strip())
        if match is None:
            raise ValueError(f'{quoted(value)} is not a span; write one such as "30s", "5min", "24h" or "7d"')
        micros = float(match[1]) * _UNITS[match[2]]
    elif abs(value) > SPAN_MAX:
        # Compared as it is: an integer may be too large to become a float.
        micros = math.copysign(math.inf, value)
    else:
        micros = float(value) * SECOND
    if micros < 0:
        raise ValueError("must not be negative")
    if not micros <= SPAN_MAX:
        raise ValueError("must be at most 3650d")
    # What is above nothing stays above nothing: zero means something else.
    return max(round(micros), 1) if micros > 0 else 0


def span_text(micros: int) -> str:
    """A span as it is written, in the largest unit that it has a whole number of."""
    for unit in ("d", "h", "min", "s", "ms"):
        if micros and micros % _UNITS[unit] == 0:
            return f"{micros // _UNITS[unit]}{unit}"
    return f"{micros / MILLISECOND:.3f}ms" if micros else "0s"


def _no_truth(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


_FIELDS = ("minute", "hour", "day of month", "month", "weekday")
_WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_NUMBERS = re.compile(r"\*(/[0-9]{1,4})?|[0-9]{1,4}(-[0-9]{1,4})?|([0-9]{1,4})-(?!\3/)[0-9]{1,4}/[0-9]{1,4}")
_MONTHS = re.compile(r"[a-z]{3}(-[a-z]{3})?", re.IGNORECASE)
_DAYS = re.compile(r"(mon|tue|wed|thu|fri|sat|sun)(?:-(mon|tue|wed|thu|fri|sat|sun))?", re.IGNORECASE)


def crontab(value: object) -> str:
    """A crontab expression that means the same to everybody, and comes to pass.

    Programs differ in which day 0, 1 and 7 are and in whether two day fields are joined by "and" or by "or", so both
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
            f"{quoted(expression)}: {quoted(part)} is no weekday here; write names, such as sun or mon-fri: programs"
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


Span = Annotated[int, BeforeValidator(span)]
"""Microseconds; read from a span."""

Crontab = Annotated[str, BeforeValidator(crontab)]
"""A crontab expression, in UTC."""

Whole = Annotated[int, BeforeValidator(_no_truth)]
"""A whole number; not ``true``, which Python takes for 1."""

Fraction = Annotated[float, BeforeValidator(_no_truth)]
"""A number; not ``true``."""


def at_most(high: int, told: str) -> AfterValidator:
    """The longest span that a setting may have, and how that is said."""

    def check(value: int) -> int:
        if value > high:
            raise ValueError(f"must be at most {told}")
        return value

    return AfterValidator(check)


def at_least(low: int, told: str) -> AfterValidator:
    """The shortest span that a setting may have, how that is said, and why."""

    def check(value: int) -> int:
        if value < low:
            raise ValueError(f"must be {told}")
        return value

    return AfterValidator(check)
