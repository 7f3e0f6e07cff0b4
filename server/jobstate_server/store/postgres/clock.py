"""The time of a shared store: the database's clock plus an offset in the row of the log.

Every replica also counts elapsed time. When the database's clock is changed, the first replica that notices adjusts the
offset while it holds the row of the log, so that the store's time continues for all replicas. The offset then shrinks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import psycopg

from jobstate_server.clock import Clock, FollowingClock
from jobstate_server.domain.durations import MILLISECOND
from jobstate_server.domain.store_time import PAUSE_MIN, SLEW_DIVISOR
from jobstate_server.store.errors import TransactionConflict
from jobstate_server.store.postgres.connection import one_row

log = logging.getLogger(__name__)

STEP_BACK_MIN = 100 * MILLISECOND
"""The database's clock was set back if it is this far behind the time that we counted. In the two seconds between a
replica's transactions, clocks drift apart by a few milliseconds at most."""

_CLOCK = b"(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
_READING = _CLOCK + b", clock_offset, clock_set"

NOW = b"SELECT " + _READING + b" FROM log"
_NOW_BEFORE_OFFSETS = b"SELECT " + _CLOCK + b", 0, 0"
_OFFSET_SINCE = 6
"""The version of the schema that added the offset."""
_LOCK = b"SELECT 1 FROM log FOR UPDATE"
_NEWEST = b"SELECT " + _READING + b", GREATEST(time, (SELECT max(renew_time) FROM replica)) FROM log"
_SET = b"UPDATE log SET clock_offset = %(offset)s, clock_set = %(database)s"

Execute = Callable[..., "psycopg.Cursor[Any]"]
"""Runs a statement, with its values by name, in the transaction."""


class Reading(NamedTuple):
    """The database's clock, and the stored offset."""

    database: int
    """The database's clock."""
    offset: int
    """How far the store's time was ahead of the database's clock ..."""
    set_at: int
    """... when that clock showed this time."""

    @property
    def ahead(self) -> int:
        """How far the store's time is ahead of the database's clock. It runs at 99 % speed until they are equal."""
        return max(0, self.offset - max(0, self.database - self.set_at) // SLEW_DIVISOR)

    @property
    def time(self) -> int:
        """The store's time."""
        return self.database + self.ahead

    @classmethod
    def of(cls, execute: Execute, version: int) -> Reading:
        """The reading in a database of this version of the schema."""
        return cls(*one_row(execute(NOW if version >= _OFFSET_SINCE else _NOW_BEFORE_OFFSETS)))


class DatabaseTime:
    """Keeps the clock of one server at the time of the shared store."""

    def __init__(self, clock: Clock) -> None:
        """A ``clock`` that is not a ``FollowingClock``, such as a test's, runs by itself."""
        self._clock = clock

    def now(self) -> int:
        """The store's current time, as far as this server knows."""
        return self._clock.now()

    def begin(self, execute: Execute) -> None:
        """Set the clock to the store's time, which is never before any stored time. Call it in a transaction."""
        database, offset, set_at, newest = one_row(execute(_NEWEST))
        reading = Reading(database, offset, set_at)
        if not isinstance(self._clock, FollowingClock):
            self._clock.begin_at(newest)
            return
        if reading.time < newest - STEP_BACK_MIN:
            reading = self._corrected(execute, 0)
        self._clock.follow(reading.time, reading.ahead)

    def take(self, row: tuple[Any, ...], earliest: int, execute: Execute) -> int:
        """Set the clock from the result of ``NOW``. Returns the store's time.

        Args:
            earliest: ``now`` before the statement was sent.

        Raises:
            TransactionConflict: time has jumped forward. The caller must handle the pause first.
        """
        clock = self._clock
        if not isinstance(clock, FollowingClock):
            return clock.now()
        reading = Reading(*row)
        latest = clock.now()
        jumped = reading.time > latest + PAUSE_MIN
        if reading.time < earliest - STEP_BACK_MIN or (jumped and reading.ahead):
            reading = self._corrected(execute, earliest)
        clock.follow(reading.time, reading.ahead)
        if reading.time > latest + PAUSE_MIN:
            raise TransactionConflict("the database's clock was set forward")
        return clock.now()

    def _corrected(self, execute: Execute, earliest: int) -> Reading:
        """Adjust the offset so that the store's time continues. Does nothing if another replica has already done so."""
        execute(_LOCK)
        if earliest:
            earliest = self._clock.now()
        database, offset, set_at, newest = one_row(execute(_NEWEST))
        found = Reading(database, offset, set_at)
        expected = max(earliest, newest)
        wanted = Reading(database, max(0, expected - database), database)
        if abs(wanted.time - found.time) <= STEP_BACK_MIN:
            return found
        execute(_SET, offset=wanted.offset, database=database)
        log.warning(
            "the database's clock was changed; the store's time continues",
            extra={"ahead_s": round(wanted.ahead / 1_000_000, 3), "was_ahead_s": round(found.ahead / 1_000_000, 3)},
        )
        return wanted
