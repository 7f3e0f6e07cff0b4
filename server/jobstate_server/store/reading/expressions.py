"""Parts of queries that several reads use."""

from __future__ import annotations

from peewee import Expression, Field, TextField, Tuple

from jobstate_server.domain.filters import Position
from jobstate_server.store.models import JobRow


def row_by_row(column: Field) -> Expression:
    """The column's value, but with no index: keeps a planner from preferring the index of a wide condition."""
    return column.concat("") if isinstance(column, TextField) else column + 0


def beyond(time: Field | Expression, after: Position, *, newest_first: bool) -> Expression:
    """What a keyset page after this position may contain."""
    row, last = Tuple(time, JobRow.id), Tuple(after.create_time, after.job_id)
    later: Expression = row < last if newest_first else row > last
    return later
