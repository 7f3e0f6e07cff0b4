"""Time as the domain sees it: whole microseconds since the Unix epoch, UTC, from a clock that is handed in."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
import time
from collections.abc import Callable
from typing import Protocol

from jobstate_server.domain.durations import SECOND
from jobstate_server.domain.store_time import SLEW_DIVISOR, Pause, StoreTime

_PASSING = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""The clock that nobody can set. On Linux the one that goes on while the machine sleeps; macOS's other one does too."""


class Timer(Protocol):
    """A callback that has not run yet."""

    def cancel(self) -> None:
        """Never run it. Cancelling twice, or after it ran, does nothing."""


class Clock(Protocol):
    """The one source of time of a process: the time of its store."""

    def now(self) -> int:
        """The store's time in microseconds since the epoch.

        It never goes back and never stands still, whatever the wall clock does: see ``StoreTime``.
        """

    def ahead(self) -> int:
        """By how much the store's time is ahead of the wall clock, in microseconds."""

    def monotonic(self) -> int:
        """Microseconds since a fixed moment, unmoved by changes of the wall clock, passing while the machine sleeps."""

    def begin_at(self, newest: int) -> None:
        """Go on from the newest time that the store holds, where that is later than now."""

    def take_pause(self) -> Pause | None:
        """The times since the last call in which this process kept no limits, as one."""

    def call_later(self, delay: int, callback: Callable[[], None]) -> Timer:
        """Run ``callback`` on the running event loop after ``delay`` microseconds (at once when not positive)."""

    def attend(self, interval: int, callback: Callable[[], None]) -> Timer:
        """Keep an eye on the time, on the running event loop, every ``interval``, and run ``callback`` each time.

        Between two such turns that are far apart there was a pause.
        """


class _Turns:
    """Calls back on the event loop again and again."""

    def __init__(self, interval: int, turn: Callable[[], None], ended: Callable[[], None]) -> None:
        self._interval = interval / SECOND
        self._turn = turn
        self._ended = ended
        self._handle: asyncio.Handle = asyncio.get_running_loop().call_soon(self._run)

    def cancel(self) -> None:
        self._handle.cancel()
        self._ended()

    def _run(self) -> None:
        self._handle = asyncio.get_running_loop().call_later(self._interval, self._run)
        self._turn()


