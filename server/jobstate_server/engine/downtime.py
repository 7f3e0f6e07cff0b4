"""Downtime: periods in which this process could not enforce limits, and the grace that jobs get for them.

A process could not receive reports while it was frozen, its machine slept or its store was unreachable. Its timers must
not overtake the reports that waited meanwhile, so limits that have passed are postponed first. Runs on the committer's
thread.
"""

from __future__ import annotations

import logging

from jobstate_server.clock import Clock
from jobstate_server.domain.durations import DAY, SECOND
from jobstate_server.domain.store_time import PAUSE_MIN, Pause
from jobstate_server.store.base import Transaction

log = logging.getLogger(__name__)

RENEW_INTERVAL = 2 * SECOND
"""How often a replica of a shared store renews its lease."""

OUTAGE_MIN = 1 * SECOND
"""A store that could not be written for this long counts as down; a broken connection is replaced in less."""

ALIVE_WITHIN = 3 * SECOND
"""A replica that renewed its lease within this time was working: it renews every two seconds."""

FROZEN_TOGETHER = 1 * SECOND
"""Replicas that freeze together do so within this time. A replica that renewed its lease this soon after our own pause
began may have paused too."""

JUMP_MIN = 1 * DAY
"""After a jump of more than this the clock may be wrong, and what seems old may not be."""

REMOVAL_SUSPENDED = 1 * DAY
"""How long nothing is removed by its age after a jump, so that an operator has time to notice."""


class Downtime:
    """Detects downtime, and postpones limits in a transaction to compensate for it."""

    def __init__(self, clock: Clock, *, restart_grace: int, replica: str = "") -> None:
        """
        Args:
            restart_grace: microseconds by which limits are postponed at most.
            replica: the name under which this server renews its lease.
        """
        self.grace_until = 0
        """Until when this server has postponed limits."""
        self._clock = clock
        self._restart_grace = restart_grace
        self._replica = replica
        self._is_new = True
        self._pending: Pause | None = None
        self._lost_since: int | None = None

    def has_new(self) -> bool:
        """Whether there was a pause that has not been compensated yet."""
        self._note(self._clock.take_pause())
        return self._pending is not None

    def store_lost(self, began: int) -> None:
        """The store could not be reached in a transaction that began at ``began``, by the monotonic clock."""
        if self._lost_since is None:
            self._lost_since = began

    def committed(self, began: int) -> None:
        """A transaction that began at ``began`` is durable."""
        self._lost_since = None
        passed = self._clock.monotonic() - began
        if passed > PAUSE_MIN:
            self._note(Pause(self._clock.now() - passed, passed))

    def compensate(self, transaction: Transaction, began: int) -> bool:
        """Postpone limits for downtime before this transaction. False if there is nothing to do.

        Otherwise commit the transaction with nothing else in it, because many jobs are locked, and then call
        ``compensated``.

        Args:
            began: when the transaction should have begun, by the monotonic clock.
        """
        # Not earlier: the time of this transaction must be earlier than this check.
        self.has_new()
        if self._is_new:
            self._begin(transaction)
            return True
        pause = self._whole(transaction.now, began)
        if pause is None:
            return False
        if not self._others_served(transaction, pause):
            self._move_limits(transaction, min(pause.length, self._restart_grace))
            log.warning("limits could not be enforced for a while", extra={"seconds": round(pause.length / SECOND, 3)})
            if pause.length > JUMP_MIN:
                self._suspend_removal(transaction)
        return True

    def compensated(self) -> None:
        """The changes of ``compensate`` are durable."""
        self._is_new = False
        self._pending = None
        self._lost_since = None

    def _begin(self, transaction: Transaction) -> None:
        """Compensate for the time before the first transaction, in which another replica may have served."""
        renewed, newest = transaction.last_renewed(), transaction.times().newest()
        age = None if renewed is None else max(0, transaction.now - renewed)
        if age is None or age > ALIVE_WITHIN:
            self._move_limits(transaction, self._restart_grace)
        elif age:
            # The replica that renewed last may be the one that this process replaces, killed a moment ago.
            self._move_limits(transaction, min(age, self._restart_grace))
        if newest and transaction.now - newest > JUMP_MIN:
            self._suspend_removal(transaction)

    def _whole(self, now: int, began: int) -> Pause | None:
        """All downtime that has not been compensated yet, as one pause."""
        pause = self._pending
        monotonic = self._clock.monotonic()
        # After a shorter time the transaction only waited for its turn.
        since, length_min = (began, PAUSE_MIN) if self._lost_since is None else (self._lost_since, OUTAGE_MIN)
        if monotonic - since > length_min:
            pause = Pause(now - (monotonic - since), monotonic - since).joined(pause)
        return pause

    def _others_served(self, transaction: Transaction, pause: Pause) -> bool:
        """Whether another replica has enforced the limits meanwhile."""
        renewed = transaction.last_renewed(self._replica)
        return renewed is not None and renewed > max(pause.since + FROZEN_TOGETHER, transaction.now - ALIVE_WITHIN)

    def _move_limits(self, transaction: Transaction, by: int) -> None:
        until = transaction.now + by
        self.grace_until = max(self.grace_until, until)
        moved = transaction.postpone_timeouts(until)
        transaction.times().extend_grace(until)
        if moved:
            log.info("postponed the timeouts of running attempts", extra={"attempts": moved})

    @staticmethod
    def _suspend_removal(transaction: Transaction) -> None:
        log.warning(
            "time has jumped by more than a day: nothing is removed by its age for a day, unless Cleanup is called"
        )
        transaction.times().suspend_removal(transaction.now + REMOVAL_SUSPENDED)

    def _note(self, pause: Pause | None) -> None:
        if pause is not None:
            self._pending = pause.joined(self._pending)
