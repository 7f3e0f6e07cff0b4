"""Membership: a replica of a shared store renews its lease, so that the others know that it is alive.

A replica that does not loses its scheduled tasks to the others. When none does, the store is not served, and the first
one to come back treats that time as an outage.
"""

from __future__ import annotations

import asyncio
import logging

from jobstate_server.clock import Clock
from jobstate_server.engine.alarm import Alarm
from jobstate_server.engine.committer import Committer
from jobstate_server.engine.downtime import RENEW_INTERVAL
from jobstate_server.engine.due_timer import DueTimer

log = logging.getLogger(__name__)

LEAVE_WAIT_S = 0.5
"""How long a stop waits to give up the lease. A store that does not answer must not hold it up."""


class Membership:
    """Keeps the lease of one replica."""

    def __init__(self, replica: str, committer: Committer, due_timer: DueTimer, clock: Clock) -> None:
        self._replica = replica
        self._committer = committer
        self._due_timer = due_timer
        self._alarm = Alarm(clock)
        self._renewing: asyncio.Future[None] | None = None
        self._is_stopping = False

    def start(self) -> None:
        """Renew the lease from now on."""
        self._renew()

    async def stop(self) -> None:
        """Give up the lease, so that the others need not wait until it ends."""
        self._is_stopping = True
        self._alarm.cancel()
        if self._committer.silence:
            # The store does not answer. The lease ends by itself.
            return
        replica = self._replica
        # If this fails the lease ends by itself.
        leaving = self._committer.run(lambda transaction: transaction.leave(replica))
        await asyncio.wait((leaving,), timeout=LEAVE_WAIT_S)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)

    def _renew(self) -> None:
        if self._is_stopping:
            return
        replica = self._replica
        self._renewing = self._committer.run(lambda transaction: transaction.renew(replica))
        self._renewing.add_done_callback(self._renewed)

    def turn(self) -> None:
        """Restart after a failure has ended the chain of timers. Called by the watchdog once a second."""
        is_lost = self._alarm.is_lost()
        if not self._is_stopping and is_lost and self._renewing is None:
            log.error("the renewal of the lease had stopped; it was restarted")
            self._renew()

    def _renewed(self, future: asyncio.Future[None]) -> None:
        self._renewing = None
        if not future.cancelled():
            # The committer has logged why, if it failed; the next time may succeed.
            future.exception()
        if not self._is_stopping:
            # What was due may have been in the hands of a replica that died before it was done.
            self._due_timer.serve_due()
            self._alarm.set(RENEW_INTERVAL, self._renew)
