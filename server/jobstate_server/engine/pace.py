"""The pace of the server's own work in bulk, such as a cleanup, so that callers keep most of the committer's time."""

from __future__ import annotations

import asyncio

from jobstate_server.clock import Clock
from jobstate_server.domain.durations import MILLISECOND, SECOND

SLICE_TIME_ALONE = 50 * MILLISECOND
"""How long a slice may take when nobody else waits. The disk's part of a commit is then paid by more rows."""

ALONE_AFTER = 100 * MILLISECOND
"""After slices of so much time without others nobody else counts as waiting. Callers come one after another, and the
next one must not meet a long slice because none came during a short one."""

SLICE_ROWS_MIN = 16
"""Rows of a slice, however slow the store is: with fewer, most of a slice would be the cost of any transaction."""

SLICE_ROWS_FIRST = 64
"""Rows of the first slice, when nothing is known of what a row costs."""

PAUSE_MAX = 1 * SECOND
"""The longest pause, so that a slice that the disk held up does not stop the work for long."""


class SliceSize:
    """How many rows the next slice of some work has: as many as take the time that callers may wait behind it."""

    def __init__(self, slice_time: int, rows_max: int) -> None:
        """
        Args:
            slice_time: how many microseconds a slice may take while others wait.
            rows_max: of one slice, however fast the store is.
        """
        self._slice_time = slice_time
        self._rows_max = rows_max
        self._alone = 0
        """How long the slices took since there were others."""
        self.rows = min(SLICE_ROWS_FIRST, rows_max)
        """At least half and at most twice as many as the slice before had, because one commit tells little."""

    def note(self, rows: int, spent: int, others: int, besides: int = 0) -> None:
        """Note a slice.

        Args:
            rows: how many rows it changed.
            spent: microseconds of the committer's time that it took.
            others: commands of others that were written with it, or wait.
            besides: microseconds that the next slice may take in any case, because the store is that slow.
        """
        self._alone = 0 if others else self._alone + spent
        slice_time = SLICE_TIME_ALONE if self._alone >= ALONE_AFTER else max(self._slice_time, besides)
        wanted = rows * slice_time // max(1, spent)
        least, most = max(SLICE_ROWS_MIN, self.rows // 2), min(2 * self.rows, self._rows_max)
        self.rows = min(max(wanted, least), most)


class Pace:
    """How large the next slice of some work is, and how long to pause before it.

    While others wait for the committer, the work takes at most its share of the committer's time: a slice that took t
    is followed by a pause in which the others get their part. When nobody waits, the next slice follows at once.
    """

    def __init__(self, share: float, slice_time: int, rows_max: int) -> None:
        """``share``: of the committer's time, above 0 and at most 1. The others are those of ``SliceSize``."""
        self._others_part = (1 - share) / share
        self._size = SliceSize(slice_time, rows_max)

    @property
    def rows(self) -> int:
        """Rows of the next slice."""
        return self._size.rows

    def after(self, rows: int, spent: int, others: int) -> int:
        """Note a slice, as ``SliceSize.note`` does. Returns how many microseconds to pause before the next one."""
        self._size.note(rows, spent, others)
        return min(PAUSE_MAX, round(spent * self._others_part)) if others else 0


async def pause(clock: Clock, length: int) -> None:
    """Wait for ``length`` microseconds."""
    over = asyncio.Event()
    timer = clock.call_later(length, over.set)
    try:
        await over.wait()
    finally:
        timer.cancel()
