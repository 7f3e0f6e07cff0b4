"""Reads, the same on every SQL backend: built with peewee, run on a connection of the reader's own."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import islice, product
from typing import Any, NoReturn

from peewee import (
    OP,
    SQL,
    Database,
    Expression,
    Field,
    ModelSelect,
    NodeList,
    PeeweeException,
    TextField,
    Tuple,
    fn,
)

from jobstate_server.domain.filters import EventFilter, JobFilter, Order, Position
from jobstate_server.domain.job import INT64_MAX, Attempt, Job, JobState
from jobstate_server.domain.statistics import Measure, TallyKey
from jobstate_server.store.base import (
    EVENTS_SCANNED_MAX,
    Ended,
    EventPage,
    LogState,
    ReadInterrupted,
    StoredEvent,
    TaskRun,
    attempt_bytes,
    chunks,
    document_bytes,
)
from jobstate_server.store.models import (
    IS_UNCLAIMED,
    STRETCH_BITS,
    AttemptRow,
    EventRow,
    HorizonRow,
    JobRow,
    LogRow,
    TallyRow,
    TaskRunRow,
)
from jobstate_server.store.rows import ATTEMPT_COLUMNS, EVENT_COLUMNS, JOB_COLUMNS, attempt_from, job_from

_ROWS_AT_ONCE = 50
"""Jobs fetched by one statement of a list: with the largest documents 50 of them are 6 MiB."""

KEYS_AT_FIRST_MIN = 16
"""Keys read at first along each of several walks that are merged: a page takes few of most, and goes back for more."""

_IDS_AT_ONCE = 256
"""Jobs read by one statement when they are named."""

_STRETCHES_AT_ONCE = 8
"""Stretches of the log that one statement looks through for the events of jobs: 32,768 events, all of which may have to
be sorted."""

_PROBES_AT_ONCE = 4_096
"""Looks into the index of one such statement, one for each job and stretch: about 10 ms."""

_CLAIMS_SOUGHT_MAX = 1_000
"""Attempts that are looked at for one that a worker has: a millisecond. More than so many may wait beside it."""

_OVERDUE_COUNTED_MAX = 10_000
"""More than this many overdue jobs is one finding, however many more there are."""

_JOB_FIELDS = [getattr(JobRow, name) for name in JOB_COLUMNS]
_EVENT_FIELDS = [getattr(EventRow, name) for name in EVENT_COLUMNS]
_ATTEMPT_FIELDS = [getattr(AttemptRow, name) for name in ATTEMPT_COLUMNS]


class SqlReader:
    """A ``Reader`` over one peewee database. Backends open, isolate and close it."""

    def __init__(self, database: Database, translate: Callable[[PeeweeException], NoReturn]) -> None:
        """``translate`` raises the store's own error for one of peewee's."""
        self._database = database
        self._translate = translate
        self._texts_by_ids: dict[int, str] = {}
        self._is_interrupted = False

    def interrupt(self) -> None:
        self._is_interrupted = True
        self._break_off()

    def _break_off(self) -> None:
        """End the statement under way, from another thread. Without this the read ends before its next statement."""

    def resume(self) -> None:
        self._is_interrupted = False

    def hang_up(self) -> None:
        pass

    def close(self) -> None:
        self._database.close()

    def _rows(self, query: ModelSelect[Any]) -> list[tuple[Any, ...]]:
        return self._execute(*self._database.get_sql_context().sql(query).query())

    def _execute(self, text: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        if self._is_interrupted:
            raise ReadInterrupted("the read was broken off")
        try:
            rows: list[tuple[Any, ...]] = self._database.execute_sql(text, values).fetchall()
        except Exception as error:
            if self._is_interrupted:
                raise ReadInterrupted("the read was broken off") from error
            if not isinstance(error, PeeweeException):
                raise
            self._translate(error)
        return rows

    def _jobs(self, query: ModelSelect[Any]) -> list[Job]:
        return [job_from(row) for row in self._rows(query)]

    def jobs(self, job_ids: Collection[str], principal: str | None) -> dict[str, Job]:
        found: dict[str, Job] = {}
        for some in chunks(list(job_ids), _IDS_AT_ONCE):
            for row in self._execute(*self._by_ids(some)):
                job = job_from(row)
                if principal is None or job.principal == principal:
                    found[job.id] = job
        return found

    def _by_ids(self, job_ids: Sequence[str]) -> tuple[str, list[str]]:
        """The statement that reads these jobs. Its text is built once for every power of two; ids fill it up."""
        size = 1 << (len(job_ids) - 1).bit_length()
        ids = [*job_ids, *[job_ids[0]] * (size - len(job_ids))]
        text = self._texts_by_ids.get(size)
        if text is None:
            query = JobRow.select(*_JOB_FIELDS).where(JobRow.id.in_(ids))
            text, _ = self._database.get_sql_context().sql(query).query()
            self._texts_by_ids[size] = text
        return text, ids

    def attempts(self, job_id: str, through: int, limit: int, bytes_max: int) -> list[Attempt]:
        query = AttemptRow.select(*_ATTEMPT_FIELDS).where(AttemptRow.job_id == job_id, AttemptRow.number <= through)
        found: list[Attempt] = []
        size = 0
        for row in self._rows(query.order_by(AttemptRow.number.desc()).limit(limit)):
            attempt = attempt_from(row)
            size += attempt_bytes(attempt)
            if found and size > bytes_max:
                break
            found.append(attempt)
        return found[::-1]

    def list_jobs(
        self, wanted: JobFilter, order: Order, after: Position | None, limit: int, bytes_max: int
    ) -> list[Job]:
        newest_first = order is Order.NEWEST_FIRST
        try:
            with self._database.atomic():
                walks = _walks(wanted)
                first = limit if len(walks) == 1 else max(KEYS_AT_FIRST_MIN, 2 * limit // len(walks))
                runs = [self._keys(walk, wanted, newest_first, after, min(first, limit)) for walk in walks]
                keys = list(islice(heapq.merge(*runs, reverse=newest_first), limit))
                return self._load_until([job_id for _, job_id in keys], bytes_max)
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

    def log_state(self) -> LogState:
        query = LogRow.select(
            LogRow.head, HorizonRow.sequence, HorizonRow.event_check, LogRow.bytes - HorizonRow.bytes
        ).join(HorizonRow, on=(HorizonRow.id == LogRow.id))
        return LogState(*self._rows(query)[0])

    def create_time(self) -> int:
        time: int = self._rows(LogRow.select(LogRow.create_time))[0][0]
        return time

    def event(self, sequence: int) -> StoredEvent | None:
        rows = self._rows(EventRow.select(*_EVENT_FIELDS).where(EventRow.sequence == sequence))
        return StoredEvent(*rows[0]) if rows else None

    def events(self, after: int, wanted: EventFilter, limit: int, bytes_max: int) -> EventPage:
        # The head is read first and bounds the page: what is appended in between has not been looked at.
        end = self.log_state().head
        conditions = _event_conditions(wanted)
        if wanted.job_ids:
            first = (after + 1) >> STRETCH_BITS
            stretches = range(first, first + max(1, min(_STRETCHES_AT_ONCE, _PROBES_AT_ONCE // len(wanted.job_ids))))
            end = max(after, min(end, (stretches.stop << STRETCH_BITS) - 1))
            conditions.append(_in_stretches(range(first, (end >> STRETCH_BITS) + 1)))
        elif not wanted.passes_all:
            end = min(end, after + EVENTS_SCANNED_MAX)
        # Between two bounds of the sequence a planner would rather look at every event than at those of many jobs.
        sequence = _row_by_row(EventRow.sequence) if wanted.job_ids else EventRow.sequence
        query = EventRow.select(*_EVENT_FIELDS).where(sequence > after, sequence <= end, *conditions)
        query = query.order_by(sequence).limit(limit)
        events: list[StoredEvent] = []
        size = 0
        cut = False
        for row in self._rows(query):
            event = StoredEvent(*row)
            size += len(event.payload)
            if events and size > bytes_max:
                cut = True
                break
            events.append(event)
        cut = cut or len(events) == limit
        return EventPage(events, events[-1].sequence if cut else max(after, end), self.log_state().horizon)

    def trimmable_events(self, older_than: int, bytes_max: int) -> int:
        state, found = self.log_state(), 0
        while True:
            count, through, size = self.trimmable(state, older_than, bytes_max, EVENTS_SCANNED_MAX)
            found += count
            if count < EVENTS_SCANNED_MAX:
                return found
            state = state._replace(horizon=through, bytes=state.bytes - size)

    def trimmable(
        self, state: LogState, older_than: int, bytes_max: int, limit: int, at_once: int = INT64_MAX
    ) -> tuple[int, int, int]:
        """Of the oldest ``limit`` events, and but for the first of at most ``at_once`` bytes, those that are to go.

        Returns how many they are, the last one's sequence, and the bytes of their payloads.
        """
        page = self._rows(
            EventRow.select(EventRow.sequence, EventRow.time, fn.LENGTH(EventRow.payload))
            .where(EventRow.sequence > state.horizon)
            .order_by(EventRow.sequence)
            .limit(limit)
        )
        count, through, removed = 0, state.horizon, 0
        for sequence, time, size in page:
            if time >= older_than and state.bytes - removed <= bytes_max:
                break
            if count and removed + size > at_once:
                break
            count, through, removed = count + 1, sequence, removed + size
        return count, through, removed

    def tallies(self, job_types: Collection[str]) -> dict[TallyKey, int]:
        query = TallyRow.select(TallyRow.job_type, TallyRow.measure, TallyRow.bucket, TallyRow.value)
        if job_types:
            query = query.where(TallyRow.job_type.in_(list(job_types)))
        return {(job_type, Measure(measure), bucket): value for job_type, measure, bucket, value in self._rows(query)}

    def oldest_queued(self, job_type: str) -> int | None:
        query = (
            JobRow.select(JobRow.create_time)
            .where(JobRow.job_type == job_type, JobRow.state == int(JobState.QUEUED))
            .order_by(JobRow.create_time)
            .limit(1)
        )
        rows = self._rows(query)
        return rows[0][0] if rows else None

    def oldest_unclaimed(self, job_type: str) -> int | None:
        query = (
            JobRow.select(JobRow.start_time)
            .where(JobRow.job_type == job_type, IS_UNCLAIMED)
            .order_by(JobRow.start_time)
            .limit(1)
        )
        rows = self._rows(query)
        return rows[0][0] if rows else None

    def has_claimed(self, job_type: str) -> bool:
        newest = (
            JobRow.select(JobRow.claimed)
            .where(JobRow.job_type == job_type, JobRow.state == int(JobState.PROCESSING))
            .order_by(JobRow.create_time.desc(), JobRow.id.desc())
            .limit(_CLAIMS_SOUGHT_MAX)
        )
        return any(claimed for (claimed,) in self._rows(newest))

    def ended_since(self, time: int, limit: int) -> list[Ended]:
        query = (
            JobRow.select(JobRow.job_type, JobRow.state, JobRow.complete_time)
            .where(JobRow.complete_time.is_null(False), JobRow.complete_time > time)
            .order_by(JobRow.complete_time.desc(), JobRow.id.desc())
            .limit(limit)
        )
        ends: dict[tuple[str, int], list[int]] = {}
        for job_type, state, end in self._rows(query):
            ends.setdefault((job_type, state), []).append(end)
        return [
            Ended(job_type, JobState(state), len(times), times[0]) for (job_type, state), times in sorted(ends.items())
        ]

    def jobs_in_state(self, job_type: str, state: JobState, after: Position | None, limit: int) -> list[Job]:
        query = JobRow.select(*_JOB_FIELDS).where(JobRow.job_type == job_type, JobRow.state == int(state))
        if after is not None:
            query = query.where(_beyond(JobRow.create_time, after, newest_first=False))
        return self._jobs(query.order_by(JobRow.create_time, JobRow.id).limit(limit))

    def finished_jobs(self, completed_before: int, after: Position | None, limit: int) -> list[Job]:
        query = JobRow.select(*_JOB_FIELDS).where(
            JobRow.complete_time.is_null(False), JobRow.complete_time < completed_before
        )
        if after is not None:
            query = query.where(_beyond(JobRow.complete_time, after, newest_first=False))
        return self._jobs(query.order_by(JobRow.complete_time, JobRow.id).limit(limit))

    def overdue(self, before: int) -> int:
        due = JobRow.select(JobRow.id).where(JobRow.due_time.is_null(False), JobRow.due_time < before)
        return len(self._rows(due.limit(_OVERDUE_COUNTED_MAX)))

    def task_runs(self) -> Mapping[str, TaskRun]:
        query = TaskRunRow.select(
            TaskRunRow.name,
            TaskRunRow.last_due,
            TaskRunRow.token,
            TaskRunRow.start_time,
            TaskRunRow.end_time,
            TaskRunRow.outcome,
            TaskRunRow.replica,
        )
        return {row[0]: TaskRun(*row) for row in self._rows(query)}


def _row_by_row(column: Field) -> Expression:
    """The column's value, but with no index: keeps a planner from preferring the index of a wide condition."""
    return column.concat("") if isinstance(column, TextField) else column + 0


