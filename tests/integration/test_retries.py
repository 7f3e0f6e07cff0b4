"""A failed job waits its turn and is resumed in time, by the server or by hand, until no retry is left."""

from __future__ import annotations

import asyncio

import pytest

from jobstate.v1 import event_pb2, job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.domain.durations import HOUR, MILLISECOND, SECOND

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
    retry,
    settled,
    span,
    start,
    watching_live,
)
from ..support.clock import WatchedClock
from ..support.server import RESTING, Running


async def test_a_failed_job_that_cannot_retry_is_permanently_failed_by_itself(running: Running) -> None:
    await create(running, max_retries=0)
    await start(running)

    job = await fail(running, error=pb.FailureReport(code="BROKEN"))

    assert job.state == job_pb2.JOB_STATE_PERMANENTLY_FAILED
    events = await history(running)
    assert names(events) == ["queued", "started", "failed", "permanently-failed"]
    assert events[2].failed.decision == event_pb2.RETRY_DECISION_LIMIT_REACHED
    assert events[3].permanently_failed.decision == event_pb2.RETRY_DECISION_LIMIT_REACHED


async def test_a_failure_that_is_not_retryable_is_permanent_at_once(running: Running) -> None:
    await create(running)
    await start(running)

    job = await fail(running, retryable=False)

    assert job.state == job_pb2.JOB_STATE_PERMANENTLY_FAILED
    failed = (await history(running))[2]
    assert failed.failed.decision == event_pb2.RETRY_DECISION_NOT_RETRYABLE


async def test_each_retry_of_clean_transcript_waits_twice_as_long_until_the_third_waits_4_s(
    running: Running, clock: WatchedClock
) -> None:
    await create(running, "job", "clean_transcript")
    await start(running)
    async with watching_live(running, types=[event_pb2.EVENT_TYPE_RETRYING, event_pb2.EVENT_TYPE_STARTED]) as watch:
        waits = []
        for attempt in (1, 2, 3):
            await fail(running, attempt=attempt)
            (retrying,) = await watch.events(1)
            waits.append(micros(retrying.retrying.delay))
            clock.advance(waits[-1])
            (started,) = await watch.events(1)
            assert started.job.attempt == attempt + 1

    assert waits == [1 * SECOND, 2 * SECOND, 4 * SECOND]
    assert (await fail(running, attempt=4)).state == job_pb2.JOB_STATE_PERMANENTLY_FAILED


async def test_a_retry_delay_given_with_the_failure_wins_over_the_backoff(running: Running) -> None:
    await create(running, "job", "clean_transcript")
    await start(running)

    job = await fail(running, retry_delay=span(100.5))

    assert micros(job.next_retry_time) - micros(job.update_time) == 100 * SECOND + 500 * MILLISECOND


async def test_a_retrying_job_is_processing_again_within_50_ms_of_its_time_and_not_before(
    running: Running, clock: WatchedClock
) -> None:
    await create(running)
    await start(running)
    due = micros((await fail(running)).next_retry_time)
    async with watching_live(running) as watch:
        clock.advance(due - clock.now() - 1)
        await settled(running)
        assert (await get(running)).state == job_pb2.JOB_STATE_RETRYING

        clock.advance(1)
        (started,) = await watch.events(1)

    assert started.type == event_pb2.EVENT_TYPE_STARTED
    assert started.started.resumed
    assert (started.actor, started.previous_state) == ("server", job_pb2.JOB_STATE_RETRYING)
    assert 0 <= micros(started.time) - due <= 50 * MILLISECOND
    job = await get(running)
    assert (job.state, job.attempt, job.claimed) == (job_pb2.JOB_STATE_PROCESSING, 2, False)


async def test_300_retries_that_fall_due_at_once_are_all_resumed(running: Running, clock: WatchedClock) -> None:
    ids = [f"job-{number}" for number in range(300)]
    items = [pb.CreateRequest(id=job_id, job_type="default") for job_id in ids]
    await running.jobs.BatchCreate(pb.BatchCreateRequest(requests=items))
    await asyncio.gather(*(start(running, job_id) for job_id in ids))
    await asyncio.gather(*(fail(running, job_id) for job_id in ids))
    async with watching_live(running) as watch:
        clock.advance(SECOND)
        events = await watch.events(300)

    assert {event.job.id for event in events} == set(ids)
    assert set(names(events)) == {"started"}


async def test_an_earlier_due_time_overtakes_a_later_one(running: Running, clock: WatchedClock) -> None:
    for job_id, delay in (("late", 3_600), ("soon", 1)):
        await create(running, job_id)
        await start(running, job_id)
        await fail(running, job_id, retry_delay=span(delay))
    async with watching_live(running) as watch:
        clock.advance(SECOND)
        (started,) = await watch.events(1)

    assert started.job.id == "soon"
    assert (await get(running, "late")).state == job_pb2.JOB_STATE_RETRYING


async def test_a_resumed_attempt_is_claimed_by_the_first_start_and_by_no_other(running: Running) -> None:
    await create(running)
    await start(running, worker="first")
    await fail(running)
    resumed = await retry(running, immediately=True)
    assert (resumed.state, resumed.attempt, resumed.claimed, resumed.worker) == (
        job_pb2.JOB_STATE_PROCESSING,
        2,
        False,
        "",
    )

    claimed = await start(running, worker="second")
    refusal = await refused(start(running, worker="third"))

    assert (claimed.attempt, claimed.claimed, claimed.worker) == (2, True, "second")
    assert refusal.reason == "TRANSITION_NOT_ALLOWED"
    (*_, event) = await history(running)
    assert (event.name, event.claimed.worker) == ("processing-job.claimed", "second")
    assert (await complete(running, attempt=2)).state == job_pb2.JOB_STATE_COMPLETED


async def test_without_auto_retry_a_failed_job_rests_until_retry(running: Running, clock: WatchedClock) -> None:
    await create(running, "job", RESTING)
    await start(running)

    failed = await fail(running)
    clock.advance(HOUR)
    await settled(running)

    assert failed.state == (await get(running)).state == job_pb2.JOB_STATE_FAILED
    (*_, event) = await history(running)
    assert event.failed.decision == event_pb2.RETRY_DECISION_AWAITING_RETRY_CALL
    retrying = await retry(running)
    assert (retrying.state, retrying.retry_count) == (job_pb2.JOB_STATE_RETRYING, 1)
    assert micros(retrying.next_retry_time) == clock.now() + SECOND


async def test_a_job_that_rests_in_failed_can_be_cancelled(running: Running) -> None:
    await create(running, "job", RESTING)
    await start(running)
    await fail(running)

    job = await cancel(running, reason="enough")

    assert (job.state, job.cancel_reason) == (job_pb2.JOB_STATE_CANCELLED, "enough")


@pytest.mark.parametrize("job_type", ["default", RESTING], ids=["in RETRYING", "in FAILED"])
async def test_retry_immediately_resumes_the_job_in_the_same_commit(running: Running, job_type: str) -> None:
    await create(running, "job", job_type)
    await start(running)
    await fail(running)

    job = await retry(running, immediately=True)

    assert (job.state, job.attempt, job.retry_count) == (job_pb2.JOB_STATE_PROCESSING, 2, 1)
    assert names(await history(running)) == ["queued", "started", "failed", "retrying", "started"]


async def test_retry_of_a_retrying_job_returns_it_unchanged(running: Running) -> None:
    await create(running)
    await start(running)
    failed = await fail(running)

    assert await retry(running) == failed
