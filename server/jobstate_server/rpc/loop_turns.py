"""Long work on the event loop is done in slices, of which each turn of the loop has one.

gRPC needs several turns of the loop for every call that it hands over. Without this, streams that all send large
batches would make each turn last for seconds, for everybody.
"""

from __future__ import annotations

import asyncio
from collections import deque


class LoopTurns:
    """Gives turns of the loop to slices of work, in the order in which they ask."""

    def __init__(self) -> None:
        self._is_taken = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def take(self) -> None:
        """Wait for a turn in which no other slice has begun. The slice is what the caller does before it next waits,
        and should take a few milliseconds at most."""
        loop = asyncio.get_running_loop()
        if not self._is_taken:
            self._is_taken = True
            loop.call_soon(self._next)
            return
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        await turn

    def _next(self) -> None:
        """A turn has passed: give the next one."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                asyncio.get_running_loop().call_soon(self._next)
                return
        self._is_taken = False
