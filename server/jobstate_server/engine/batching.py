"""Batching: when what callers have asked for is given to a thread, a batch at a time.

Two threads that each want the interpreter for every call spend more time waiting for it than working. So a thread is
given a batch, never a call; and an idle thread is given one at once only when as many calls have come as were there the
last time. Otherwise the loop waits for them: those who were answered a moment ago are on their way back. It waits while
calls keep coming, and not long. A busy thread is given its next batch when that is full, so that it need not wait for a
busy loop to hear that it is idle.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

GATHER_ENOUGH = 64
"""Calls that are not waited beyond: the cost of a batch, shared by so many, is small beside their own."""

GATHER_PAUSE_S = 0.002
"""A pause between calls after which no more are waited for. A lone caller never waits: nobody else was there."""

GATHER_TIME_MAX_S = 0.010
"""How long a batch may wait at the most: what the loop takes to bring as many calls as are enough."""


class Batcher:
    """Decides when to hand over. Belongs on the event loop's thread."""

    def __init__(self, hand_over: Callable[[], None], full: int) -> None:
        """
        Args:
            hand_over: gives the thread what has gathered; ``returned`` must follow when that is done.
            full: calls that are a whole batch, which cannot gain by waiting.
        """
        self._hand_over = hand_over
        self._full = full
        self._batches = 0
        """Batches that the thread has: the one that it works on and, at the most, the next."""
        self._expected = 0
        """Calls of the last batch and those that had come while it was worked on."""
        self._waiting = 0
        self._seen = 0
        """How many were waiting when it was last looked whether more keep coming."""
        self._deadline = 0.0
        self._arranged: asyncio.Handle | None = None
        self._is_soon = False

    def came(self, waiting: int) -> None:
        """Something has come, and so much is waiting now."""
        self._waiting = waiting
        if self._batches or self._is_soon:
            if self._batches == 1 and waiting >= self._full:
                self._go()
            return
        if waiting >= self._expected:
            if self._arranged is not None:
                self._arranged.cancel()
            self._is_soon = True
            # Not now but after what else is ready on the loop, which may well be more calls.
            self._arranged = asyncio.get_running_loop().call_soon(self._go)
        elif self._arranged is None:
            loop = asyncio.get_running_loop()
            self._deadline = loop.time() + GATHER_TIME_MAX_S
            self._wait_on(loop)

    def _wait_on(self, loop: asyncio.AbstractEventLoop) -> None:
        self._seen = self._waiting
        self._arranged = loop.call_later(GATHER_PAUSE_S, self._look)

    def _look(self) -> None:
        """A pause has passed; but a busy loop runs its timers first, so let it bring what has come in the meantime."""
        self._arranged = asyncio.get_running_loop().call_soon(self._look_again)

    def _look_again(self) -> None:
        loop = asyncio.get_running_loop()
        if self._waiting > self._seen and loop.time() < self._deadline:
            self._wait_on(loop)
        else:
            self._go()

    def _go(self) -> None:
        self._arranged = None
        self._is_soon = False
        self._batches += 1
        self._hand_over()

    def returned(self, done: int, waiting: int) -> None:
        """The thread has done a batch of so many, and so much is waiting. Call it before telling the callers."""
        self._batches -= 1
        self._expected = min(GATHER_ENOUGH, done + waiting)
        if waiting >= (self._full if self._batches else GATHER_ENOUGH):
            # At once, so that the thread works while the loop sends the answers.
            self._go()
        elif waiting:
            self.came(waiting)
