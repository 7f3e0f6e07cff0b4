"""The stop deadline: ends a process that has not stopped in time after a signal to stop."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

log = logging.getLogger(__name__)


class StopDeadline:
    """Counts down in a thread of its own, because the event loop itself may hang."""

    def __init__(self, limit_s: float, give_up: Callable[[str], None]) -> None:
        """
        Args:
            limit_s: seconds from ``begin`` until the process is ended.
            give_up: ends the process at once. Called on the deadline's thread, with the reason.
        """
        self._limit_s = limit_s
        self._give_up = give_up
        # ``put`` of this kind of queue is safe in a signal handler.
        self._begun: SimpleQueue[None] = SimpleQueue()
        threading.Thread(target=self._run, name="stop deadline", daemon=True).start()

    def begin(self) -> None:
        """Start the countdown. Further calls change nothing. Safe in a signal handler."""
        self._begun.put(None)

    def _run(self) -> None:
        self._begun.get()
        time.sleep(self._limit_s)
        reason = f"the server has not stopped within {self._limit_s:g} s"
        log.critical("the server gives up", extra={"cause": reason})
        self._give_up(reason)
