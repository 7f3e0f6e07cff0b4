"""The store, in words: what a backend must do to be one. ``tests/store`` holds every backend to it.

A store is one write transaction at a time and any number of readers that never wait for it. It decides nothing: it is
told which rows change, numbers the events, and keeps all of that or none of it.

Promises every backend keeps:

* **Durable.** When ``Store.transaction`` has ended without an exception, the change survives the loss of power.
* **Atomic.** Jobs, events, attempts, request ids and tallies of one ``Transaction.write`` become visible together.
* **Ordered.** Sequences are gapless, and an event with a lower sequence never becomes visible after a higher one: who
  has read up to n can never find something new at or below n.
* **Isolated reads.** A read sees whole commits, and neither waits for the writer nor makes it wait.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from jobstate_server.domain.commands import Request
from jobstate_server.domain.durations import DAY, MINUTE, SECOND
from jobstate_server.domain.filters import EventFilter, JobFilter, Order, Position
from jobstate_server.domain.job import Attempt, Job, JobState
from jobstate_server.domain.statistics import Tallies, TallyKey

EVENTS_SCANNED_MAX = 10_000
"""Sequences one ``Reader.events`` looks at when it filters: about 10 ms, so that a rare match delays nobody else."""

TRIM_BYTES_MAX = 2 * 1024 * 1024
"""Payload that one transaction removes: some milliseconds, so that no writer waits long behind it."""

REPLICA_LEASE = 10 * SECOND
"""A replica that has not been heard for this long is taken for dead, and its tasks are taken over. Several times the
interval at which replicas are heard, so that a busy one keeps its own."""

TASK_AHEAD_MAX = 1 * MINUTE
"""How far ahead of now an instant may be when its run is claimed: clocks of replicas differ by less."""

REPLICA_FORGOTTEN = 1 * DAY
"""For this long a replica that is gone can be seen in the table."""


class StoreError(Exception):
    """The store refused what it was told to keep. Nothing of the transaction was kept; trying again will not help."""


class StoreUnreachable(StoreError):
    """The store cannot be used just now (disk full, input/output error, connection lost). Nothing was kept."""


class TransactionConflict(StoreUnreachable):
    """Another writer was in the way (deadlock, lock timeout, a row it made first). Trying again may succeed."""


class ConnectionLost(TransactionConflict):
    """The connection to the store broke. Nothing was kept; the next try makes a new one, and fails if it cannot."""


class OutcomeUnknown(StoreUnreachable):
    """The connection was lost while committing: the transaction is kept whole or not at all, nobody knows which."""


class ReadInterrupted(StoreError):
    """The read was broken off by ``Reader.interrupt``."""


class CannotOpen(StoreError):
    """The store cannot be opened. The message tells an operator what to change."""


class NewEvent(NamedTuple):
    """An event to append. ``payload`` is the encoded event without its sequence and the job's version."""

    time: int
    job_id: str
    job_type: str
    source_id: str
    principal: str
    type: int
    payload: bytes


class StoredEvent(NamedTuple):
    """An event of the log."""

    sequence: int
    time: int
    job_id: str
    job_type: str
    source_id: str
    principal: str
    type: int
    payload: bytes


class ChangedJob(NamedTuple):
    """A job row to write. ``last_event`` is the index in ``Changes.events`` of its last event there.

    The job's version becomes that event's sequence, in place; with None it stays as it is. ``first_event`` is the
    index of the event that told of its creation, for a job that is inserted: its sequence becomes create_sequence.
    """

    job: Job
    last_event: int | None
    first_event: int | None = None


class StoredRequest(NamedTuple):
    """A request id that was used, and the jobs that its call concerned."""

    request: Request
    job_ids: tuple[str, ...]
    time: int
    attempt: int = 0
    """The attempt that the call made or claimed, 0 when it did neither."""
    create_sequence: int | None = None
    """That of the job, which tells it from a later one of the same id; None when it is not known."""
    created_event: int | None = None
    """The index in ``Changes.events`` of the job's first event, when it is there: its sequence is written as
    ``create_sequence``."""


