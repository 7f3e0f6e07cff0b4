"""The timekeeper: reads the clock several times a second, so that a pause of the process is noticed.

The committer deals with pauses (``engine/downtime.py``). The timekeeper also logs when the store's time differs from
the wall clock, and when they agree again.
"""

from __future__ import annotations

import logging

from jobstate_server.clock import Clock, Timer
from jobstate_server.domain.durations import MILLISECOND, SECOND
from jobstate_server.engine.alarm import LATE_TURNS_MAX

log = logging.getLogger(__name__)

TURN_INTERVAL = 500 * MILLISECOND
"""How often the clock is read: several times within the shortest pause that counts."""

AHEAD_MIN = 2 * SECOND
"""A smaller lead of the store's time over the wall clock is ignored: not logged, and callers' times are not shifted."""


def ahead_of_wall_clock(clock: Clock) -> int:
    """Microseconds by which the store's time is ahead of the wall clock; 0 below ``AHEAD_MIN``."""
    ahead = clock.ahead()
    return ahead if ahead > AHEAD_MIN else 0


class Timekeeper:
    """Watches the clock of one process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._logged_ahead: int | None = None
        """The lead that was logged last; None while there is none."""
        self._turns: Timer | None = None
        self._looked = 0
        """When the clock was read last, by the clock that nobody can set."""
        self._silent_turns = 0

    def start(self) -> None:
        """Start. Call on the running event loop."""
        self._looked, self._silent_turns = self._clock.monotonic(), 0
        self._turns = self._clock.attend(TURN_INTERVAL, self._look)

    def stop(self) -> None:
        """Stop reading the clock: a server that is stopping does not enforce time limits."""
        if self._turns is not None:
            self._turns.cancel()
            self._turns = None

    def turn(self) -> None:
        """Restart after several seconds without a look at the time. Called by the watchdog once a second."""
        # By the clock itself: one that a test moves stands still in between.
        is_late = self._clock.monotonic() - self._looked > 2 * TURN_INTERVAL
        self._silent_turns = self._silent_turns + 1 if is_late else 0
        if self._turns is not None and self._silent_turns > LATE_TURNS_MAX:
            log.error("the timekeeper had stopped; it was restarted")
            self.stop()
            self.start()

    def _look(self) -> None:
        self._looked = self._clock.monotonic()
        ahead = ahead_of_wall_clock(self._clock)
        if ahead and (self._logged_ahead is None or ahead > self._logged_ahead + AHEAD_MIN):
            seconds = {"ahead_s": round(ahead / SECOND, 3)}
            log.warning(
                "the clock was set back: the store's time is ahead of the clock until both agree", extra=seconds
            )
            self._logged_ahead = ahead
        elif ahead:
            assert self._logged_ahead is not None
            # A lead that shrinks is not logged, but another step of the clock is.
            self._logged_ahead = min(self._logged_ahead, ahead)
        elif self._logged_ahead is not None:
            log.info("the store's time and the clock agree again")
            self._logged_ahead = None
