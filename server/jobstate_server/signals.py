"""Signals of a serving process, from its first moment to its last: Python's own handling would end it in between."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from types import FrameType

log = logging.getLogger(__name__)

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
"""Stop in order. A second one changes nothing: the first is being done, and takes ``shutdown_grace`` at most."""

TOLD = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Would end the process at once by default; they mean nothing here, which is told."""


class Stopped(BaseException):
    """A signal came while there was nothing to stop yet."""


class Signals:
    """What the system tells this process. Belongs to the main thread."""

    def __init__(self) -> None:
        """Hear signals from now on. Until ``begin``, one that asks to stop raises Stopped in the main thread."""
        self.stop = asyncio.Event()
        """Set once the process is to stop in order."""
        self._can_break_off = True
        self._on_first_stop: Callable[[], None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._before = {number: signal.signal(number, self._on_stop) for number in STOPPING}
        self._before |= {number: signal.signal(number, self._on_other) for number in TOLD}

    def begin(self, loop: asyncio.AbstractEventLoop, on_stop: Callable[[], None]) -> None:
        """From now on there is something to stop: set ``stop`` on this loop.

        Args:
            on_stop: called once, in the signal handler, even while the loop hangs.
        """
        self._loop, self._on_first_stop, self._can_break_off = loop, on_stop, False

    def end(self, *, process_ends: bool) -> None:
        """Hear no more. A process that ends by itself must not be ended by a signal on its last steps."""
        for number, before in self._before.items():
            signal.signal(number, signal.SIG_IGN if process_ends else before)

    def _on_stop(self, _number: int, _frame: FrameType | None) -> None:
        if self._can_break_off:
            self._can_break_off = False
            raise Stopped
        on_stop, self._on_first_stop = self._on_first_stop, None
        if on_stop is not None:
            on_stop()
        self._soon(self.stop.set)

    def _on_other(self, number: int, _frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        self._soon(lambda: log.warning("this signal does nothing here", extra={"signal": name}))

    def _soon(self, work: Callable[[], object]) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(work)
