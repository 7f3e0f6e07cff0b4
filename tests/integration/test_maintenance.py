"""The five tasks: what each does, by RPC and on schedule, and what an operator is told of it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from grpc_health.v1 import health_pb2

from jobstate.v1 import job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate.v1 import maintenance_service_pb2 as mpb
from jobstate_server.domain.durations import DAY, HOUR, MINUTE, SECOND
from jobstate_server.maintenance.schedule import Schedule
from jobstate_server.maintenance.task import StillClaimed, Task

from ..support.calls import (
    cancel,
    complete,
    create,
    fail,
    get,
    history,
    micros,
    names,
    refused,
    settled,
    span,
    start,
    struct,
)
from ..support.clock import WatchedClock
from ..support.server import RESTING, Running, rows, serving

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

DUTIES = ("check-stale", "retry-failed", "evict-inactive", "cleanup", "check-health")


async def always_ours() -> bool:
    """For a scheduled run that nobody takes over."""
    return True


# check-stale.


async def test_check_stale_tells_of_silent_attempts_and_changes_nothing_when_it_is_dry(
    running: Running, clock: WatchedClock
) -> None:
    for job_id, job_type in (("silent", "clean_transcript"), ("patient", "default")):
        await create(running, job_id, job_type, timeout=span(0))
        await start(running, job_id)
    clock.advance(5 * MINUTE)
    before = rows(running.path)

    dry = await running.maintenance.CheckStale(mpb.CheckStaleRequest(dry_run=True))
    assert rows(running.path) == before
    done = await running.maintenance.CheckStale(mpb.CheckStaleRequest())
    again = await running.maintenance.CheckStale(mpb.CheckStaleRequest())

    assert (list(dry.job_ids), dry.count) == (list(done.job_ids), done.count) == (["silent"], 1)
    assert (list(again.job_ids), again.count) == ([], 0)
    assert (await get(running, "silent")).state == job_pb2.JOB_STATE_RETRYING
    assert (await get(running, "patient")).state == job_pb2.JOB_STATE_PROCESSING


async def test_a_report_names_100_jobs_and_counts_all(running: Running, clock: WatchedClock) -> None:
    items = [pb.CreateRequest(id=f"job-{number:03}", job_type="default") for number in range(250)]
    await running.jobs.BatchCreate(pb.BatchCreateRequest(requests=items))
    await asyncio.gather(*(start(running, item.id) for item in items))
    clock.advance(15 * MINUTE)

    answer = await running.maintenance.CheckStale(mpb.CheckStaleRequest())

    assert answer.count == 250
    assert len(set(answer.job_ids)) == 100
    assert names(await history(running)).count("stale.detected") == 250


# retry-failed.


async def test_retry_failed_moves_what_rests_although_its_type_now_retries_by_itself(
    path: Path, clock: WatchedClock
) -> None:
    async with serving(path, clock) as running:
        for job_id in ("one", "two"):
            await create(running, job_id, RESTING)
            await start(running, job_id)
            await fail(running, job_id)
        unmoved = await running.maintenance.RetryFailed(mpb.RetryFailedRequest())
    async with serving(path, clock, job_types={RESTING: {"auto_retry": True}}) as running:
        before = rows(path)
        dry = await running.maintenance.RetryFailed(mpb.RetryFailedRequest(dry_run=True))
        assert rows(path) == before
        done = await running.maintenance.RetryFailed(mpb.RetryFailedRequest())
        again = await running.maintenance.RetryFailed(mpb.RetryFailedRequest())
        job = await get(running, "one")

    assert unmoved.count == again.count == 0
    assert (sorted(dry.job_ids), dry.count) == (sorted(done.job_ids), done.count) == (["one", "two"], 2)
    assert job.state == job_pb2.JOB_STATE_RETRYING
    assert micros(job.next_retry_time) == clock.now() + SECOND


async def test_retry_failed_sees_to_retries_whose_timer_was_lost(running: Running, clock: WatchedClock) -> None:
    await create(running)
    await start(running)
    await fail(running)
    running.server.due_timer._next_due = None
    clock.advance(HOUR)
    await settled(running)
    assert (await get(running)).state == job_pb2.JOB_STATE_RETRYING

    await running.maintenance.RetryFailed(mpb.RetryFailedRequest())
    await settled(running)

    assert (await get(running)).state == job_pb2.JOB_STATE_PROCESSING


# cleanup.


async def final_jobs(running: Running) -> None:
    """One job in each final state, and one that is running."""
    for job_id in ("completed", "failed", "cancelled", "running"):
        await create(running, job_id)
        if job_id != "cancelled":
            await start(running, job_id)
    await complete(running, "completed")
    await fail(running, "failed", retryable=False)
    await cancel(running, "cancelled")


FINAL = {"completed", "failed", "cancelled"}


async def stored_ids(running: Running) -> set[str]:
    """Of every stored job."""
    return {job.id for job in (await running.jobs.List(pb.ListRequest())).jobs}


async def test_cleanup_deletes_final_jobs_30_days_after_they_ended_and_tells_watchers(
    running: Running, clock: WatchedClock
) -> None:
    await final_jobs(running)
    clock.advance(30 * DAY)
    assert (await running.maintenance.Cleanup(mpb.CleanupRequest(dry_run=True))).jobs == 0
    clock.advance(1)
    before = rows(running.path)

    dry = await running.maintenance.Cleanup(mpb.CleanupRequest(dry_run=True))
    assert rows(running.path) == before
    done = await running.maintenance.Cleanup(mpb.CleanupRequest())
    again = await running.maintenance.Cleanup(mpb.CleanupRequest())

    assert (dry.jobs, done.jobs, again.jobs) == (3, 3, 0)
    assert dry.events == done.events == 11
    assert await stored_ids(running) == {"running"}
    events = await history(running)
    assert set(names(events)) == {"deleted"}
    assert {event.job.id for event in events} == FINAL
    assert rows(running.path)["attempt"] == []


async def test_while_callers_report_a_cleanup_deletes_every_job_in_the_order_in_which_they_ended(
    running: Running, clock: WatchedClock
) -> None:
    items = [pb.CreateRequest(id=f"job-{number:03}", job_type="default") for number in range(300)]
    await running.jobs.BatchCreate(pb.BatchCreateRequest(requests=items))
    for half in (items[150:], items[:150]):
        await asyncio.gather(*(cancel(running, item.id) for item in half))
        clock.advance(1)
    await create(running, "live")
    await start(running, "live")
    clock.advance(2 * HOUR)

    cleanup = asyncio.ensure_future(running.maintenance.Cleanup(mpb.CleanupRequest(older_than=span(3_600))))
    reports = 0
    while not cleanup.done():
        await asyncio.gather(*(running.jobs.UpdateProgress(pb.UpdateProgressRequest(id="live")) for _ in range(4)))
        await running.jobs.UpdateProgress(pb.UpdateProgressRequest(id="live", progress=reports % 100))
        reports += 1
        # A cleanup leaves callers their share: it waits for time to pass.
        clock.advance(SECOND)

    assert (await cleanup).jobs == 300
    events = await history(running)
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    deleted = [event.job.id for event in events if event.name == "processing-job.deleted"]
    assert deleted == [item.id for item in items[150:] + items[:150]]
    assert names(events).count("progress") == reports
    assert await stored_ids(running) == {"live"}


async def test_a_deleted_event_carries_what_remains_of_the_job(running: Running, clock: WatchedClock) -> None:
    await create(running, source_id="talk")
    await cancel(running, reason="enough")
    clock.advance(2 * HOUR)
    await running.maintenance.Cleanup(mpb.CleanupRequest(older_than=span(3_600)))

    (*_, deleted) = await history(running)

    assert deleted.name == "processing-job.deleted"
    assert (deleted.actor, deleted.previous_state) == ("server", job_pb2.JOB_STATE_CANCELLED)
    assert deleted.job == job_pb2.Job(
        id="job",
        job_type="default",
        source_id="talk",
        state=job_pb2.JOB_STATE_CANCELLED,
        version=deleted.sequence,
    )


async def test_an_id_that_is_deleted_and_created_again_never_goes_back(running: Running, clock: WatchedClock) -> None:
    await create(running)
    last = (await cancel(running)).version
    clock.advance(2 * HOUR)
    await running.maintenance.Cleanup(mpb.CleanupRequest(older_than=span(3_600)))
    assert (await refused(get(running))).reason == "JOB_NOT_FOUND"

    assert (await create(running)).version > last


async def test_cleanup_of_less_than_an_hour_needs_force(running: Running, clock: WatchedClock) -> None:
    await final_jobs(running)
    clock.advance(1)

    refusal = await refused(running.maintenance.Cleanup(mpb.CleanupRequest(older_than=span(3_599))))
    assert refusal.metadata == {"field": "older_than"}
    assert await stored_ids(running) == FINAL | {"running"}

    answer = await running.maintenance.Cleanup(mpb.CleanupRequest(older_than=span(0), force=True))
    assert answer.jobs == 3


async def test_events_beyond_the_retention_in_bytes_go_first(path: Path, clock: WatchedClock) -> None:
    async with serving(path, clock, event_retention_bytes=2**20) as running:
        await create(running)
        await start(running)
        for _ in range(40):
            await running.jobs.UpdateProgress(pb.UpdateProgressRequest(id="job", message="m" * 4_000))
        unmoved = await running.maintenance.Cleanup(mpb.CleanupRequest())
        items = [pb.CreateRequest(job_type="default", metadata=struct(text="s" * 250)) for _ in range(1_000)]
        for _ in range(4):
            await running.jobs.BatchCreate(pb.BatchCreateRequest(requests=items))
        dry = await running.maintenance.Cleanup(mpb.CleanupRequest(dry_run=True))
        done = await running.maintenance.Cleanup(mpb.CleanupRequest())
        kept = await running.server.readers.run(lambda reader: reader.log_state().bytes)

    assert unmoved.events == 0
    assert dry.events == done.events > 40
    assert 2**20 - 1_000 < kept <= 2**20


# The schedule.


async def tasks(running: Running) -> dict[str, mpb.Task]:
    """ListTasks, by name."""
    answer = await running.maintenance.ListTasks(mpb.ListTasksRequest())
    return {task.name: task for task in answer.tasks}


@pytest.mark.usefixtures("unscheduled")
async def test_the_five_tasks_have_exactly_their_five_schedules(path: Path, clock: WatchedClock) -> None:
    expected = {
        "check-stale": ("*/5 * * * *", 5 * MINUTE),
        "retry-failed": ("*/10 * * * *", 10 * MINUTE),
        "evict-inactive": ("0 * * * *", HOUR),
        "cleanup": ("0 2 * * *", DAY),
        "check-health": ("*/2 * * * *", 2 * MINUTE),
    }
    async with serving(path, clock, schedules={}) as running:
        first = await tasks(running)
        assert tuple(first) == DUTIES
        assert {name: task.schedule for name, task in first.items()} == {
            name: schedule for name, (schedule, _) in expected.items()
        }
        for wait in (0, 7 * HOUR + 13 * SECOND, 29 * DAY):
            clock.step(wait)
            for name, task in (await tasks(running)).items():
                interval = expected[name][1]
                offset = 2 * HOUR if name == "cleanup" else 0
                last_run = (clock.now() - offset) // interval * interval + offset
                assert micros(task.next_run) == last_run + interval


async def test_before_its_first_scheduled_run_a_task_has_no_last_run(running: Running) -> None:
    await running.maintenance.CheckStale(mpb.CheckStaleRequest())

    for task in (await tasks(running)).values():
        assert not task.HasField("last_run")
        assert not task.last_outcome


OUTCOMES = {
    "check-stale": "1 stale",
    "retry-failed": "0 retried",
    "evict-inactive": "1 request ids deleted",
    "cleanup": "1 jobs and 4 events deleted",
    "check-health": "healthy",
}


@pytest.mark.parametrize("name", DUTIES)
async def test_a_scheduled_run_does_its_task_once_for_each_instant_and_is_written_down(
    running: Running, clock: WatchedClock, name: str
) -> None:
    await create(running, "silent", request_id="request-1")
    await start(running, "silent")
    await create(running, "cancelled")
    await cancel(running, "cancelled")
    clock.advance(40 * DAY)
    (task,) = [task for task in running.server.schedule.tasks if task.name == name]
    due = clock.now() // MINUTE * MINUTE

    await running.server.schedule.run_claimed(task, due)
    once = rows(running.path)
    told = (await tasks(running))[name]
    await running.server.schedule.run_claimed(task, due)
    await running.server.schedule.run_claimed(task, due - MINUTE)

    assert rows(running.path) == once
    assert micros(told.last_run) == clock.now()
    assert told.HasField("last_duration")
    assert told.last_outcome == OUTCOMES[name]


async def test_a_task_that_fails_is_written_down_as_failed_and_its_cause_logged(
    running: Running, clock: WatchedClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        name = "broken"
        schedule = "* * * * *"

        async def run_scheduled(self, still_claimed: StillClaimed) -> str:
            raise RuntimeError("it broke")

    task: Task = Broken()
    await running.server.schedule.run_claimed(task, clock.now())

    runs = await running.server.readers.run(lambda reader: reader.task_runs())
    assert runs["broken"].outcome == "failed; the log says why"
    assert "it broke" in caplog.text


@pytest.mark.usefixtures("unscheduled")
async def test_an_instant_that_was_missed_runs_once_when_the_server_is_back(
    path: Path, clock: WatchedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(path, clock, schedules={}) as running:
        for task in running.server.schedule.tasks:
            await running.server.schedule.run_claimed(task, clock.now())
    clock.advance(3 * HOUR + 50 * MINUTE)
    claimed: list[tuple[str, int]] = []
    run_claimed = Schedule.run_claimed

    async def claim_and_note(schedule: Schedule, task: Task, due: int) -> None:
        claimed.append((task.name, due))
        await run_claimed(schedule, task, due)

    monkeypatch.setattr(Schedule, "run_claimed", claim_and_note)
    async with serving(path, clock, schedules={}) as running:
        before = clock.now()
        await running.server.schedule.idle()
        after = await tasks(running)

    assert dict(claimed) == {
        "check-stale": before // (5 * MINUTE) * 5 * MINUTE,
        "retry-failed": before // (10 * MINUTE) * 10 * MINUTE,
        "evict-inactive": before // HOUR * HOUR,
        "cleanup": before // DAY * DAY + 2 * HOUR,
        "check-health": before // (2 * MINUTE) * 2 * MINUTE,
    }
    assert all(micros(task.last_run) == before for task in after.values())
    claimed.clear()
    async with serving(path, clock, schedules={}):
        assert claimed == []


@pytest.mark.usefixtures("unscheduled")
async def test_no_instant_is_made_up_for_a_store_that_is_new(path: Path, clock: WatchedClock) -> None:
    async with serving(path, clock, schedules={}) as running:
        assert not any(task.HasField("last_run") for task in (await tasks(running)).values())


async def test_a_run_that_was_taken_over_stops_at_its_next_slice(running: Running, clock: WatchedClock) -> None:
    items = [pb.CreateRequest(id=f"job-{number:03}", job_type="default") for number in range(250)]
    await running.jobs.BatchCreate(pb.BatchCreateRequest(requests=items))
    await asyncio.gather(*(start(running, item.id) for item in items))
    clock.advance(15 * MINUTE)
    answers: list[Any] = [True, False, False, False]

    async def still_claimed() -> bool:
        return bool(answers.pop(0))

    outcome = await running.server.tasks.check_stale.run_scheduled(still_claimed)

    assert outcome == "100 stale"
    assert names(await history(running)).count("stale.detected") == 100
