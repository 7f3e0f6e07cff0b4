"""Whether the store can be written, as the committer finds it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from jobstate_server.clock import Clock
from jobstate_server.domain.durations import SECOND
from jobstate_server.engine.alarm import Alarm
from jobstate_server.engine.subscribers import Subscribers

log = logging.getLogger(__name__)

PROBE_INTERVAL = 2 * SECOND
"""How often to try a store that could not be written, while there are no calls."""


class StoreState:
    """Tries the store again and again while it cannot be written. Call it on the event loop's thread."""

    problem: str
    """Why the store cannot be written. Empty while it can."""
    changed: Subscribers[[bool]]
    """Notified with False when the store can no longer be written, and with True when it can again."""

    def __init__(self, clock: Clock, probe: Callable[[], asyncio.Future[None]], on_error: Callable[[], None]) -> None:
        """
        Args:
            probe: writes something to the store.
            on_error: called in the handler of an exception that a subscriber raised.
        """
        self.problem = ""
        self.changed = Subscribers(on_error)
        self._alarm = Alarm(clock)
        self._try = probe
        self._stopped = False

    @property
    def is_writable(self) -> bool:
        """Whether the last write did not fail because of the store."""
        return not self.problem

    def note(self, problem: str) -> None:
        """Note that the store could not be written, and why. Empty: it could."""
        was_writable = self.is_writable
        self.problem = problem
        if self.is_writable == was_writable:
            return
        self.changed.notify(self.is_writable)
        if problem:
            self._alarm.set(PROBE_INTERVAL, self._probe)

    def stop(self) -> None:
        """Try no more."""
        self._stopped = True
        self._alarm.cancel()

    def turn(self) -> None:
        """Try again if a failure has lost the timer. Called once a second."""
        if self._alarm.is_lost():
            log.error("the tries of the store had stopped; they were restarted")
            self._probe()

    def _probe(self) -> None:
        if not self.is_writable and not self._stopped:
            self._try().add_done_callback(self._probed)
        self._alarm.cancel()

    def _probed(self, probe: asyncio.Future[None]) -> None:
        if probe.cancelled() or self._stopped:
            return
        if probe.exception() is None:
            self.note("")
        else:
            self._alarm.set(PROBE_INTERVAL, self._probe)
