"""check-health: what it finds wrong with the jobs of the recent past, and for how long."""

from __future__ import annotations

import re
from pathlib import Path

from grpc_health.v1 import health_pb2

from jobstate.v1 import maintenance_service_pb2 as mpb
from jobstate_server.domain.durations import HOUR, MINUTE, SECOND

from ..support.calls import complete, create, fail, health_of, micros, settled, span, start
from ..support.clock import WatchedClock
from ..support.server import RESTING, Running, serving

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def always_ours() -> bool:
    """For a scheduled run that nobody takes over."""
    return True


async def check_health(running: Running) -> mpb.CheckHealthResponse:
    """The RPC."""
    return await running.maintenance.CheckHealth(mpb.CheckHealthRequest())


async def test_jobs_that_are_well_are_healthy(running: Running) -> None:
    await create(running, "queued")
    await create(running, "running")
    await start(running, "running")
    await create(running, "resting", RESTING)
    await start(running, "resting")
    await fail(running, "resting")

    report = await check_health(running)

    assert (report.state, list(report.problems)) == (mpb.HEALTH_STATE_HEALTHY, [])
    assert (report.queued, report.processing, report.failed, report.overdue, report.backlog) == (1, 1, 1, 0, 0)
    assert report.commits >= 6
    assert report.HasField("commit_latency_p99")
    assert await health_of(running, "jobs") == SERVING


async def test_jobs_that_nobody_works_on_are_a_problem_of_the_jobs_and_not_of_the_server(
    running: Running, clock: WatchedClock
) -> None:
    await create(running, "other", RESTING)
    await start(running, "other")
    await create(running)
    clock.advance(15 * MINUTE + 1)

    report = await check_health(running)
    outcome = await running.server.tasks.check_health.run_scheduled(always_ours)

    assert report.state == mpb.HEALTH_STATE_DEGRADED
    sentence = "nobody works on jobs of type default: a job has waited for 900 s; the limit is 900 s"
    assert list(report.problems) == [outcome] == [sentence]
    assert micros(report.oldest_queued_age) == 15 * MINUTE + 1
    assert await health_of(running, "jobs") == NOT_SERVING
    for service in ("", "jobstate.v1.JobService", "jobstate.v1.MaintenanceService"):
        assert await health_of(running, service) == SERVING
    await start(running)
    assert (await check_health(running)).state == mpb.HEALTH_STATE_HEALTHY
    await running.server.tasks.check_health.run_scheduled(always_ours)
    assert await health_of(running, "jobs") == SERVING


async def test_a_nights_backlog_is_no_problem_while_it_is_worked_on(running: Running, clock: WatchedClock) -> None:
    """Neither while a worker has one of the jobs, nor between two of them."""
    for number in range(4):
        await create(running, f"job-{number}")
    clock.advance(6 * HOUR)
    assert (await check_health(running)).state == mpb.HEALTH_STATE_DEGRADED
    for number in range(3):
        await start(running, f"job-{number}")
        assert (await check_health(running)).state == mpb.HEALTH_STATE_HEALTHY
        await complete(running, f"job-{number}")
        clock.advance(10 * MINUTE)
        assert (await check_health(running)).state == mpb.HEALTH_STATE_HEALTHY
    clock.advance(5 * MINUTE)

    assert (await check_health(running)).state == mpb.HEALTH_STATE_DEGRADED


async def test_of_a_delayed_job_the_delay_does_not_count_as_waiting(running: Running, clock: WatchedClock) -> None:
    await create(running, delay=span(20 * 60))
    clock.advance(16 * MINUTE)
    assert list((await check_health(running)).problems) == []

    clock.advance(4 * MINUTE)
    await settled(running)
    clock.advance(15 * MINUTE + SECOND)

    (problem,) = (await check_health(running)).problems
    assert re.fullmatch(
        "nobody works on jobs of type default: a job has waited for 90[12] s; the limit is 900 s", problem
    )


