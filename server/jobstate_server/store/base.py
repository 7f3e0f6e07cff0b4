"""What every store backend must do. ``tests/store`` runs the same tests against each of them.

A store has one write transaction at a time and any number of readers, which never wait for it. It makes no decisions:
the caller says which rows change, and the store numbers the events and keeps all of the change or none of it.

Every backend promises:

* **Durable.** Once ``Store.transaction`` has ended without an exception, the change survives a power loss.
* **Atomic.** Jobs, events, attempts, request ids and tallies of one ``Transaction.write`` become visible together.
* **Ordered.** Sequences have no gaps, and an event never becomes visible after one with a higher sequence. A reader
  that has read up to n never finds a new event at or below n.
* **Isolated reads.** A read sees whole commits. It does not wait for the writer, and the writer does not wait for it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from jobstate_server.domain.bulk import MatchedJob
from jobstate_server.domain.durations import DAY, SECOND
from jobstate_server.domain.filters import EventFilter, JobFilter, Order, Position
from jobstate_server.domain.groups import Group
from jobstate_server.domain.job import Attempt, Job, JobState
from jobstate_server.domain.reach import EVERYTHING, Reach
from jobstate_server.domain.reads import FoundPlace, LaneRange, Reads, Ready, StateOf
from jobstate_server.domain.statistics import Tallies
from jobstate_server.domain.turns import TurnKey
from jobstate_server.store.erasing import Clears, ErasureReads, ErasureWrites
from jobstate_server.store.records import (
    Changes,
    Ended,
    EventPage,
    JobPage,
    JobSummary,
    LaneRecord,
    Loaded,
    LogState,
    Notification,
    ReadyFound,
    StatesFound,
    StoredEvent,
    TaskRun,
    TypeRecord,
)
from jobstate_server.store.relation_records import StoredGroup, StoredNeed
from jobstate_server.store.task_runs import TaskRuns

EVENTS_SCANNED_MAX = 10_000
"""Sequences that one filtered ``Reader.events`` scans: about 10 ms, so that a rare match does not delay other reads."""

ENTRIES_SCANNED_MAX = 10_000
"""Index entries that one ``Reader.list_jobs`` looks at: about 20 ms, if it has to look at the row of each job."""

TRIM_BYTES_MAX = 2 * 1024 * 1024
"""Payload bytes that one transaction removes: a few milliseconds, so that no writer waits long."""

REPLICA_LEASE = 10 * SECOND
"""A replica that has not renewed its lease for this long is considered dead, and others take over its tasks. Several
times the renewal interval, so that a busy replica keeps its lease."""

REPLICA_FORGOTTEN = 1 * DAY
"""How long a dead replica stays in the table, for operators to see."""


class Notifier(Protocol):
    """Notifies one server of the commits of all servers. Used by one thread.

    A notification is only a hint. There may be too many, and after an outage one notification stands for all that
    were missed.
    """

    def wait(self, timeout_s: float) -> Notification | None:
        """Return what was committed since the last call, merged into one; None when nothing was for ``timeout_s``.

        Raises:
            StoreUnreachable: the connection failed; the next call makes a new one.
        """

    def disconnect(self) -> None:
        """Close the connection to a database that does not respond, from any thread. ``wait`` then raises."""

    def close(self) -> None:
        """Close the connections."""


class StoredTimes(Protocol):
    """The times that the store keeps about itself. Part of a transaction."""

    def newest(self) -> int:
        """The newest time that an earlier transaction stored, 0 when there was none."""

    def grace_until(self) -> int:
        """Until when no attempt fails for its timeout or for silence, because the server was paused or down."""

    def extend_grace(self, until: int) -> None:
        """Let no replica fail an attempt for its timeout or for silence before ``until``. Never shortens the grace."""

    def removal_suspended_until(self) -> int:
        """Until when nothing is removed because of its age, because the clock has jumped."""

    def suspend_removal(self, until: int) -> None:
        """Remove nothing because of its age before ``until``. Never shortens the suspension."""


class Transaction(TaskRuns, ErasureWrites, Protocol):
    """One write transaction. Used by one thread, the committer's."""

    now: int
    """The time of this transaction in microseconds. It never goes back from one transaction to the next, and ``load``
    moves it forward: a decision on a job is never earlier than the last one, whichever replica made that."""

    is_committed: bool
    """Whether ``finish`` has already committed."""

    group_due: int | None
    """The earliest time at which one of the groups that were written is to be looked at. None if none is."""

    def load(self, reads: Reads) -> Loaded:
        """Read what the caller decides on, and lock it until the transaction ends."""

    def groups(self, keys: Collection[int]) -> dict[int, StoredGroup]:
        """What is stored of these groups and of those around them, by key. They are not locked: see ``GroupGuard``."""

    def hand_out_states(
        self, wanted: Sequence[StateOf], *, takes_turns: bool = True, may_wait: bool = False, log_first: bool = False
    ) -> StatesFound:
        """What the hand-out of these types goes by. Called after ``load``.

        Until the transaction ends no other replica hands out stored jobs of the types whose turns it has taken. If one
        does at the moment, that type is not among the found ones; with ``may_wait`` that replica's transaction is
        waited for first, for a few seconds.

        Args:
            takes_turns: False to read only, for jobs that became ready in this transaction.
            log_first: let no other transaction append until this one ends, so that what is read stays so.
        """

    def ready_jobs(self, wanted: Sequence[Ready]) -> ReadyFound:
        """The ready jobs in the empty lanes that each of these selects, locked until the transaction ends.

        The transaction has the turns of the types. A job that another replica has locked is skipped.
        """

    def ready_places(self, ranges: Sequence[LaneRange]) -> list[FoundPlace]:
        """The first ready jobs of these lanes, neither read whole nor locked. Those of a lane may be a few more."""

    def take_ready(self, job_ids: Sequence[str]) -> ReadyFound:
        """Those of these jobs that are still ready, in this order, locked until the transaction ends.

        A job that another replica has locked is skipped.
        """

    def write(self, changes: Changes) -> int:
        """Append the events and write all rows. Returns the sequence of the first event.

        The events get consecutive sequences in their order. Without events, returns the head of the log plus one.
        Called at most once.
        """

    def finish(self, changes: Changes) -> int:
        """Write as the last step of a transaction, so that a store can commit in the same round trip.

        Nothing may follow. The change is durable once the block of the transaction has ended.

        Raises:
            OutcomeUnknown: in addition to what ``write`` and the commit raise.
        """

    def next_due(self) -> int | None:
        """The earliest ``due_time`` of any job or group, None when there is none."""

    def postpone_timeouts(self, until: int) -> int:
        """Move every ``due_time`` that is a limit for workers, and before ``until``, to ``until``. Returns how many.

        Limits for workers are the timeout and lease of an attempt, and the time in which a job must be begun.
        """

    def times(self) -> StoredTimes:
        """The times that the store keeps about itself. Lock jobs first, if the transaction locks any."""

    def check(self) -> None:
        """Check that the log is where this server left it. Does nothing where several servers share a store.

        Raises:
            StoreUnreachable: another program has written to the log.
        """

    def known_job_types(self, among: Collection[str] | None = None) -> set[str]:
        """The job types that have ever had a job: those of ``among``, or all.

        When asked for all, no other transaction can add one until this one ends.
        """

    def probe(self) -> None:
        """Write 64 KiB and delete them again. Fails while the disk has no room for a write."""

    def trim_events(self, older_than: int, bytes_max: int, limit: int) -> int:
        """Remove the oldest events, while they are older than a time or the log holds more than ``bytes_max``.

        Removes at most ``limit`` events and, after the first, at most ``TRIM_BYTES_MAX`` of payload, and moves the
        horizon in the same transaction. Returns how many were removed; 0 when there is nothing left to remove.
        """

    def release_pages(self, limit: int) -> int:
        """Return up to ``limit`` unused pages to the file system, if there are many. Returns how many."""

    def trim_requests(self, older_than: int, limit: int) -> int:
        """Forget at most ``limit`` request ids used before ``older_than``, the oldest first. Returns how many."""

    def forget_idle_lanes(self, limit: int) -> int:
        """Delete at most ``limit`` lanes that have no jobs, are not paused, and whose hold and rate are over.

        A lane is kept while another lane of its type waits that has not had a turn since: a lane that is deleted has
        its next turn first. Returns how many; 0 when there are none left. Types without lanes then have no row either.
        """

    def reopen_lanes(self) -> None:
        """Open the lanes that are closed for their rate, which may have changed. The next pick judges them anew."""

    def renew(self, replica: str) -> None:
        """Renew the lease of this replica. Deletes leases older than ``REPLICA_FORGOTTEN``."""

    def leave(self, replica: str) -> None:
        """Delete the lease of this replica, which is stopping."""

    def last_renewed(self, besides: str = "") -> int | None:
        """When any replica except ``besides`` last renewed its lease; None when none has."""


