"""The reads of the maintenance tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peewee import ModelSelect

from jobstate_server.domain.filters import Position
from jobstate_server.domain.job import JobState
from jobstate_server.store.models import JobRow, TaskRunRow
from jobstate_server.store.reading.connection import ReadConnection
from jobstate_server.store.reading.expressions import beyond, is_kept
from jobstate_server.store.records import JobSummary, TaskRun
from jobstate_server.store.rows import SUMMARY_COLUMNS, summary_from

_SUMMARY_FIELDS = [getattr(JobRow, name) for name in SUMMARY_COLUMNS]


class MaintenanceReads(ReadConnection):
    """Reads summaries of jobs, and the runs of tasks."""

    def _summaries(self, query: ModelSelect[Any]) -> list[JobSummary]:
        return [summary_from(row) for row in self._rows(query)]

    def jobs_in_state(self, job_type: str, state: JobState, after: Position | None, limit: int) -> list[JobSummary]:
        query = JobRow.select(*_SUMMARY_FIELDS).where(JobRow.job_type == job_type, JobRow.state == int(state))
        if after is not None:
            query = query.where(beyond(JobRow.create_time, JobRow.create_sequence, after, newest_first=False))
        return self._summaries(query.order_by(JobRow.create_time, JobRow.create_sequence).limit(limit))

    def finished_jobs(self, completed_before: int, after: Position | None, limit: int) -> list[JobSummary]:
        query = JobRow.select(*_SUMMARY_FIELDS, is_kept()).where(
            JobRow.complete_time.is_null(False), JobRow.complete_time < completed_before
        )
        if after is not None:
            query = query.where(beyond(JobRow.complete_time, JobRow.create_sequence, after, newest_first=False))
        return self._summaries(query.order_by(JobRow.complete_time, JobRow.create_sequence).limit(limit))

    def task_runs(self) -> Mapping[str, TaskRun]:
        query = TaskRunRow.select(
            TaskRunRow.name,
            TaskRunRow.last_due,
            TaskRunRow.token,
            TaskRunRow.start_time,
            TaskRunRow.end_time,
            TaskRunRow.outcome,
            TaskRunRow.replica,
            TaskRunRow.definition,
            TaskRunRow.job_id,
        )
        return {row[0]: TaskRun(*row) for row in self._rows(query)}
