"""Leases, releases, delays, expiry, Explain, and the acquires of a stream."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from jobstate.v1 import dispatch_service_pb2 as dispatch_pb
from jobstate.v1 import job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.domain import limits
from jobstate_server.domain.durations import DAY, MINUTE, SECOND

from ..support.calls import (
    acquire,
    cancel,
    complete,
    create,
    fail,
    get,
    history,
    micros,
    names,
    refused,
    release,
    report,
    retry,
    settled,
    span,
    start,
    struct,
    until_waiting,
)
from ..support.clock import PATIENCE_S, WatchedClock
from ..support.server import Running, serving_url
from ..support.waiting import until

QUEUED, CANCELLED = job_pb2.JOB_STATE_QUEUED, job_pb2.JOB_STATE_CANCELLED
TURN, TIME = job_pb2.WAIT_REASON_TURN, job_pb2.WAIT_REASON_TIME


@pytest.fixture
async def running(url: str, clock: WatchedClock) -> AsyncIterator[Running]:
    """A server on each store in turn."""
    async with serving_url(url, clock) as running:
        yield running


async def passed(running: Running, clock: WatchedClock, span: int) -> None:
    """Let time pass, and the server do what is due."""
    clock.advance(span)
    await asyncio.sleep(0)
    await settled(running)
    await settled(running)


# Leases.


async def test_a_lease_finds_a_dead_worker_and_the_next_one_takes_over(running: Running, clock: WatchedClock) -> None:
    """Rows 3 and 4: it counts as a retry, and the first worker's report is superseded."""
    await create(running)
    await acquire(running, lease=span(10))
    await clock.armed(SECOND)
    await passed(running, clock, 10 * SECOND)
    job = await get(running)
    assert (job.state, job.retry_count, job.last_error.code) == (job_pb2.JOB_STATE_RETRYING, 1, "STALE")
    assert names(await history(running))[-3:] == ["stale.detected", "failed", "retrying"]

    await passed(running, clock, SECOND)
    (second,) = await acquire(running)

    assert second.attempt == 2
    assert (await refused(complete(running, attempt=1))).reason == "ATTEMPT_SUPERSEDED"
    await complete(running, attempt=2)


async def test_a_heartbeat_keeps_a_lease(running: Running, clock: WatchedClock) -> None:
    await create(running)
    await acquire(running, lease=span(10))
    for _ in range(5):
        await passed(running, clock, 9 * SECOND)
        await report(running, attempt=1)
    assert (await get(running)).attempt_deadline.seconds == 0
    assert names(await history(running)) == ["queued", "started"]

    await passed(running, clock, 10 * SECOND)

    assert (await get(running)).last_error.code == "STALE"


async def test_leases_and_times_to_begin_are_moved_when_the_server_was_away(url: str, clock: WatchedClock) -> None:
    """Row 5: no mass expiry after a restart."""
    async with serving_url(url, clock) as running:
        await create(running)
        await acquire(running, lease=span(10))
        await create(running, "begin", "other", start_within=span(10))
    clock.advance(MINUTE)
    async with serving_url(url, clock) as running:
        await settled(running)
        assert (await get(running)).attempt == 1
        assert (await get(running, "begin")).state == QUEUED
        await report(running, attempt=1)
        await passed(running, clock, 9 * SECOND)
        assert (await get(running)).state == job_pb2.JOB_STATE_PROCESSING


# Release.


async def test_a_released_job_is_next_in_line_and_its_retries_are_untouched(
    running: Running, clock: WatchedClock
) -> None:
    """Row 6."""
    for job_id in ("first", "second"):
        await create(running, job_id)
        clock.advance(1)
    await acquire(running)

    released = await release(running, "first", attempt=1, reason="stopping", usage=job_pb2.Usage(tokens=7))

    assert (released.attempt, released.claimed, released.retry_count, released.wait_reason) == (2, False, 0, TURN)
    assert released.estimated_tokens == 7
    assert [job.id for job in await acquire(running, max_jobs=2)] == ["first", "second"]
    answer = await running.jobs.Get(pb.GetRequest(id="first", include_attempts=True))
    assert answer.attempts[0].outcome == job_pb2.ATTEMPT_OUTCOME_RELEASED
    events = await history(running, "first")
    assert names(events) == ["queued", "started", "released", "started", "claimed"]
    assert (events[2].released.attempt, events[2].released.reason) == (1, "stopping")


