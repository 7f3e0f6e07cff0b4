"""Presence: a replica of a shared store makes itself heard, so that the others know that it lives.

A replica that falls silent loses its duties to the others. When all are silent the store is not served, and the first
one to come back treats that time as an outage.
"""

from __future__ import annotations

import asyncio
import logging

from jobstate_server.clock import Clock, Timer
from jobstate_server.engine.committer import Committer
from jobstate_server.engine.pauses import HEARD_INTERVAL

log = logging.getLogger(__name__)

LEAVE_WAIT_S = 0.5
"""How long a stop waits to tell the others. A store that does not answer must not hold it up."""


class Membership:
    """Keeps one replica heard."""

    def __init__(self, replica: str, committer: Committer, clock: Clock) -> None:
        self._replica = replica
        self._committer = committer
        self._clock = clock
        self._timer: Timer | None = None
        self._telling: asyncio.Future[None] | None = None
        self._is_stopping = False

    def start(self) -> None:
        """Be heard from now on."""
        self._renew()

    async def stop(self) -> None:
        """Tell the others that this replica is gone, so that they need not wait to find out."""
        self._is_stopping = True
        if self._timer is not None:
            self._timer.cancel()
        replica = self._replica
        # Where this cannot be told the others find out by the silence.
        leaving = self._committer.run(lambda transaction: transaction.leave(replica))
        await asyncio.wait((leaving,), timeout=LEAVE_WAIT_S)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)

    def _renew(self) -> None:
        self._timer = None
        if self._is_stopping:
            return
        replica = self._replica
        self._telling = self._committer.run(lambda transaction: transaction.renew(replica))
        self._telling.add_done_callback(self._heard)

    def turn(self) -> None:
        """A second has passed: begin anew where a failure has cut the course of timers. Called by the watchdog."""
        if not self._is_stopping and self._timer is None and self._telling is None:
            log.error("this replica had stopped making itself heard, and begins anew")
            self._renew()

    def _heard(self, future: asyncio.Future[None]) -> None:
        self._telling = None
        if not future.cancelled():
            # The committer has logged why, if it failed; the next time may succeed.
            future.exception()
        if not self._is_stopping:
            # What was due may have been in the hands of a replica that died before it was done, and told nobody.
            self._committer.ring_due()
            self._timer = self._clock.call_later(HEARD_INTERVAL, self._renew)
