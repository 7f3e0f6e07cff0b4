"""Expressions that several queries use."""

from __future__ import annotations

from collections.abc import Sequence

from peewee import SQL, Expression, Field, TextField, Tuple, fn

from jobstate_server.domain.filters import Position
from jobstate_server.store.models import JobRow
from jobstate_server.store.relation_models import MembersRow, NeededRow


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


def is_kept() -> Expression:
    """Whether a final job must not be deleted yet: see ``FinishedJob.is_kept``."""
    one = SQL("1")
    # Only a job that some job has needed has a row, so most are not looked up.
    is_needed = JobRow.needed & fn.EXISTS(NeededRow.select(one).where(NeededRow.parent_key == JobRow.create_sequence))
    of_group = MembersRow.select(one).where(MembersRow.group_key == JobRow.group_key, ~MembersRow.final)
    ended = MembersRow.completed + MembersRow.permanently_failed + MembersRow.cancelled
    own = MembersRow.select(one).where(MembersRow.group_key == JobRow.create_sequence, MembersRow.total > ended)
    kept: Expression = is_needed | fn.EXISTS(of_group) | ((JobRow.group_depth > SQL("0")) & fn.EXISTS(own))
    return kept
