"""Expressions that several queries use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from peewee import SQL, Expression, Field, ModelSelect, TextField, Tuple, fn

from jobstate_server.domain.filters import Position
from jobstate_server.store.models import JobRow
from jobstate_server.store.relation_models import MembersRow, NeededRow


def row_by_row(column: Field) -> Expression:
    """The value of a column without its index, so that the planner does not choose the index of a broad condition."""
    return column.concat("") if isinstance(column, TextField) else column + 0


def beyond(time: Field | Expression, key: Field, after: Position, *, newest_first: bool) -> Expression:
    """The rows that come after this position in a keyset page."""
    row, last = Tuple(time, key), Tuple(after.time, after.create_sequence)
    later: Expression = row < last if newest_first else row > last
    return later


def matches(column: Field, patterns: Sequence[str]) -> Expression:
    """Whether a text is one of these names, or begins with one that ends in ``*``. Looked at row by row."""
    hidden = row_by_row(column)
    either: Expression = hidden.in_([name for name in patterns if not name.endswith("*")])
    for prefix in [name[:-1] for name in patterns if name.endswith("*")]:
        either |= fn.SUBSTR(column, 1, len(prefix)) == prefix
    return either


def is_kept() -> Expression:
    """Whether a final job must not be deleted yet: see ``FinishedJob.is_kept``.

    Each table is asked for one row by its key. With EXISTS, PostgreSQL may read all of them at once.
    """
    # Only a job that some job has needed has a row, so most are not looked up.
    needed = NeededRow.select(SQL("true")).where(NeededRow.parent_key == JobRow.create_sequence)
    of_group = MembersRow.select(~MembersRow.final).where(MembersRow.group_key == JobRow.group_key)
    ended = MembersRow.completed + MembersRow.permanently_failed + MembersRow.cancelled
    own = MembersRow.select(MembersRow.total > ended).where(MembersRow.group_key == JobRow.create_sequence)
    kept: Expression = (JobRow.needed & _is_true(needed)) | _is_true(of_group)
    kept |= (JobRow.group_depth > SQL("0")) & _is_true(own)
    return kept


def _is_true(query: ModelSelect[Any]) -> Any:
    """What a query for one row says. False if there is no row."""
    return fn.COALESCE(query, SQL("false"))