async def test_a_release_with_a_delay_waits_and_leaves_the_backoff_alone(running: Running, clock: WatchedClock) -> None:
    await create(running)
    await acquire(running)

    released = await release(running, attempt=1, delay=span(20))

    assert (released.state, released.wait_reason, released.retry_count) == (job_pb2.JOB_STATE_RETRYING, TIME, 0)
    assert micros(released.next_retry_time) == clock.now() + 20 * SECOND
    waiting = asyncio.ensure_future(acquire(running, wait=60))
    await until_waiting(running, 1)
    await passed(running, clock, 20 * SECOND)
    (job,) = await waiting
    assert (job.attempt, micros(job.ready_time)) == (2, clock.now())
    await fail(running, attempt=2)
    assert micros((await get(running)).next_retry_time) == clock.now() + SECOND


async def test_a_job_is_released_a_thousand_times_and_then_no_more(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 7."""
    monkeypatch.setattr("jobstate_server.domain.rules.release.RELEASES_MAX", 3)
    await create(running)
    for attempt in (1, 2, 3):
        await acquire(running)
        await release(running, attempt=attempt)
    await acquire(running)

    refusal = await refused(release(running, attempt=4))

    assert (refusal.code.name, refusal.reason) == ("FAILED_PRECONDITION", "RELEASE_LIMIT_REACHED")
    assert refusal.metadata == {"job_id": "job", "attempt": "4"}
    assert limits.RELEASES_MAX == 1_000
    await complete(running, attempt=4)


async def test_a_release_can_be_repeated_with_a_request_id_only(running: Running) -> None:
    await create(running)
    await acquire(running)
    first = await release(running, attempt=1, request_id="request-1")

    assert await release(running, attempt=1, request_id="request-1") == first
    assert (await refused(release(running, attempt=1))).reason == "ATTEMPT_SUPERSEDED"


# Delays and expiry.


async def test_a_delayed_job_waits_for_its_time_and_then_for_a_worker(running: Running, clock: WatchedClock) -> None:
    created = await create(running, delay=span(20))
    assert (created.state, created.wait_reason) == (QUEUED, TIME)
    assert micros(created.ready_time) == clock.now() + 20 * SECOND
    waiting = asyncio.ensure_future(acquire(running, wait=60))
    await until_waiting(running, 1)

    await passed(running, clock, 20 * SECOND)

    (job,) = await waiting
    assert (job.attempt, micros(job.start_time)) == (1, clock.now())
    events = await history(running)
    assert names(events) == ["queued", "ready", "started"]
    assert micros(events[2].started.waited) == 0


async def test_a_delayed_job_is_begun_neither_by_start_nor_by_acquire(running: Running) -> None:
    """Row 21."""
    await create(running, delay=span(20))

    refusal = await refused(start(running))

    assert (refusal.reason, refusal.metadata["why"]) == ("TRANSITION_NOT_ALLOWED", "held back")
    assert await acquire(running) == []


async def test_retry_ends_a_delay_at_once(running: Running, clock: WatchedClock) -> None:
    """Row 26."""
    await create(running, delay=span(20))
    clock.advance(SECOND)
    assert (await refused(retry(running))).reason == "TRANSITION_NOT_ALLOWED"

    job = await retry(running, immediately=True)

    assert (job.state, job.wait_reason, micros(job.ready_time)) == (QUEUED, TURN, clock.now())
    assert names(await history(running)) == ["queued", "ready"]
    assert [job.id for job in await acquire(running)] == ["job"]


async def test_many_delays_that_end_at_once_are_all_served(running: Running, clock: WatchedClock) -> None:
    """Row 24: in slices, and in the order in which the jobs were made."""
    requests = [pb.CreateRequest(id=f"{n:03}", job_type="default", delay=span(20)) for n in range(300)]
    await running.jobs.BatchCreate(pb.BatchCreateRequest(requests=requests))
    waiting = [asyncio.ensure_future(acquire(running, max_jobs=100, wait=60)) for _ in range(3)]
    await until_waiting(running, 3)

    clock.advance(20 * SECOND)
    first = [job for call in waiting for job in await call]
    while len(first) < 300:
        first += await acquire(running, max_jobs=300)
        await settled(running)

    assert sorted(job.id for job in first) == [f"{n:03}" for n in range(300)]


async def test_delays_survive_a_restart(url: str, clock: WatchedClock) -> None:
    async with serving_url(url, clock) as running:
        await create(running, delay=span(20))
    clock.advance(20 * SECOND)
    async with serving_url(url, clock) as running:
        assert [job.id for job in await acquire(running, wait=60)] == ["job"]


@pytest.mark.usefixtures("unscheduled")
async def test_a_job_that_nobody_begins_in_time_is_cancelled_by_the_server(
    running: Running, clock: WatchedClock
) -> None:
    """Row 27."""
    await create(running, "expires", start_within=span(20))
    await create(running, "begun", start_within=span(20))
    await create(running, "stays")
    await start(running, "begun")

    await passed(running, clock, 20 * SECOND)

    job = await get(running, "expires")
    assert (job.state, job.cancel_cause, job.cancel_reason) == (CANCELLED, job_pb2.CANCEL_CAUSE_EXPIRED, "")
    (event,) = [event for event in await history(running, "expires") if event.HasField("cancelled")]
    assert (event.actor, event.cancelled.cause) == ("server", job_pb2.CANCEL_CAUSE_EXPIRED)
    assert (await get(running, "begun")).state == job_pb2.JOB_STATE_PROCESSING
    clock.advance(365 * DAY)
    await settled(running)
    assert (await get(running, "stays")).state == QUEUED
    assert (await cancel(running, "stays")).cancel_cause == job_pb2.CANCEL_CAUSE_CALLER
    assert (await _stats(running)).expired == 1


@pytest.mark.parametrize("first", ["hand-out", "expiry"])
async def test_of_a_hand_out_and_an_expiry_in_one_batch_the_first_decides(
    running: Running, clock: WatchedClock, first: str
) -> None:
    """Row 28: a job that a worker has never expires."""
    await create(running, start_within=span(20))
    await passed(running, clock, 19 * SECOND)
    committer, held, go_on = running.server.committer, threading.Event(), threading.Event()

    def hold(_: object) -> None:
        held.set()
        assert go_on.wait(PATIENCE_S)

    holding = committer.run(hold)
    await asyncio.to_thread(held.wait, PATIENCE_S)
    commits = committer.counters.commits
    if first == "expiry":
        clock.advance(SECOND)
    asking = asyncio.ensure_future(acquire(running))
    await until(lambda: committer._queue.rows == (2 if first == "expiry" else 1))
    if first == "hand-out":
        clock.advance(SECOND)
        await until(lambda: committer._queue.rows == 2)
    go_on.set()
    await holding
    jobs = await asking
    await settled(running)

    assert committer.counters.commits == commits + 1
    assert names(await history(running)) == ["queued", "started" if first == "hand-out" else "cancelled"]
    assert len(jobs) == (first == "hand-out")


async def test_the_time_to_begin_counts_from_the_end_of_the_delay(running: Running, clock: WatchedClock) -> None:
    """Row 25, as far as there are no needs: the later of the two decides."""
    await create(running, delay=span(30), start_within=span(20))
    await passed(running, clock, 30 * SECOND)
    assert (await get(running)).wait_reason == TURN
    await passed(running, clock, 19 * SECOND)
    assert (await get(running)).state == QUEUED

    await passed(running, clock, SECOND)

    assert (await get(running)).state == CANCELLED


@pytest.mark.parametrize(
    ("fields", "bad"),
    [
        ({"delay": span(-1)}, "delay"),
        ({"delay": span(367 * 86_400)}, "delay"),
        ({"start_within": span(0.5)}, "start_within"),
        ({"start_within": span(367 * 86_400)}, "start_within"),
        ({"priority": 6}, "priority"),
        ({"unique_key": "x" * 257}, "unique_key"),
        ({"unique_key": "k", "unique_until": 3}, "unique_until"),
        ({"unique_until": 2}, "unique_until"),
    ],
)
async def test_bad_fields_of_create_are_named(running: Running, fields: dict[str, Any], bad: str) -> None:
    refusal = await refused(create(running, **fields))

    assert (refusal.reason, refusal.fields) == ("INVALID_FIELD", [bad])


async def test_a_time_beyond_a_year_is_refused(running: Running, clock: WatchedClock) -> None:
    request = pb.CreateRequest(job_type="default")
    request.not_before_time.FromMicroseconds(clock.now() + 367 * DAY)

    assert (await refused(running.jobs.Create(request))).fields == ["not_before_time"]


# Streams.


async def _batches(*batches: list[pb.JobUpdate]) -> AsyncIterator[pb.StreamUpdatesRequest]:
    for number, updates in enumerate(batches):
        yield pb.StreamUpdatesRequest(batch=number, updates=updates)


async def test_a_worker_completes_and_takes_the_next_jobs_in_one_commit(running: Running) -> None:
    for number in range(4):
        await create(running, f"{number}", metadata=struct(number=number))
    await acquire(running, max_jobs=2)
    commits = running.server.committer.counters.commits
    updates = [pb.JobUpdate(complete=pb.CompleteRequest(id=job_id, attempt=1)) for job_id in "01"]
    updates.append(pb.JobUpdate(acquire=pb.AcquireRequest(job_types=["default"], max_jobs=2)))
    updates.append(pb.JobUpdate(release=pb.ReleaseRequest(id="2", attempt=1)))

    (answer,) = [answer async for answer in running.jobs.StreamUpdates(_batches(updates))]

    assert running.server.committer.counters.commits == commits + 1
    assert [outcome.id for outcome in answer.outcomes] == ["0", "1", "", "2"]
    assert [job.id for job in answer.outcomes[2].jobs] == ["2", "3"]
    assert answer.outcomes[2].jobs[1] == await get(running, "3")
    assert (answer.outcomes[3].attempt, answer.outcomes[3].state) == (2, job_pb2.JOB_STATE_PROCESSING)


async def test_an_acquire_of_a_stream_does_not_wait_and_is_limited(running: Running) -> None:
    asked = pb.AcquireRequest(job_types=["default"])
    waiting = pb.AcquireRequest(job_types=["default"], wait=span(1))
    updates = [pb.JobUpdate(acquire=one) for one in (waiting, *[asked] * 8)]

    (answer,) = [answer async for answer in running.jobs.StreamUpdates(_batches(updates))]

    assert [outcome.refusal.metadata["field"] for outcome in answer.outcomes if outcome.HasField("refusal")] == [
        "wait",
        "acquire",
    ]
    assert not any(outcome.jobs or outcome.id for outcome in answer.outcomes)


# Explain and statistics.


async def _explained(running: Running, job_id: str = "job") -> dispatch_pb.ExplainResponse:
    return await running.dispatch.Explain(dispatch_pb.ExplainRequest(id=job_id))


def _reasons(answer: dispatch_pb.ExplainResponse) -> list[str]:
    return [dispatch_pb.HoldReason.Name(hold.reason).removeprefix("HOLD_REASON_") for hold in answer.holds]


async def test_explain_tells_why_a_job_waits(running: Running, clock: WatchedClock) -> None:
    await create(running, "first")
    clock.advance(1)
    await create(running, "second")
    await create(running, "delayed", delay=span(20))
    await create(running, "resting", "resting")
    await start(running, "resting")
    await fail(running, "resting")

    first, second, delayed = [await _explained(running, name) for name in ("first", "second", "delayed")]

    assert (_reasons(first), first.ahead_in_lane) == (["NO_WORKER"], 0)
    assert (_reasons(second), second.ahead_in_lane) == (["TURN", "NO_WORKER"], 1)
    assert _reasons(delayed) == ["TIME"]
    assert micros(delayed.holds[0].end_time) == clock.now() + 20 * SECOND
    assert not delayed.HasField("ahead_in_lane")
    assert _reasons(await _explained(running, "resting")) == ["AWAITS_RETRY_CALL"]
    assert not second.HasField("expected_start_time")
    await acquire(running)
    assert micros((await _explained(running, "second")).expected_start_time) > clock.now()
    assert not (await _explained(running, "first")).holds
    assert (await refused(_explained(running, "nothing"))).reason == "JOB_NOT_FOUND"
    waiting = asyncio.ensure_future(acquire(running, "resting", wait=60))
    await until_waiting(running, 1)
    assert (await _explained(running, "resting")).waiting_acquires == 1
    waiting.cancel()


async def _stats(running: Running) -> pb.JobTypeStats:
    return (await running.jobs.GetStats(pb.GetStatsRequest())).total


async def test_statistics_count_what_waits_for_what(running: Running, clock: WatchedClock) -> None:
    for job_id in ("a", "b", "c", "d"):
        await create(running, job_id)
        clock.advance(SECOND)
    await create(running, "delayed", delay=span(20))
    await acquire(running, max_jobs=3)
    await release(running, "a", attempt=1)
    await fail(running, "b", attempt=1)

    stats = await _stats(running)

    assert {wait.reason: wait.count for wait in stats.waiting} == {TURN: 2, TIME: 2}
    assert (stats.running, stats.released, stats.expired) == (1, 1, 0)
    assert micros(stats.oldest_ready_time) == clock.now() - 4 * SECOND
    assert micros(stats.wait_mean) == (4 + 3 + 2) * SECOND // 3
