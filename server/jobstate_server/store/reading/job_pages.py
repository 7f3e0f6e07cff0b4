"""Pages of jobs that pass a filter, newest or oldest first."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from itertools import islice, product
from typing import Any

from peewee import Expression, ModelSelect, PeeweeException

from jobstate_server.domain.filters import JobFilter, Order, Position
from jobstate_server.domain.job import Job, JobState
from jobstate_server.store.chunks import chunks
from jobstate_server.store.models import JobRow
from jobstate_server.store.reading.expressions import beyond, row_by_row
from jobstate_server.store.reading.jobs import JobReads
from jobstate_server.store.records import JobPage
from jobstate_server.store.sizes import document_bytes

_ROWS_AT_ONCE = 50
"""Jobs fetched by one statement of a list: with the largest documents 50 of them are 6 MiB."""

KEYS_AT_FIRST_MIN = 16
"""Keys read at first along each of several walks that are merged: a page takes few of most, and goes back for more."""


class JobPageReads(JobReads):
    """Reads pages of jobs: first their keys from indexes, then the jobs."""

    def list_jobs(self, wanted: JobFilter, order: Order, after: Position | None, limit: int, bytes_max: int) -> JobPage:
        newest_first = order is Order.NEWEST_FIRST
        try:
            with self._database.atomic():
                walks = _walks(wanted)
                # One key more than the page has room for tells whether there are more jobs.
                sought = limit + 1
                first = sought if len(walks) == 1 else max(KEYS_AT_FIRST_MIN, 2 * limit // len(walks))
                runs = [self._keys(walk, wanted, newest_first, after, min(first, sought)) for walk in walks]
                keys = list(islice(heapq.merge(*runs, reverse=newest_first), sought))
                jobs = self._load_until([job_id for _, job_id in keys[:limit]], bytes_max)
                return JobPage(jobs, has_more=len(jobs) < len(keys))
        except PeeweeException as error:
            # Of the transaction around the statements: each of these tells its own.
            self._translate(error)

    def _keys(
        self,
        walk: Sequence[Expression],
        wanted: JobFilter,
        newest_first: bool,
        after: Position | None,
        limit: int,
    ) -> Iterator[tuple[int, str]]:
        """The keys along one index, read as far as they are taken."""
        while True:
            rows = self._rows(_key_query(wanted, walk, newest_first, after, limit))
            yield from rows
            if len(rows) < limit:
                return
            after = Position(*rows[-1])

    def _load_until(self, job_ids: Sequence[str], bytes_max: int) -> list[Job]:
        page: list[Job] = []
        size = 0
        for some in chunks(job_ids, _ROWS_AT_ONCE):
            found = self.jobs(some, None)
            for job_id in some:
                size += document_bytes(found[job_id])
                if page and size > bytes_max:
                    return page
                page.append(found[job_id])
        return page


def _walks(wanted: JobFilter) -> list[list[Expression]]:
    """What is asked for, as walks along one index each, in the order of a page; merged they are the page."""
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


def _key_query(
    wanted: JobFilter, walk: Sequence[Expression], newest_first: bool, after: Position | None, limit: int
) -> ModelSelect[Any]:
    """The query for the keys of one walk after a position."""
    query = JobRow.select(JobRow.create_time, JobRow.id).limit(limit)
    # With ids named the time is hidden, or SQLite would rather walk the index of all jobs by time.
    time = row_by_row(JobRow.create_time) if wanted.job_ids else JobRow.create_time
    for condition in _job_conditions(wanted, newest_first, after):
        query = query.where(condition)
    if after is not None:
        query = query.where(beyond(time, after, newest_first=newest_first))
    for condition in walk:
        query = query.where(condition)
    return query.order_by(time.desc(), JobRow.id.desc()) if newest_first else query.order_by(time, JobRow.id)


def _job_conditions(wanted: JobFilter, newest_first: bool, after: Position | None) -> list[Expression]:
    """What is looked at row by row, beside the index that is walked."""
    conditions: list[Expression] = []
    # A bound on the side that the position already bounds is hidden: with a third bound SQLite takes the index of the
    # state alone for that of type and state.
    time, hidden = JobRow.create_time, row_by_row(JobRow.create_time)
    from_hidden = bool(wanted.job_ids) or (after is not None and not newest_first)
    to_hidden = bool(wanted.job_ids) or (after is not None and newest_first)
    if wanted.create_time_from is not None:
        conditions.append((hidden if from_hidden else time) >= wanted.create_time_from)
    if wanted.create_time_to is not None:
        conditions.append((hidden if to_hidden else time) < wanted.create_time_to)
    if wanted.principal is not None:
        conditions.append(JobRow.principal == wanted.principal)
    if wanted.job_ids:
        conditions.append(JobRow.id.in_(list(wanted.job_ids)))
    if wanted.job_ids or wanted.source_ids:
        # An id has one job and a source has few, so that no index is needed for the rest.
        if wanted.states:
            conditions.append(row_by_row(JobRow.state).in_([int(state) for state in wanted.states]))
        if wanted.job_types:
            conditions.append(row_by_row(JobRow.job_type).in_(list(wanted.job_types)))
    if wanted.job_ids and wanted.source_ids:
        conditions.append(JobRow.source_id.in_(list(wanted.source_ids)))
    return conditions
