"""Batching: when to give a thread the calls that are waiting, as one batch.

Two threads that both need the interpreter for every call spend more time waiting for it than working. So a thread gets
batches, never single calls. An idle thread gets a batch at once only if as many calls are waiting as the last time.
Otherwise the loop waits for more, because callers that were answered a moment ago are about to call again. It waits
while calls keep arriving, but not long. A busy thread gets its next batch when that is full, so that it need not wait
until a busy loop notices that it is idle.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

GATHER_ENOUGH = 64
"""With this many calls there is no wait for more: shared by so many, the cost of a batch is small beside their own."""

GATHER_PAUSE_S = 0.002
"""After a pause of this length between calls there is no wait for more. A lone caller never waits, because the last
batch had no other."""

GATHER_TIME_MAX_S = 0.010
"""How long a batch may wait at most: the time in which a busy loop receives GATHER_ENOUGH calls."""


class Batcher:
    """Decides when to hand over a batch. Call it on the event loop's thread."""

    def __init__(self, hand_over: Callable[[], None], full: int) -> None:
        """
        Args:
            hand_over: gives the thread the waiting calls. ``returned`` must be called when the thread is done.
            full: the number of calls in a full batch, which never waits.
        """
        self._hand_over = hand_over
        self._full = full
        self._batches = 0
        """Batches that the thread has: the current one and at most the next."""
        self._expected = 0
        """Calls of the last batch, and those that arrived during it."""
        self._waiting = 0
        self._waiting_before = 0
        """How many were waiting at the last check."""
        self._deadline = 0.0
        self._handle: asyncio.Handle | None = None
        """What is scheduled on the loop: the start of a batch, or the next check."""
        self._is_starting = False

    def arrived(self, waiting: int) -> None:
        """A call has arrived, and ``waiting`` calls are waiting now."""
        self._waiting = waiting
        if self._batches or self._is_starting:
            if self._batches == 1 and waiting >= self._full:
                self._start_batch()
            return
        if waiting >= self._expected:
            if self._handle is not None:
                self._handle.cancel()
            self._is_starting = True
            # Not at once, but after everything that is ready on the loop, which may be more calls.
            self._handle = asyncio.get_running_loop().call_soon(self._start_batch)
        elif self._handle is None:
            loop = asyncio.get_running_loop()
            self._deadline = loop.time() + GATHER_TIME_MAX_S
            self._wait_for_more(loop)

    def _wait_for_more(self, loop: asyncio.AbstractEventLoop) -> None:
        self._waiting_before = self._waiting
        self._handle = loop.call_later(GATHER_PAUSE_S, self._pause_over)

    def _pause_over(self) -> None:
        # A busy loop runs its timers first. Let it receive what has arrived in the meantime.
        self._handle = asyncio.get_running_loop().call_soon(self._check)

    def _check(self) -> None:
        loop = asyncio.get_running_loop()
        if self._waiting > self._waiting_before and loop.time() < self._deadline:
            self._wait_for_more(loop)
        else:
            self._start_batch()

    def _start_batch(self) -> None:
        self._handle = None
        self._is_starting = False
        self._batches += 1
        self._hand_over()

    def returned(self, done: int, waiting: int) -> None:
        """The thread has done a batch of ``done`` calls, and ``waiting`` wait. Call it before answering the callers."""
        self._batches -= 1
        self._expected = min(GATHER_ENOUGH, done + waiting)
        if waiting >= (self._full if self._batches else GATHER_ENOUGH):
            # At once, so that the thread works while the loop sends the answers.
            self._start_batch()
        elif waiting:
            self.arrived(waiting)
