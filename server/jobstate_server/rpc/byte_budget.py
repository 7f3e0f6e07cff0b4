"""A budget of memory, in bytes, for the batches and answers of all streams. One connection may take a part of it.

A stream takes the bytes of a batch and gives them back when the answer is sent. While none are left it is not read, and
gRPC's flow control makes its client wait.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from jobstate_server.rpc.transport_limits import STREAMS_BYTES_MAX, STREAMS_CONNECTION_BYTES_MAX, UNREAD_S

LITTLE = 32
"""A connection needs little if it needs at most this part of the reserve: in 8 MiB, an answer with the largest job."""


class Share:
    """The bytes that one stream holds."""

    __slots__ = ("_budget", "connection", "held", "on_stalled", "unread_since")

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

    def call_ended(self, _call: object) -> None:
        """Give back everything. For gRPC to call back."""
        self.close()


class _Waiting(NamedTuple):
    """What waits for room."""

    share: Share
    size: int
    granted: asyncio.Future[None]


class ByteBudget:
    """The bytes of all streams. Call its methods on the event loop's thread."""

    def __init__(
        self,
        limit: int = STREAMS_BYTES_MAX,
        of_connection: int = STREAMS_CONNECTION_BYTES_MAX,
        unread_s: float = UNREAD_S,
        *,
        reserve: int = 0,
    ) -> None:
        """
        Args:
            limit: bytes that may be held.
            of_connection: bytes of it that one connection may hold.
            unread_s: seconds without progress after which a stream is ended while others wait.
            reserve: bytes of ``limit`` that are kept for connections that hold nothing and need little.
        """
        self.held = 0
        self.is_tight = False
        """Whether half of the bytes are held."""
        self._limit = limit
        self._of_connection = of_connection
        self._unread_s = unread_s
        self._reserve = reserve
        self._by_connection: Counter[str] = Counter()
        self._shares: dict[Share, None] = {}
        self._waiting: dict[str, list[_Waiting]] = {}
        """By connection. Those that have waited longest come first."""

    @property
    def waiting(self) -> int:
        """Streams that are not read because there is no room for their next batch."""
        return sum(map(len, self._waiting.values()))

    def share(self, connection: str, on_stalled: Callable[[], object]) -> Share:
        """The share of a new stream."""
        share = Share(self, connection, on_stalled)
        self._shares[share] = None
        return share

    def _has_room(self, share: Share, size: int) -> bool:
        of_connection = self._by_connection[share.connection]
        # A connection that holds nothing gets all it needs from an empty budget, however much that is.
        has_connection = not of_connection or of_connection + size <= self._of_connection
        reserved = 0 if not of_connection and size * LITTLE <= self._reserve else self._reserve
        return has_connection and (not self.held or self.held + size <= self._limit - reserved)

    def add(self, share: Share, size: int) -> None:
        """Add to the bytes that a stream holds. ``size`` may be negative."""
        share.held += size
        self.held += size
        self.is_tight = self.held * 2 > self._limit
        self._by_connection[share.connection] += size
        if size < 0:
            self._wake()

    async def take(self, share: Share, size: int) -> None:
        """Wait for room, then count. It goes to the connection on which the fewest wait, and there to the first."""
        if self._has_room(share, size):
            self.add(share, size)
            return
        waiting = _Waiting(share, size, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(share.connection, []).append(waiting)
        try:
            while not waiting.granted.done():
                await asyncio.wait((waiting.granted,), timeout=self._unread_s)
                if not waiting.granted.done():
                    self._end_stalled(share, size)
        finally:
            if waiting.granted.cancel():
                self._stop_waiting(waiting)
        await waiting.granted

    def _stop_waiting(self, waiting: _Waiting) -> None:
        of_connection = self._waiting[waiting.share.connection]
        of_connection.remove(waiting)
        if not of_connection:
            del self._waiting[waiting.share.connection]

    def _wake(self) -> None:
        if not self._waiting:
            return
        for connection in sorted(self._waiting, key=lambda connection: len(self._waiting[connection])):
            for waiting in tuple(self._waiting[connection]):
                if self._has_room(waiting.share, waiting.size):
                    self._stop_waiting(waiting)
                    waiting.granted.set_result(None)
                    self.add(waiting.share, waiting.size)

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
        for waiting in tuple(self._waiting.get(share.connection, ())):
            if waiting.share is share:
                self._stop_waiting(waiting)
                waiting.granted.cancel()
        if share.held:
            self.add(share, -share.held)
        if not self._by_connection[share.connection]:
            del self._by_connection[share.connection]
