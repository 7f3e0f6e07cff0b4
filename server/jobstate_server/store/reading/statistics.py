"""Reads counts and ages, for GetStats and health checks."""

from __future__ import annotations

from collections.abc import Collection

from jobstate_server.domain.job import JobState
from jobstate_server.domain.statistics import Measure, TallyKey
from jobstate_server.store.models import IS_UNCLAIMED, JobRow, TallyRow
from jobstate_server.store.reading.connection import ReadConnection
from jobstate_server.store.records import Ended

_CLAIMS_SOUGHT_MAX = 1_000
"""Attempts that are checked for one that a worker has claimed: a millisecond. More may be waiting."""

_OVERDUE_COUNTED_MAX = 10_000
"""Overdue jobs are counted up to this number. More would not change what an operator does."""


class StatisticsReads(ReadConnection):
    """Reads tallies and the ages of jobs."""

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
            .order_by(JobRow.create_time.desc(), JobRow.create_sequence.desc())
            .limit(_CLAIMS_SOUGHT_MAX)
        )
        return any(claimed for (claimed,) in self._rows(newest))

    def ended_since(self, time: int, limit: int) -> list[Ended]:
        query = (
            JobRow.select(JobRow.job_type, JobRow.state, JobRow.complete_time)
            .where(JobRow.complete_time.is_null(False), JobRow.complete_time > time)
            .order_by(JobRow.complete_time.desc(), JobRow.create_sequence.desc())
            .limit(limit)
        )
        ends: dict[tuple[str, int], list[int]] = {}
        for job_type, state, end in self._rows(query):
            ends.setdefault((job_type, state), []).append(end)
        return [
            Ended(job_type, JobState(state), len(times), times[0]) for (job_type, state), times in sorted(ends.items())
        ]

    def overdue(self, before: int) -> int:
        due = JobRow.select(JobRow.create_sequence).where(JobRow.due_time.is_null(False), JobRow.due_time < before)
        return len(self._rows(due.limit(_OVERDUE_COUNTED_MAX)))
