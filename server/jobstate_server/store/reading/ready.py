"""Reads of what waits to be handed out."""

from __future__ import annotations

from collections.abc import Collection

from peewee import Tuple

from jobstate_server.domain.dispatch_order import score
from jobstate_server.domain.job import Job
from jobstate_server.domain.waiting import Priority
from jobstate_server.store.models import IS_READY, IS_READY_IN_LANE, JobRow, RequestRow
from jobstate_server.store.reading.connection import ReadConnection

_KEY = Tuple(RequestRow.principal, RequestRow.request_id)
_REQUEST = RequestRow.select(RequestRow.time)


class ReadyReads(ReadConnection):
    """Reads the index of ready jobs."""

    def oldest_ready(self, job_type: str) -> int | None:
        oldest = []
        for level in Priority:
            query = JobRow.select(JobRow.ready_time).where(*_of_level(job_type, "", level))
            oldest += [time for (time,) in self._rows(query.order_by(JobRow.ready_time).limit(1))]
        in_lanes = JobRow.select(JobRow.ready_time).where(JobRow.job_type == job_type, IS_READY_IN_LANE)
        oldest += [time for (time,) in self._rows(in_lanes.order_by(JobRow.ready_time).limit(1))]
        return min(oldest, default=None)

    def has_ready(self, job_types: Collection[str], request_keys: Collection[tuple[str, str]]) -> bool:
        if any(self.oldest_ready(name) is not None for name in job_types):
            return True
        return any(self._rows(_REQUEST.where(key == _KEY)) for key in request_keys)

    def ready_before(self, job: Job, priority_step: int, limit: int) -> int:
        place = score(job.ready_time, job.level, priority_step)
        count = 0
        for level in Priority:
            # The ready_time at which a job of this priority would have the same place.
            same = place + level * priority_step
            is_before = Tuple(JobRow.ready_time, JobRow.create_sequence) < Tuple(same, job.create_sequence)
            before = JobRow.select(JobRow.ready_time).where(*_of_level(job.job_type, job.lane, level), is_before)
            count += len(self._rows(before.limit(limit - count)))
            if count >= limit:
                break
        return count


def _of_level(job_type: str, lane: str, level: int) -> tuple[object, ...]:
    return (JobRow.job_type == job_type, JobRow.lane == lane, JobRow.level == int(level), IS_READY)
