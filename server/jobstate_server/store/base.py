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

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

from jobstate_server.domain.durations import DAY, MINUTE, SECOND
from jobstate_server.domain.filters import EventFilter, JobFilter, Order, Position
from jobstate_server.domain.job import Attempt, Job, JobState
from jobstate_server.domain.statistics import Tallies
from jobstate_server.store.records import (
    Changes,
    Ended,
    EventPage,
    JobPage,
    JobSummary,
    Loaded,
    LogState,
    Notification,
    StoredEvent,
    TaskRun,
)

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


class Notifier(Protocol):
    """Tells one server of what any of them commits. Used by one thread.

    A hint and no more: it may ring too often, and after it has been out of order it rings once for all it missed.
    """

    def wait(self, timeout_s: float) -> Notification | None:
        """What has been committed since the last call, as one; None when nothing was for ``timeout_s`` seconds.

        Raises:
            StoreUnreachable: nothing can be heard just now; the next call tries again.
        """

    def disconnect(self) -> None:
        """End the connection to a database that does not answer, from any thread: ``wait`` then raises."""

    def close(self) -> None:
        """Give back what the bell holds."""


class StoredTimes(Protocol):
    """What the store keeps about its own time. Part of a transaction."""

    def newest(self) -> int:
        """The newest time that earlier transactions have stored, 0 when none ever did."""

    def grace_until(self) -> int:
        """Until when no attempt is failed for time or silence, because limits could not be kept for a while."""

    def extend_grace(self, until: int) -> None:
        """Fail no attempt for time or silence before ``until``, on whichever replica. Never moves it back."""

    def removal_suspended_until(self) -> int:
        """Until when nothing is removed by its age, because time has jumped."""

    def suspend_removal(self, until: int) -> None:
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

    def times(self) -> StoredTimes:
        """What the store keeps about its own time. Jobs that are to be locked too are locked first."""

    def check(self) -> None:
        """Look whether the log stands where this server left it, where nobody else may write to it.

        Raises:
            StoreUnreachable: it does not.
        """

    def known_job_types(self, among: Collection[str] | None = None) -> set[str]:
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

    def release_pages(self, limit: int) -> int:
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
    """A view for reading. Used by one thread at a time, but for ``interrupt`` and ``disconnect``."""

    def interrupt(self) -> None:
        """Break off what another thread is reading: it gets ReadInterrupted, as does every read until ``resume``."""

    def resume(self) -> None:
        """Read again after an interrupt."""

    def disconnect(self) -> None:
        """End the connection to a database that does not answer: the thread that waits for it gets ConnectionLost."""

    def jobs(self, job_ids: Collection[str], principal: str | None) -> dict[str, Job]:
        """Those of the named jobs that exist and that ``principal`` (None: anybody) may see."""

    def attempts(self, job_id: str, through: int, limit: int, bytes_max: int) -> list[Attempt]:
        """The latest ended attempts of a job of those with numbers up to ``through``, by number.

        At most ``limit`` and, but for the last, ``bytes_max``; no more rows than that are read.
        """

    def list_jobs(self, wanted: JobFilter, order: Order, after: Position | None, limit: int, bytes_max: int) -> JobPage:
        """At most ``limit`` jobs that come after ``after``; fewer once their documents exceed ``bytes_max``.

        At least one if there is one, and then ``has_more`` is exact. ``limit`` is at least 1.

        Rows read are bounded by the page and the number of states and job types asked
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
        The events, the head that bounds them and the horizon are of one snapshot.
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

    def jobs_in_state(self, job_type: str, state: JobState, after: Position | None, limit: int) -> list[JobSummary]:
        """Jobs of one type in one state, oldest first, read straight from an index."""

    def finished_jobs(self, completed_before: int, after: Position | None, limit: int) -> list[JobSummary]:
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

    def disconnect(self) -> None:
        """End the writer's connection to a database that does not answer, from any thread: its transaction fails.

        A write to a file that hangs in the kernel cannot be ended.
        """

    def close(self) -> None:
        """Close the store; it must have no transaction and no reader open."""
