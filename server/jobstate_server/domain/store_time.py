"""The course of the store's time: what it is, given the wall clock and the time that has passed.

Times in the store must neither go back nor stand still, and a wall clock may do both. So the store's time is counted by
the time that passes, which nobody can set, and led towards the wall clock: slowly where it is ahead of that, so that
nobody's wait becomes a different one, and at once where the wall clock has gone ahead, since then time has passed that
nobody has counted.
"""

from __future__ import annotations

from typing import NamedTuple

PAUSE_MIN = 2_000_000
"""Microseconds. A process that was held up for longer has kept no limits meanwhile; a busy one is held up for less. And
as far as this the wall clock may be ahead without being taken for set: less is caught up with in a few minutes."""

SLEW_DIVISOR = 100
"""The store's time runs at most a hundredth faster or slower than time passes: a wait of a minute is kept to within a
second, and a wall clock that was set back by an hour is met after four days."""


class Pause(NamedTuple):
    """A time in which this process kept no limits. Times of the store, in microseconds."""

    since: int
    length: int

    def joined(self, other: Pause | None) -> Pause:
        """Both as one, from the earlier beginning to the later end."""
        if other is None:
            return self
        since = min(self.since, other.since)
        return Pause(since, max(self.since + self.length, other.since + other.length) - since)


class StoreTime:
    """The store's time of one process. Everything is in microseconds; not for several threads at once."""

    def __init__(self, wall: int, passed: int) -> None:
        """Begin at the wall clock's time.

        Args:
            wall: microseconds since the epoch, as the wall clock has them.
            passed: microseconds since a fixed moment, which also pass while the machine sleeps.
        """
        self._time = wall
        self._fraction = 0
        """Of a microsecond, in hundredths: else many small steps would add up to another speed."""
        self._passed = passed
        self._wall = wall
        self._attended: int | None = None
        self._pause: Pause | None = None

    @property
    def ahead(self) -> int:
        """By how much the store's time is ahead of the wall clock, as last read. Never much below zero."""
        return self._time - self._wall

    def begin_at(self, newest: int) -> None:
        """Go on from ``newest``, the newest time that the store holds, where that is later."""
        self._time = max(self._time, newest)

    def read(self, wall: int, passed: int) -> int:
        """The store's time now. ``wall`` must have been read before ``passed``."""
        elapsed = max(0, passed - self._passed)
        self._passed += elapsed
        self._wall = wall
        straight = self._time + elapsed
        if wall > straight + PAUSE_MIN:
            self._note(Pause(straight, wall - straight))
            self._time, self._fraction = wall, 0
        elif wall < straight:
            # At 99 % of the speed, until they meet.
            whole, self._fraction = divmod(elapsed * (SLEW_DIVISOR - 1) + self._fraction, SLEW_DIVISOR)
            self._time = max(wall, self._time + whole)
        else:
            # At 101 %.
            whole, self._fraction = divmod(elapsed * (SLEW_DIVISOR + 1) + self._fraction, SLEW_DIVISOR)
            self._time = min(wall, self._time + whole)
        return self._time

    def attend(self) -> None:
        """Note that limits are kept at the moment last read. A gap between two such moments is a pause."""
        if self._attended is not None:
            self._look_for_gap()
        self._attended = self._passed

    def disregard(self) -> None:
        """Nobody attends from now on."""
        self._attended = None

    def _look_for_gap(self) -> None:
        assert self._attended is not None
        gap = self._passed - self._attended
        if gap > PAUSE_MIN:
            self._note(Pause(self._time - gap, gap))
            self._attended = self._passed

    def take_pause(self) -> Pause | None:
        """The pauses since the last call, as one. Whoever asks may be the first to run after one."""
        if self._attended is not None:
            self._look_for_gap()
        pause, self._pause = self._pause, None
        return pause

    def _note(self, pause: Pause) -> None:
        self._pause = pause.joined(self._pause)
