"""One run of a maintenance task at a time: a sweep costs what a thousand calls do, so no two of them overlap."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from jobstate_server.domain.errors import Overloaded

RETRY_DELAY_S = 1.0
"""What a caller is told to wait before the next try. Most runs are over by then."""


class Turns:
    """Who runs which task in this process. Belongs on the event loop's thread."""

    def __init__(self) -> None:
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def wait(self, task: str) -> AbstractAsyncContextManager[None]:
        """The next turn at a task, for its schedule: a run that a caller has begun ends first."""
        return self._locks[task]

    @asynccontextmanager
    async def take(self, task: str) -> AsyncIterator[None]:
        """A turn at a task at once, for a caller. Raises Overloaded while somebody else has it."""
        lock = self._locks[task]
        if lock.locked():
            raise Overloaded(f"{task} is running; repeat the call when it is done", RETRY_DELAY_S)
        async with lock:
            yield
