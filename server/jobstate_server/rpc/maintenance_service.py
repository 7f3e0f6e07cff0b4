"""``jobstate.v1.MaintenanceService``: the periodic duties, on demand."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from jobstate.v1 import maintenance_service_pb2 as pb
from jobstate_server.domain.job import JobState
from jobstate_server.maintenance.check_health import CheckHealth, HealthReport
from jobstate_server.maintenance.check_stale import CheckStale
from jobstate_server.maintenance.cleanup import Cleanup
from jobstate_server.maintenance.retry_failed import RetryFailed
from jobstate_server.maintenance.schedule import Schedule, TaskState
from jobstate_server.maintenance.turns import Turns
from jobstate_server.rpc import validate
from jobstate_server.rpc.calls import Call
from jobstate_server.wire.times import set_span, set_time, span_from


@dataclass(frozen=True, slots=True)
class Duties:
    """The duties that can be asked for."""

    check_stale: CheckStale
    retry_failed: RetryFailed
    cleanup: Cleanup
    check_health: CheckHealth


class MaintenanceService:
    """The handlers."""

    def __init__(self, duties: Duties, schedule: Schedule, turns: Turns) -> None:
        self._duties = duties
        self._schedule = schedule
        self._turns = turns
        self._health_run: asyncio.Task[HealthReport] | None = None

    async def CheckStale(self, request: pb.CheckStaleRequest, _call: Call) -> bytes:
        async with self._turns.take(self._duties.check_stale.name):
            report = await self._duties.check_stale.run_once(dry_run=request.dry_run)
        return pb.CheckStaleResponse(job_ids=report.job_ids, count=report.count).SerializeToString()

    async def RetryFailed(self, request: pb.RetryFailedRequest, _call: Call) -> bytes:
        async with self._turns.take(self._duties.retry_failed.name):
            report = await self._duties.retry_failed.run_once(dry_run=request.dry_run)
        return pb.RetryFailedResponse(job_ids=report.job_ids, count=report.count).SerializeToString()

    async def Cleanup(self, request: pb.CleanupRequest, _call: Call) -> bytes:
        validate.cleanup(request)
        older_than = span_from(request.older_than) if request.HasField("older_than") else None
        async with self._turns.take(self._duties.cleanup.name):
            report = await self._duties.cleanup.run_once(older_than=older_than, dry_run=request.dry_run)
        return pb.CleanupResponse(jobs=report.count, events=report.events).SerializeToString()

    async def CheckHealth(self, _request: pb.CheckHealthRequest, _call: Call) -> bytes:
        report = await self._health_report()
        answer = pb.CheckHealthResponse(
            state=pb.HEALTH_STATE_DEGRADED if report.problems else pb.HEALTH_STATE_HEALTHY,
            problems=report.problems,
            queued=report.stored[JobState.QUEUED],
            processing=report.stored[JobState.PROCESSING],
            failed=report.stored[JobState.FAILED],
            overdue=report.overdue,
            failure_rate=report.failure_rate,
            backlog=report.backlog,
            commits=report.commits,
            commands=report.commands,
        )
        if report.oldest_queued_age is not None:
            set_span(answer.oldest_queued_age, max(0, report.oldest_queued_age))
        if report.oldest_unclaimed_age is not None:
            set_span(answer.oldest_unclaimed_age, max(0, report.oldest_unclaimed_age))
        set_span(answer.commit_latency_p99, report.commit_latency_p99)
        return answer.SerializeToString()

    async def _health_report(self) -> HealthReport:
        """The report of one run, for everybody who asks while it is made."""
        if self._health_run is None:
            self._health_run = asyncio.create_task(self._duties.check_health.run_once())
            self._health_run.add_done_callback(self._health_run_ended)
        return await asyncio.shield(self._health_run)

    def _health_run_ended(self, _run: asyncio.Task[HealthReport]) -> None:
        self._health_run = None

    async def ListTasks(self, _request: pb.ListTasksRequest, _call: Call) -> bytes:
        tasks = [_task_message(task) for task in await self._schedule.tasks()]
        return pb.ListTasksResponse(tasks=tasks).SerializeToString()


def _task_message(task: TaskState) -> pb.Task:
    message = pb.Task(name=task.name, schedule=task.schedule)
    set_time(message.next_run, task.next_run)
    run = task.last_run
    if run is not None:
        message.last_outcome = run.outcome
        set_time(message.last_run, run.start_time)
        if run.end_time is not None:
            set_span(message.last_duration, max(0, run.end_time - run.start_time))
    return message
