"""The due timer: rings the committer when the earliest due time of any job has come.

Due times are data, in the store; this only waits for the next one. It forgets nothing that matters: after a restart, a
clock step or a lost ring the store is asked again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from jobstate_server.clock import Clock, Timer
from jobstate_server.domain.durations import MILLISECOND, SECOND
from jobstate_server.engine.committer import Committer
from jobstate_server.engine.writer import DUE_MAX

log = logging.getLogger(__name__)

UNANSWERED_TURNS_MAX = 5
"""Seconds for which a timer is overdue, or the committer answers others but not this: then it is lost."""

SLEEP_MAX = 1 * SECOND
"""Longest wait before the store's time is looked at again, so that a jump of it is seen within a second."""

LATE_MIN = 100 * MILLISECOND
"""A loop that runs a timer so late has been held up, and calls have come meanwhile that it has not seen."""

LATE_WAIT_MAX = 2 * SECOND
"""How long such calls are waited for at the most. After longer pauses the limits themselves are moved."""

BACKUP_DELAY = 50 * MILLISECOND
"""What another replica has written is served by that one; this one looks so much later, in case that one has died."""


class DueTimer:
    """Waits for the earliest due time."""

    def __init__(self, committer: Committer, clock: Clock) -> None:
        self._committer = committer
        self._clock = clock
        self._next_due: int | None = None
        self._timer: Timer | None = None
        self._rings_at = 0
        self._ringing = False
        self._unanswered = 0
        self._is_stopped = False
        committer.on_due = self._on_due

    def start(self) -> None:
        """Ask the store what is due, and go on from there."""
        self._wake()

    def stop(self) -> None:
        """Ring no more."""
        if self._timer is not None:
            self._timer.cancel()
        self._ringing = self._is_stopped = True

    def turn(self) -> None:
        """Restart after a failure has ended the chain of timers. Called by the watchdog once a second."""
        is_late = not self._ringing and self._next_due is not None and self._clock.monotonic() > self._rings_at
        is_waiting = is_late or (self._ringing and not self._committer.silence)
        self._unanswered = self._unanswered + 1 if is_waiting else 0
        if not self._is_stopped and self._unanswered > UNANSWERED_TURNS_MAX:
            log.error("the due timer had stopped; it was restarted")
            self._ringing, self._unanswered = False, 0
            self._wake()

    def hear(self, next_due: int) -> None:
        """Take note of the earliest due time that a commit of any replica has written."""
        self._on_due(next_due + BACKUP_DELAY, None)

    def _wake(self) -> None:
        if not self._ringing:
            self._ringing = True
            self._committer.ring_due()

    def _on_due(self, next_due: int | None, served: int | None) -> None:
        if served is None:
            # An ordinary commit wrote a due time: it matters if it is the earliest.
            if next_due is not None and (self._next_due is None or next_due < self._next_due):
                self._wait_until(next_due)
            return
        self._ringing, self._unanswered = False, 0
        self._next_due = None
        if served == DUE_MAX:
            self._wake()
        elif next_due is not None:
            self._wait_until(next_due)

    def _wait_until(self, due: int) -> None:
        self._next_due = due
        if self._timer is not None:
            self._timer.cancel()
        self._look_after(min(max(0, due - self._clock.now()), SLEEP_MAX), self._look)

    def _look_after(self, wait: int, look: Callable[[], None]) -> None:
        self._rings_at = self._clock.monotonic() + wait
        self._timer = self._clock.call_later(wait, look)

    def _look(self) -> None:
        self._unanswered = 0
        late = self._clock.monotonic() - self._rings_at
        if late > LATE_MIN:
            # A timer must not beat a report that has waited to be read.
            self._look_after(min(late, LATE_WAIT_MAX), self._look_now)
        else:
            self._look_now()

    def _look_now(self) -> None:
        self._timer = None
        if self._next_due is None:
            return
        if self._next_due <= self._clock.now():
            self._wake()
        else:
            self._wait_until(self._next_due)
