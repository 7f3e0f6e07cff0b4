"""The writer: carries out commands in one transaction, on the committer's thread.

It does not depend on the event loop. However a transaction fails, every command gets a verdict, and only the command
that caused the failure gets an error.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from jobstate_server.clock import Clock
from jobstate_server.domain.commands import Command
from jobstate_server.domain.durations import HOUR, SECOND
from jobstate_server.domain.errors import InternalError, StoreUnavailable
from jobstate_server.domain.limits import LEASE_MAX
from jobstate_server.domain.reads import Due, Reads
from jobstate_server.domain.rules.decider import Decider
from jobstate_server.engine.batch import Batch
from jobstate_server.engine.dispatcher import Dispatcher, Handed, Turn
from jobstate_server.engine.downtime import Downtime
from jobstate_server.engine.outcomes import Verdict
from jobstate_server.engine.parked_acquires import ParkedAcquires, WaitingAcquire
from jobstate_server.store.base import Store, Transaction
from jobstate_server.store.errors import OutcomeUnknown, StoreError, StoreUnreachable, TransactionConflict
from jobstate_server.store.records import Loaded, StoredEvent

log = logging.getLogger(__name__)

CONFLICT_TRIES_MAX = 5
"""How often a transaction that conflicts with other writers is tried."""

RETRY_DELAY_S = 0.5
"""When to repeat a call that was refused although nothing is wrong with it: about the time the queue takes to drain."""

REQUEST_IDS_MAX = 10_000_000
"""The default of how many request ids may be stored."""

REQUEST_ID_KEPT_MIN = 1 * HOUR
"""However many request ids are used, each is stored for at least this long, which is longer than our clients repeat a
call."""

REQUESTS_MADE_ROOM = 256
"""Request ids that are deleted beyond need, which takes about a millisecond, so that not every commit has to delete."""

BATCH_REQUESTS_MAX = 2_048
"""More request ids than one transaction can add. With this much room they need not be counted."""

LATENCIES_KEPT = 1_000
"""Commit durations that are stored for the percentile that check-health reports."""

T = TypeVar("T")

_stored_event = partial(tuple.__new__, StoredEvent)
"""A StoredEvent of the values of all its fields, made in a third of the time."""


@dataclass(slots=True)
class Counters:
    """Counts since the process started."""

    commits: int = 0
    commands: int = 0
    events: int = 0


assert LEASE_MAX <= REQUEST_ID_KEPT_MIN, "a repeat of an Acquire finds what is still leased to it"


@dataclass(slots=True)
class Written:
    """The outcome of a batch."""

    verdicts: list[Verdict]
    """One for each command, in order."""
    events: list[StoredEvent]
    earliest_due: int | None
    """The earliest due time that this batch wrote."""
    problem: str = ""
    """Why the store could not be used. Empty if it could."""
    is_unfinished: bool = False
    """Whether there may be more ready jobs for the calls of Acquire that wait."""
    opens: int | None = None
    """When a rate or hold will allow a hand-out for which a call waits. None if no such time is known."""
    handed: Handed = field(default_factory=list)
    """The calls of Acquire that waited and have their answer now."""


class Writer:
    """Writes batches to a store."""

    def __init__(
        self,
        store: Store,
        decider: Decider,
        clock: Clock,
        *,
        restart_grace: int,
        request_ids_max: int = REQUEST_IDS_MAX,
        replica: str = "",
        is_shared: bool = False,
        parked: ParkedAcquires | None = None,
    ) -> None:
        """
        Args:
            restart_grace: microseconds by which limits are postponed at most after a time in which no server ran.
            request_ids_max: how many request ids may be stored.
            replica: the name under which this server renews its lease.
            is_shared: whether other servers use the store too.
            parked: the calls of Acquire that wait. None if there are none.
        """
        self._request_ids_max = request_ids_max
        self.counters = Counters()
        self.commit_seconds: deque[tuple[int, float]] = deque(maxlen=LATENCIES_KEPT)
        """When each of the latest commits ended, on the monotonic clock, and how long it took."""
        self._store = store
        self._decider = decider
        self._clock = clock
        self._downtime = Downtime(clock, restart_grace=restart_grace, replica=replica)
        self._dispatcher = Dispatcher(
            decider.context.job_types, ParkedAcquires() if parked is None else parked, is_shared=is_shared
        )

    @property
    def grace_until(self) -> int:
        """Until when this server has postponed limits because of a pause."""
        return self._downtime.grace_until

    @property
    def requests_surplus(self) -> int:
        """How many more request ids are stored than allowed, as last seen by this server."""
        return self._store.requests_stored - self._request_ids_max

    def commit(self, commands: Sequence[Command], calls: Iterable[WaitingAcquire] = ()) -> Written:
        """Commit these together, and what they hand out to the calls of Acquire that wait.

        Args:
            calls: the calls of Acquire among the commands.
        """
        self._dispatcher.begin(calls)
        written = self._commit(commands)
        written.handed = self._dispatcher.take_answered()
        written.opens = self._dispatcher.opens()
        return written

    def _commit(self, commands: Sequence[Command], *, serves_waiting: bool = True) -> Written:
        """If the store refuses a command, split the batch in halves until that one is alone."""
        if not commands:
            return Written([], [], None)
        try:
            return _retry_conflicts(lambda is_repeat: self._commit_once(commands, serves_waiting, is_repeat))
        except StoreUnreachable as error:
            return Written([unavailable(error)] * len(commands), [], None, str(error))
        except Exception:
            if len(commands) > 1:
                return self._commit_halves(commands)
            if serves_waiting and self._dispatcher.is_waited_for:
                # The refused change may be that of a job that was handed out because of this command.
                return self._commit(commands, serves_waiting=False)
            call_id = secrets.token_hex(8)
            what = type(commands[0]).__name__
            log.exception("the store refused a change", extra={"call_id": call_id, "command": what})
            return Written([InternalError(call_id)], [], None)

    def _commit_halves(self, commands: Sequence[Command]) -> Written:
        middle = len(commands) // 2
        first = self._commit(commands[:middle])
        second = self._commit(commands[middle:])
        due = [time for time in (first.earliest_due, second.earliest_due) if time is not None]
        return Written(
            first.verdicts + second.verdicts,
            first.events + second.events,
            min(due, default=None),
            first.problem or second.problem,
            is_unfinished=first.is_unfinished or second.is_unfinished,
        )

    def _commit_once(self, commands: Sequence[Command], serves_waiting: bool, is_repeat: bool) -> Written:
        turn = Turn()
        self._dispatcher.begin_transaction(is_repeat=is_repeat)
        try:
            written, batch = self._commit_turn(commands, turn, serves_waiting)
        except BaseException:
            self._dispatcher.rolled_back(turn)
            raise
        self._dispatcher.committed(turn, batch)
        return written

    def _commit_turn(self, commands: Sequence[Command], turn: Turn, serves_waiting: bool) -> tuple[Written, Batch]:
        began = time.perf_counter()
        reads = Reads()
        for command in commands:
            command.add_reads(reads)
        with self._transaction() as transaction:
            loaded = _load(transaction, reads)
            room = self._room_for_requests(transaction, len(reads.request_keys))
            self._learn_job_types(transaction, reads.job_types)
            dispatcher = self._dispatcher
            began_work = time.perf_counter()
            batch = Batch(
                self._decider,
                transaction.now,
                loaded,
                room,
                dispatcher.wanted_types(commands),
                transaction.groups,
            )
            turn.is_unfinished = dispatcher.look(transaction, commands, batch)
            dispatcher.decide(transaction, commands, batch, turn)
            if serves_waiting:
                dispatcher.answer_repeats(transaction, batch, turn)
                dispatcher.serve(transaction, batch, turn)
            else:
                turn.is_unfinished = True
            if batch.has_stopped_members:
                # They took the places of others in what was read of the ready jobs.
                turn.is_unfinished = True
            serves_due = any(isinstance(selection, Due) for selection in reads.selections)
            first, new_events = batch.write(transaction, is_last=not serves_due)
            working = time.perf_counter() - began_work
            next_due = transaction.next_due() if serves_due else None
            verdicts = batch.verdicts(first, next_due)
        self._decider.unnamed_types.commit()
        seconds = time.perf_counter() - began
        batch.share_time(round(seconds * SECOND), round(working * SECOND))
        self.commit_seconds.append((self._clock.monotonic(), seconds))
        events = [_stored_event((sequence, *event)) for sequence, event in enumerate(new_events, first)]
        self.counters.commits += 1
        self.counters.commands += len(verdicts)
        self.counters.events += len(events)
        return Written(verdicts, events, batch.earliest_due(), is_unfinished=turn.is_unfinished), batch

    def _room_for_requests(self, transaction: Transaction, new: int) -> int:
        """How many more request ids may be stored, after the oldest ones that may be deleted are deleted.

        It counts from what this server last saw. It sees what other replicas have added since at the next commit.

        Args:
            new: how many request ids this batch adds at most.
        """
        room = -self.requests_surplus
        if room < BATCH_REQUESTS_MAX and new and room < new:
            # If there are far too many, as after the setting was lowered, every commit deletes some.
            oldest = transaction.now - REQUEST_ID_KEPT_MIN
            room = max(room, 0) + transaction.trim_requests(oldest, new + REQUESTS_MADE_ROOM)
        return room

    def _learn_job_types(self, transaction: Transaction, job_types: Collection[str]) -> None:
        """Ask the store for job types that this server does not know, which other replicas may have added."""
        types = self._decider.unnamed_types
        types.begin()
        new = types.unknown(job_types)
        if not new:
            return
        types.learn(transaction.known_job_types(new))
        if types.unknown(new) and not types.is_full:
            types.learn(transaction.known_job_types())

    @contextmanager
    def _transaction(self) -> Iterator[Transaction]:
        """A transaction, after downtime was compensated in one of its own."""
        began = self._clock.monotonic()
        try:
            while True:
                with self._store.transaction() as transaction:
                    if not self._downtime.compensate(transaction, began):
                        yield transaction
                        self._check_time(transaction)
                        break
                self._downtime.compensated()
                self._decider.context.grace_until = self._downtime.grace_until
                began = self._clock.monotonic()
        except StoreUnreachable:
            self._downtime.store_lost(began)
            raise
        self._downtime.committed(began)

    def _check_time(self, transaction: Transaction) -> None:
        """Repeat the transaction if there was a pause during it: replicas would assume that limits were enforced."""
        if not transaction.is_committed and self._downtime.has_new():
            raise TransactionConflict("this process was suspended in the middle of a transaction")

    def work(self, run: Callable[[Transaction], T]) -> T | Exception:
        """Run ``run`` in a transaction of its own. Returns what it returns, or the error that was raised."""
        try:
            return _retry_conflicts(lambda _is_repeat: self._work_once(run))
        except Exception as error:
            return error

    def _work_once(self, run: Callable[[Transaction], T]) -> T:
        with self._transaction() as transaction:
            return run(transaction)


def _retry_conflicts(commit: Callable[[bool], T]) -> T:
    """Repeat a transaction that conflicted with another writer. ``commit`` is told whether it is a repeat."""
    for tries_left in reversed(range(CONFLICT_TRIES_MAX)):
        try:
            return commit(tries_left < CONFLICT_TRIES_MAX - 1)
        except TransactionConflict:
            if not tries_left:
                raise
    raise AssertionError("unreachable: the last try returns or raises")


def _load(transaction: Transaction, reads: Reads) -> Loaded:
    loaded = transaction.load(reads)
    # A repeated Create without an id has the id of its job only in the request row.
    named = {job_id for stored in loaded.requests.values() for job_id in stored.job_ids} - loaded.jobs.keys()
    if named:
        loaded.jobs.update(transaction.load(Reads(job_ids=named)).jobs)
    ended = [loaded.jobs[job_id] for job_id in reads.recreated_ids & loaded.jobs.keys()]
    keys = {(job.principal, job.job_type, job.unique_key) for job in ended if job.unique_key is not None}
    if keys:
        holders = transaction.load(Reads(unique_keys=keys))
        loaded.unique.update(holders.unique)
        for job_id, job in holders.jobs.items():
            loaded.jobs.setdefault(job_id, job)
    return loaded


def unavailable(error: StoreError) -> StoreUnavailable:
    """The error of calls while the store cannot be written. The cause is logged."""
    log.error("the store cannot be written", extra={"cause": str(error)})
    if isinstance(error, OutcomeUnknown):
        return StoreUnavailable(
            "the store was lost while committing: the outcome is unknown, repeat with the same request_id",
            RETRY_DELAY_S,
        )
    return StoreUnavailable("the store cannot be written at the moment; nothing was changed", RETRY_DELAY_S)


def unanswered(seconds: int) -> StoreUnavailable:
    """The error of a call for which the store has not answered for this long."""
    return StoreUnavailable(
        f"the store has not answered for {seconds} s: the outcome is unknown, repeat with the same request_id",
        RETRY_DELAY_S,
    )
