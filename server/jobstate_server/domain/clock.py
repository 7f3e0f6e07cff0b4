"""Time as the domain sees it: whole microseconds since the Unix epoch, UTC, from a clock that is handed in."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
import time
from collections.abc import Callable
from typing import Protocol

MICROSECOND = 1
MILLISECOND = 1_000 * MICROSECOND
SECOND = 1_000 * MILLISECOND
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR


class Timer(Protocol):
    """A callback that has not run yet."""

    def cancel(self) -> None:
        """Never run it. Cancelling twice, or after it ran, does nothing."""


class Clock(Protocol):
    """The one source of time of a process."""

    def now(self) -> int:
        """Microseconds since the epoch. Never goes back within a process, whatever the wall clock does."""

    def monotonic(self) -> int:
        """Microseconds since a fixed moment, unmoved by changes of the wall clock: ``now`` beside it shows a step."""

    def call_later(self, delay: int, callback: Callable[[], None]) -> Timer:
        """Run ``callback`` on the running event loop after ``delay`` microseconds (at once when not positive)."""


class SystemClock:
    """The machine's clock."""

    def __init__(self) -> None:
        self._latest = 0
        self._lock = threading.Lock()

    def now(self) -> int:
        with self._lock:
            self._latest = max(self._latest, time.time_ns() // 1_000)
            return self._latest

    def monotonic(self) -> int:
        return time.monotonic_ns() // 1_000

    def call_later(self, delay: int, callback: Callable[[], None]) -> Timer:
        return asyncio.get_running_loop().call_later(max(0, delay) / SECOND, callback)


class FollowingClock:
    """The wall time of another machine, as last told, and our own time since: who shares a database shares its time."""

    def __init__(self, own: Clock) -> None:
        """``own`` tells the time until another is told."""
        self._own = own
        self._ahead = own.now() - own.monotonic()
        self._latest = 0
        self._lock = threading.Lock()

    def follow(self, now: int) -> None:
        """Take ``now`` for the time of this moment."""
        self._ahead = now - self._own.monotonic()

    def now(self) -> int:
        with self._lock:
            self._latest = max(self._latest, self._own.monotonic() + self._ahead)
            return self._latest

    def monotonic(self) -> int:
        return self._own.monotonic()

    def call_later(self, delay: int, callback: Callable[[], None]) -> Timer:
        return self._own.call_later(delay, callback)


class _ManualTimer:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class ManualClock:
    """A clock that moves only when told to, for tests. ``advance`` belongs on the event loop's thread."""

    def __init__(self, start: int = 1_700_000_000 * SECOND) -> None:
        self._now = start
        self._monotonic = 0
        self._timers: list[tuple[int, int, _ManualTimer]] = []
        self._order = itertools.count()

    def now(self) -> int:
        return self._now

    def monotonic(self) -> int:
        return self._monotonic

    def call_later(self, delay: int, callback: Callable[[], None]) -> Timer:
        timer = _ManualTimer(callback)
        heapq.heappush(self._timers, (self._monotonic + max(0, delay), next(self._order), timer))
        return timer

    def advance(self, delta: int) -> None:
        """Let ``delta`` microseconds pass, running every timer at its own moment."""
        until = self._monotonic + delta
        while self._timers and self._timers[0][0] <= until:
            due, _, timer = heapq.heappop(self._timers)
            self._now += max(0, due - self._monotonic)
            self._monotonic = max(self._monotonic, due)
            if timer.callback is not None:
                timer.callback()
        self._now += until - self._monotonic
        self._monotonic = until

    def step(self, delta: int) -> None:
        """Set the wall clock forward by ``delta`` as an operator or NTP would: no timer's time passes."""
        self._now += delta
