"""The store's time, computed from the wall clock and the elapsed time.

Times in the store must not go back or stand still, and a wall clock may do both. So the store's time counts elapsed
time, which nobody can set, and is moved towards the wall clock. If it is ahead of the wall clock it runs a little
slower until they agree, so that no wait changes noticeably. If the wall clock is ahead, time has passed that was not
counted, and the store's time jumps to the wall clock.
"""

from __future__ import annotations

from typing import NamedTuple

PAUSE_MIN = 2_000_000
"""Microseconds. A process that was suspended for longer has not enforced limits meanwhile; a busy process pauses for
less. If the wall clock is ahead by less than this, the store's time does not jump: it catches up in a few minutes."""

SLEW_DIVISOR = 100
"""The store's time runs at most 1 % faster or slower than time passes. A wait of a minute is then right to within a
second, and four days after a wall clock was set back by an hour both agree."""


class Pause(NamedTuple):
    """A period in which this process did not enforce limits. In microseconds of the store's time."""

    since: int
    length: int

    def joined(self, other: Pause | None) -> Pause:
        """One pause from the earlier beginning to the later end."""
        if other is None:
            return self
        since = min(self.since, other.since)
        return Pause(since, max(self.since + self.length, other.since + other.length) - since)


class StoreTime:
    """The store's time of one process. All values are in microseconds. Not thread-safe."""

    def __init__(self, wall: int, passed: int) -> None:
        """Begin at the wall clock's time.

        Args:
            wall: the wall clock, in microseconds since the epoch.
            passed: microseconds since a fixed moment, including those in which the machine sleeps.
        """
        self._time = wall
        self._fraction = 0
        """The fraction of a microsecond, in hundredths. Without it many small steps would add up to another speed."""
        self._passed = passed
        self._wall = wall
        self._attended: int | None = None
        self._pause: Pause | None = None

    @property
    def ahead(self) -> int:
        """By how much the store's time is ahead of the wall clock, as last read. Never much below zero."""
        return self._time - self._wall

    def begin_at(self, newest: int) -> None:
        """Continue from ``newest``, the newest time in the store, if that is later."""
        self._time = max(self._time, newest)

    def read(self, wall: int, passed: int) -> int:
        """The store's time now. Read ``wall`` before ``passed``."""
        elapsed = max(0, passed - self._passed)
        self._passed += elapsed
        self._wall = wall
        straight = self._time + elapsed
        if wall > straight + PAUSE_MIN:
            self._note(Pause(straight, wall - straight))
            self._time, self._fraction = wall, 0
        elif wall < straight:
            # At 99 % of the speed, until both agree.
            whole, self._fraction = divmod(elapsed * (SLEW_DIVISOR - 1) + self._fraction, SLEW_DIVISOR)
            self._time = max(wall, self._time + whole)
        else:
            # At 101 %.
            whole, self._fraction = divmod(elapsed * (SLEW_DIVISOR + 1) + self._fraction, SLEW_DIVISOR)
            self._time = min(wall, self._time + whole)
        return self._time

    def attend(self) -> None:
        """Note that limits were enforced at the time last read. A gap between two such times is a pause."""
        if self._attended is not None:
            self._look_for_gap()
        self._attended = self._passed

    def disregard(self) -> None:
        """No limits are enforced from now on, so a gap is no pause."""
        self._attended = None

    def _look_for_gap(self) -> None:
        assert self._attended is not None
        gap = self._passed - self._attended
        if gap > PAUSE_MIN:
            self._note(Pause(self._time - gap, gap))
            self._attended = self._passed

    def take_pause(self) -> Pause | None:
        """All pauses since the last call, as one. The caller may be the first to run after a pause."""
        if self._attended is not None:
            self._look_for_gap()
        pause, self._pause = self._pause, None
        return pause

    def _note(self, pause: Pause) -> None:
        self._pause = pause.joined(self._pause)
