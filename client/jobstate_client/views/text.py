"""Texts for people: safe for a terminal, with one format for times, spans and numbers.

The texts in a job were written by others, and must not reach a terminal unchanged: an escape sequence could move the
cursor, rename the window or hide a line, and a character without a width breaks every column.
"""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime, timedelta

MARKS_MAX = 2
"""Combining marks kept on one letter. No language needs more than two, and a stack of them covers the lines above."""

_SPANS = ((86_400, "d"), (3_600, "h"), (60, "m"))


def safe(text: str) -> str:
    """The text on one line, without anything that a terminal would interpret.

    Control characters, line ends and direction marks are escaped (``\\x1b``). Joiners and variation selectors are
    removed: terminals do not agree on the width of what they join.
    """
    if text.isascii() and text.isprintable():
        return text
    kept: list[str] = []
    marks = 0
    for character in text:
        category = unicodedata.category(character)
        marks = marks + 1 if category in {"Mn", "Me"} else 0
        if marks > MARKS_MAX or _is_invisible(character):
            continue
        if category == "Zs":
            kept.append(" ")
        elif character.isprintable():
            kept.append(character)
        else:
            kept.append(character.encode("unicode_escape").decode("ascii"))
    return "".join(kept)


def _is_invisible(character: str) -> bool:
    number = ord(character)
    return (
        number in {0xAD, 0x2060, 0xFEFF}
        or 0x200B <= number <= 0x200D
        or 0xFE00 <= number <= 0xFE0F
        or 0xE0100 <= number <= 0xE01EF
    )


def clock(moment: datetime | None) -> str:
    """The time of day, in UTC."""
    return "" if moment is None else f"{moment.astimezone(UTC):%H:%M:%S}Z"


def instant(moment: datetime | None) -> str:
    """Date and time, in UTC, to the second."""
    return "" if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"


def exact(moment: datetime) -> str:
    """Date and time in RFC 3339, to the microsecond, which is the precision of the server."""
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}Z"


def span(length: timedelta | None) -> str:
    """A span in one or two units: 120ms, 4.2s, 3m05s, 2h10m, 5d03h."""
    if length is None:
        return ""
    seconds = length.total_seconds()
    if seconds < 0:
        return "-" + span(-length)
    if 0 < seconds < 1:
        return f"{seconds * 1_000:.0f}ms" if seconds >= 0.001 else "<1ms"
    if seconds < 9.95:
        return f"{seconds:.1f}".removesuffix(".0") + "s"
    return long_span(int(seconds + 0.5))


def long_span(seconds: int) -> str:
    """Whole seconds, in one or two units: 42s, 3m05s, 2h10m, 5d03h."""
    for (unit, name), (below, below_name) in zip(_SPANS, (*_SPANS[1:], (1, "s")), strict=True):
        if seconds >= unit:
            rest = seconds % unit // below
            return f"{seconds // unit}{name}" + (f"{rest:02}{below_name}" if rest else "")
    return f"{seconds}s"


def short_span(seconds: float) -> str:
    """A span in at most four characters, for narrow columns: 42s, 5m, 3h, 12d."""
    whole = max(0, int(seconds))
    for unit, name in _SPANS:
        if whole >= unit:
            return f"{whole // unit}{name}"
    return f"{whole}s"


def count(number: int) -> str:
    """A number with thousands separators."""
    return f"{number:,}"


def counted(number: int, noun: str) -> str:
    """A number of things: 1 job, 1,200 jobs."""
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"
