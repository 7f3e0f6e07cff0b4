"""Gathering: when what callers have asked for is handed to a thread, a batch at a time.

Two threads that each want the interpreter for every call spend more time waiting for it than working. So a thread is
given a batch, never a call; and an idle thread is given one at once only when as many calls have come as were there the
last time. Otherwise the loop waits for them, for a moment: those who were answered a moment ago are on their way back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

GATHER_TIME_MAX_S = 0.004
"""How long a batch may wait for those who are on their way. A lone caller never waits: nobody else was there."""

GATHER_ENOUGH = 64
"""Calls that are not waited beyond: the cost of a batch, shared by so many, is small beside their own."""


class Gathering:
    """Decides when to hand over. Belongs on the event loop's thread."""

    def __init__(self, hand_over: Callable[[], None]) -> None:
        """``hand_over`` gives the thread what has gathered; ``returned`` must follow when that is done."""
        self._hand_over = hand_over
        self._busy = False
        self._expected = 0
        """Calls of the last batch and those that had come while it was worked on."""
        self._arranged: asyncio.Handle | None = None
        self._is_soon = False

    def came(self, waiting: int, *, urgent: bool = False) -> None:
        """Something has come, and so much is waiting now. ``urgent``: do not wait for more."""
        if self._busy or self._is_soon:
            return
        if urgent or waiting >= self._expected:
            if self._arranged is not None:
                self._arranged.cancel()
            self._is_soon = True
            # Not now but after what else is ready on the loop, which may well be more calls.
            self._arranged = asyncio.get_running_loop().call_soon(self._go)
        elif self._arranged is None:
            self._arranged = asyncio.get_running_loop().call_later(GATHER_TIME_MAX_S, self._go)

    def _go(self) -> None:
        self._arranged = None
        self._is_soon = False
        self._busy = True
        self._hand_over()

    def returned(self, done: int, waiting: int, *, urgent: bool = False) -> None:
        """The thread has done a batch of so many, and so much is waiting. Call it before telling the callers."""
        self._busy = False
        self._expected = min(GATHER_ENOUGH, done + waiting)
        if waiting >= GATHER_ENOUGH:
            # At once, so that the thread works while the loop sends the answers.
            self._go()
        elif waiting or urgent:
            self.came(waiting, urgent=urgent)
