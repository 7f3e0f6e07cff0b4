"""The pace of the server's own work in bulk, such as a cleanup, so that callers keep most of the committer's time."""

from __future__ import annotations

import asyncio

from jobstate_server.clock import Clock
from jobstate_server.domain.durations import MILLISECOND, SECOND

SLICE_TIME = 5 * MILLISECOND
"""How long a slice may take. Callers wait behind one, so it must be short beside what a call may take."""

SLICE_TIME_ALONE = 50 * MILLISECOND
"""How long a slice may take when nobody else waits. The disk's part of a commit is then paid by more rows."""

SLICE_ROWS_MIN = 16
"""Rows of a slice, however slow the store is: with fewer, most of a slice would be the cost of any transaction."""

SLICE_ROWS_FIRST = 64
"""Rows of the first slice, when nothing is known of what a row costs."""

PAUSE_MAX = 1 * SECOND
"""The longest pause, so that a slice that the disk held up does not stop the work for long."""


class Pace:
    """Decides how large the next slice of some work is, and how long to pause before it.

    While others wait for the committer, the work takes at most its share of the committer's time: a slice that took t
    is followed by a pause in which the others get their part. When nobody waits, the next slice follows at once.
    """

    def __init__(self, share: float, rows_max: int) -> None:
        """
        Args:
            share: of the committer's time, above 0 and at most 1.
            rows_max: of one slice, however fast the store is.
        """
        self._others_part = (1 - share) / share
        self._rows_max = rows_max
        self.rows = min(SLICE_ROWS_FIRST, rows_max)
        """Rows of the next slice: as many as take a slice's time, and at most twice as many as the last one had."""

    def after(self, rows: int, spent: int, others: int) -> int:
        """Note a slice. Returns how many microseconds to pause before the next one.

        Args:
            rows: how many rows the slice changed.
            spent: microseconds of the committer's time that it took.
            others: commands of others that were written with it, or wait.
        """
        wanted = rows * (SLICE_TIME if others else SLICE_TIME_ALONE) // max(1, spent)
        self.rows = min(max(wanted, SLICE_ROWS_MIN), 2 * self.rows, self._rows_max)
        return min(PAUSE_MAX, round(spent * self._others_part)) if others else 0


async def pause(clock: Clock, length: int) -> None:
    """Wait for ``length`` microseconds."""
    over = asyncio.Event()
    timer = clock.call_later(length, over.set)
    try:
        await over.wait()
    finally:
        timer.cancel()
