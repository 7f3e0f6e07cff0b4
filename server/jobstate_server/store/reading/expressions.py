"""Expressions that several queries use."""

from __future__ import annotations

from collections.abc import Sequence

from peewee import Expression, Field, TextField, Tuple, fn

from jobstate_server.domain.filters import Position
from jobstate_server.store.models import JobRow


def row_by_row(column: Field) -> Expression:
    """The value of a column without its index, so that the planner does not choose the index of a broad condition."""
    return column.concat("") if isinstance(column, TextField) else column + 0


def beyond(time: Field | Expression, after: Position, *, newest_first: bool) -> Expression:
    """The rows that come after this position in a keyset page."""
    row, last = Tuple(time, JobRow.create_sequence), Tuple(after.time, after.create_sequence)
    later: Expression = row < last if newest_first else row > last
    return later


def matches(column: Field, patterns: Sequence[str]) -> Expression:
    """Whether a text is one of these names, or begins with one that ends in ``*``. Looked at row by row."""
    hidden = row_by_row(column)
    either: Expression = hidden.in_([name for name in patterns if not name.endswith("*")])
    for prefix in [name[:-1] for name in patterns if name.endswith("*")]:
        either |= fn.SUBSTR(column, 1, len(prefix)) == prefix
    return either
