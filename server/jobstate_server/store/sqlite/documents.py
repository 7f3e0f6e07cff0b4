"""The documents of jobs in SQLite: a table for each kind, with rows only for jobs that have one.

SQLite rewrites a whole row when any of it changes. Apart from their job, documents are written when they change.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

from jobstate_server.domain.job import Document, Job
from jobstate_server.store.models import DOCUMENT_TABLES
from jobstate_server.store.records import ChangedJob
from jobstate_server.store.rows import JOB_COLUMNS, POLICY, changed_documents, documents_of
from jobstate_server.store.sqlite.many_rows import ManyRows, insert

_TABLES = tuple(model._meta.table_name for model in DOCUMENT_TABLES)

_COLUMNS = ", ".join([*(f"job.{name}" for name in JOB_COLUMNS), *(f"{table}.content" for table in _TABLES), POLICY])
_JOINS = " ".join(f"LEFT JOIN {table} ON {table}.create_sequence = job.create_sequence" for table in _TABLES)

# Names come from our models, here and below.
WHOLE_JOBS = f"SELECT {_COLUMNS} FROM job {_JOINS}"  # noqa: S608
"""Reads jobs whole, as ``rows.job_from`` wants them."""

_INSERT = tuple(insert(table, ("create_sequence", "content")) for table in _TABLES)
_REPLACE = tuple(
    ManyRows(f"INSERT OR REPLACE INTO {table} (create_sequence, content) {{rows}}", 2) for table in _TABLES
)
_DELETE = tuple(
    ManyRows(f"DELETE FROM {table} WHERE create_sequence IN ({{rows}})", 1)  # noqa: S608
    for table in _TABLES
)


def insert_documents(connection: sqlite3.Connection, jobs: Sequence[Job]) -> None:
    """Write the documents of new jobs."""
    new: tuple[list[tuple[int, Document]], ...] = tuple([] for _ in _TABLES)
    for job in jobs:
        if job.metadata or job.result or job.last_error is not None:
            for rows, document in zip(new, documents_of(job), strict=True):
                if document:
                    rows.append((job.create_sequence, document))
    for statement, rows in zip(_INSERT, new, strict=True):
        statement.run(connection, rows)


def _has_same_documents(job: Job, before: Job | None) -> bool:
    """Whether these are the very documents of before, as those of nearly every job are."""
    return (
        before is not None
        and job.metadata is before.metadata
        and job.result is before.result
        and job.last_error is before.last_error
    )


def update_documents(connection: sqlite3.Connection, changed: Iterable[ChangedJob]) -> None:
    """Write the documents that have changed."""
    others = [row for row in changed if not _has_same_documents(row.job, row.before)]
    if not others:
        return
    written: tuple[list[tuple[int, Document]], ...] = tuple([] for _ in _TABLES)
    emptied: tuple[list[tuple[int]], ...] = tuple([] for _ in _TABLES)
    for row in others:
        key = row.job.create_sequence
        for rows, gone, document in zip(written, emptied, changed_documents(row), strict=True):
            if document:
                rows.append((key, document))
            elif document is not None:
                gone.append((key,))
    for replace, delete, rows, gone in zip(_REPLACE, _DELETE, written, emptied, strict=True):
        replace.run(connection, rows)
        delete.run(connection, gone)


def delete_documents(connection: sqlite3.Connection, keys: Sequence[tuple[int]]) -> None:
    """Delete all documents of these jobs."""
    for statement in _DELETE:
        statement.run(connection, keys)
