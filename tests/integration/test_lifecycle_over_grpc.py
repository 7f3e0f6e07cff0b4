"""A job's whole life as its callers see it, and the events that tell it."""

from __future__ import annotations

from jobstate.v1 import event_pb2, job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate.v1 import maintenance_service_pb2 as mpb
from jobstate_server.domain.durations import MILLISECOND, MINUTE, SECOND

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
    span,
    start,
    struct,
)
from ..support.clock import WatchedClock
from ..support.server import Running
from .support import stale


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
