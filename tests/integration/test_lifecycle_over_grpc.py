"""A job's whole life as its callers see it, and what the server does by itself when the time has come."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from jobstate.v1 import event_pb2, job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate.v1 import maintenance_service_pb2 as mpb
from jobstate_server.domain.clock import HOUR, MILLISECOND, MINUTE, SECOND

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
    report,
    retry,
    settled,
    span,
    start,
    struct,
    watching_live,
)
from ..support.clock import WatchedClock
from ..support.server import RESTING, Client, Running, serving

RESTART_GRACE = 30 * SECOND


async def stale(client: Client, *, dry_run: bool = False) -> list[str]:
    """The jobs that CheckStale finds."""
    return list((await client.maintenance.CheckStale(mpb.CheckStaleRequest(dry_run=dry_run))).job_ids)


async def test_create_makes_a_queued_job_of_its_types_policy(running: Running, clock: WatchedClock) -> None:
    job = await create(running, "job", "clean_transcript", source_id="talk", metadata=struct(a=1, b=None))

    assert job.state == job_pb2.JOB_STATE_QUEUED
    assert (job.max_retries, micros(job.timeout)) == (3, 60 * SECOND)
    assert (job.source_id, dict(job.metadata)) == ("talk", {"a": 1})
    assert micros(job.create_time) == micros(job.update_time) == clock.now()
    assert names(await history(running)) == ["queued"]


async def test_create_names_the_job_when_the_caller_does_not_and_later_ids_sort_later(
    running: Running, clock: WatchedClock
) -> None:
    first = await create(running, "")
    clock.advance(MILLISECOND)
    second = await create(running, "")

    assert first.id < second.id
    assert (await get(running, first.id)).id == first.id


async def test_start_moves_queued_to_processing(running: Running) -> None:
    await create(running)

    job = await start(running, worker="me")

    assert job.state == job_pb2.JOB_STATE_PROCESSING
    assert (job.attempt, job.claimed, job.worker) == (1, True, "me")
    assert names(await history(running)) == ["queued", "started"]


async def test_progress_changes_no_state(running: Running) -> None:
    await create(running, metadata=struct(a=1, b=2))
    await start(running)

    await report(running, progress=50, message="half", metadata=struct(b=None, c=3), usage=job_pb2.Usage(tokens=7))

    job = await get(running)
    assert job.state == job_pb2.JOB_STATE_PROCESSING
    assert (job.progress, job.progress_message, job.estimated_tokens) == (50, "half", 7)
    assert dict(job.metadata) == {"a": 1, "c": 3}
    assert names(await history(running)) == ["queued", "started", "progress"]


async def test_a_sign_of_life_makes_no_event_and_no_version(running: Running) -> None:
    await create(running)
    started = await start(running)

    answered = await report(running, attempt=1)

    assert answered.version == started.version
    assert names(await history(running)) == ["queued", "started"]


async def test_complete_ends_the_job_well(running: Running, clock: WatchedClock) -> None:
    await create(running)
    await start(running)
    clock.advance(3 * SECOND)

    job = await complete(running, result_count=2, result=struct(ok=True), usage=job_pb2.Usage(tokens=5, cost=0.25))

    assert job.state == job_pb2.JOB_STATE_COMPLETED
    assert (job.progress, job.result_count, dict(job.result)) == (100, 2, {"ok": True})
    assert (job.estimated_tokens, job.estimated_cost) == (5, 0.25)
    assert (micros(job.duration), micros(job.complete_time)) == (3 * SECOND, clock.now())


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


async def test_an_attempt_that_nothing_is_heard_of_is_stale(running: Running, clock: WatchedClock) -> None:
    await create(running)
    await start(running)
    heard = clock.now()
    clock.advance(15 * MINUTE - 1)
    assert await stale(running) == []

    clock.advance(1)
    assert await stale(running) == ["job"]

    (*_, detected, failed, retrying) = await history(running)
    assert names([detected, failed, retrying]) == ["stale.detected", "failed", "retrying"]
    assert micros(detected.stale_detected.heard_time) == heard
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


async def test_cancel_ends_a_running_attempt_and_its_worker_learns_so_from_its_next_report(running: Running) -> None:
    await create(running)
    await start(running)

    await cancel(running, reason="not needed")

    refusal = await refused(report(running, progress=1))
    assert refusal.metadata["state"] == "CANCELLED"
    attempts = (await running.jobs.Get(pb.GetRequest(id="job", include_attempts=True))).attempts
    assert [attempt.outcome for attempt in attempts] == [job_pb2.ATTEMPT_OUTCOME_CANCELLED]


ORIGINAL_EVENTS = {
    "processing-job.started",
    "processing-job.progress",
    "processing-job.completed",
    "processing-job.failed",
    "processing-job.retrying",
    "processing-job.permanently-failed",
    "processing-job.cancelled",
    "processing-job.stale.detected",
}

OUR_EVENTS = {"processing-job.queued", "processing-job.claimed", "processing-job.deleted"}


async def test_events_have_the_eight_names_of_the_original_and_three_of_ours(
    running: Running, clock: WatchedClock
) -> None:
    for job_id in ("completed", "failed", "cancelled", "stale"):
        await create(running, job_id)
    await cancel(running, "cancelled")
    await start(running, "stale")
    clock.advance(15 * MINUTE)
    await stale(running)
    await start(running, "failed")
    await fail(running, "failed", retryable=False)
    await start(running, "completed")
    await fail(running, "completed")
    await retry(running, "completed", immediately=True)
    await start(running, "completed")
    await report(running, "completed", progress=1, attempt=2)
    await complete(running, "completed", attempt=2)
    clock.advance(1)
    await running.maintenance.Cleanup(mpb.CleanupRequest(older_than=span(0), force=True))

    events = await history(running)

    assert {event.name for event in events} == ORIGINAL_EVENTS | OUR_EVENTS
    for event in events:
        kind = event_pb2.EventType.Name(event.type).removeprefix("EVENT_TYPE_").lower()
        assert event.name == "processing-job." + {"stale_detected": "stale.detected"}.get(kind, kind.replace("_", "-"))


# Outages of ours must not fail the work of others.


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
