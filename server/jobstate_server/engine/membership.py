"""Membership: a replica of a shared store renews its lease, so that the others know that it is alive.

If it does not renew the lease, the others take over its scheduled tasks. If no replica renews its lease, the store is
not served, and the first replica that returns treats that time as an outage.
"""

from __future__ import annotations

import asyncio
import logging

from jobstate_server.clock import Clock
from jobstate_server.engine.alarm import Alarm
from jobstate_server.engine.committer import Committer
from jobstate_server.engine.downtime import RENEW_INTERVAL
from jobstate_server.engine.due_timer import DueTimer
from jobstate_server.store.base import Transaction

log = logging.getLogger(__name__)

LEAVE_WAIT_S = 0.5
"""How long a stop waits to give up the lease. A store that does not answer must not delay it."""


class Membership:
    """Renews the lease of one replica."""

    def __init__(self, replica: str, committer: Committer, due_timer: DueTimer, clock: Clock) -> None:
        self._replica = replica
        self._committer = committer
        self._due_timer = due_timer
        self._alarm = Alarm(clock)
        self._renewing: asyncio.Future[int | None] | None = None
        self._is_stopping = False

    def start(self) -> None:
        """Renew the lease from now on."""
        self._renew()

    async def stop(self) -> None:
        """Give up the lease, so that the others need not wait until it expires."""
        self._is_stopping = True
        self._alarm.cancel()
        if self._committer.silence:
            # The store does not answer. The lease will expire.
            return
        replica = self._replica
        # If this fails, the lease will expire.
        leaving = self._committer.run(lambda transaction: transaction.leave(replica))
        await asyncio.wait((leaving,), timeout=LEAVE_WAIT_S)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)

    def _renew(self) -> None:
        if self._is_stopping:
            return
        self._renewing = self._committer.run(self._renew_lease)
        self._renewing.add_done_callback(self._renewed)

    def _renew_lease(self, transaction: Transaction) -> int | None:
        """Returns when the next job in the store is due."""
        transaction.renew(self._replica)
        return transaction.next_due()

    def turn(self) -> None:
        """Restart after a failure has ended the chain of timers. Called by the watchdog once a second."""
        is_lost = self._alarm.is_lost()
        if not self._is_stopping and is_lost and self._renewing is None:
            log.error("the renewal of the lease had stopped; it was restarted")
            self._renew()

    def _renewed(self, future: asyncio.Future[int | None]) -> None:
        self._renewing = None
        # If it failed, the committer has logged why, and the next renewal may succeed.
        has_failed = future.cancelled() or future.exception() is not None
        next_due = None if has_failed else future.result()
        if not self._is_stopping:
            if next_due is not None:
                # A replica may have died before it served the due jobs that it had locked.
                self._due_timer.note(next_due)
            self._alarm.set(RENEW_INTERVAL, self._renew)
