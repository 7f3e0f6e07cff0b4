"""The timekeeper: keeps an eye on the time, several times a second, so that a pause of the process is found.

What follows from a pause is the committer's (``engine/pauses.py``). This also tells in the log when the store's time
and the wall clock part, and when they have met again.
"""

from __future__ import annotations

import logging

from jobstate_server.clock import Clock, Timer
from jobstate_server.domain.durations import MILLISECOND, SECOND
from jobstate_server.engine.alarm import LATE_TURNS_MAX

log = logging.getLogger(__name__)

TURN_INTERVAL = 500 * MILLISECOND
"""How often the time is looked at: several times within the shortest pause that counts."""

AHEAD_MIN = 2 * SECOND
"""Up to this the store's time passes for the wall clock's: it is not told, and callers' times are taken as they are."""


def told_ahead(clock: Clock) -> int:
    """By how much the store's time is ahead of the wall clock, 0 when that does not matter. Microseconds."""
    ahead = clock.ahead()
    return ahead if ahead > AHEAD_MIN else 0


class Timekeeper:
    """Watches the time of one process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._told: int | None = None
        """What was told last; None while there is nothing to tell."""
        self._turns: Timer | None = None
        self._silent_turns = 0

    def start(self) -> None:
        """Begin, on the running event loop."""
        self._silent_turns = 0
        self._turns = self._clock.attend(TURN_INTERVAL, self._look)

    def stop(self) -> None:
        """Look no more: a process that stops keeps no limits."""
        if self._turns is not None:
            self._turns.cancel()
            self._turns = None

    def turn(self) -> None:
        """A second has passed: start anew if the time has not been looked at for several. Called by the watchdog."""
        self._silent_turns += 1
        if self._turns is not None and self._silent_turns > LATE_TURNS_MAX:
            log.error("the timekeeper had stopped, and begins anew")
            self.stop()
            self.start()

    def _look(self) -> None:
        self._silent_turns = 0
        ahead = told_ahead(self._clock)
        if ahead and (self._told is None or ahead > self._told + AHEAD_MIN):
            seconds = {"ahead_s": round(ahead / SECOND, 3)}
            log.warning("the store's time is ahead of the clock, which was set back, and goes on", extra=seconds)
            self._told = ahead
        elif ahead:
            assert self._told is not None
            # What it has come nearer by itself is not told; a new step is.
            self._told = min(self._told, ahead)
        elif self._told is not None:
            log.info("the store's time and the clock have met again")
            self._told = None
