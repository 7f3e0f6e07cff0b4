"""A restart or a step of the clock costs no attempt its work, and no retry its turn."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from jobstate.v1 import job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate.v1 import maintenance_service_pb2 as mpb
from jobstate_server.domain.durations import DAY, HOUR, MILLISECOND, MINUTE, SECOND
from jobstate_server.domain.store_time import PAUSE_MIN

from ..support.calls import complete, create, fail, get, history, micros, settled, span, start, watching_live
from ..support.clock import WatchedClock
from ..support.server import Running, rows, serving, stored_job_ids
from .support import stale

RESTART_GRACE = 30 * SECOND


def time_of(micros: int) -> Timestamp:
    """As a caller writes it."""
    time = Timestamp()
    time.FromMicroseconds(micros)
    return time


async def test_a_retry_that_fell_due_while_the_server_was_down_is_resumed_when_it_is_back(
    path: Path, clock: WatchedClock
) -> None:
    async with serving(path, clock) as running:
        await create(running)
        await start(running)
        await fail(running)
    clock.advance(HOUR)

    async with serving(path, clock) as running:
        await settled(running)
        job = await get(running)
        (*_, started) = await history(running)

    assert (job.state, job.attempt) == (job_pb2.JOB_STATE_PROCESSING, 2)
    assert started.name == "processing-job.started"
    assert micros(started.time) - clock.now() <= 50 * MILLISECOND


async def _left_alone_for_an_hour(path: Path, clock: WatchedClock, job_type: str) -> None:
    async with serving(path, clock) as running:
        await create(running, "job", job_type)
        await start(running)
    clock.advance(HOUR)


async def test_an_attempt_that_timed_out_while_the_server_was_down_may_still_complete_within_the_grace(
    path: Path, clock: WatchedClock
) -> None:
    await _left_alone_for_an_hour(path, clock, "clean_transcript")

    async with serving(path, clock) as running:
        await settled(running)
        clock.advance(RESTART_GRACE - 1)
        await settled(running)
        assert (await get(running)).state == job_pb2.JOB_STATE_PROCESSING

        assert (await complete(running, attempt=1)).state == job_pb2.JOB_STATE_COMPLETED


async def test_an_attempt_that_timed_out_while_the_server_was_down_fails_after_the_grace(
    path: Path, clock: WatchedClock
) -> None:
    await _left_alone_for_an_hour(path, clock, "clean_transcript")

    async with serving(path, clock) as running, watching_live(running) as watch:
        await settled(running)
        clock.advance(RESTART_GRACE)
        (failed, *_) = await watch.events(2)

    assert failed.failed.error.code == "ATTEMPT_TIMEOUT"
    assert micros(failed.time) == clock.now()


async def test_an_attempt_that_went_silent_while_the_server_was_down_is_not_stale_before_the_grace(
    path: Path, clock: WatchedClock
) -> None:
    await _left_alone_for_an_hour(path, clock, "default")

    async with serving(path, clock) as running:
        assert await stale(running) == []
        clock.advance(RESTART_GRACE - 1)
        assert await stale(running) == []
        clock.advance(1)
        assert await stale(running) == ["job"]


async def test_an_attempt_with_time_left_keeps_its_deadline_over_a_restart(path: Path, clock: WatchedClock) -> None:
    async with serving(path, clock) as running:
        await create(running, "job", "generate_posts")
        deadline = micros((await start(running)).attempt_deadline)
    clock.advance(5 * SECOND)

    async with serving(path, clock) as running:
        await settled(running)
        assert micros((await get(running)).attempt_deadline) == deadline


async def test_a_step_of_the_clock_counts_as_an_outage_for_timeouts(running: Running, clock: WatchedClock) -> None:
    await create(running, "job", "clean_transcript")
    await start(running)

    clock.step(HOUR)
    clock.advance(SECOND)
    await settled(running)

    assert (await get(running)).state == job_pb2.JOB_STATE_PROCESSING
    clock.advance(RESTART_GRACE - SECOND)
    await settled(running)
    assert (await complete(running)).state == job_pb2.JOB_STATE_COMPLETED


async def test_a_step_of_the_clock_counts_as_an_outage_for_silence(running: Running, clock: WatchedClock) -> None:
    await create(running)
    await start(running)

    clock.step(HOUR)

    assert await stale(running, dry_run=True) == []
    assert await stale(running) == []
    clock.advance(RESTART_GRACE)
    assert await stale(running) == ["job"]


@pytest.mark.parametrize("step", [PAUSE_MIN, -PAUSE_MIN])
async def test_a_small_correction_of_the_clock_is_no_outage(running: Running, clock: WatchedClock, step: int) -> None:
    await create(running, "job", "clean_transcript")
    await start(running)
    async with watching_live(running) as watch:
        clock.advance(30 * SECOND)
        clock.step(step)
        clock.advance(31 * SECOND)
        (failed, *_) = await watch.events(2)

    assert failed.failed.error.code == "ATTEMPT_TIMEOUT"


async def test_a_retry_keeps_its_time_when_the_clock_is_set_back(running: Running, clock: WatchedClock) -> None:
    """By hours as by seconds, once and again."""
    for number, step in enumerate((-HOUR, -3 * SECOND, -40 * DAY)):
        job = f"job-{number}"
        await create(running, job)
        await start(running, job)
        await fail(running, job, retry_delay=span(60))
        clock.step(step)
        async with watching_live(running) as watch:
            clock.advance(59 * SECOND)
            await settled(running)
            assert (await get(running, job)).state == job_pb2.JOB_STATE_RETRYING
            clock.advance(2 * SECOND)
            (started,) = await watch.events(1)
        assert (started.job.id, started.started.resumed) == (job, True)


async def test_a_timeout_keeps_its_time_when_the_clock_is_set_back(running: Running, clock: WatchedClock) -> None:
    await create(running, "job", "clean_transcript")
    await start(running)
    async with watching_live(running) as watch:
        clock.step(-HOUR)
        clock.advance(59 * SECOND)
        await settled(running)
        assert (await get(running)).state == job_pb2.JOB_STATE_PROCESSING
        clock.advance(2 * SECOND)
        (failed, *_) = await watch.events(2)

    assert failed.failed.error.code == "ATTEMPT_TIMEOUT"


@pytest.mark.parametrize("step", [-3 * SECOND, -HOUR, -60 * DAY])
async def test_time_goes_on_from_the_newest_stored_when_the_clock_was_set_back_over_a_restart(
    path: Path, clock: WatchedClock, step: int
) -> None:
    async with serving(path, clock) as running:
        clock.advance(MINUTE)
        await create(running)
        await start(running)
        failed = await fail(running, retry_delay=span(30))
        written = micros(failed.update_time)
    restarted = WatchedClock(clock.now() + step)

    async with serving(path, restarted) as running:
        assert written <= restarted.now() <= written + SECOND
        async with watching_live(running) as watch:
            restarted.advance(29 * SECOND)
            await settled(running)
            assert (await get(running)).state == job_pb2.JOB_STATE_RETRYING
            restarted.advance(2 * SECOND)
            (started,) = await watch.events(1)
            job = await complete(running, attempt=2)
        everything = await history(running)
        answer = await running.jobs.Get(pb.GetRequest(id="job", include_attempts=True))

    assert micros(started.time) >= written + 30 * SECOND
    assert micros(job.update_time) >= micros(started.time)
    times = [micros(event.time) for event in everything]
    assert times == sorted(times)
    assert [attempt.number for attempt in answer.attempts] == [1, 2]


async def test_a_clock_that_was_set_back_is_told_and_callers_times_are_taken_by_it(
    running: Running, clock: WatchedClock, caplog: pytest.LogCaptureFixture
) -> None:
    await create(running, "before")
    clock.step(-HOUR)
    clock.advance(MINUTE)
    await create(running, "after")
    wall = clock.now() - clock.ahead()
    report = await running.maintenance.CheckHealth(mpb.CheckHealthRequest())

    assert 3_590 * SECOND < clock.ahead() <= HOUR
    assert [problem for problem in report.problems if "behind the store's time" in problem]
    assert "the store's time is ahead of the clock" in caplog.text
    since = pb.ListRequest(create_time_from=time_of(wall - SECOND))
    assert [job.id for job in (await running.jobs.List(since)).jobs] == ["after"]
    until = pb.ListRequest(create_time_to=time_of(wall - SECOND))
    assert [job.id for job in (await running.jobs.List(until)).jobs] == ["before"]


async def test_reports_that_came_during_a_pause_win_against_the_timer(running: Running, clock: WatchedClock) -> None:
    """And the timer wins against those that come too late after it."""
    for job in ("reported", "silent"):
        await create(running, job, "clean_transcript")
        await start(running, job)
    clock.advance(59 * SECOND)
    clock.pause(10 * SECOND)
    clock.advance(0)
    await settled(running)

    assert (await complete(running, "reported")).state == job_pb2.JOB_STATE_COMPLETED
    async with watching_live(running) as watch:
        clock.advance(9 * SECOND)
        await settled(running)
        assert (await get(running, "silent")).state == job_pb2.JOB_STATE_PROCESSING
        clock.advance(2 * SECOND)
        (failed, *_) = await watch.events(2)
    assert failed.failed.error.code == "ATTEMPT_TIMEOUT"


async def test_a_pause_moves_limits_by_its_own_length_and_by_restart_grace_at_most(
    running: Running, clock: WatchedClock
) -> None:
    await settled(running)
    clock.advance(RESTART_GRACE)
    for job, pause, grace in (("short", 3 * SECOND, 3 * SECOND), ("long", HOUR, RESTART_GRACE)):
        await create(running, job, "clean_transcript")
        await start(running, job)
        clock.pause(pause)
        await settled(running)
        assert running.server.committer.grace_until == clock.now() + grace
        await complete(running, job)


async def test_a_pause_is_no_silence(running: Running, clock: WatchedClock) -> None:
    await create(running)
    await start(running)
    clock.pause(HOUR)

    assert await stale(running) == []
    clock.advance(RESTART_GRACE)
    assert await stale(running) == ["job"]


async def test_after_a_jump_of_more_than_a_day_nothing_is_removed_for_its_age_for_a_day(
    path: Path, clock: WatchedClock
) -> None:
    """While running, and over restarts; unless an operator asks."""
    async with serving(path, clock) as running:
        for job in ("old", "asked"):
            await create(running, job, request_id=f"request-{job}")
            await start(running, job)
        await complete(running, "old")
    clock.advance(60 * DAY)
    for _ in range(2):
        async with serving(path, clock) as running:
            before = rows(path)
            for task in (running.server.tasks.cleanup, running.server.tasks.evict_inactive):
                await running.server.schedule.run_claimed(task, clock.now())
            after = rows(path)
            assert {table: after[table] for table in ("job", "event", "request")} == {
                table: before[table] for table in ("job", "event", "request")
            }
            outcomes = (await running.server.readers.run(lambda reader: reader.task_runs())).values()
            assert all("time has jumped" in run.outcome for run in outcomes)
    async with serving(path, clock) as running:
        answer = await running.maintenance.Cleanup(mpb.CleanupRequest(dry_run=True))
        assert answer.jobs == 1
        clock.advance(DAY)
        await running.server.schedule.run_claimed(running.server.tasks.cleanup, clock.now())
        await running.server.schedule.run_claimed(running.server.tasks.evict_inactive, clock.now())
        assert stored_job_ids(path) == {"asked"}
        assert rows(path)["request"] == []


async def test_a_retry_is_resumed_within_a_second_after_the_clock_was_set_past_its_time(
    running: Running, clock: WatchedClock
) -> None:
    await create(running)
    await start(running)
    await fail(running, retry_delay=span(3_600))
    async with watching_live(running) as watch:
        clock.step(HOUR)
        clock.advance(SECOND)
        (started,) = await watch.events(1)

    assert started.started.resumed
