"""The ranges of indexes that a page of jobs is read from.

An entry of a range is the time and the key of a job, and whether the job meets the conditions that the index does not
know. These are looked at in the list of columns, where they cannot lead a planner to another index.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import product
from operator import and_, or_
from typing import Any, NamedTuple

from peewee import OP, SQL, Case, Expression, Field, ModelSelect, fn

from jobstate_server.domain.filters import JobFilter, Position
from jobstate_server.domain.job import JobState
from jobstate_server.domain.labels import Label
from jobstate_server.domain.waiting import WaitReason
from jobstate_server.store.label_models import LabelRow
from jobstate_server.store.models import HAS_WORKER, IS_HELD, IS_READY, JobRow
from jobstate_server.store.reading.expressions import beyond, matches, row_by_row
from jobstate_server.store.relation_models import NeedRow

_WAITING_STATES = {
    WaitReason.TURN: (JobState.QUEUED, JobState.PROCESSING),
    WaitReason.TIME: (JobState.QUEUED, JobState.RETRYING),
    WaitReason.NEEDS: (JobState.QUEUED,),
}
"""The states of jobs that wait for each, so that their indexes are read and not those of all jobs."""


@dataclass(frozen=True, slots=True)
class Ordering:
    """The order of a page, by one time of the jobs, and where it begins."""

    newest_first: bool
    after: Position | None
    time_from: int | None
    time_to: int | None
    by_end: bool
    """Whether the time is that of the jobs' ends, and not of their creation."""

    def at(self, after: Position | None) -> Ordering:
        """The same from another position on."""
        return replace(self, after=after)


def ordering_of(wanted: JobFilter, *, newest_first: bool, by_end: bool, after: Position | None) -> Ordering:
    """The order of a page of this filter."""
    bounds = (
        (wanted.complete_time_from, wanted.complete_time_to)
        if by_end
        else (wanted.create_time_from, wanted.create_time_to)
    )
    return Ordering(newest_first, after, *bounds, by_end)


class Range(NamedTuple):
    """A range of an index, in the order of time and key."""

    time: Field | Expression
    key: Field
    conditions: Sequence[Expression | SQL]

    def entries(self, ordering: Ordering, condition: Expression | None, limit: int) -> ModelSelect[Any]:
        """The query for the next entries."""
        query = self._beginning(self.key.model.select(self.time, self.key, _flag(condition, self.key)), ordering)
        order = (self.time, self.key)
        return query.order_by(*[column.desc() if ordering.newest_first else column for column in order]).limit(limit)

    def keys(self, ordering: Ordering, limit: int) -> ModelSelect[Any]:
        """The query for the keys of the next entries."""
        # Ordered, so that PostgreSQL does not read the table instead of the index.
        return self._beginning(self.key.model.select(self.key), ordering).order_by(self.time, self.key).limit(limit)

    def _beginning(self, query: ModelSelect[Any], ordering: Ordering) -> ModelSelect[Any]:
        time, after, newest_first = self.time, ordering.after, ordering.newest_first
        # A bound on the side that the position already bounds is hidden: with a third bound SQLite chooses the index of
        # the state instead of that of type and state.
        hidden = time + 0
        if ordering.time_from is not None:
            query = query.where((hidden if after is not None and not newest_first else time) >= ordering.time_from)
        if ordering.time_to is not None:
            query = query.where((hidden if after is not None and newest_first else time) < ordering.time_to)
        if after is not None:
            query = query.where(beyond(time, self.key, after, newest_first=newest_first))
        for condition in self.conditions:
            query = query.where(condition)
        return query


class NeedsRange(NamedTuple):
    """What a job needs, or what needs it. Keys grow with the time of creation, so their order is that of a page."""

    of: Field
    other: Field
    parent_or_child: int
    hides_place: bool
    """A job needs few others, so its entries are read without the index of the needed ones."""

    def entries(self, ordering: Ordering, condition: Expression | None, limit: int) -> ModelSelect[Any]:
        """The query for the next entries. One that is needed twice has two."""
        # A job that is gone is in no page.
        query = NeedRow.select(JobRow.create_time, self.other, _flag(condition, JobRow.create_sequence))
        query = self._beginning(query.join(JobRow, on=(JobRow.create_sequence == self.other)), ordering)
        return query.order_by(self.other.desc() if ordering.newest_first else self.other).limit(limit)

    def keys(self, ordering: Ordering, limit: int) -> ModelSelect[Any]:
        """The query for the keys of the next entries."""
        return self._beginning(NeedRow.select(self.other), ordering).order_by(self.other).limit(limit)

    def _beginning(self, query: ModelSelect[Any], ordering: Ordering) -> ModelSelect[Any]:
        query = query.where(self.of == self.parent_or_child)
        if ordering.after is None:
            return query
        place = row_by_row(self.other) if self.hides_place else self.other
        last = ordering.after.create_sequence
        return query.where(place < last if ordering.newest_first else place > last)


