"""Pauses: times in which this process could keep no limits, and what has to be made up for after each.

A process that was frozen, whose machine slept or whose store was away has failed nobody in time, and nobody could
report to it. When it is back its timers must not win against reports that waited meanwhile: before anything else is
done, limits that have passed are moved. Belongs on the committer's thread.
"""

from __future__ import annotations

import logging

from jobstate_server.clock import Clock
from jobstate_server.domain.durations import DAY, SECOND
from jobstate_server.domain.store_time import PAUSE_MIN, Pause
from jobstate_server.store.base import Transaction

log = logging.getLogger(__name__)

HEARD_INTERVAL = 2 * SECOND
"""How often a replica of a shared store makes itself heard."""

OUTAGE_MIN = 1 * SECOND
"""A store that could not be written for this long was not served; a broken connection is made anew in less."""

ALIVE_WITHIN = 3 * SECOND
"""A replica that was heard this shortly before was at work: one that is is heard every two seconds."""

FROZEN_TOGETHER = 1 * SECOND
"""Replicas that are held up together are so within this time. Who was heard so soon after our own pause began may have
paused with us."""

JUMP_MIN = 1 * DAY
"""After a jump of more than this the clock may be wrong, and what it makes old need not be."""

REMOVAL_SUSPENDED = 1 * DAY
"""How long nothing is removed by its age after a jump: time for an operator to see it."""


class Pauses:
    """Finds pauses, and makes up for them in a transaction."""

    def __init__(self, clock: Clock, *, restart_grace: int, replica: str = "") -> None:
        """
        Args:
            restart_grace: microseconds by which limits are moved at the most.
            replica: the name under which this server makes itself heard to others.
        """
        self.grace_until = 0
        """Until when this server has moved limits."""
        self._clock = clock
        self._restart_grace = restart_grace
        self._replica = replica
        self._is_new = True
        self._pending: Pause | None = None
        self._lost_since: int | None = None

    def has_new(self) -> bool:
        """Whether there was a pause that is yet to be made up for."""
        self._note(self._clock.take_pause())
        return self._pending is not None

    def lost(self, began: int) -> None:
        """The store could not be reached in a transaction that was begun at ``began``, by the monotonic clock."""
        if self._lost_since is None:
            self._lost_since = began

    def done(self, began: int) -> None:
        """A transaction that was begun at ``began`` is durable."""
        self._lost_since = None
        passed = self._clock.monotonic() - began
        if passed > PAUSE_MIN:
            self._note(Pause(self._clock.now() - passed, passed))

    def make_up(self, transaction: Transaction, began: int) -> bool:
        """Make up for pauses before this transaction. False when there is nothing to do.

        Else it is to be committed with nothing else in it, since many jobs were locked, and told to ``made_up``.

        Args:
            began: when it was tried to begin the transaction, by the monotonic clock.
        """
        # Only now: whatever is judged in this transaction is judged by a time before this look.
        self.has_new()
        if self._is_new:
            self._begin(transaction)
            return True
        pause = self._whole(transaction.now, began)
        if pause is None:
            return False
        if not self._others_served(transaction, pause):
            self._move_limits(transaction, min(pause.length, self._restart_grace))
            log.warning("limits could not be kept for a while", extra={"seconds": round(pause.length / SECOND, 3)})
            if pause.length > JUMP_MIN:
                self._hold_removal(transaction)
        return True

    def made_up(self) -> None:
        """What ``make_up`` has done is durable."""
        self._is_new = False
        self._pending = None
        self._lost_since = None

    def _begin(self, transaction: Transaction) -> None:
        """The first transaction follows a time in which this process did not serve; another replica may have."""
        heard, newest = transaction.last_renewed(), transaction.times().newest()
        silence = None if heard is None else max(0, transaction.now - heard)
        if silence is None or silence > ALIVE_WITHIN:
            self._move_limits(transaction, self._restart_grace)
        elif silence:
            # Whoever was heard last may be the one that we replace, killed a moment ago.
            self._move_limits(transaction, min(silence, self._restart_grace))
        if newest and transaction.now - newest > JUMP_MIN:
            self._hold_removal(transaction)

    def _whole(self, now: int, began: int) -> Pause | None:
        """Everything that is yet to be made up for, as one."""
        pause = self._pending
        monotonic = self._clock.monotonic()
        # Else it took long only to begin: something was in the way.
        since, length_min = (began, PAUSE_MIN) if self._lost_since is None else (self._lost_since, OUTAGE_MIN)
        if monotonic - since > length_min:
            pause = Pause(now - (monotonic - since), monotonic - since).joined(pause)
        return pause

    def _others_served(self, transaction: Transaction, pause: Pause) -> bool:
        """Whether another replica has kept the limits meanwhile."""
        heard = transaction.last_renewed(self._replica)
        return heard is not None and heard > max(pause.since + FROZEN_TOGETHER, transaction.now - ALIVE_WITHIN)

    def _move_limits(self, transaction: Transaction, by: int) -> None:
        until = transaction.now + by
        self.grace_until = max(self.grace_until, until)
        moved = transaction.postpone_timeouts(until)
        transaction.times().extend_grace(until)
        if moved:
            log.info("put off the timeouts of running attempts", extra={"attempts": moved})

    @staticmethod
    def _hold_removal(transaction: Transaction) -> None:
        log.warning(
            "time has jumped by more than a day: nothing is removed by its age for a day, unless Cleanup is called"
        )
        transaction.times().suspend_removal(transaction.now + REMOVAL_SUSPENDED)

    def _note(self, pause: Pause | None) -> None:
        if pause is not None:
            self._pending = pause.joined(self._pending)