def _in_stretches(stretches: range) -> Expression:
    """The events of these stretches, in the words of the index."""
    return Expression(NodeList((EventRow.sequence, SQL(f">> {STRETCH_BITS}")), parens=True), OP.IN, tuple(stretches))


def _beyond(time: Field | Expression, after: Position, *, newest_first: bool) -> Expression:
    """What a keyset page after this position may contain."""
    row, last = Tuple(time, JobRow.id), Tuple(after.create_time, after.job_id)
    beyond: Expression = row < last if newest_first else row > last
    return beyond


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
    time = _row_by_row(JobRow.create_time) if wanted.job_ids else JobRow.create_time
    for condition in _job_conditions(wanted, newest_first, after):
        query = query.where(condition)
    if after is not None:
        query = query.where(_beyond(time, after, newest_first=newest_first))
    for condition in walk:
        query = query.where(condition)
    return query.order_by(time.desc(), JobRow.id.desc()) if newest_first else query.order_by(time, JobRow.id)


def _job_conditions(wanted: JobFilter, newest_first: bool, after: Position | None) -> list[Expression]:
    """What is looked at row by row, beside the index that is walked."""
    conditions: list[Expression] = []
    # A bound on the side that the position already bounds is hidden: with a third bound SQLite takes the index of the
    # state alone for that of type and state.
    time, hidden = JobRow.create_time, _row_by_row(JobRow.create_time)
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
            conditions.append(_row_by_row(JobRow.state).in_([int(state) for state in wanted.states]))
        if wanted.job_types:
            conditions.append(_row_by_row(JobRow.job_type).in_(list(wanted.job_types)))
    if wanted.job_ids and wanted.source_ids:
        conditions.append(JobRow.source_id.in_(list(wanted.source_ids)))
    return conditions


def _event_conditions(wanted: EventFilter) -> list[Expression]:
    conditions = []
    if wanted.job_ids:
        conditions.append(EventRow.job_id.in_(sorted(wanted.job_ids)))
    if wanted.job_types:
        conditions.append(EventRow.job_type.in_(sorted(wanted.job_types)))
    if wanted.source_ids:
        conditions.append(EventRow.source_id.in_(sorted(wanted.source_ids)))
    if wanted.types:
        conditions.append(EventRow.type.in_(sorted(int(type_) for type_ in wanted.types)))
    if wanted.principal is not None:
        conditions.append(EventRow.principal == wanted.principal)
    return conditions
