"""A budget of memory, in bytes, for the batches and answers of all streams. One connection may take a part of it.

A stream takes the bytes of a batch and gives them back when the answer is sent. While none are left it is not read, and
gRPC's flow control makes its client wait.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable

from jobstate_server.rpc.transport_limits import STREAMS_BYTES_MAX, STREAMS_CONNECTION_BYTES_MAX, UNREAD_S


class Share:
    """The bytes that one stream holds."""

    def __init__(self, budget: ByteBudget, connection: str, on_stalled: Callable[[], object]) -> None:
        self._budget = budget
        self.connection = connection
        self.on_stalled = on_stalled
        """Called when others wait for the bytes of this stream while its client does not read."""
        self.held = 0
        self.unread_since: float | None = None
        """Since when an answer waits for the client to read it. None if none does."""

    async def take(self, size: int) -> None:
        """Hold this many bytes more, once there is room for them."""
        await self._budget.take(self, size)

    def resize(self, old: int, new: int) -> None:
        """Hold ``new`` bytes instead of ``old`` that were taken. Never waits, because the bytes exist already."""
        self._budget.add(self, new - old)

    def close(self) -> None:
        """Give back everything."""
        self._budget.close(self)


class ByteBudget:
    """The bytes of all streams. Call its methods on the event loop's thread."""

    def __init__(
        self,
        limit: int = STREAMS_BYTES_MAX,
        of_connection: int = STREAMS_CONNECTION_BYTES_MAX,
        unread_s: float = UNREAD_S,
    ) -> None:
        self.held = 0
        self.is_tight = False
        """Whether half of the bytes are held."""
        self._limit = limit
        self._of_connection = of_connection
        self._unread_s = unread_s
        self._by_connection: Counter[str] = Counter()
        self._shares: dict[Share, None] = {}
        self._waiting: deque[tuple[Share, int, asyncio.Future[None]]] = deque()

    @property
    def waiting(self) -> int:
        """Streams that are not read because there is no room for their next batch."""
        return len(self._waiting)

    def share(self, connection: str, on_stalled: Callable[[], object]) -> Share:
        """The share of a new stream."""
        share = Share(self, connection, on_stalled)
        self._shares[share] = None
        return share

    def _has_room(self, share: Share, size: int) -> bool:
        of_connection = self._by_connection[share.connection]
        # A connection that holds nothing gets all it needs from an empty budget, however much that is.
        has_connection = not of_connection or of_connection + size <= self._of_connection
        return has_connection and (not self.held or self.held + size <= self._limit)

    def add(self, share: Share, size: int) -> None:
        """Add to the bytes that a stream holds. ``size`` may be negative."""
        share.held += size
        self.held += size
        self.is_tight = self.held * 2 > self._limit
        self._by_connection[share.connection] += size
        if size < 0:
            self._wake()

    async def take(self, share: Share, size: int) -> None:
        """Wait for room, in turn among those who wait for the same; then count."""
        if self._has_room(share, size):
            self.add(share, size)
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((share, size, granted))
        try:
            while not granted.done():
                await asyncio.wait((granted,), timeout=self._unread_s)
                if not granted.done():
                    self._end_stalled(share, size)
        finally:
            if granted.cancel():
                self._waiting.remove((share, size, granted))
        await granted

    def _wake(self) -> None:
        for waiting in tuple(self._waiting):
            share, size, granted = waiting
            if self._has_room(share, size):
                self._waiting.remove(waiting)
                granted.set_result(None)
                self.add(share, size)

    def _end_stalled(self, waiting: Share, size: int) -> None:
        """End the streams that hold the bytes this one waits for, and whose clients have not read for too long."""
        before = asyncio.get_running_loop().time() - self._unread_s
        is_full = self.held + size > self._limit
        for share in self._shares:
            is_unread = share.unread_since is not None and share.unread_since <= before
            is_blocking = is_full or share.connection == waiting.connection
            if is_unread and is_blocking and share is not waiting:
                share.unread_since = None
                share.on_stalled()

    def close(self, share: Share) -> None:
        """Remove a stream, and end its wait."""
        self._shares.pop(share, None)
        for waiting in tuple(self._waiting):
            if waiting[0] is share:
                self._waiting.remove(waiting)
                waiting[2].cancel()
        if share.held:
            self.add(share, -share.held)
        if not self._by_connection[share.connection]:
            del self._by_connection[share.connection]
