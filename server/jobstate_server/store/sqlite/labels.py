"""Writes the labels of jobs in a SQLite transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from jobstate_server.domain.job import FinishedJob, Job
from jobstate_server.store.label_rows import LABEL_COLUMNS, labels_of
from jobstate_server.store.sqlite.many_rows import ManyRows, insert

_insert = insert("label", LABEL_COLUMNS)
# Names come from our models.
_delete = ManyRows(
    f"DELETE FROM label WHERE ({', '.join(LABEL_COLUMNS)}) IN ({{rows}})",  # noqa: S608
    len(LABEL_COLUMNS),
)


def insert_labels(connection: sqlite3.Connection, jobs: Iterable[Job]) -> None:
    """Write the labels of new jobs, which have their keys."""
    _insert.run(connection, labels_of(jobs))


def delete_labels(connection: sqlite3.Connection, deleted: Iterable[FinishedJob]) -> None:
    """Delete the labels of these jobs."""
    _delete.run(connection, labels_of(deleted))
