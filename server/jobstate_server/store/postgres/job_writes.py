"""Writes jobs, and what belongs to them, in a PostgreSQL transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg

from jobstate_server.domain.waiting import is_ready
from jobstate_server.store.postgres import statements as sql
from jobstate_server.store.postgres.labels import delete_labels, insert_labels
from jobstate_server.store.postgres.ready_jobs import Marks
from jobstate_server.store.postgres.relations import delete_relations
from jobstate_server.store.records import ChangedJob, Changes
from jobstate_server.store.rows import (
    attempt_values,
    change_values,
    changed_documents,
    documents_of,
    is_plain_report,
    job_values,
    moved_bulk_values,
    progress_values,
    report_values,
    request_values,
    tally_values,
    usage_values,
)

Connection = psycopg.Connection[Any]


def write_jobs(connection: Connection, changes: Changes, marks: Marks) -> None:
    """Write the jobs of these changes, and their documents. Each of them is written by one statement."""
    count = len(changes.events)
    if changes.deleted:
        keys = [(job.create_sequence,) for job in changes.deleted]
        sql.delete_jobs.run(connection, keys)
        sql.delete_attempts.run(connection, keys)
        delete_relations(connection, changes.deleted)
        delete_labels(connection, changes.deleted)
    if changes.updated:
        # Before the insertions: a unique key that a job gives up here may be that of a new one.
        rows = [(*change_values(row.job), *changed_documents(row), row.last_event) for row in changes.updated]
        sql.update_jobs.run(connection, rows, events=count)
        marks.lower(row.job for row in changes.updated if is_ready(row.job))
    if changes.inserted:
        rows = [(*job_values(job), *documents_of(job), last, first) for job, last, first, _ in changes.inserted]
        sql.insert_jobs.run(connection, rows, events=count)
        insert_labels(connection, changes)
    if changes.progressed:
        _write_progress(connection, changes.progressed, count)


def _write_progress(connection: Connection, changed: Sequence[ChangedJob], count: int) -> None:
    """Write what progress reports changed: for most jobs a few columns and no document."""
    reports: list[tuple[Any, ...]] = []
    others: list[tuple[Any, ...]] = []
    for row in changed:
        job, last_event, _, before = row
        if before is not None and before.metadata == job.metadata and is_plain_report(before, job):
            reports.append((*report_values(job), last_event))
        else:
            others.append((*progress_values(job), changed_documents(row)[0], last_event))
    if reports:
        sql.update_reports.run(connection, reports, events=count)
    if others:
        sql.update_progress.run(connection, others, events=count)


def write_rest(connection: Connection, changes: Changes) -> None:
    """Write the attempts, the request ids, the bulk runs and the tallies of these changes."""
    if changes.attempts:
        sql.insert_attempts.run(connection, [attempt_values(attempt) for attempt in changes.attempts])
    if changes.amended:
        sql.update_usage.run(connection, [usage_values(attempt) for attempt in changes.amended])
    if changes.requests:
        values = [
            (*request_values(stored, stored.create_sequence), stored.created_event) for stored in changes.requests
        ]
        sql.insert_requests.run(connection, values, events=len(changes.events))
    if changes.moved_bulk_runs:
        moved = [moved_bulk_values(run) for run in changes.moved_bulk_runs.values()]
        sql.move_bulk_runs.run(connection, moved, count=len(moved))
    if changes.tallies:
        sql.add_tallies.run(connection, tally_values(changes.tallies))