class Reader(ErasureReads, Protocol):
    """Reads committed data. Used by one thread at a time, except for ``interrupt`` and ``disconnect``."""

    def interrupt(self) -> None:
        """Stop the read of another thread. It raises ReadInterrupted, as does every read until ``resume``."""

    def resume(self) -> None:
        """Allow reads again after ``interrupt``."""

    def disconnect(self) -> None:
        """Close the connection to a database that does not respond. The waiting thread gets ConnectionLost."""

    def jobs(self, job_ids: Collection[str], reach: Reach = EVERYTHING) -> dict[str, Job]:
        """The named jobs, as far as they exist and are within reach."""

    def attempts(self, job_id: str, through: int, limit: int, bytes_max: int) -> list[Attempt]:
        """The latest ended attempts of a job with numbers up to ``through``, in the order of their numbers.

        At most ``limit`` and, apart from the latest, ``bytes_max``. No more rows than that are read.
        """

    def needs(self, job: Job) -> list[StoredNeed]:
        """What a job needs, in the order given to Create: at most ``limits.NEEDS_MAX``."""

    def groups(self, keys: Collection[int]) -> dict[int, StoredGroup]:
        """What is stored of these groups, by key."""

    def group_counts(self, jobs: Iterable[Job]) -> dict[str, Group]:
        """The counts of those of the jobs that are groups, by id."""

    def list_jobs(self, wanted: JobFilter, order: Order, after: Position | None, limit: int, bytes_max: int) -> JobPage:
        """The next page of jobs after ``after``: at most ``limit``, fewer when their documents exceed ``bytes_max``.

        ``limit`` is at least 1. The rows read are bounded by the page, the number of states and job types asked for,
        and ``ENTRIES_SCANNED_MAX``. A page is short, or empty, where few of so many entries of an index match. Every
        other page has at least one job if there is one, and its ``resume`` is None if it is the last.
        """

    def matching_jobs(
        self, wanted: JobFilter, after: Position | None, limit: int
    ) -> tuple[list[MatchedJob], Position | None]:
        """What a bulk run reads of the next jobs after ``after``, in the order of their creation, and where the next
        ones begin. None if there are none. At most ``limit``, and bounded like ``list_jobs``."""

    def log_state(self) -> LogState:
        """The state of the log now."""

    def create_time(self) -> int:
        """When the store was created, or first opened by a program that records this."""

    def event(self, sequence: int) -> StoredEvent | None:
        """One event; None when it is not, or no longer, in the log."""

    def events(self, after: int, wanted: EventFilter, limit: int, bytes_max: int) -> EventPage:
        """The wanted events after a sequence: at most ``limit`` and, after the first, ``bytes_max`` of payload.

        Scans at most ``EVENTS_SCANNED_MAX`` sequences, unless an index leads straight to the wanted events.
        The events, the head that bounds them and the horizon are of one snapshot.
        """

    def trimmable_events(self, older_than: int, bytes_max: int) -> int:
        """How many events ``Transaction.trim_events`` would remove if it had no limit."""

    def tallies(self, job_types: Collection[str]) -> Tallies:
        """All tallies of these job types; of every type when none is named."""

    def oldest_queued(self, job_type: str) -> int | None:
        """Create time of the oldest QUEUED job of a type; None when there is none."""

    def oldest_unclaimed(self, job_type: str) -> int | None:
        """Start time of the oldest attempt of a type that waits in PROCESSING for a worker; None when none waits."""

    def oldest_ready(self, job_type: str) -> int | None:
        """Since when the job of a type that has waited longest can be handed out; None when none can."""

    def has_ready(self, job_types: Collection[str], request_keys: Collection[tuple[str, str]]) -> bool:
        """Whether a job of these types can be handed out, or one of these request ids is stored."""

    def ready_before(self, job: Job, priority_step: int, limit: int) -> int:
        """How many ready jobs of its lane are handed out before this one, counted up to ``limit``. Jobs that hold their
        place in the lane count as others."""

    def type_record(self, job_type: str) -> TypeRecord:
        """What the hand-out of a type goes by, with the counts of all its lanes and those of the empty one."""

    def lane_record(self, job_type: str, lane: str) -> LaneRecord:
        """What is stored of a lane. The row of the empty lane counts nothing."""

    def lanes_in_turn(self, job_type: str, after: TurnKey | None, limit: int, *, holds_jobs: bool) -> list[LaneRecord]:
        """The lanes that can have a turn, without the empty one, in the order of turns after a place in it."""

    def lanes_without_turn(
        self, job_type: str, after: str, limit: int, now: int, *, holds_jobs: bool
    ) -> list[LaneRecord]:
        """The lanes that cannot have a turn now but have jobs ready or under way, or are closed at this time or paused,
        by name after a name. Jobs that rest are under way where they hold their place."""

    def lanes_before(self, job_type: str, key: TurnKey, limit: int, *, holds_jobs: bool) -> int:
        """How many lanes, without the empty one, have a turn before a place in the order, counted up to ``limit``."""

    def oldest_ready_in(self, job_type: str, lanes: Collection[str]) -> dict[str, int]:
        """Since when the oldest ready job of each of these lanes can be handed out. Not of a lane that has none."""

    def has_claimed(self, job_type: str) -> bool:
        """Whether a worker has claimed a job of this type, judging by the newest 1,000 in PROCESSING."""

    def ended_since(self, time: int, limit: int) -> list[Ended]:
        """Counts, by type and state, of the latest ``limit`` stored jobs that ended after a time."""

    def jobs_in_state(self, job_type: str, state: JobState, after: Position | None, limit: int) -> list[JobSummary]:
        """Jobs of one type in one state, oldest first, found by an index."""

    def finished_jobs(self, completed_before: int, after: Position | None, limit: int) -> list[JobSummary]:
        """Final jobs that ended before a time, in the order they ended. ``after`` has the time of an end."""

    def overdue(self, before: int) -> int:
        """How many jobs have a ``due_time`` before this time, counted up to 10,000."""

    def task_runs(self) -> Mapping[str, TaskRun]:
        """The last run of each task that has run, by name."""

    def close(self) -> None:
        """Close the connection."""


class Store(Clears, Protocol):
    """An open store."""

    log_id: str
    """The name of this log, which never changes. Part of every cursor."""

    requests_stored: int
    """How many request ids of all replicas were stored when this server last appended, opened the store or removed
    some. Does not include what other replicas have added since."""

    def transaction(self) -> AbstractContextManager[Transaction]:
        """Begin a write transaction. The end of the block commits it; an exception rolls it back.

        Raises:
            TransactionConflict: nothing was kept; repeat the block from the start.
            OutcomeUnknown: the commit may or may not have happened. Raised by the commit only.
            StoreUnreachable: nothing was kept.
            StoreError: nothing was kept, and one of the rows is the cause.
        """

    def open_reader(self) -> Reader:
        """Open a new reader, for one thread."""

    def open_notifier(self) -> Notifier | None:
        """Open a new notifier, for one thread; None when only this server writes to the store."""

    def disconnect(self) -> None:
        """Close the writer's connection to a database that does not respond, from any thread. Its transaction fails.

        A file write that hangs in the kernel cannot be stopped.
        """

    def close(self) -> None:
        """Close the store. No transaction or reader may be open."""
