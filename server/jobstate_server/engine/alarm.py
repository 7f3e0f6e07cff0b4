"""A timer that knows when it should have run, so that the end of a chain of timers is noticed."""

from __future__ import annotations

from collections.abc import Callable

from jobstate_server.clock import Clock, Timer

LATE_TURNS_MAX = 3
"""Seconds by which a timer may be late. A busy event loop delays a timer by less."""


class Alarm:
    """A timer that is set repeatedly. Call it on the event loop's thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._timer: Timer | None = None
        self._due: int | None = None
        self._late_turns = 0

    @property
    def is_set(self) -> bool:
        """Whether it will call back."""
        return self._due is not None

    @property
    def due(self) -> int | None:
        """When it calls back, on the monotonic clock. None if it is not set."""
        return self._due

    def set(self, delay: int, callback: Callable[[], None]) -> None:
        """Call back after ``delay`` microseconds. Replaces what was set before."""
        self.cancel()
        self._due = self._clock.monotonic() + max(0, delay)
        self._timer = self._clock.call_later(delay, callback)

    def cancel(self) -> None:
        """Do not call back. A cancelled alarm is never lost."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._due = None
        self._late_turns = 0

    def is_lost(self) -> bool:
        """Whether the alarm is long overdue and was neither set again nor cancelled. Call it once a second.

        It is also lost if its callback failed before it set the alarm again.
        """
        is_late = self._due is not None and self._clock.monotonic() > self._due
        self._late_turns = self._late_turns + 1 if is_late else 0
        return self._late_turns > LATE_TURNS_MAX
