"""``jobstate.v1.MaintenanceService``: the maintenance tasks, on demand."""

from __future__ import annotations

from jobstate.v1 import maintenance_service_pb2 as pb
from jobstate_server.domain.job import JobState
from jobstate_server.maintenance.erase import Erase
from jobstate_server.maintenance.recurring import RecurringJobs, RecurringState
from jobstate_server.maintenance.registry import Tasks
from jobstate_server.maintenance.run_locks import RunLocks, telling_of_a_part
from jobstate_server.maintenance.schedule import Schedule, TaskState
from jobstate_server.maintenance.sweep import Run
from jobstate_server.rpc.call import Call
from jobstate_server.rpc.requests.maintenance import cleanup_age, forgotten
from jobstate_server.wire.times import set_span, set_time


class MaintenanceService:
    """The handlers."""

    def __init__(
        self, tasks: Tasks, schedule: Schedule, recurring: RecurringJobs, run_locks: RunLocks, erase: Erase
    ) -> None:
        self._tasks = tasks
        self._erase = erase
        self._schedule = schedule
        self._recurring = recurring
        self._run_locks = run_locks

    async def CheckStale(self, request: pb.CheckStaleRequest, _call: Call) -> bytes:
        async with self._run_locks.take(self._tasks.check_stale.name):
            with telling_of_a_part():
                report = await self._tasks.check_stale.run_once(Run(dry_run=request.dry_run))
        return pb.CheckStaleResponse(job_ids=report.job_ids, count=report.count).SerializeToString()

    async def RetryFailed(self, request: pb.RetryFailedRequest, _call: Call) -> bytes:
        async with self._run_locks.take(self._tasks.retry_failed.name):
            with telling_of_a_part():
                report = await self._tasks.retry_failed.run_once(Run(dry_run=request.dry_run))
        return pb.RetryFailedResponse(job_ids=report.job_ids, count=report.count).SerializeToString()

    async def Cleanup(self, request: pb.CleanupRequest, _call: Call) -> bytes:
        older_than = cleanup_age(request)
        async with self._run_locks.take(self._tasks.cleanup.name):
            with telling_of_a_part():
                report = await self._tasks.cleanup.run_once(Run(dry_run=request.dry_run), older_than=older_than)
        return pb.CleanupResponse(jobs=report.count, events=report.events).SerializeToString()

    async def Erase(self, request: pb.EraseRequest, call: Call) -> bytes:
        wanted = forgotten(request)
        async with self._run_locks.take(self._erase.name):
            done = await self._erase.run(wanted, call.caller)
        return pb.EraseResponse(
            jobs=done.jobs,
            events=done.events,
            request_ids=done.request_ids,
            unfinished=done.unfinished,
            unfinished_job_ids=done.unfinished_job_ids,
        ).SerializeToString()

    async def CheckHealth(self, _request: pb.CheckHealthRequest, _call: Call) -> bytes:
        report = await self._tasks.check_health.run_shared()
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

    async def ListTasks(self, _request: pb.ListTasksRequest, _call: Call) -> bytes:
        tasks = [_task_message(task) for task in await self._schedule.states()]
        tasks += [_recurring_message(state) for state in await self._recurring.states()]
        return pb.ListTasksResponse(tasks=tasks).SerializeToString()


def _task_message(task: TaskState) -> pb.Task:
    message = pb.Task(name=task.name, schedule=task.schedule, time_zone="UTC")
    set_time(message.next_run, task.next_run)
    run = task.last_run
    if run is not None:
        message.last_outcome = run.outcome
        set_time(message.last_run, run.start_time)
        if run.end_time is not None:
            set_span(message.last_duration, max(0, run.end_time - run.start_time))
    return message


def _recurring_message(state: RecurringState) -> pb.Task:
    entry, run = state.entry, state.last_run
    message = pb.Task(
        name=entry.name,
        schedule=entry.schedule,
        time_zone=entry.time_zone,
        job_type=entry.job_type,
        last_error=state.error,
    )
    set_time(message.next_run, state.next_instant)
    if run is not None:
        message.last_job_id, message.last_outcome = run.job_id, run.outcome
        set_time(message.last_run, run.start_time)
    return message
