"""One run of a maintenance task at a time: a sweep costs as much as a thousand calls, so two must not overlap."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager

from jobstate_server.domain.errors import Overloaded, StoreUnavailable

RETRY_DELAY_S = 1.0
"""How long a refused caller is asked to wait. Most runs are over by then."""


@contextmanager
def telling_of_a_part() -> Iterator[None]:
    """What the engine says of one transaction, that nothing was changed, is not true of a run of many."""
    try:
        yield
    except StoreUnavailable as error:
        message = "the store cannot be used at the moment; a part may be done: repeat the call"
        raise StoreUnavailable(message, error.retry_delay_s or RETRY_DELAY_S) from error


class RunLocks:
    """A lock for each task. Call it on the event loop's thread."""

    def __init__(self) -> None:
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def wait_for(self, task: str) -> AbstractAsyncContextManager[None]:
        """Hold the task's lock once it is free. For its schedule: a run that a caller has begun ends first."""
        return self._locks[task]

    @asynccontextmanager
    async def take(self, task: str) -> AsyncIterator[None]:
        """Hold the task's lock at once. For a caller. Raises Overloaded while another run holds it."""
        lock = self._locks[task]
        if lock.locked():
            raise Overloaded(f"{task} is running; repeat the call when it is done", RETRY_DELAY_S)
        async with lock:
            yield
