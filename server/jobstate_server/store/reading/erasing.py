"""The reads of Erase."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from peewee import fn

from jobstate_server.store.erasing import EVENTS_SEARCHED_MAX, RequestPage, UsedRequest
from jobstate_server.store.models import EventRow, RequestRow
from jobstate_server.store.reading.connection import ReadConnection
from jobstate_server.store.reading.events import fitting_rows
from jobstate_server.store.records import StoredEvent
from jobstate_server.store.rows import EVENT_COLUMNS

_REQUEST_FIELDS = [getattr(RequestRow, name) for name in UsedRequest._fields]


class ErasureReads(ReadConnection):
    """Reads what is about jobs to erase."""

    def search_events(
        self, after: int, parts: Sequence[bytes], limit: int, bytes_max: int
    ) -> tuple[list[StoredEvent], int]:
        through = after + EVENTS_SEARCHED_MAX
        query = EventRow.select(*[getattr(EventRow, name) for name in EVENT_COLUMNS])
        query = query.where(EventRow.sequence > after, EventRow.sequence <= through)
        for part in parts:
            query = query.where(self._place_in_payload(part) > 0)
        rows = self._rows(query.order_by(EventRow.sequence).limit(limit))
        events = list(map(StoredEvent._make, rows[: fitting_rows(rows, bytes_max)]))
        is_cut = len(events) < len(rows) or len(rows) == limit
        return events, events[-1].sequence if is_cut else through

    def _place_in_payload(self, part: bytes) -> Any:
        """Where these bytes begin in the payload of an event. 0 if it does not have them."""
        return fn.INSTR(EventRow.payload, part)

    def requests_from(self, time: int, limit: int) -> RequestPage:
        times = RequestRow.select(RequestRow.time).where(RequestRow.time >= time).order_by(RequestRow.time)
        beyond_page = self._rows(times.limit(1).offset(limit))
        query = RequestRow.select(*_REQUEST_FIELDS).where(RequestRow.time >= time)
        if not beyond_page:
            return RequestPage(list(map(UsedRequest._make, self._rows(query))), None)
        # All of one time are in one page, however many they are: those of a transaction.
        next_time = max(beyond_page[0][0], time + 1)
        rows = self._rows(query.where(RequestRow.time < next_time))
        return RequestPage(list(map(UsedRequest._make, rows)), next_time)
