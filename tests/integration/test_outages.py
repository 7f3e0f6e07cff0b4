"""A restart or a step of the clock costs no attempt its work, and no retry its turn."""

from __future__ import annotations

from pathlib import Path

from jobstate.v1 import job_pb2
from jobstate_server.domain.clock import HOUR, MILLISECOND, SECOND

from ..support.calls import complete, create, fail, get, history, micros, settled, span, start, watching_live
from ..support.clock import WatchedClock
from ..support.server import Running, serving
from .support import stale

RESTART_GRACE = 30 * SECOND


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


async def test_a_small_correction_of_the_clock_is_no_outage(running: Running, clock: WatchedClock) -> None:
    await create(running, "job", "clean_transcript")
    await start(running)
    async with watching_live(running) as watch:
        clock.advance(30 * SECOND)
        clock.step(31 * SECOND)
        clock.advance(SECOND)
        (failed, *_) = await watch.events(2)

    assert failed.failed.error.code == "ATTEMPT_TIMEOUT"


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
