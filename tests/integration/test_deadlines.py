"""An attempt that exceeds its timeout fails, and one that does not report is found stale."""

from __future__ import annotations

from jobstate.v1 import job_pb2
from jobstate_server.domain.durations import MILLISECOND, MINUTE

from ..support.calls import (
    complete,
    create,
    fail,
    get,
    history,
    micros,
    names,
    refused,
    report,
    retry,
    settled,
    start,
    watching_live,
)
from ..support.clock import WatchedClock
from ..support.server import Running
from .support import stale


async def test_a_claimed_attempt_that_outlasts_its_timeout_fails(running: Running, clock: WatchedClock) -> None:
    await create(running, "job", "clean_transcript")
    deadline = micros((await start(running)).attempt_deadline)
    assert deadline == clock.now() + MINUTE
    async with watching_live(running) as watch:
        clock.advance(MINUTE - 1)
        await settled(running)
        assert (await get(running)).state == job_pb2.JOB_STATE_PROCESSING
        clock.advance(1)
        events = await watch.events(2)

    assert names(events) == ["failed", "retrying"]
    assert events[0].failed.error.code == "ATTEMPT_TIMEOUT"
    assert events[0].failed.error.retryable
    assert events[0].actor == "server"
    assert 0 <= micros(events[0].time) - deadline <= 50 * MILLISECOND
    refusal = await refused(complete(running, attempt=1))
    assert refusal.reason == "ATTEMPT_SUPERSEDED"


async def test_no_timeout_runs_before_somebody_claims_the_attempt(running: Running, clock: WatchedClock) -> None:
    await create(running, "job", "clean_transcript")
    await start(running)
    await fail(running)
    await retry(running, immediately=True)
    clock.advance(4 * MINUTE)
    await settled(running)
    assert (await get(running)).state == job_pb2.JOB_STATE_PROCESSING

    job = await start(running, worker="late")

    assert micros(job.attempt_deadline) == clock.now() + MINUTE


async def test_an_attempt_that_does_not_report_is_stale(running: Running, clock: WatchedClock) -> None:
    await create(running)
    await start(running)
    reported = clock.now()
    clock.advance(15 * MINUTE - 1)
    assert await stale(running) == []

    clock.advance(1)
    assert await stale(running) == ["job"]

    (*_, detected, failed, retrying) = await history(running)
    assert names([detected, failed, retrying]) == ["stale.detected", "failed", "retrying"]
    assert micros(detected.stale_detected.heard_time) == reported
    assert micros(detected.stale_detected.stale_threshold) == 15 * MINUTE
    assert (failed.failed.error.code, failed.failed.error.retryable) == ("STALE", True)
    assert detected.sequence + 2 == failed.sequence + 1 == retrying.sequence


async def test_a_sign_of_life_breaks_the_silence(running: Running, clock: WatchedClock) -> None:
    await create(running)
    await start(running)
    clock.advance(10 * MINUTE)
    await report(running)
    clock.advance(10 * MINUTE)

    assert await stale(running) == []
    assert (await get(running)).state == job_pb2.JOB_STATE_PROCESSING
