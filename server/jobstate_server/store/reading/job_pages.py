"""Reads pages of filtered jobs, newest or oldest first."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial, reduce
from itertools import islice, product
from operator import or_
from typing import Any

from peewee import SQL, Expression, ModelSelect, PeeweeException, fn

from jobstate_server.domain.bulk import MatchedJob
from jobstate_server.domain.filters import JobFilter, Order, Position
from jobstate_server.domain.job import Job, JobState
from jobstate_server.domain.reach import EVERYTHING
from jobstate_server.domain.waiting import WaitReason
from jobstate_server.store.chunks import chunks
from jobstate_server.store.known_job_types import known_job_types
from jobstate_server.store.models import IS_READY, JobRow
from jobstate_server.store.reading.expressions import beyond, matches, row_by_row
from jobstate_server.store.reading.jobs import JobReads
from jobstate_server.store.reading.relations import RelationReads
from jobstate_server.store.records import JobPage
from jobstate_server.store.relation_models import NeedRow
from jobstate_server.store.sizes import document_bytes

_ROWS_AT_ONCE = 50
"""Jobs that one statement of a list fetches: 6 MiB with the largest documents."""

_MATCHED = JobRow.select(*[getattr(JobRow, name) for name in MatchedJob._fields])
_STATE = MatchedJob._fields.index("state")
_MATCHED_AT_ONCE = 256
"""Jobs of which one statement reads what a bulk run needs."""

KEYS_AT_FIRST_MIN = 16
"""Keys first read from each index range when several are merged. A page needs few from most ranges, and reads more
from the others."""

_KeyQuery = Callable[[Position | None, int], "ModelSelect[Any]"]
"""Makes the query for so many creation times and keys after a position."""

_WAITING_STATES = {
    WaitReason.TURN: (JobState.QUEUED, JobState.PROCESSING),
    WaitReason.TIME: (JobState.QUEUED, JobState.RETRYING),
    WaitReason.NEEDS: (JobState.QUEUED,),
}
"""The states of jobs that wait for each, so that their indexes are read and not those of all jobs."""


class JobPageReads(JobReads, RelationReads):
    """Reads pages of jobs: first the keys from indexes, then the jobs."""

    def list_jobs(self, wanted: JobFilter, order: Order, after: Position | None, limit: int, bytes_max: int) -> JobPage:
        try:
            with self._database.atomic():
                # One key beyond the page shows whether there are more jobs.
                keys = self._page_keys(wanted, order, after, limit + 1)
                jobs = self._load_until(keys[:limit], bytes_max)
                return JobPage(jobs, len(jobs) < len(keys), self.group_counts(jobs))
        except PeeweeException as error:
            # An error of the transaction itself. Each statement translates its own errors.
            self._translate(error)

    def matching_jobs(self, wanted: JobFilter, after: Position | None, limit: int) -> list[MatchedJob]:
        try:
            with self._database.atomic():
                keys = self._page_keys(wanted, Order.OLDEST_FIRST, after, limit)
                found = []
                for some in chunks(keys, _MATCHED_AT_ONCE):
                    found += self._rows(_MATCHED.where(JobRow.create_sequence.in_(some)))
        except PeeweeException as error:
            self._translate(error)
        jobs = [MatchedJob(*row)._replace(state=JobState(row[_STATE])) for row in found]
        return sorted(jobs, key=lambda job: (job.create_time, job.create_sequence))

    def _page_keys(self, wanted: JobFilter, order: Order, after: Position | None, limit: int) -> list[int]:
        """The keys of the jobs on a page, in its order."""
        newest_first = order is Order.NEWEST_FIRST
        if wanted.reach is not EVERYTHING:
            # The types within reach are then read like those that the caller names.
            narrowed = wanted.within_reach(known_job_types(self._database, None))
            if narrowed is None:
                return []
            wanted = narrowed
        wanted = _with_states(wanted)
        queries = self._queries(wanted, newest_first)
        first = limit if len(queries) <= 1 else max(KEYS_AT_FIRST_MIN, 2 * (limit - 1) // len(queries))
        runs = [self._keys(query, after, min(first, limit)) for query in queries]
        return [key for _, key in islice(heapq.merge(*runs, reverse=newest_first), limit)]

    def _queries(self, wanted: JobFilter, newest_first: bool) -> list[_KeyQuery]:
        """The queries for the keys of the page, each in its order. Their merged keys are the page."""
        related = wanted.group_id or wanted.needed_by or wanted.needs
        if not related:
            return [partial(_key_query, wanted, range_, newest_first) for range_ in _index_ranges(wanted)]
        found = self._rows(JobRow.select(JobRow.create_sequence).where(JobRow.id == related))
        if wanted.group_id:
            return [partial(_key_query, wanted, [JobRow.group_key == key], newest_first) for (key,) in found]
        return [partial(_needs_query, wanted, key, newest_first) for (key,) in found]

    def _keys(self, query: _KeyQuery, after: Position | None, limit: int) -> Iterator[tuple[int, int]]:
        """The keys of one query, read as they are needed."""
        while True:
            rows = self._rows(query(after, limit))
            yield from rows
            if len(rows) < limit:
                return
            after = Position(*rows[-1])

    def _load_until(self, keys: Sequence[int], bytes_max: int) -> list[Job]:
        page: list[Job] = []
        size = 0
        for some in chunks(keys, _ROWS_AT_ONCE):
            found = self._jobs_by_key(some)
            for key in some:
                size += document_bytes(found[key])
                if page and size > bytes_max:
                    return page
                page.append(found[key])
        return page


def _with_states(wanted: JobFilter) -> JobFilter:
    """The filter with the states in which jobs can wait for what it names."""
    if not wanted.wait_reasons or wanted.states:
        return wanted
    states = {state for reason in wanted.wait_reasons for state in _WAITING_STATES[reason]}
    return replace(wanted, states=tuple(sorted(states)))


def _index_ranges(wanted: JobFilter) -> list[list[Expression]]:
    """The ranges of a filter that names no group and no job that others need or are needed by."""
    if wanted.job_ids:
        return [[]]
    if wanted.source_ids:
        return [[JobRow.source_id == source_id] for source_id in dict.fromkeys(wanted.source_ids)]
    if wanted.job_types:
        kinds = product(dict.fromkeys(wanted.job_types), dict.fromkeys(wanted.states or JobState))
        return [[JobRow.job_type == job_type, JobRow.state == int(state)] for job_type, state in kinds]
    if wanted.states:
        return [[JobRow.state == int(state)] for state in dict.fromkeys(wanted.states)]
    return [[]]


def _needs_query(
    wanted: JobFilter, key: int, newest_first: bool, after: Position | None, limit: int
) -> ModelSelect[Any]:
    """The query for the keys of the jobs that a job needs, or that need it, after a position.

    Keys grow with the time of creation, so their order is that of the page.
    """
    of, other = NeedRow.parent_key, NeedRow.child_key
    if wanted.needed_by:
        of, other = other, of
    # A job may need another twice, so the rows are grouped. All of a group have the time of one job.
    query = JobRow.select(fn.MIN(JobRow.create_time), other).group_by(other)
    query = query.join(NeedRow, on=(other == JobRow.create_sequence)).where(of == key)
    for condition in _job_conditions(wanted, newest_first, after):
        query = query.where(condition)
    if after is not None:
        # A job needs few others, so the rest is not looked up in the index of the needed ones.
        place = row_by_row(other) if wanted.needed_by else other
        query = query.where(place < after.create_sequence if newest_first else place > after.create_sequence)
    return query.order_by(other.desc() if newest_first else other).limit(limit)


def _waits(reason: WaitReason) -> Any:
    """``waiting.wait_reason``."""
    if reason is WaitReason.TURN:
        return SQL(f"({IS_READY.sql})")
    if reason is WaitReason.NEEDS:
        return JobRow.held & (JobRow.open_needs > 0)
    return (JobRow.held & (JobRow.open_needs == 0)) | (row_by_row(JobRow.state) == int(JobState.RETRYING))


def _key_query(
    wanted: JobFilter, range_: Sequence[Expression], newest_first: bool, after: Position | None, limit: int
) -> ModelSelect[Any]:
    """The query for the keys of one index range after a position."""
    query = JobRow.select(JobRow.create_time, JobRow.create_sequence).limit(limit)
    # With ids in the filter the time column is hidden: SQLite would otherwise scan the index of all jobs by time.
    time = row_by_row(JobRow.create_time) if wanted.job_ids else JobRow.create_time
    for condition in _job_conditions(wanted, newest_first, after):
        query = query.where(condition)
    if after is not None:
        query = query.where(beyond(time, after, newest_first=newest_first))
    for condition in range_:
        query = query.where(condition)
    return (
        query.order_by(time.desc(), JobRow.create_sequence.desc())
        if newest_first
        else query.order_by(time, JobRow.create_sequence)
    )


def _job_conditions(wanted: JobFilter, newest_first: bool, after: Position | None) -> list[Expression]:
    """The conditions that are checked row by row, besides the index range."""
    conditions: list[Expression] = []
    # A bound on the side that the position already bounds is hidden: with a third bound SQLite chooses the index of the
    # state instead of that of type and state.
    time, hidden = JobRow.create_time, row_by_row(JobRow.create_time)
    from_hidden = bool(wanted.job_ids) or (after is not None and not newest_first)
    to_hidden = bool(wanted.job_ids) or (after is not None and newest_first)
    if wanted.create_time_from is not None:
        conditions.append((hidden if from_hidden else time) >= wanted.create_time_from)
    if wanted.create_time_to is not None:
        conditions.append((hidden if to_hidden else time) < wanted.create_time_to)
    if wanted.reach.source_ids is not None:
        conditions.append(matches(JobRow.source_id, wanted.reach.source_ids))
    if wanted.job_ids:
        conditions.append(JobRow.id.in_(list(wanted.job_ids)))
    if wanted.wait_reasons:
        conditions.append(reduce(or_, map(_waits, wanted.wait_reasons)))
    related = bool(wanted.group_id or wanted.needed_by or wanted.needs)
    if related and wanted.source_ids:
        conditions.append(row_by_row(JobRow.source_id).in_(list(wanted.source_ids)))
    if related or wanted.job_ids or wanted.source_ids:
        # An id has one job and a source has few, so the rest needs no index.
        if wanted.states:
            conditions.append(row_by_row(JobRow.state).in_([int(state) for state in wanted.states]))
        if wanted.job_types:
            conditions.append(row_by_row(JobRow.job_type).in_(list(wanted.job_types)))
    if wanted.job_ids and wanted.source_ids:
        conditions.append(JobRow.source_id.in_(list(wanted.source_ids)))
    return conditions
