"""Writes the labels of jobs in a PostgreSQL transaction."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import psycopg

from jobstate_server.domain.job import FinishedJob
from jobstate_server.store.label_models import LabelRow
from jobstate_server.store.label_rows import LABEL_COLUMNS, label_values, labels_of
from jobstate_server.store.postgres.binary_arrays import Kind
from jobstate_server.store.postgres.many_rows import FIRST, ManyRows, kinds_of
from jobstate_server.store.records import Changes

_KINDS = kinds_of(LabelRow, LABEL_COLUMNS)
_NAMES = ", ".join(LABEL_COLUMNS)
_KEY = "COALESCE(numbered.first + new.first_event, new.create_sequence)"
_IS_SAME = " AND ".join(f"label.{name} = old.{name}" for name in LABEL_COLUMNS)

# Names come from our models; values are bound.
_insert = ManyRows(
    f"INSERT INTO label ({_NAMES}) SELECT key, value, create_time, {_KEY}"  # noqa: S608
    f" FROM {{rows}} AS new({_NAMES}, first_event), {FIRST}",
    {**_KINDS, "first_event": Kind.INT8},
)
_delete = ManyRows(f"DELETE FROM label USING {{rows}} AS old({_NAMES}) WHERE {_IS_SAME}", _KINDS)  # noqa: S608


def insert_labels(connection: psycopg.Connection[Any], changes: Changes) -> None:
    """Write the labels of new jobs. The log is locked, and has the sequences that become their keys."""
    rows = [
        (*values, row.first_event)
        for row in changes.inserted
        if row.job.labels is not None
        for values in label_values(row.job)
    ]
    if rows:
        _insert.run(connection, rows, events=len(changes.events))


def delete_labels(connection: psycopg.Connection[Any], deleted: Iterable[FinishedJob]) -> None:
    """Delete the labels of these jobs."""
    rows = labels_of(deleted)
    if rows:
        _delete.run(connection, rows)
