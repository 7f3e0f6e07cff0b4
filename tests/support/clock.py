"""A clock that only the test moves, and that reports who waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from jobstate_server.clock import ManualClock, Timer

PATIENCE_S = 60.0
"""How long a test waits for something that must happen. What works takes a small part of it, even on a busy machine."""


class _Awaited:
    """A timer, and whether it is still set."""

    def __init__(self, due: int, callback: Callable[[], None]) -> None:
        self.due = due
        self.is_live = True
        self.timer: Timer | None = None
        self._callback = callback

    def run(self) -> None:
        self.is_live = False
        self._callback()

    def cancel(self) -> None:
        self.is_live = False
        if self.timer is not None:
            self.timer.cancel()


class WatchedClock(ManualClock):
    """A ``ManualClock`` on which a test can wait for a timer to be set before it moves the time."""

    def __init__(self, start: int = 1_700_000_000_000_000) -> None:
        """Start at ``start`` microseconds since 1970; by default at 2023-11-14 22:13:20 UTC."""
        super().__init__(start)
        self._set: list[_Awaited] = []
        self._waiting: dict[int, list[asyncio.Future[None]]] = {}

    def call_later(self, delay: int, callback: Callable[[], None]) -> Timer:
        awaited = _Awaited(self.monotonic() + max(0, delay), callback)
        awaited.timer = super().call_later(delay, awaited.run)
        self._set = [timer for timer in self._set if timer.is_live]
        self._set.append(awaited)
        for future in self._waiting.pop(delay, []):
            if not future.done():
                future.set_result(None)
        return awaited

    async def armed(self, delay: int, count: int = 1) -> None:
        """Wait until ``count`` timers are set that fire exactly ``delay`` microseconds from now."""
        due = self.monotonic() + delay
        async with asyncio.timeout(PATIENCE_S):
            while sum(timer.is_live and timer.due == due for timer in self._set) < count:
                future = asyncio.get_running_loop().create_future()
                self._waiting.setdefault(delay, []).append(future)
                await future
