"""A write transaction on a SQLite file."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Sequence
from typing import Any

from peewee import ModelSelect, SqliteDatabase, fn

from jobstate_server.domain.job import FinishedJob, Job
from jobstate_server.domain.reads import Finished, FoundPlace, LaneRange, Named, Reads, Ready, Selection, StateOf
from jobstate_server.store.base import REPLICA_FORGOTTEN, TRIM_BYTES_MAX
from jobstate_server.store.errors import StoreError
from jobstate_server.store.event_check import event_check
from jobstate_server.store.job_cache import JobCache
from jobstate_server.store.known_job_types import known_job_types
from jobstate_server.store.models import LogRow, ReplicaRow
from jobstate_server.store.reading.reader import SqlReader
from jobstate_server.store.records import ChangedJob, Changes, Loaded, ReadyFound, StatesFound
from jobstate_server.store.relation_records import StoredGroup
from jobstate_server.store.rows import (
    attempt_from,
    attempt_values,
    change_values,
    finished_from,
    finished_values,
    is_new,
    is_plain_change,
    is_plain_report,
    job_from,
    job_values,
    moved_bulk_values,
    new_values,
    plain_change_values,
    progress_values,
    report_values,
    request_from,
    request_values,
    tally_values,
    usage_values,
)
from jobstate_server.store.sqlite.connection import raise_store_error
from jobstate_server.store.sqlite.documents import delete_documents, insert_documents, update_documents
from jobstate_server.store.sqlite.erasing import Erasing
from jobstate_server.store.sqlite.event_sequences import EventSequences
from jobstate_server.store.sqlite.labels import delete_labels, insert_labels
from jobstate_server.store.sqlite.lanes import LaneReads, forget_idle_lanes, reopen_lanes, write_lanes
from jobstate_server.store.sqlite.ready_jobs import ReadyReads
from jobstate_server.store.sqlite.relations import RelationReads, delete_relations, write_groups, write_needs
from jobstate_server.store.sqlite.statements import Statements
from jobstate_server.store.sqlite.task_runs import SqliteTaskRuns, latest_instants, take_instants
from jobstate_server.store.step_rows import is_plain_step, later_step_values, step_values
from jobstate_server.store.stored_times import LogRowTimes

FREE_PAGES_KEPT = 4_096
"""Free pages that a file keeps for reuse: 16 MiB, or a quarter of its size if that is more."""

_PAGES = ("PRAGMA freelist_count", "PRAGMA page_count")


class SqliteTransaction(SqliteTaskRuns, Erasing):
    """A write transaction on the writer's connection."""

    def __init__(
        self, database: SqliteDatabase, statements: Statements, cache: JobCache, now: int, heads: Collection[int]
    ) -> None:
        """``heads``: the possible heads of the log; one, unless the outcome of the last commit is unknown."""
        self.now = now
        self.is_committed = False
        self.group_due: int | None = None
        self._cache = cache
        self._written: list[Job] = []
        self._deleted: list[FinishedJob] = []
        self._database = database
        self._connection: sqlite3.Connection = database.connection()
        self._statements = statements
        self._ready = ReadyReads(self._connection, statements, cache)
        self._lanes = LaneReads(self._connection)
        self._relations = RelationReads(self._connection, self._ready.whole)
        self.sequences = EventSequences(self._connection, statements.advance_log, heads)

    def load(self, reads: Reads) -> Loaded:
        execute = self._connection.execute
        jobs = self._cache.found(reads.job_ids)
        missing = [job_id for job_id in reads.job_ids if job_id not in jobs]
        if missing:
            rows = execute(self._statements.jobs, {"ids": json.dumps(missing)}).fetchall()
            jobs.update((job.id, job) for job in map(job_from, rows))
        requests = {}
        if reads.request_keys:
            wanted = json.dumps(list(reads.request_keys))
            found = map(request_from, execute(self._statements.requests, {"keys": wanted}).fetchall())
            requests = {stored.request.key: stored for stored in found}
        loaded = Loaded(jobs, requests)
        for selection in reads.selections:
            self._select(selection, loaded)
        if reads.attempt_keys:
            wanted = json.dumps(list(reads.attempt_keys))
            ended = map(attempt_from, execute(self._statements.attempts, {"keys": wanted}).fetchall())
            loaded.attempts.update(((attempt.job_id, attempt.number), attempt) for attempt in ended)
        if reads.unique_keys:
            loaded.unique.update(self._ready.unique_holders(reads.unique_keys, loaded.jobs))
        if reads.tasks:
            loaded.instants.update(latest_instants(self._connection, reads.tasks))
        return loaded

    def hand_out_states(
        self, wanted: Sequence[StateOf], *, takes_turns: bool = True, may_wait: bool = False, log_first: bool = False
    ) -> StatesFound:
        # There is no other replica.
        del takes_turns, may_wait, log_first
        states = self._lanes.states(wanted, self.now)
        return StatesFound(states, frozenset(some.job_type for some in wanted))

    def ready_jobs(self, wanted: Sequence[Ready]) -> ReadyFound:
        return ReadyFound([job for some in wanted for job in self._ready.jobs(some)])

    def ready_places(self, ranges: Sequence[LaneRange]) -> list[FoundPlace]:
        return self._lanes.places(ranges)

    def take_ready(self, job_ids: Sequence[str]) -> ReadyFound:
        return ReadyFound(self._ready.whole(job_ids))

    def _select(self, selection: Selection, loaded: Loaded) -> None:
        """Add the jobs that this selection finds."""
        execute = self._connection.execute
        if isinstance(selection, Finished):
            rows = execute(self._statements.finished, finished_values(selection)).fetchall()
            loaded.finished[selection] = list(map(finished_from, rows))
            return
        if isinstance(selection, Named):
            rows = execute(self._statements.named, {"ids": json.dumps(selection.job_ids)}).fetchall()
            loaded.finished[selection] = list(map(finished_from, rows))
            return
        rows = execute(self._statements.due, {"now": self.now, "limit": selection.limit}).fetchall()
        due = list(map(job_from, rows))
        loaded.due[selection] = [job.id for job in due]
        for job in due:
            loaded.jobs.setdefault(job.id, job)
        self._relations.load_open_needs(due, loaded)
        self._relations.load_due_groups(selection, self.now, loaded)

    def write(self, changes: Changes) -> int:
        try:
            return self._write(changes)
        except (OverflowError, UnicodeEncodeError) as error:
            # The driver cannot bind the value, and raises no error of its own for that.
            raise StoreError(str(error)) from error

    def finish(self, changes: Changes) -> int:
        return self.write(changes)

    def _write(self, changes: Changes) -> int:
        connection, statements = self._connection, self._statements
        first = self.sequences.take(changes.events, self.now, requests=len(changes.requests))
        self._delete(changes.deleted)
        if changes.updated:
            # Before the insertions: a unique key that a job gives up here may be that of a new one.
            self._numbered(changes.updated, first)
            self._write_updates(changes.updated)
        if changes.inserted:
            self._insert(changes, first)
        if changes.progressed:
            self._numbered(changes.progressed, first)
            self._write_progress(changes.progressed)
        if changes.events:
            rows = [(first + index, *event) for index, event in enumerate(changes.events)]
            statements.insert_events.run(connection, rows)
        if changes.attempts:
            statements.insert_attempts.run(connection, [attempt_values(attempt) for attempt in changes.attempts])
        if changes.amended:
            statements.update_usage.run(connection, [usage_values(attempt) for attempt in changes.amended])
        if changes.requests:
            rows = [request_values(stored, first) for stored in changes.requests]
            statements.insert_requests.run(connection, rows)
        if changes.moved_bulk_runs:
            statements.move_bulk_runs.run(connection, list(map(moved_bulk_values, changes.moved_bulk_runs.values())))
        if changes.tallies:
            statements.add_tallies.run(connection, tally_values(changes.tallies))
        if changes.lanes or changes.dispatch or changes.pauses:
            write_lanes(connection, changes)
        if changes.instants:
            take_instants(connection, changes.instants, self.now)
        self._write_relations(changes, first)
        return first

    def _delete(self, deleted: list[FinishedJob]) -> None:
        if not deleted:
            return
        keys = [(job.create_sequence,) for job in deleted]
        self._statements.delete_jobs.run(self._connection, keys)
        self._statements.delete_attempts.run(self._connection, keys)
        delete_documents(self._connection, keys)
        delete_relations(self._connection, deleted)
        delete_labels(self._connection, deleted)
        self._deleted = deleted

    def _insert(self, changes: Changes, first: int) -> None:
        changes.place_in_groups(first)
        jobs = self._numbered(changes.inserted, first)
        for job, _, first_event, _ in changes.inserted:
            if first_event is not None:
                job.created(first + first_event)
        self._insert_jobs(jobs)
        insert_documents(self._connection, jobs)
        insert_labels(self._connection, jobs)

    def _write_relations(self, changes: Changes, first: int) -> None:
        """Write what changes about needs and groups."""
        if changes.new_needs or changes.resolved_needs or changes.ended_children:
            write_needs(self._connection, changes, first)
        if changes.new_groups or changes.groups:
            self.group_due = write_groups(self._connection, changes, first)

    def _insert_jobs(self, jobs: list[Job]) -> None:
        """Insert jobs, most of which are new."""
        new, others = [], []
        for job in jobs:
            if is_new(job):
                new.append(new_values(job))
            else:
                others.append(job_values(job))
        self._statements.insert_new_jobs.run(self._connection, new)
        self._statements.insert_jobs.run(self._connection, others)

    def _write_updates(self, changed: list[ChangedJob]) -> None:
        """Write changed jobs: of most what a step of the lifecycle changes, and of some all that may change."""
        steps, later, plain, others = [], [], [], []
        for job, _, _, before in changed:
            if before is None:
                others.append(change_values(job))
            elif is_plain_step(before, job):
                if before.worker == job.worker:
                    later.append(later_step_values(job))
                else:
                    steps.append(step_values(job))
            elif is_plain_change(before, job):
                plain.append(plain_change_values(job))
            else:
                others.append(change_values(job))
        self._statements.update_step.run(self._connection, steps)
        self._statements.update_later_step.run(self._connection, later)
        self._statements.update_plain_change.run(self._connection, plain)
        self._statements.update_jobs.run(self._connection, others)
        update_documents(self._connection, changed)

    def _write_progress(self, changed: list[ChangedJob]) -> None:
        """Write what progress reports changed: for most jobs a few columns and no document."""
        reports, others = [], []
        for job, _, _, before in changed:
            if before is not None and is_plain_report(before, job):
                reports.append(report_values(job))
            else:
                others.append(progress_values(job))
        self._statements.update_report.run(self._connection, reports)
        self._statements.update_progress.run(self._connection, others)
        update_documents(self._connection, changed)

    def _numbered(self, rows: list[ChangedJob], first: int) -> list[Job]:
        """Set the versions of the jobs, and remember the jobs for the cache."""
        jobs = [job if last_event is None else job.numbered(first + last_event) for job, last_event, _, _ in rows]
        self._written += jobs
        return jobs

    def refresh_cache(self) -> None:
        """Update the cache with what this transaction wrote. Call it after the commit."""
        for deleted in self._deleted:
            self._cache.drop(deleted.id)
        for job in self._written:
            self._cache.keep(job)

    def check(self) -> None:
        ((head,),) = self._rows(LogRow.select(LogRow.head))
        self.sequences.check(head)

    def groups(self, keys: Collection[int]) -> dict[int, StoredGroup]:
        return self._relations.groups(keys)

    def next_due(self) -> int | None:
        row = self._connection.execute(self._statements.next_due).fetchone()
        return None if row[0] is None else int(row[0])

    def postpone_timeouts(self, until: int) -> int:
        # Jobs that this transaction wrote before are outdated too, so they must not enter the cache at the end.
        self._cache.clear()
        self._written.clear()
        return self._connection.execute(self._statements.postpone, {"until": until}).rowcount

    def times(self) -> LogRowTimes:
        return LogRowTimes(self._database)

    def known_job_types(self, among: Collection[str] | None = None) -> set[str]:
        return known_job_types(self._database, among)

    def probe(self) -> None:
        # Request ids of callers are longer.
        row = ("", "probe", "", bytes(64 * 1024), "", self.now, 0, None, None, False, None)
        self._statements.insert_requests.run(self._connection, [row])
        self._statements.delete_requests.run(self._connection, [row[:2]])

    def trim_events(self, older_than: int, bytes_max: int, limit: int) -> int:
        reader = SqlReader(self._database, raise_store_error)
        count, through, size = reader.trimmable(reader.log_state(), older_than, bytes_max, limit, TRIM_BYTES_MAX)
        if count:
            last = reader.event(through)
            assert last is not None
            values = {"through": through, "event_check": event_check(last), "bytes": size}
            self._connection.execute(self._statements.trim_events, {"through": through})
            self._connection.execute(self._statements.move_horizon, values)
        return count

    def release_pages(self, limit: int) -> int:
        (free,), (pages,) = (self._connection.execute(text).fetchone() for text in _PAGES)
        given = min(limit, int(free) - max(FREE_PAGES_KEPT, int(pages) // 4))
        if given <= 0:
            return 0
        self._connection.execute(f"PRAGMA incremental_vacuum({given})").fetchall()
        return given

    def _rows(self, query: ModelSelect[Any]) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = self._database.execute(query).fetchall()
        return rows

    def trim_requests(self, older_than: int, limit: int) -> int:
        values = {"older_than": older_than, "limit": limit}
        keys = self._connection.execute(self._statements.old_requests, values).fetchall()
        self._statements.delete_requests.run(self._connection, keys)
        self.sequences.take((), self.now, requests=-len(keys))
        return len(keys)

    def forget_idle_lanes(self, limit: int) -> int:
        return forget_idle_lanes(self._connection, self.now, limit)

    def reopen_lanes(self) -> None:
        reopen_lanes(self._connection, self.now)

    def renew(self, replica: str) -> None:
        query = ReplicaRow.insert(id=replica, renew_time=self.now)
        self._database.execute(
            query.on_conflict(conflict_target=[ReplicaRow.id], update={ReplicaRow.renew_time: self.now})
        )
        forgotten = ReplicaRow.renew_time < self.now - REPLICA_FORGOTTEN
        self._database.execute(ReplicaRow.delete().where(forgotten))

    def leave(self, replica: str) -> None:
        self._database.execute(ReplicaRow.delete().where(ReplicaRow.id == replica))

    def last_renewed(self, besides: str = "") -> int | None:
        rows = self._rows(ReplicaRow.select(fn.MAX(ReplicaRow.renew_time)).where(ReplicaRow.id != besides))
        return None if rows[0][0] is None else int(rows[0][0])