AnyRange = Range | NeedsRange


class Way(NamedTuple):
    """A way to all jobs that a filter wants."""

    ranges: Sequence[AnyRange]
    covers: frozenset[str]
    """The conditions that all jobs in these ranges meet, as ``conditions`` names them."""
    by_end: bool = False
    """Whether the ranges are in the order of the jobs' ends, and not of their creation."""


_CREATED = ("create_time_from", "create_time_to")
_ENDED = ("complete_time_from", "complete_time_to")
"""Conditions that ranges in the order of one of these times meet: they are the bounds of the range."""


def ways(wanted: JobFilter, related: int | None, *, by_end: bool) -> Iterator[Way]:
    """The ways to the jobs that a filter wants, those that are usually the shortest first.

    The first is in the order of the page. Others may be in the order of creation in any case.

    Args:
        related: the key of the group, or of the job that others need or are needed by. None if none is named.
        by_end: whether the page is in the order of the jobs' ends.
    """
    if by_end:
        ended = JobRow.complete_time.is_null(False)
        yield Way([Range(JobRow.complete_time, JobRow.create_sequence, [ended])], frozenset(_ENDED), by_end=True)
    if wanted.job_ids:
        # The time is hidden: SQLite would otherwise scan the index of all jobs by time.
        hidden = row_by_row(JobRow.create_time)
        yield _way([Range(hidden, JobRow.create_sequence, [JobRow.id.in_(list(wanted.job_ids))])], "job_ids")
        return
    narrow = list(_narrow_ways(wanted, related))
    yield from narrow
    if not wanted.wait_reasons or wanted.states:
        states = wanted.states
    else:
        states = tuple(sorted({state for reason in wanted.wait_reasons for state in _WAITING_STATES[reason]}))
    if wanted.job_types:
        kinds = product(dict.fromkeys(wanted.job_types), dict.fromkeys(states or JobState))
        kept = [_of_jobs(JobRow.job_type == job_type, JobRow.state == int(state)) for job_type, state in kinds]
        yield _way(kept, "job_types", "states")
    elif states:
        yield _way([_of_jobs(JobRow.state == int(state)) for state in dict.fromkeys(states)], "states")
    elif not (narrow or by_end):
        yield _way([_of_jobs()])


def _narrow_ways(wanted: JobFilter, related: int | None) -> Iterator[Way]:
    """The ways through what usually few jobs have."""
    if wanted.group_id:
        yield _way([_of_jobs(JobRow.group_key == related)], "group_id")
    elif related is not None:
        of, other = _need_columns(needed=bool(wanted.needed_by))
        needs = NeedsRange(of, other, related, hides_place=bool(wanted.needed_by))
        yield Way([needs], frozenset({"needs"}))
    if wanted.source_ids:
        yield _way([_of_jobs(JobRow.source_id == name) for name in dict.fromkeys(wanted.source_ids)], "source_ids")
    for label in wanted.labels:
        has_label = [LabelRow.key == label[0], LabelRow.value == label[1]]
        yield _way([Range(LabelRow.create_time, LabelRow.create_sequence, has_label)], f"label {label[0]}")
    if wanted.error_code:
        yield _way([_of_jobs(JobRow.error_code == wanted.error_code, JobRow.error_code.is_null(False))], "error_code")
    if wanted.worker:
        yield _way([_of_jobs(JobRow.worker == wanted.worker, HAS_WORKER)], "worker")
    if wanted.wait_reasons and not wanted.states and WaitReason.TURN not in wanted.wait_reasons:
        retrying = [_of_jobs(JobRow.state == int(JobState.RETRYING))] if WaitReason.TIME in wanted.wait_reasons else []
        yield _way([_of_jobs(IS_HELD), *retrying])


def _way(ranges: Sequence[AnyRange], *covers: str) -> Way:
    """A way of ranges in the order of creation."""
    return Way(ranges, frozenset({*covers, *_CREATED}))


