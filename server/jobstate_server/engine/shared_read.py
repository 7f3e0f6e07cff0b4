"""An expensive read with many callers. Calls that arrive together share one answer, and its CPU time is limited."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from jobstate_server.engine.readers import Readers
from jobstate_server.store.base import Reader

IDLE_PER_BUSY = 4
"""The pause after a read, as a multiple of its processor time. So many callers together take a fifth of a core."""

T = TypeVar("T")


class SharedRead(Generic[T]):
    """One read at a time. It begins after all calls that share its answer. Call it on the event loop's thread."""

    def __init__(self, readers: Readers, read: Callable[[Reader], T]) -> None:
        self._readers = readers
        self._read = read
        self._under_way: asyncio.Task[T] | None = None
        self._next: asyncio.Task[T] | None = None
        self._begins = 0.0
        """When the next read may begin, in the event loop's time."""

    async def get(self) -> T:
        """The answer of the next read. Raises what ``Readers.run`` raises."""
        if self._next is None:
            self._next = asyncio.create_task(self._run())
            self._next.add_done_callback(self._ended)
        # Shielded, because a cancelled caller must not cancel the read of the others.
        return await asyncio.shield(self._next)

    async def _run(self) -> T:
        if self._under_way is not None:
            await asyncio.wait((self._under_way,))
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._begins - loop.time())
        self._under_way, self._next = self._next, None
        answer, busy = await self._readers.run(self._timed)
        self._begins = loop.time() + IDLE_PER_BUSY * busy
        return answer

    def _ended(self, read: asyncio.Task[T]) -> None:
        if self._next is read:
            # It failed before it began, and must not answer those who ask from now on.
            self._next = None
        if not read.cancelled():
            # Retrieved, so that asyncio does not log it if every caller was cancelled.
            read.exception()

    def _timed(self, reader: Reader) -> tuple[T, float]:
        began = time.thread_time()
        return self._read(reader), time.thread_time() - began