async def test_a_retry_that_nobody_takes_is_told_as_waiting(running: Running, clock: WatchedClock) -> None:
    await create(running)
    await start(running)
    await fail(running)
    clock.advance(2 * SECOND)
    await settled(running)
    clock.advance(15 * MINUTE)

    report = await check_health(running)

    (problem,) = report.problems
    sentence = "nobody works on jobs of type default: a retry has waited for 90[01] s; the limit is 900 s"
    assert re.fullmatch(sentence, problem)
    assert report.overdue == 0


async def have_ended(running: Running, failed: int, completed: int) -> None:
    """Jobs that end now."""
    for number in range(failed + completed):
        job_id = f"ended-{number}"
        await create(running, job_id)
        await start(running, job_id)
        if number < completed:
            await complete(running, job_id)
        else:
            await fail(running, job_id, retryable=False)


async def test_many_failures_are_a_problem_for_an_hour_also_after_a_restart(path: Path, clock: WatchedClock) -> None:
    sentence = "60% of the 10 jobs of type default that ended within an hour failed for good; the limit is 50%"
    async with serving(path, clock) as running:
        await have_ended(running, failed=6, completed=4)
        for _ in range(3):
            report = await check_health(running)
            assert (list(report.problems), report.failure_rate) == ([sentence], 0.6)
            assert await running.server.tasks.check_health.run_scheduled(always_ours) == sentence
            clock.advance(10 * MINUTE)

    async with serving(path, clock) as running:
        report = await check_health(running)
        assert (list(report.problems), report.failure_rate) == ([sentence], 0.6)
        clock.advance(HOUR)
        later = await check_health(running)
        assert (later.state, later.failure_rate) == (mpb.HEALTH_STATE_HEALTHY, 0)


async def test_failures_before_a_restart_that_were_long_ago_are_none_of_its_problems(
    path: Path, clock: WatchedClock
) -> None:
    async with serving(path, clock) as running:
        await have_ended(running, failed=20, completed=0)
    clock.advance(HOUR)
    async with serving(path, clock) as running:
        await create(running, "new")
        await start(running, "new")
        await complete(running, "new")
        report = await check_health(running)
        assert (report.state, report.failure_rate) == (mpb.HEALTH_STATE_HEALTHY, 0)


async def test_the_limits_of_health_are_settings(path: Path, clock: WatchedClock) -> None:
    limits = {"health_failure_rate_max": 0.1, "health_failures_judged_min": 2, "health_unworked_max": "2min"}
    async with serving(path, clock, **limits) as running:
        await have_ended(running, failed=1, completed=1)
        await create(running, "waiting", RESTING)
        clock.advance(2 * MINUTE + SECOND)
        assert list((await check_health(running)).problems) == [
            "nobody works on jobs of type resting: a job has waited for 121 s; the limit is 120 s",
            "50% of the 2 jobs of type default that ended within an hour failed for good; the limit is 10%",
        ]


async def test_a_slow_commit_is_no_problem_and_several_are_until_they_are_ten_minutes_old(
    running: Running, clock: WatchedClock
) -> None:
    await create(running)
    latencies = running.server.committer._writer.commit_seconds
    latencies.append((clock.monotonic(), 7.0))
    report = await check_health(running)
    assert report.state == mpb.HEALTH_STATE_HEALTHY
    assert micros(report.commit_latency_p99) == 7 * SECOND

    latencies.extend([(clock.monotonic(), 2.5)] * 2)
    (problem,) = (await check_health(running)).problems
    assert re.fullmatch(
        r"3 of the latest \d+ commits took longer than 1 s, the limit for all but 1 %; the slowest took 7.0 s", problem
    )
    clock.advance(10 * MINUTE)
    report = await check_health(running)
    assert report.state == mpb.HEALTH_STATE_HEALTHY
    assert micros(report.commit_latency_p99) == 0


async def test_what_is_overdue_is_a_problem(running: Running, clock: WatchedClock) -> None:
    await create(running)
    await start(running)
    await fail(running)
    running.server.due_timer.stop()
    clock.advance(SECOND + MINUTE + 1)

    report = await check_health(running)

    assert report.overdue == 1
    assert list(report.problems) == ["1 retry or timeout is overdue by more than 60 s, which is the limit"]
