"""Expressions that several queries use."""

from __future__ import annotations

from peewee import Expression, Field, TextField, Tuple

from jobstate_server.domain.filters import Position
from jobstate_server.store.models import JobRow


def row_by_row(column: Field) -> Expression:
    """The value of a column without its index, so that the planner does not choose the index of a broad condition."""
    return column.concat("") if isinstance(column, TextField) else column + 0


def beyond(time: Field | Expression, after: Position, *, newest_first: bool) -> Expression:
    """The rows that come after this position in a keyset page."""
    row, last = Tuple(time, JobRow.id), Tuple(after.create_time, after.job_id)
    later: Expression = row < last if newest_first else row > last
    return later