@dataclass(slots=True)
class Changes:
    """Everything one transaction writes. Order of effect: deleted, inserted, then the rest."""

    deleted: list[str] = field(default_factory=list)
    inserted: list[ChangedJob] = field(default_factory=list)
    updated: list[ChangedJob] = field(default_factory=list)
    progressed: list[ChangedJob] = field(default_factory=list)
    """Jobs of which nothing changed but progress, message, metadata, usage, update time and heard time."""
    events: list[NewEvent] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    amended: list[Attempt] = field(default_factory=list)
    """Attempts of which a record is kept already: its usage becomes that of these."""
    requests: list[StoredRequest] = field(default_factory=list)
    tallies: dict[TallyKey, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a transaction read before deciding."""

    jobs: dict[str, Job]
    requests: dict[tuple[str, str], StoredRequest]
    due: list[Job]
    attempts: dict[tuple[str, int], Attempt] = field(default_factory=dict)
    """The ended attempts that were asked for, by job and number."""


class EventPage(NamedTuple):
    """Events read from the log, in order."""

    events: list[StoredEvent]
    scanned: int
    """Every event up to this sequence has been looked at, so a reader goes on after it."""
    horizon: int
    """The newest sequence that has been removed, as read *after* the events were. A page that begins at or below it
    may have a gap and must not be sent."""


class LogState(NamedTuple):
    """The log as it stands."""

    head: int
    """The newest sequence, 0 when nothing was ever written."""
    horizon: int
    """The newest sequence that retention has removed, 0 when none was."""
    horizon_check: int
    """The check of the event at the horizon."""
    bytes: int
    """Payload bytes of the events kept."""


class TaskRun(NamedTuple):
    """The last run of a maintenance task."""

    name: str
    last_due: int
    """The scheduled instant that was claimed last."""
    token: str
    start_time: int
    end_time: int | None
    outcome: str
    replica: str
    """Who runs it, or ran it."""


class Ended(NamedTuple):
    """Jobs of one type that ended in one state."""

    job_type: str
    state: JobState
    jobs: int
    latest: int
    """When the latest of them ended."""


class Notification(NamedTuple):
    """What a bell tells: something was committed."""

    head: int
    """The log has events up to this sequence, or beyond."""
    next_due: int | None
    """The earliest due time that was written, None when none was."""


class Notifier(Protocol):
    """Tells one server of what any of them commits. Used by one thread.

    A hint and no more: it may ring too often, and after it has been out of order it rings once for all it missed.
    """

    def wait(self, timeout_s: float) -> Notification | None:
        """What has been committed since the last call, as one; None when nothing was for ``timeout_s`` seconds.

        Raises:
            StoreUnreachable: nothing can be heard just now; the next call tries again.
        """

    def hang_up(self) -> None:
        """End the connection to a database that does not answer, from any thread: ``wait`` then raises."""

    def close(self) -> None:
        """Give back what the bell holds."""


class Times(Protocol):
    """What the store keeps about its own time. Part of a transaction."""

    def newest(self) -> int:
        """The newest time that earlier transactions have stored, 0 when none ever did."""

    def grace_until(self) -> int:
        """Until when no attempt is failed for time or silence, because limits could not be kept for a while."""

    def spare(self, until: int) -> None:
        """Fail no attempt for time or silence before ``until``, on whichever replica. Never moves it back."""

    def removal_held_until(self) -> int:
        """Until when nothing is removed by its age, because time has jumped."""

    def hold_removal(self, until: int) -> None:
        """Remove nothing by its age before ``until``. Never moves it back."""


class Transaction(Protocol):
    """One write transaction. Used by one thread, the committer's."""

    now: int
    """The time of this transaction in microseconds. Does not go back from one to the next, and moves on in ``load``:
    what is decided on a job is not earlier than what was decided on it before, on whichever replica."""

    is_committed: bool
    """Whether ``finish`` has committed it already."""

    def load(
        self,
        job_ids: Collection[str],
        request_keys: Collection[tuple[str, str]],
        due_limit: int,
        attempt_keys: Collection[tuple[str, int]] = (),
    ) -> Loaded:
        """Read what will be decided on, and keep others from changing it until the transaction ends.

        Args:
            attempt_keys: ended attempts of these jobs to read too, by job and number.
            due_limit: also take at most this many jobs whose ``due_time`` has come, earliest first. Jobs that another
                replica has in hand are passed over.
        """

    def write(self, changes: Changes) -> int:
        """Append the events and write all rows. Returns the sequence of the first event.

        The events get consecutive sequences in their order. Without events nothing is numbered and the log's head
        is returned plus one. Called at most once.
        """

    def finish(self, changes: Changes) -> int:
        """``write`` as the last thing of a transaction, which a store may commit together with it.

        Nothing may follow. What was written is durable once the block of the transaction is left.

        Raises:
            OutcomeUnknown: besides what ``write`` and the commit raise.
        """

    def next_due(self) -> int | None:
        """The earliest ``due_time`` of any job, None when there is none."""

    def postpone_timeouts(self, until: int) -> int:
        """Move the ``due_time`` of running attempts that lies before ``until`` to ``until``. Returns how many."""

    def times(self) -> Times:
        """What the store keeps about its own time. Jobs that are to be locked too are locked first."""

    def check(self) -> None:
        """Look whether the log stands where this server left it, where nobody else may write to it.

        Raises:
            StoreUnreachable: it does not.
        """

    def job_types(self, among: Collection[str] | None = None) -> set[str]:
        """The job types of which there ever was a job: those of ``among``, or all.

        When all are asked for, no other transaction adds one until this one ends.
        """

    def probe(self) -> None:
        """Write 64 KiB and take them back: fails as any write does while there is no room for one."""

    def trim_events(self, older_than: int, bytes_max: int, limit: int) -> int:
        """Remove the oldest events while they are older than a time or the log keeps more than ``bytes_max``.

        At most ``limit`` of them and, but for the first, ``TRIM_BYTES_MAX`` of payload, moving the horizon in the same
        transaction. Returns how many; 0 when none is to go any more.
        """

    def give_back(self, limit: int) -> int:
        """Give at most ``limit`` unused pages back to the file system, where there are many. Returns how many."""

    def trim_requests(self, older_than: int, limit: int) -> int:
        """Forget at most ``limit`` request ids used before ``older_than``, the oldest first. Returns how many."""

    def claim_task(self, name: str, due: int, token: str, replica: str) -> bool:
        """Take the run of a task for the scheduled instant ``due``. False when it, or a later one, is gone.

        A run that has not ended can be taken over for the same instant, once nothing was heard of its replica for
        ``REPLICA_LEASE``. An instant that lies more than ``TASK_AHEAD_MAX`` ahead of now says nothing: it was claimed
        when a clock was wrong.
        """

    def finish_task(self, name: str, token: str, outcome: str) -> None:
        """Write down how the run that holds ``token`` ended; does nothing when another has taken over."""

    def task_is_ours(self, name: str, token: str) -> bool:
        """Whether the run still holds the task."""

    def renew(self, replica: str) -> None:
        """Note that this replica serves, now. Forgets those that have not been heard for ``REPLICA_FORGOTTEN``."""

    def leave(self, replica: str) -> None:
        """Forget this replica, which serves no more."""

    def last_renewed(self, besides: str = "") -> int | None:
        """When any replica, but for the one named, was heard last; None when none ever was."""


class Reader(Protocol):
    """A view for reading. Used by one thread at a time, but for ``interrupt`` and ``hang_up``."""

    def interrupt(self) -> None:
        """Break off what another thread is reading: it gets ReadInterrupted, as does every read until ``resume``."""

    def resume(self) -> None:
        """Read again after an interrupt."""

    def hang_up(self) -> None:
        """End the connection to a database that does not answer: the thread that waits for it gets ConnectionLost."""

    def jobs(self, job_ids: Collection[str], principal: str | None) -> dict[str, Job]:
        """Those of the named jobs that exist and that ``principal`` (None: anybody) may see."""

    def attempts(self, job_id: str, through: int, limit: int, bytes_max: int) -> list[Attempt]:
        """The latest ended attempts of a job of those with numbers up to ``through``, by number.

        At most ``limit`` and, but for the last, ``bytes_max``; no more rows than that are read.
        """

    def list_jobs(
        self, wanted: JobFilter, order: Order, after: Position | None, limit: int, bytes_max: int
    ) -> list[Job]:
        """At most ``limit`` jobs that come after ``after``; fewer once their documents exceed ``bytes_max``.

        At least one if there is one. Rows read are bounded by the page and the number of states and job types asked
        for, or by the number of jobs of one source.
        """

    def log_state(self) -> LogState:
        """A fresh look at the log."""

    def create_time(self) -> int:
        """When the store was made, or first opened by a program that writes this down."""

    def event(self, sequence: int) -> StoredEvent | None:
        """One event, None when it is not (or no longer) in the log."""

    def events(self, after: int, wanted: EventFilter, limit: int, bytes_max: int) -> EventPage:
        """The wanted events after a sequence, at most ``limit`` and, but for the first, ``bytes_max`` of payload.

        Looks at no more than ``EVENTS_SCANNED_MAX`` sequences unless an index leads straight to the wanted ones.
        """

    def trimmable_events(self, older_than: int, bytes_max: int) -> int:
        """How many events ``Transaction.trim_events`` would remove, without a limit."""

    def tallies(self, job_types: Collection[str]) -> Tallies:
        """All tallies of these job types, of every type when none is named."""

    def oldest_queued(self, job_type: str) -> int | None:
        """Create time of the oldest QUEUED job of a type, None when none is queued."""

    def oldest_unclaimed(self, job_type: str) -> int | None:
        """Start time of the oldest attempt of a type that waits in PROCESSING for its worker, None when none does."""

    def has_claimed(self, job_type: str) -> bool:
        """Whether a worker has a job of this type, as the newest 1,000 in PROCESSING tell."""

    def ended_since(self, time: int, limit: int) -> list[Ended]:
        """The jobs that ended after a time and are still stored, the latest ``limit`` of them, by type and state."""

    def jobs_in_state(self, job_type: str, state: JobState, after: Position | None, limit: int) -> list[Job]:
        """Jobs of one type in one state, oldest first, read straight from an index."""

    def finished_jobs(self, completed_before: int, after: Position | None, limit: int) -> list[Job]:
        """Final jobs that ended before a time, in the order they ended (``after.create_time`` is a complete time)."""

    def overdue(self, before: int) -> int:
        """How many jobs have a ``due_time`` before this, counted up to 10,000."""

    def task_runs(self) -> Mapping[str, TaskRun]:
        """The last run of every task that ever ran, by name."""

    def close(self) -> None:
        """Give back what the reader holds."""


class Store(Protocol):
    """An open store."""

    log_id: str
    """Names this log for as long as it lives; part of every cursor."""

    requests_stored: int
    """How many request ids were stored when this server last appended, opened the store or forgot some. Counted by
    all replicas together; what others have added since is not in it."""

    def transaction(self) -> AbstractContextManager[Transaction]:
        """Begin a write transaction; leaving the block commits it, an exception rolls it back.

        Raises:
            TransactionConflict: repeat the block from the start.
            OutcomeUnknown: raised by the commit alone.
            StoreUnreachable: nothing was kept.
            StoreError: nothing was kept, and one of the rows is the reason.
        """

    def open_reader(self) -> Reader:
        """A reader of its own, for one thread."""

    def open_notifier(self) -> Notifier | None:
        """A bell of its own, for one thread; None when this server is the only one that writes."""

    def hang_up(self) -> None:
        """End the writer's connection to a database that does not answer, from any thread: its transaction fails.

        A write to a file that hangs in the kernel cannot be ended.
        """

    def close(self) -> None:
        """Close the store; it must have no transaction and no reader open."""


def document_bytes(job: Job) -> int:
    """About how many bytes a job has once encoded: what ``bytes_max`` of a list counts."""
    size = 512 + len(job.metadata) + len(job.result) + len(job.progress_message) + len(job.cancel_reason)
    if job.last_error is not None:
        size += len(job.last_error.message) + len(job.last_error.details)
    return size


def attempt_bytes(attempt: Attempt) -> int:
    """About how many bytes an attempt has once encoded."""
    size = 256 + len(attempt.worker.encode())
    if attempt.error is not None:
        size += len(attempt.error.code.encode()) + len(attempt.error.message.encode()) + len(attempt.error.details)
    return size


def merge_tallies(into: dict[TallyKey, int], deltas: Iterable[tuple[TallyKey, int]]) -> None:
    """Add ``deltas`` up in ``into``."""
    for key, delta in deltas:
        into[key] = into.get(key, 0) + delta


def chunks(values: Sequence[str], size: int) -> Iterable[Sequence[str]]:
    """``values`` in pieces of at most ``size``."""
    for start in range(0, len(values), size):
        yield values[start : start + size]
