"""A write transaction in PostgreSQL."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import errors
from psycopg.pq import TransactionStatus

from jobstate_server.domain.job import FinishedJob, Job
from jobstate_server.domain.reads import Due, Finished, FoundPlace, LaneRange, Named, Reads, Ready, Selection, StateOf
from jobstate_server.store.base import REPLICA_FORGOTTEN
from jobstate_server.store.errors import OutcomeUnknown, TransactionConflict
from jobstate_server.store.known_job_types import known_job_types
from jobstate_server.store.postgres import statements as sql
from jobstate_server.store.postgres.binary_arrays import Kind, array
from jobstate_server.store.postgres.clock import NOW, DatabaseTime
from jobstate_server.store.postgres.connection import (
    Postgres,
    check_committed,
    forgets_idle_limit,
    is_connection_lost,
    one_row,
    raise_store_error,
)
from jobstate_server.store.postgres.event_sequences import append
from jobstate_server.store.postgres.job_writes import write_jobs, write_rest
from jobstate_server.store.postgres.known_jobs import KnownJobs
from jobstate_server.store.postgres.lanes import LaneReads, check_guards, write_lanes
from jobstate_server.store.postgres.ready_jobs import Marks, ReadyReads
from jobstate_server.store.postgres.relations import RelationReads, check_group_guards, write_groups, write_needs
from jobstate_server.store.postgres.removals import Removals
from jobstate_server.store.postgres.task_runs import PostgresTaskRuns, read_instants, take_instants
from jobstate_server.store.records import Changes, Loaded, ReadyFound, StatesFound
from jobstate_server.store.relation_records import StoredGroup
from jobstate_server.store.rows import (
    attempt_from,
    finished_from,
    finished_values,
    job_from,
    request_from,
)
from jobstate_server.store.stored_times import LogRowTimes


class PostgresTransaction(PostgresTaskRuns, Removals):
    """A write transaction on the writer's connection."""

    def __init__(
        self,
        database: Postgres,
        connection: psycopg.Connection[Any],
        known: KnownJobs,
        time: DatabaseTime,
        channel: str,
        *,
        log_id: str,
        marks: Marks,
    ) -> None:
        """
        Args:
            connection: the current one of ``database``.
            channel: where to send notifications of commits.
            marks: where the picks of this server begin.
        """
        self._marks = marks
        self._ready = ReadyReads(self._execute, log_id, marks)
        self._lanes = LaneReads(self._execute, self._pipeline)
        self._relations = RelationReads(self._execute, self._pipeline, self._locked_jobs)
        self._database = database
        self._known = known
        self._written: list[Job] = []
        self._deleted: list[FinishedJob] = []
        self._number = 0
        """PostgreSQL's number of this transaction, once it has written."""
        self._connection = connection
        self._time = time
        self._channel = channel
        self._has_looked = False
        """Whether the transaction has looked for rows. A duplicate row was then written by another replica since."""
        self._has_begun = False
        self.is_committed = False
        self.group_due: int | None = None
        self._groups_due: psycopg.Cursor[Any] | None = None
        self.requests_stored: int | None = None
        """How many request ids are stored; None until this transaction has counted."""
        # An estimate, which the first statement corrects.
        self.now = time.now()

    def _execute(self, text: bytes, **values: Any) -> psycopg.Cursor[Any]:
        self._begin()
        return self._connection.execute(text, values, prepare=True)

    def _begin(self) -> None:
        """Send BEGIN with the first statement: in a pipeline it then needs no round trip of its own."""
        if not self._has_begun:
            self._has_begun = True
            self._connection.execute(b"BEGIN")

    @contextmanager
    def _pipeline(self) -> Iterator[psycopg.Connection[Any]]:
        connection = self._connection
        with connection.pipeline():
            self._begin()
            yield connection
        if forgets_idle_limit(connection) and connection.info.transaction_status is TransactionStatus.INTRANS:
            # A statement outside the pipeline starts the timeout again.
            connection.execute(b"SELECT")

    def _set_clock(self, row: psycopg.Cursor[Any], earliest: int) -> None:
        self.now = self._time.take(one_row(row), earliest, self._execute)

    def load(self, reads: Reads) -> Loaded:
        self._has_looked = True
        jobs = requests = ended = None
        earliest = self._time.now()
        found = self._known.found(reads.job_ids)
        with self._pipeline():
            if reads.job_ids:
                jobs = self._lock_jobs(sorted(reads.job_ids), found)
            if reads.request_keys:
                principals, request_ids = zip(*reads.request_keys, strict=True)
                requests = self._execute(
                    sql.REQUESTS, principals=array(Kind.TEXT, principals), request_ids=array(Kind.TEXT, request_ids)
                )
            selected = [(selection, self._select(selection)) for selection in reads.selections]
            groups = [
                self._relations.due_groups(selection, self.now)
                for selection in reads.selections
                if isinstance(selection, Due)
            ]
            if reads.attempt_keys:
                # Whoever changes them holds the lock of their job.
                ids, numbers = zip(*reads.attempt_keys, strict=True)
                ended = self._execute(sql.ATTEMPTS, job_ids=array(Kind.TEXT, ids), numbers=array(Kind.INT8, numbers))
            instants = read_instants(self._execute, reads.tasks) if reads.tasks else None
            time = self._execute(NOW)
        self._set_clock(time, earliest)
        _refresh(found, jobs or ())
        used = () if requests is None else map(request_from, requests)
        loaded = Loaded(found, {stored.request.key: stored for stored in used})
        for selection, rows in selected:
            if isinstance(selection, Finished | Named):
                loaded.finished[selection] = [finished_from(row) for row in rows]
            else:
                loaded.due[selection] = [_add_job(found, row) for row in rows]
        if ended is not None:
            loaded.attempts.update(((row[0], row[1]), attempt_from(row)) for row in ended)
        if reads.unique_keys:
            loaded.unique.update(self._ready.unique_holders(reads.unique_keys, found))
        if instants is not None:
            loaded.instants.update(instants.fetchall())
        if groups:
            due = [found[job_id] for ids in loaded.due.values() for job_id in ids]
            self._relations.load(due, groups, loaded)
        return loaded

    def hand_out_states(
        self, wanted: Sequence[StateOf], *, takes_turns: bool = True, may_wait: bool = False, log_first: bool = False
    ) -> StatesFound:
        names = [some.job_type for some in wanted]
        with self._pipeline():
            tried = self._ready.try_turns(names) if takes_turns else None
            if log_first and not may_wait:
                self._execute(sql.LOCK_LOG)
            # After the turns: what the last one to have them has written is seen.
            types = self._execute(sql.STORED_TYPES, names=array(Kind.TEXT, names))
        turns = set(names) if tried is None else {name for (name,) in tried}
        stored = {name for (name,) in types}
        if may_wait and len(turns) < len(names):
            turns = self._ready.wait_for_turns(turns, names)
        if may_wait and takes_turns:
            if log_first:
                self._execute(sql.LOCK_LOG)
            stored = {name for (name,) in self._execute(sql.STORED_TYPES, names=array(Kind.TEXT, names))}
        states = self._lanes.states([some for some in wanted if some.job_type in turns], stored, self.now)
        return StatesFound(states, frozenset(turns))

    def ready_jobs(self, wanted: Sequence[Ready]) -> ReadyFound:
        return self._ready.jobs(wanted, self.now)

    def ready_places(self, ranges: Sequence[LaneRange]) -> list[FoundPlace]:
        return self._lanes.places(ranges) if ranges else []

    def take_ready(self, job_ids: Sequence[str]) -> ReadyFound:
        locked = self._ready.locked(job_ids) if job_ids else {}
        return ReadyFound([locked[job_id] for job_id in job_ids if job_id in locked], len(locked) == len(job_ids))

    def _select(self, selection: Selection) -> psycopg.Cursor[Any]:
        if isinstance(selection, Finished):
            return self._execute(sql.FINISHED, **finished_values(selection))
        if isinstance(selection, Named):
            return self._execute(sql.NAMED, ids=array(Kind.TEXT, selection.job_ids))
        return self._execute(sql.DUE, now=self.now, limit=selection.limit)

    def _lock_jobs(self, job_ids: list[str], known: Mapping[str, Job]) -> psycopg.Cursor[Any]:
        versions = [job.version if (job := known.get(job_id)) is not None else None for job_id in job_ids]
        return self._execute(
            sql.JOBS,
            ids=array(Kind.TEXT, job_ids),
            transactions=array(Kind.XID, self._known.transactions(job_ids)),
            versions=array(Kind.INT8, versions),
        )

    def _locked_jobs(self, job_ids: Sequence[str]) -> dict[str, Job]:
        """These jobs, locked and as they are now."""
        found = self._known.found(job_ids)
        _refresh(found, self._lock_jobs(list(job_ids), found))
        return found

    def write(self, changes: Changes) -> int:
        with self._refusing_conflicts(), self._pipeline():
            head = self._write(changes)
        return self._numbered(changes, head)

    def finish(self, changes: Changes) -> int:
        try:
            with self._refusing_conflicts(), self._pipeline() as connection:
                head = self._write(changes)
                committed = connection.execute(b"COMMIT")
        except psycopg.Error as error:
            if is_connection_lost(error):
                raise OutcomeUnknown(str(error)) from error
            raise
        check_committed(committed)
        self.is_committed = True
        return self._numbered(changes, head)

    @contextmanager
    def _refusing_conflicts(self) -> Iterator[None]:
        try:
            yield
        except errors.UniqueViolation as error:
            if self._has_looked:
                raise TransactionConflict(str(error)) from error
            raise
        except errors.DivisionByZero as error:
            raise TransactionConflict("what a hand-out has relied on was changed by another transaction") from error

    def _write(self, changes: Changes) -> psycopg.Cursor[Any]:
        head = self._append(changes)
        check_guards(self._execute, changes)
        check_group_guards(self._execute, changes)
        write_lanes(self._connection, self._execute, changes)
        if changes.new_members or changes.new_waits:
            self._place_in_groups(changes, head)
        write_jobs(self._connection, changes, self._marks)
        write_needs(self._connection, changes)
        self._groups_due = write_groups(self._connection, changes, self._channel)
        write_rest(self._connection, changes)
        if changes.instants:
            take_instants(self._execute, changes.instants, self.now)
        return head

    def _place_in_groups(self, changes: Changes, head: psycopg.Cursor[Any]) -> None:
        """Set the keys of groups that this transaction makes, in the jobs that it makes with them. That takes a round
        trip of its own; most members are made after their group."""
        first = int(one_row(head)[0]) - len(changes.events) + 1
        changes.place_in_groups(first)
        head.scroll(0, "absolute")

    def _append(self, changes: Changes) -> psycopg.Cursor[Any]:
        return append(self._connection, changes, self.now, self._channel)

    def _numbered(self, changes: Changes, head: psycopg.Cursor[Any]) -> int:
        """Set the versions of the jobs. Returns the sequence of the first event."""
        reached, self.requests_stored, number = one_row(head)
        first = int(reached) - len(changes.events) + 1
        due = None if self._groups_due is None else self._groups_due.fetchone()
        self.group_due = None if due is None else int(due[0])
        for job, last_event, first_event, _ in (*changes.inserted, *changes.updated, *changes.progressed):
            if last_event is not None:
                job.numbered(first + last_event)
            if first_event is not None:
                job.created(first + first_event)
            self._written.append(job)
        self._deleted, self._number = changes.deleted, int(number)
        return first

    def update_known(self) -> None:
        """Remember what this transaction wrote. Call it after the commit."""
        for job in self._deleted:
            self._known.drop(job.id)
        self._known.keep_written(self._written, self._number)

    def groups(self, keys: Collection[int]) -> dict[int, StoredGroup]:
        try:
            return self._relations.groups(keys)
        except psycopg.Error as error:
            raise_store_error(error)

    def next_due(self) -> int | None:
        due_time: int | None = one_row(self._execute(sql.NEXT_DUE))[0]
        return due_time

    def postpone_timeouts(self, until: int) -> int:
        # Jobs that this transaction wrote before are outdated, and their rows are of the same transaction.
        self._written.clear()
        return self._execute(sql.POSTPONE, until=until).rowcount

    def times(self) -> LogRowTimes:
        self._begin()
        return LogRowTimes(self._database)

    def check(self) -> None:
        # Other replicas write to the log too, and replication reads what they wrote.
        pass

    def known_job_types(self, among: Collection[str] | None = None) -> set[str]:
        if among is None:
            # A transaction that adds a type holds the lock of the log until it commits.
            self._execute(sql.LOCK_LOG)
        self._begin()
        return known_job_types(self._database, among)

    def probe(self) -> None:
        # Request ids of callers are longer.
        row = ("", "probe", "", bytes(64 * 1024), "", self.now, 0, None, None, False, None, None)
        with self._pipeline():
            sql.insert_requests.run(self._connection, [row], events=0)
            self._execute(sql.DELETE_REQUEST, principal=row[0], request_id=row[1])

    def release_pages(self, limit: int) -> int:
        # PostgreSQL's autovacuum does that.
        del limit
        return 0

    def forget_idle_lanes(self, limit: int) -> int:
        self._lock_log()
        count = self._execute(sql.FORGET_LANES, now=self.now, limit=limit).rowcount
        for text in sql.FORGET_TYPES:
            self._execute(text, now=self.now)
        return count

    def reopen_lanes(self) -> None:
        self._lock_log()
        self._execute(sql.REOPEN_LANES, now=self.now)

    def _lock_log(self) -> None:
        """Lanes are written only by whoever has the log."""
        earliest = self._time.now()
        self._set_clock(self._execute(NOW), earliest)
        self._execute(sql.LOCK_LOG)

    def renew(self, replica: str) -> None:
        earliest = self._time.now()
        self._set_clock(self._execute(NOW), earliest)
        with self._pipeline():
            self._execute(sql.RENEW, replica=replica, now=self.now)
            self._execute(sql.FORGET_REPLICAS, before=self.now - REPLICA_FORGOTTEN)

    def leave(self, replica: str) -> None:
        self._execute(sql.LEAVE, replica=replica)

    def last_renewed(self, besides: str = "") -> int | None:
        renewed: int | None = one_row(self._execute(sql.LAST_RENEWED, besides=besides))[0]
        return renewed


def _refresh(found: dict[str, Job], changed: Iterable[tuple[Any, ...]]) -> None:
    """Replace the jobs that are not as known, in rows of ``sql.JOBS``."""
    for row in changed:
        if row[1] is None:
            del found[row[0]]
        else:
            found[row[0]] = job_from(row)


def _add_job(jobs: dict[str, Job], row: tuple[Any, ...]) -> str:
    """Add the job in this row, unless it is there already. Returns its id."""
    if row[0] not in jobs:
        jobs[row[0]] = job_from(row)
    return str(row[0])
