"""Every clock of an attempt runs from its claim: waiting for a worker is told, and costs nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from jobstate.v1 import event_pb2, job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate.v1 import maintenance_service_pb2 as mpb
from jobstate_server.domain.durations import HOUR, MINUTE, SECOND

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
    settled,
    span,
    start,
    struct,
)
from ..support.clock import WatchedClock
from ..support.server import Running, serving
from .support import EARLIEST, stale

PROCESSING = job_pb2.JOB_STATE_PROCESSING

Report = Callable[[Running], Awaitable[job_pb2.Job]]


async def resumed(
    running: Running, clock: WatchedClock, job_id: str = "job", job_type: str = "clean_transcript", **fields: Any
) -> int:
    """Make a job whose first attempt failed 3 s after its claim; its second waits. Returns when that became ready."""
    await create(running, job_id, job_type, **fields)
    await start(running, job_id, worker="first")
    clock.advance(3 * SECOND)
    due = micros((await fail(running, job_id)).next_retry_time)
    clock.advance(due - clock.now())
    await settled(running)
    job = await get(running, job_id)
    assert (job.state, job.attempt, job.claimed, micros(job.start_time)) == (PROCESSING, 2, False, due)
    assert not job.HasField("claim_time")
    return due


async def attempts_of(running: Running, job_id: str = "job") -> list[job_pb2.Attempt]:
    return list((await running.jobs.Get(pb.GetRequest(id=job_id, include_attempts=True))).attempts)


async def test_check_stale_leaves_alone_what_nobody_has_claimed_and_counts_from_the_claim(
    running: Running, clock: WatchedClock
) -> None:
    await resumed(running, clock, job_type="default")
    clock.advance(10 * 15 * MINUTE)
    waiting = await stale(running)
    await start(running, worker="another")
    clock.advance(15 * MINUTE - 1)
    busy = await stale(running)
    clock.advance(1)

    silent = await stale(running)

    assert (waiting, busy, silent) == ([], [], ["job"])
    assert names(await history(running))[-4:] == ["claimed", "stale.detected", "failed", "retrying"]
    assert (await get(running)).retry_count == 2


async def test_a_timeout_runs_from_the_claim_and_the_wait_is_not_in_the_duration(
    running: Running, clock: WatchedClock
) -> None:
    ready = await resumed(running, clock)
    clock.advance(19 * MINUTE)

    claimed = await start(running, worker="second")
    clock.advance(59 * SECOND)
    done = await complete(running, attempt=2)

    assert micros(claimed.claim_time) == ready + 19 * MINUTE
    assert micros(claimed.attempt_deadline) == ready + 20 * MINUTE
    assert (done.state, micros(done.duration)) == (job_pb2.JOB_STATE_COMPLETED, (3 + 59) * SECOND)
    first, second = await attempts_of(running)
    assert [micros(each.end_time) - micros(each.claim_time) for each in (first, second)] == [3 * SECOND, 59 * SECOND]
    assert micros(second.claim_time) - micros(second.start_time) == 19 * MINUTE


REPORTS: dict[str, tuple[Report, list[str], job_pb2.JobState.ValueType]] = {
    "progress": (lambda running: report(running, attempt=2, progress=10), ["progress"], PROCESSING),
    "a sign of life": (lambda running: report(running, attempt=2), [], PROCESSING),
    "complete": (lambda running: complete(running, attempt=2), ["completed"], job_pb2.JOB_STATE_COMPLETED),
    "fail": (lambda running: fail(running, attempt=2), ["failed", "retrying"], job_pb2.JOB_STATE_RETRYING),
}


@pytest.mark.parametrize(("send", "told", "state"), REPORTS.values(), ids=REPORTS)
async def test_a_report_on_an_unclaimed_attempt_claims_it_first(
    running: Running,
    clock: WatchedClock,
    send: Report,
    told: list[str],
    state: job_pb2.JobState.ValueType,
) -> None:
    await resumed(running, clock)
    clock.advance(HOUR)
    before = len(await history(running))

    answer = await send(running)

    events = (await history(running))[before:]
    assert names(events) == ["claimed", *told]
    assert micros(events[0].claimed.waited) == HOUR
    assert {micros(event.time) for event in events} == {clock.now()}
    job = await get(running)
    assert (job.state, job.claimed, job.worker, micros(job.claim_time)) == (state, True, "", clock.now())
    assert (answer.version, answer.claimed) == (events[-1].sequence, True)
    assert micros(job.duration) == 3 * SECOND
    assert job.HasField("attempt_deadline") == (state == PROCESSING)


async def test_an_attempt_that_a_report_has_claimed_times_out_and_no_start_gets_it(
    running: Running, clock: WatchedClock
) -> None:
    await resumed(running, clock)
    await report(running, attempt=2)
    clock.advance(MINUTE)
    await settled(running)

    job = await get(running)

    assert (job.state, job.last_error.code) == (job_pb2.JOB_STATE_RETRYING, "ATTEMPT_TIMEOUT")
    assert micros(job.duration) == 63 * SECOND


async def test_a_refused_report_claims_nothing(running: Running, clock: WatchedClock) -> None:
    await resumed(running, clock, metadata=struct(kept="x" * 40_000))
    before = await get(running)

    merged = await refused(report(running, attempt=2, metadata=struct(more="x" * 40_000)))
    unnamed = await refused(complete(running))
    other = await refused(fail(running, attempt=1))

    assert [each.reason for each in (merged, unnamed, other)] == [
        "INVALID_FIELD",
        "ATTEMPT_REQUIRED",
        "ATTEMPT_SUPERSEDED",
    ]
    assert await get(running) == before


async def test_an_attempt_that_is_cancelled_before_anybody_claimed_it_adds_nothing(
    running: Running, clock: WatchedClock
) -> None:
    await resumed(running, clock)
    clock.advance(HOUR)

    job = await cancel(running)

    assert micros(job.duration) == 3 * SECOND
    assert not job.claimed
    attempt = (await attempts_of(running))[-1]
    assert (attempt.outcome, attempt.HasField("claim_time")) == (job_pb2.ATTEMPT_OUTCOME_CANCELLED, False)


async def test_statistics_tell_how_long_attempts_waited_apart_from_how_long_they_took(
    running: Running, clock: WatchedClock
) -> None:
    await create(running, "new")
    clock.advance(10 * SECOND)
    started = await start(running, "new")
    await resumed(running, clock, "old", "default")
    clock.advance(20 * SECOND)
    await start(running, "old")
    clock.advance(SECOND)
    for job_id, attempt in (("new", 1), ("old", 2)):
        await complete(running, job_id, attempt=attempt)

    total = (await running.jobs.GetStats(pb.GetStatsRequest())).total

    assert micros(started.claim_time) == micros(started.start_time) == micros(started.create_time) + 10 * SECOND
    # "new" waited 10 s; "old" not at all at first, and then 20 s.
    assert micros(total.wait_mean) == 10 * SECOND
    assert 10 * SECOND <= micros(total.wait_p50) <= 10.5 * SECOND
    assert 20 * SECOND <= micros(total.wait_p99) <= 21 * SECOND
    waited = [event.started.waited for event in await history(running, "new") if event.HasField("started")]
    assert list(map(micros, waited)) == [10 * SECOND]


async def look(running: Running) -> tuple[list[job_pb2.Job], list[event_pb2.Event]]:
    """Every job and every event."""
    jobs = (await running.jobs.List(pb.ListRequest(page_size=1_000))).jobs
    request = pb.WatchEventsRequest(start=EARLIEST, follow=False)
    events = [event async for response in running.jobs.WatchEvents(request) for event in response.events]
    return list(jobs), events


async def test_all_workers_away_for_six_hours_change_nothing_but_the_waiting_times(
    running: Running, clock: WatchedClock
) -> None:
    for number in range(3):
        await create(running, f"queued-{number}", "clean_transcript")
        await resumed(running, clock, f"retry-{number}")
    before, began = await look(running), clock.now()

    for _ in range(12):
        clock.advance(HOUR // 2)
        await settled(running)
        assert await stale(running) == []
        assert (await running.maintenance.RetryFailed(mpb.RetryFailedRequest())).count == 0

    assert clock.now() == began + 6 * HOUR
    assert await look(running) == before
    health = await running.maintenance.CheckHealth(mpb.CheckHealthRequest())
    ready = {job.id: micros(job.start_time if job.attempt else job.create_time) for job in before[0]}
    assert micros(health.oldest_queued_age) == clock.now() - ready["queued-0"]
    assert micros(health.oldest_unclaimed_age) == clock.now() - ready["retry-0"]
    claimed = await asyncio.gather(*(start(running, job_id) for job_id in ready))
    assert {job.retry_count for job in claimed} == {0, 1}
    total = (await running.jobs.GetStats(pb.GetStatsRequest())).total
    assert 6 * HOUR <= micros(total.wait_p99) <= 6.5 * HOUR


async def test_retries_resumed_late_and_together_stand_in_the_order_in_which_they_fell_due(
    path: Path, clock: WatchedClock
) -> None:
    async with serving(path, clock) as running:
        for job_id, delay in (("a", 30), ("b", 10), ("c", 20)):
            await create(running, job_id)
            await start(running, job_id)
            await fail(running, job_id, retry_delay=span(delay))
        due = {job.id: micros(job.next_retry_time) for job in (await look(running))[0]}
    clock.advance(HOUR)
    async with serving(path, clock) as running:
        await settled(running)

        jobs = (await look(running))[0]

    assert {job.id: micros(job.start_time) for job in jobs} == due
    assert {job.state for job in jobs} == {PROCESSING}
    assert sorted(due, key=lambda job_id: due[job_id]) == ["b", "c", "a"]