def few_ended(taken: Way, keys: Sequence[int]) -> Way:
    """A way with few jobs, in the order of their ends, for which they are sorted."""
    # The time is hidden, so that its index is not read.
    ended = Range(row_by_row(JobRow.complete_time), JobRow.create_sequence, [JobRow.create_sequence.in_(list(keys))])
    return Way([ended], taken.covers | {*_ENDED}, by_end=True)


def _of_jobs(*conditions: Expression | SQL) -> Range:
    return Range(JobRow.create_time, JobRow.create_sequence, conditions)


def _need_columns(*, needed: bool) -> tuple[Field, Field]:
    """The column of the job that is named, and that of the jobs that are looked for."""
    return (NeedRow.child_key, NeedRow.parent_key) if needed else (NeedRow.parent_key, NeedRow.child_key)


def conditions(wanted: JobFilter, related: int | None) -> Mapping[str, Any]:
    """What a job must meet, by the part of the filter that says so."""
    lists: dict[str, tuple[Field, Sequence[str | int]]] = {
        "job_ids": (JobRow.id, wanted.job_ids),
        "states": (JobRow.state, [int(state) for state in wanted.states]),
        "job_types": (JobRow.job_type, wanted.job_types),
        "source_ids": (JobRow.source_id, wanted.source_ids),
    }
    found: dict[str, Any] = {name: column.in_(list(values)) for name, (column, values) in lists.items() if values}
    if wanted.wait_reasons:
        found["wait_reasons"] = reduce(or_, map(_waits, wanted.wait_reasons))
    if wanted.reach.source_ids is not None:
        found["reach"] = matches(JobRow.source_id, wanted.reach.source_ids)
    if wanted.group_id:
        found["group_id"] = JobRow.group_key == related
    for label in wanted.labels:
        found[f"label {label[0]}"] = _has_label(label)
    if wanted.error_code:
        found["error_code"] = JobRow.error_code == wanted.error_code
    if wanted.worker:
        found["worker"] = JobRow.worker == wanted.worker
    if wanted.needs or wanted.needed_by:
        found["needs"] = _is_related(related, needed=bool(wanted.needed_by))
    return found | _bounds(wanted)


def _bounds(wanted: JobFilter) -> dict[str, Any]:
    """The bounds of times."""
    bounds = {
        "create_time_from": (OP.GTE, JobRow.create_time, wanted.create_time_from),
        "create_time_to": (OP.LT, JobRow.create_time, wanted.create_time_to),
        "complete_time_from": (OP.GTE, JobRow.complete_time, wanted.complete_time_from),
        "complete_time_to": (OP.LT, JobRow.complete_time, wanted.complete_time_to),
    }
    return {
        name: Expression(column, operator, time)
        for name, (operator, column, time) in bounds.items()
        if time is not None
    }


def _is_related(key: int | None, *, needed: bool) -> Any:
    """Whether the job with this key needs a job, if it is ``needed``, or is needed by it."""
    of, other = _need_columns(needed=needed)
    return fn.EXISTS(NeedRow.select(SQL("1")).where((of == key) & (other == JobRow.create_sequence)))


def remaining(found: Mapping[str, Any], taken: Way) -> Expression | None:
    """The conditions that the jobs of a way need not meet. None if there are none."""
    left = [condition for name, condition in found.items() if name not in taken.covers]
    return reduce(and_, left) if left else None


def _waits(reason: WaitReason) -> Any:
    """``waiting.wait_reason``."""
    if reason is WaitReason.TURN:
        return SQL(f"({IS_READY.sql})")
    if reason is WaitReason.NEEDS:
        return JobRow.held & (JobRow.open_needs > 0)
    return (JobRow.held & (JobRow.open_needs == 0)) | (JobRow.state == int(JobState.RETRYING))


def _has_label(label: Label) -> Any:
    """Whether a job has a label. One row is looked for, by its whole key."""
    own = LabelRow.alias()
    is_label = (own.key == label[0]) & (own.value == label[1])
    is_own = (own.create_time == JobRow.create_time) & (own.create_sequence == JobRow.create_sequence)
    return fn.EXISTS(own.select(SQL("1")).where(is_label & is_own))


def _flag(condition: Expression | None, key: Field) -> Any:
    """1 if the job with this key meets a condition."""
    if condition is None:
        return SQL("1")
    flag = Case(None, [(condition, SQL("1"))], SQL("0"))
    return flag if key.model is JobRow else _of_job(flag, key)


def _of_job(column: Any, key: Field) -> Any:
    """A column of the job with this key."""
    return JobRow.select(column).where(JobRow.create_sequence == key)
