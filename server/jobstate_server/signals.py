"""Signals of a server process, handled from its start to its end: Python's defaults would end it without a stop."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from types import FrameType

log = logging.getLogger(__name__)

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
"""Signals that ask for an ordered stop. A second one changes nothing."""

IGNORED = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that would end the process by default. They have no meaning here; each is logged."""


class Stopped(BaseException):
    """A signal asked to stop before the server had started."""


class Signals:
    """Signal handlers of this process. Use on the main thread."""

    def __init__(self) -> None:
        """Install the handlers. Until ``begin``, a signal that asks to stop raises Stopped in the main thread."""
        self.stop = asyncio.Event()
        """Set once a signal has asked to stop."""
        self._can_raise = True
        self._on_first_stop: Callable[[], None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._before = {number: signal.signal(number, self._on_stop) for number in STOPPING}
        self._before |= {number: signal.signal(number, self._on_other) for number in IGNORED}

    def begin(self, loop: asyncio.AbstractEventLoop, on_stop: Callable[[], None]) -> None:
        """The server starts: from now on a signal that asks to stop sets ``stop`` on this loop.

        Args:
            on_stop: called once, in the signal handler itself, even while the loop hangs.
        """
        self._loop, self._on_first_stop, self._can_raise = loop, on_stop, False

    def end(self, *, process_ends: bool) -> None:
        """Remove the handlers. A process that is about to exit ignores signals until it has."""
        for number, before in self._before.items():
            signal.signal(number, signal.SIG_IGN if process_ends else before)

    def _on_stop(self, _number: int, _frame: FrameType | None) -> None:
        if self._can_raise:
            self._can_raise = False
            raise Stopped
        on_stop, self._on_first_stop = self._on_first_stop, None
        if on_stop is not None:
            on_stop()
        self._call_soon(self.stop.set)

    def _on_other(self, number: int, _frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        self._call_soon(lambda: log.warning("signal ignored", extra={"signal": name}))

    def _call_soon(self, work: Callable[[], object]) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(work)
