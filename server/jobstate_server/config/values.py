"""The kinds of values that settings have, each with its check and the sentence for a bad value."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from enum import IntEnum
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

from jobstate_server.domain.durations import DAY, HOUR, MILLISECOND, MINUTE, SECOND
from jobstate_server.domain.rates import PerTime
from jobstate_server.domain.texts import quoted

_UNITS = {"ms": MILLISECOND, "s": SECOND, "m": MINUTE, "min": MINUTE, "h": HOUR, "d": DAY, None: SECOND}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")
_SPAN = re.compile(r"(-?[0-9]+(?:\.[0-9]+)?)\s*(ms|s|min|m|h|d)?")

SPAN_MAX = 3_650 * DAY
"""Ten years. A longer span is a mistake in the unit, and with this one sums of times stay far within 64 bits."""


def is_name(value: str) -> bool:
    """Whether this can name a job type or a recurring entry: 1 to 64 letters, digits or . _ : -"""
    return _NAME.fullmatch(value) is not None


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
        # Compared without conversion, because an integer may be too large for a float.
        micros = math.copysign(math.inf, value)
    else:
        micros = float(value) * SECOND
    if micros < 0:
        raise ValueError("must not be negative")
    if not micros <= SPAN_MAX:
        raise ValueError("must be at most 3650d")
    # A positive span stays positive, because zero has a meaning of its own.
    return max(round(micros), 1) if micros > 0 else 0


def span_text(micros: int) -> str:
    """A span as text, in the largest unit of which it is a whole number."""
    for unit in ("d", "h", "min", "s", "ms"):
        if micros and micros % _UNITS[unit] == 0:
            return f"{micros // _UNITS[unit]}{unit}"
    return f"{micros / MILLISECOND:.3f}ms" if micros else "0s"


def _not_a_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


def name_of(kind: type[IntEnum]) -> Callable[[object], object]:
    """Reads the name of a member, in lower case."""
    names = {member.name.lower(): member for member in kind}

    def read(value: object) -> object:
        if not isinstance(value, str) or value not in names:
            raise ValueError(f"must be {' or '.join(map(quoted, names))}")
        return names[value]

    return read


_RATE = re.compile(r"([0-9]{1,12})\s*/\s*(?:([0-9].*)|(ms|s|min|m|h|d))")


def per_time(value: object) -> PerTime | None:
    """A rate such as "600/1m" or "10/s"; "none" is no rate."""
    if value == "none":
        return None
    match = _RATE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError('must be a rate such as "600/1m" or "10/s", or "none"')
    return PerTime(int(match[1]), span(match[2] or f"1{match[3]}"))


Span = Annotated[int, BeforeValidator(span)]
"""Microseconds; read from a span."""

Whole = Annotated[int, BeforeValidator(_not_a_bool)]
"""A whole number; not ``true``, which Python takes for 1."""

Fraction = Annotated[float, BeforeValidator(_not_a_bool)]
"""A number; not ``true``."""


def at_most(high: int, text: str) -> AfterValidator:
    """The longest span that a setting may have, and the same as text."""

    def check(value: int) -> int:
        if value > high:
            raise ValueError(f"must be at most {text}")
        return value

    return AfterValidator(check)


def at_least(low: int, text: str) -> AfterValidator:
    """The shortest span that a setting may have, and a text that states and explains it."""

    def check(value: int) -> int:
        if value < low:
            raise ValueError(f"must be {text}")
        return value

    return AfterValidator(check)
