"""Clocks: the store's time, in whole microseconds since the Unix epoch, UTC."""

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
"""A clock that nobody can set. It must continue while the machine sleeps: on Linux that is CLOCK_BOOTTIME, on macOS
CLOCK_MONOTONIC."""


class Timer(Protocol):
    """A callback that has not run yet."""

    def cancel(self) -> None:
        """Do not run it. To cancel it twice, or after it ran, has no effect."""


class Clock(Protocol):
    """The only source of time in a process: the time of its store."""

    def now(self) -> int:
        """The store's time in microseconds since the epoch.

        It never goes back and never stands still, whatever the wall clock does. See ``StoreTime``.
        """

    def ahead(self) -> int:
        """By how much the store's time is ahead of the wall clock, in microseconds."""

    def monotonic(self) -> int:
        """Microseconds since a fixed moment. Independent of the wall clock, and continues while the machine sleeps."""

    def begin_at(self, newest: int) -> None:
        """Continue from the newest time in the store, if that is later than now."""

    def take_pause(self) -> Pause | None:
        """All periods since the last call in which this process did not enforce limits, as one."""

    def call_later(self, delay: int, callback: Callable[[], None]) -> Timer:
        """Run ``callback`` on the running event loop after ``delay`` microseconds, or at once if it is not positive."""

    def attend(self, interval: int, callback: Callable[[], None]) -> Timer:
        """Read the time and run ``callback`` on the running event loop, every ``interval`` microseconds.

        If two of these turns are far apart, there was a pause between them.
        """


class _Turns:
    """A callback that runs on the event loop at an interval."""

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
    """A clock that computes the store's time from a wall clock and the elapsed time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._store_time = StoreTime(self._wall(), self.monotonic())

    def _wall(self) -> int:
        raise NotImplementedError

    def monotonic(self) -> int:
        raise NotImplementedError

    def _read(self) -> int:
        # In this order. Otherwise a process that is suspended between the two reads would detect a jump.
        wall = self._wall()
        return self._store_time.read(wall, self.monotonic())

    def now(self) -> int:
        with self._lock:
            return self._read()

    def ahead(self) -> int:
        with self._lock:
            self._read()
            return self._store_time.ahead

    def begin_at(self, newest: int) -> None:
        with self._lock:
            self._read()
            self._store_time.begin_at(newest)

    def take_pause(self) -> Pause | None:
        with self._lock:
            self._read()
            return self._store_time.take_pause()

    def _attend(self) -> None:
        with self._lock:
            self._read()
            self._store_time.attend()

    def _disregard(self) -> None:
        with self._lock:
            self._store_time.disregard()


class SystemClock(_CountedClock):
    """The store's time from the clocks of this machine."""

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
    """The time of a database on another machine: the last time that it reported, plus the time elapsed since."""

    def __init__(self, own: Clock) -> None:
        """``own``: the time until the database reports one, and the source of elapsed time."""
        self._own = own
        self._reported: tuple[int, int, int] | None = None
        """The reported time, by how much it was ahead of the database's wall clock, and when it was reported."""
        self._was_read = False
        super().__init__()

    def now(self) -> int:
        self._was_read = True
        return super().now()

    def follow(self, time: int, ahead: int = 0) -> None:
        """Use ``time``, which the database has just reported, as the store's time of this moment.

        Args:
            ahead: by how much ``time`` is ahead of the database's wall clock.
        """
        with self._lock:
            passed = self.monotonic()
            if self._reported is None and not self._was_read:
                # Our own time may be ahead of the reported one, but nothing has used it yet.
                self._store_time = StoreTime(time, passed)
            self._reported = time, ahead, passed
            self._store_time.read(time, passed)
            # Changes of a job must not be earlier than those that other servers have made before.
            self._store_time.begin_at(time)

    def _wall(self) -> int:
        """The time that the database would report now."""
        if self._reported is None:
            return self._own.now()
        time, ahead, at = self._reported
        passed = self.monotonic() - at
        return time + passed - min(ahead, passed // SLEW_DIVISOR)

    def monotonic(self) -> int:
        return self._own.monotonic()

    def ahead(self) -> int:
        return 0 if self._reported is None else self._reported[1]

    def call_later(self, delay: int, callback: Callable[[], None]) -> Timer:
        return self._own.call_later(delay, callback)

    def attend(self, interval: int, callback: Callable[[], None]) -> Timer:
        def turn() -> None:
            self._attend()
            callback()

        turns = self._own.attend(interval, turn)
        return _Ending(turns, self._disregard)


class _Ending:
    """A timer that calls back when it is cancelled."""

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
    """A clock for tests, which a test moves. Move it on the event loop's thread."""

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
        """As in the protocol, but the callback runs once at the end of each ``advance``, however long that is."""
        del interval
        timer = _ManualTimer(callback)
        self._attending.append(timer)
        return timer

    def advance(self, delta: int) -> None:
        """Let ``delta`` microseconds pass, and run every timer at its time."""
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
        """Set the wall clock forward or back, as an operator or NTP would. No time passes for timers."""
        self.now()
        self._wall_time += delta

    def pause(self, length: int) -> None:
        """Let time pass while the process is suspended: no timer runs, but timers may be due after the pause."""
        self._attend()
        self._pass(length)
        self._attend()
        self._disregard()
