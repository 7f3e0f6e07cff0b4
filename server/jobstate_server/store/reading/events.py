"""Reads the event log."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from peewee import JOIN, OP, SQL, Case, Expression, ModelSelect, NodeList, Select, fn

from jobstate_server.domain.events import ERASED_TAG, EventType
from jobstate_server.domain.filters import EventFilter
from jobstate_server.domain.job import INT64_MAX
from jobstate_server.store.base import EVENTS_SCANNED_MAX
from jobstate_server.store.event_check import CheckedEvent, event_check
from jobstate_server.store.models import SEGMENT_BITS, EventRow, HorizonRow, LogRow
from jobstate_server.store.reading.connection import ReadConnection
from jobstate_server.store.reading.expressions import matches, row_by_row
from jobstate_server.store.records import EventPage, LogState, StoredEvent
from jobstate_server.store.rows import EVENT_COLUMNS

_SEGMENTS_AT_ONCE = 8
"""Segments of the log that one statement searches for the events of named jobs: 32,768 events, which it may have to
sort."""

_PROBES_AT_ONCE = 4_096
"""Index lookups of one such statement, one for each job and segment: about 10 ms."""

_EVENT_FIELDS = [getattr(EventRow, name) for name in EVENT_COLUMNS]


class EventReads(ReadConnection):
    """Reads events and the state of the log."""

    def log_state(self) -> LogState:
        query = LogRow.select(
            LogRow.head,
            HorizonRow.sequence,
            HorizonRow.event_check,
            LogRow.bytes - HorizonRow.bytes,
            LogRow.erasures,
        ).join(HorizonRow, on=(HorizonRow.id == LogRow.id))
        return LogState(*self._rows(query)[0])

    def create_time(self) -> int:
        time: int = self._rows(LogRow.select(LogRow.create_time))[0][0]
        return time

    def event(self, sequence: int) -> StoredEvent | None:
        rows = self._rows(EventRow.select(*_EVENT_FIELDS).where(EventRow.sequence == sequence))
        return StoredEvent(*rows[0]) if rows else None

    def events(self, after: int, wanted: EventFilter, limit: int, bytes_max: int) -> EventPage:
        bound = _scan_bound(after, wanted)
        (head, horizon, _, end_job, end_time, _, horizon_check, end), rows = self._page(
            _end_query(bound), _events_query(after, bound, wanted, limit)
        )
        fitting = fitting_rows(rows, bytes_max)
        events = list(map(StoredEvent._make, rows[:fitting]))
        is_cut = fitting < len(rows) or len(rows) == limit
        if is_cut:
            last = events[-1]
            return EventPage(events, last.sequence, event_check(last), horizon, horizon_check)
        check = horizon_check if end is None else event_check(CheckedEvent(int(end_time), end_job, end))
        return EventPage(events, max(after, min(head, bound)), check, horizon, horizon_check)

    def _page(self, end: ModelSelect[Any], events: ModelSelect[Any]) -> tuple[tuple[Any, ...], list[tuple[Any, ...]]]:
        """The row of one query and the rows of another, read at the same moment. They have the same columns."""
        rows = self._rows(end.union_all(Select((events.alias("page"),), [SQL("*")])))
        return rows.pop(next(index for index, row in enumerate(rows) if row[2] is None)), rows

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
        """Which of the oldest ``limit`` events to remove: after the first, at most ``at_once`` bytes of payload.

        Returns their number, the sequence of the last one, and the bytes of their payloads.
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


def fitting_rows(rows: Sequence[tuple[Any, ...]], bytes_max: int) -> int:
    """How many of these events fit into ``bytes_max`` of payload: at least one if there is one."""
    sizes = [len(row[-1]) for row in rows]
    return len(rows) if sum(sizes) <= bytes_max else max(1, bisect(list(accumulate(sizes)), bytes_max))


def _scan_bound(after: int, wanted: EventFilter) -> int:
    """The last sequence that a page after this position scans, wherever the log ends."""
    if wanted.job_ids:
        segments = max(1, min(_SEGMENTS_AT_ONCE, _PROBES_AT_ONCE // len(wanted.job_ids)))
        return (((after + 1 >> SEGMENT_BITS) + segments) << SEGMENT_BITS) - 1
    return INT64_MAX if wanted.passes_all else after + EVENTS_SCANNED_MAX


def _end_query(bound: int) -> ModelSelect[Any]:
    """One row: head, horizon, its check, and the job, time and payload of the last event that a page scans.

    It has the columns of an event, without a job id.
    """
    last = EventRow.alias("last")
    end = Case(None, [(LogRow.head < bound, LogRow.head)], bound)
    nothing = SQL("NULL")
    names = [nothing, last.job_id, last.time.cast("TEXT"), nothing]
    columns = [LogRow.head, HorizonRow.sequence, *names, HorizonRow.event_check, last.payload]
    query = LogRow.select(*columns).join(HorizonRow, on=(HorizonRow.id == LogRow.id))
    return query.join(last, JOIN.LEFT_OUTER, on=(last.sequence == end))


def _events_query(after: int, bound: int, wanted: EventFilter, limit: int) -> ModelSelect[Any]:
    conditions = _event_conditions(wanted)
    if wanted.job_ids:
        conditions.append(_in_segments(range(after + 1 >> SEGMENT_BITS, (bound >> SEGMENT_BITS) + 1)))
    # With two bounds on the sequence a planner would scan every event instead of those of many jobs.
    sequence = row_by_row(EventRow.sequence) if wanted.job_ids else EventRow.sequence
    query = EventRow.select(*_EVENT_FIELDS).where(sequence > after, sequence <= bound, *conditions)
    return query.order_by(sequence).limit(limit)


def _in_segments(segments: range) -> Expression:
    """The events of these segments, written exactly as in the index."""
    return Expression(NodeList((EventRow.sequence, SQL(f">> {SEGMENT_BITS}")), parens=True), OP.IN, tuple(segments))


def _is_erased_deletion() -> Expression:
    """What passes every filter of sources: see ``filters.EventFilter.passes``."""
    begins_erased: Expression = fn.SUBSTR(EventRow.payload, 1, 1) == ERASED_TAG
    return (EventRow.source_id == "") & (EventRow.type == int(EventType.DELETED)) & begins_erased


def _event_conditions(wanted: EventFilter) -> list[Expression]:
    conditions = []
    if wanted.job_ids:
        conditions.append(EventRow.job_id.in_(sorted(wanted.job_ids)))
    if wanted.job_types:
        conditions.append(EventRow.job_type.in_(sorted(wanted.job_types)))
    if wanted.source_ids:
        conditions.append(EventRow.source_id.in_(sorted(wanted.source_ids)) | _is_erased_deletion())
    if wanted.types:
        conditions.append(EventRow.type.in_(sorted(int(type_) for type_ in wanted.types)))
    if wanted.reach.job_types is not None:
        conditions.append(matches(EventRow.job_type, wanted.reach.job_types))
    if wanted.reach.source_ids is not None:
        conditions.append(matches(EventRow.source_id, wanted.reach.source_ids))
    return conditions
