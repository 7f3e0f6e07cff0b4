"""The due timer: rings the committer when the earliest due time of any job has come.

Due times are data, in the store; this only waits for the next one. It forgets nothing that matters: after a restart, a
clock step or a lost ring the store is asked again.
"""

from __future__ import annotations

from jobstate_server.domain.clock import MILLISECOND, SECOND, Clock, Timer
from jobstate_server.engine.committer import Committer
from jobstate_server.engine.writer import DUE_MAX

SLEEP_MAX = 1 * SECOND
"""Longest wait before the wall clock is looked at again, so that a step of it is seen within a second."""

BACKUP_DELAY = 50 * MILLISECOND
"""What another replica has written is served by that one; this one looks so much later, in case that one has died."""


class DueTimer:
    """Waits for the earliest due time."""

    def __init__(self, committer: Committer, clock: Clock) -> None:
        self._committer = committer
        self._clock = clock
        self._next_due: int | None = None
        self._timer: Timer | None = None
        self._ringing = False
        committer.on_due = self._on_due

    def start(self) -> None:
        """Ask the store what is due, and go on from there."""
        self._ring()

    def stop(self) -> None:
        """Ring no more."""
        if self._timer is not None:
            self._timer.cancel()
        self._ringing = True

    def hear(self, next_due: int) -> None:
        """Take note of the earliest due time that a commit of any replica has written."""
        self._on_due(next_due + BACKUP_DELAY, None)

    def _ring(self) -> None:
        if not self._ringing:
            self._ringing = True
            self._committer.ring_due()

    def _on_due(self, next_due: int | None, served: int | None) -> None:
        if served is None:
            # An ordinary commit wrote a due time: it matters if it is the earliest.
            if next_due is not None and (self._next_due is None or next_due < self._next_due):
                self._wait_until(next_due)
            return
        self._ringing = False
        self._next_due = None
        if served == DUE_MAX:
            self._ring()
        elif next_due is not None:
            self._wait_until(next_due)

    def _wait_until(self, due: int) -> None:
        self._next_due = due
        if self._timer is not None:
            self._timer.cancel()
        wait = max(0, due - self._clock.now())
        self._timer = self._clock.call_later(min(wait, SLEEP_MAX), self._look)

    def _look(self) -> None:
        self._timer = None
        if self._next_due is None:
            return
        if self._next_due <= self._clock.now():
            self._ring()
        else:
            self._wait_until(self._next_due)
