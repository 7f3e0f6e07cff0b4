"""The reads of Erase."""

from __future__ import annotations

from jobstate_server.domain.filters import Position
from jobstate_server.store.erasing import JobPlace, RequestPage, UsedRequest
from jobstate_server.store.models import JobRow, RequestRow
from jobstate_server.store.reading.connection import ReadConnection
from jobstate_server.store.reading.expressions import beyond

_REQUEST_FIELDS = [getattr(RequestRow, name) for name in UsedRequest._fields]


class ErasureReads(ReadConnection):
    """Reads what is about jobs to erase."""

    def jobs_of(self, source_id: str, after: Position | None, limit: int) -> list[JobPlace]:
        query = JobRow.select(JobRow.id, JobRow.create_time, JobRow.create_sequence)
        query = query.where(JobRow.source_id == source_id)
        if after is not None:
            query = query.where(beyond(JobRow.create_time, JobRow.create_sequence, after, newest_first=False))
        rows = self._rows(query.order_by(JobRow.create_time, JobRow.create_sequence).limit(limit))
        return [JobPlace(job_id, Position(time, key)) for job_id, time, key in rows]

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