class _CountedClock:
    """A clock that keeps the store's time by a wall clock and by the time that passes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._course = StoreTime(self._wall(), self.monotonic())

    def _wall(self) -> int:
        raise NotImplementedError

    def monotonic(self) -> int:
        raise NotImplementedError

    def _read(self) -> int:
        # In this order, so that a process that is held up between the two does not take itself for late.
        wall = self._wall()
        return self._course.read(wall, self.monotonic())

    def now(self) -> int:
        with self._lock:
            return self._read()

    def ahead(self) -> int:
        with self._lock:
            self._read()
            return self._course.ahead

    def begin_at(self, newest: int) -> None:
        with self._lock:
            self._read()
            self._course.begin_at(newest)

    def take_pause(self) -> Pause | None:
        with self._lock:
            self._read()
            return self._course.take_pause()

    def _attend(self) -> None:
        with self._lock:
            self._read()
            self._course.attend()

    def _disregard(self) -> None:
        with self._lock:
            self._course.disregard()


class SystemClock(_CountedClock):
    """The store's time by the machine's clocks."""

    def _wall(self) -> int:
        return time.time_ns() // 1_000

    def monotonic(self) -> int:
        return time.clock_gettime_ns(_PASSING) // 1_000

    def call_later(self, delay: int, callback: Callable[[], None]) -> Timer:
        return asyncio.get_running_loop().call_later(max(0, delay) / SECOND, callback)

    def attend(self, interval: int, callback: Callable[[], None]) -> Timer:
        def turn() -> None:
            self._attend()
            callback()

        return _Turns(interval, turn, self._disregard)


class FollowingClock(_CountedClock):
    """The time of a store that is kept elsewhere, as last told, and our own count since."""

    def __init__(self, own: Clock) -> None:
        """``own`` tells the time until another is told, and counts what passes."""
        self._own = own
        self._told: tuple[int, int, int] | None = None
        """The time that was told, by how much it was ahead of its wall clock, and when that was by our own count."""
        self._is_asked = False
        super().__init__()

    def now(self) -> int:
        self._is_asked = True
        return super().now()

    def follow(self, told: int, ahead: int = 0) -> None:
        """Take ``told`` for the store's time of this moment, or of one shortly before.

        Args:
            ahead: by how much it is ahead of the wall clock that it is counted by.
        """
        with self._lock:
            passed = self.monotonic()
            if self._told is None and not self._is_asked:
                # Nobody has had our own time from us, which may be ahead of this.
                self._course = StoreTime(told, passed)
            self._told = told, ahead, passed
            self._course.read(told, passed)
            # What is decided on a job is not earlier than what others have decided before.
            self._course.begin_at(told)

    def _wall(self) -> int:
        """The time that would be told now."""
        if self._told is None:
            return self._own.now()
        told, ahead, at = self._told
        passed = self.monotonic() - at
        return told + passed - min(ahead, passed // SLEW_DIVISOR)

    def monotonic(self) -> int:
        return self._own.monotonic()

    def ahead(self) -> int:
        return 0 if self._told is None else self._told[1]

    def call_later(self, delay: int, callback: Callable[[], None]) -> Timer:
        return self._own.call_later(delay, callback)

    def attend(self, interval: int, callback: Callable[[], None]) -> Timer:
        def turn() -> None:
            self._attend()
            callback()

        turns = self._own.attend(interval, turn)
        return _Ending(turns, self._disregard)


class _Ending:
    """A timer with something to do when it is cancelled."""

    def __init__(self, timer: Timer, ended: Callable[[], None]) -> None:
        self._timer = timer
        self._ended = ended

    def cancel(self) -> None:
        self._timer.cancel()
        self._ended()


class _ManualTimer:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class ManualClock(_CountedClock):
    """A clock that moves only when told to, for tests. What moves it belongs on the event loop's thread."""

    def __init__(self, start: int = 1_700_000_000 * SECOND) -> None:
        self._wall_time = start
        self._monotonic = 0
        self._timers: list[tuple[int, int, _ManualTimer]] = []
        self._order = itertools.count()
        self._attending: list[_ManualTimer] = []
        super().__init__()

    def _wall(self) -> int:
        return self._wall_time

    def monotonic(self) -> int:
        return self._monotonic

    def call_later(self, delay: int, callback: Callable[[], None]) -> Timer:
        timer = _ManualTimer(callback)
        heapq.heappush(self._timers, (self._monotonic + max(0, delay), next(self._order), timer))
        return timer

    def attend(self, interval: int, callback: Callable[[], None]) -> Timer:
        """As the protocol says, but the callback runs once at the end of each ``advance``, however long that was."""
        del interval
        timer = _ManualTimer(callback)
        self._attending.append(timer)
        return timer

    def advance(self, delta: int) -> None:
        """Let ``delta`` microseconds pass, running every timer at its own moment."""
        until = self._monotonic + delta
        while self._timers and self._timers[0][0] <= until:
            due, _, timer = heapq.heappop(self._timers)
            self._pass(max(0, due - self._monotonic))
            if timer.callback is not None:
                timer.callback()
        self._pass(until - self._monotonic)
        for timer in self._attending:
            if timer.callback is not None:
                timer.callback()

    def _pass(self, delta: int) -> None:
        self._wall_time += delta
        self._monotonic += delta

    def step(self, delta: int) -> None:
        """Set the wall clock forward, or back, as an operator or NTP would: no timer's time passes."""
        self.now()
        self._wall_time += delta

    def pause(self, length: int) -> None:
        """Let time pass while the process is held up: no timer runs, though it may be due when the pause is over."""
        self._attend()
        self._pass(length)
        self._attend()
        self._disregard()
