"""What an attempt used can be told at any time: while it runs, after it ended, after the job is final."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from jobstate.v1 import event_pb2, job_pb2
from jobstate.v1 import job_service_pb2 as pb

from ..support.calls import (
    Refusal,
    cancel,
    complete,
    create,
    fail,
    get,
    history,
    names,
    refused,
    report,
    retry,
    start,
    watching,
)
from ..support.clock import WatchedClock
from ..support.postgres import postgres_server
from ..support.server import Client, Running, serving_url


@pytest.fixture
async def running(url: str, clock: WatchedClock) -> AsyncIterator[Running]:
    async with serving_url(url, clock) as running:
        yield running


def usage(tokens: int | None = None, cost: float | None = None) -> job_pb2.Usage:
    return job_pb2.Usage(tokens=tokens, cost=cost)


async def tell(client: Client, attempt: int, job_id: str = "job", **used: Any) -> job_pb2.Job:
    request = pb.ReportUsageRequest(id=job_id, attempt=attempt, usage=usage(**used))
    return (await client.jobs.ReportUsage(request)).job


async def records(client: Client) -> list[tuple[int, int, float]]:
    """Number, tokens and cost of each ended attempt."""
    answer = await client.jobs.Get(pb.GetRequest(id="job", include_attempts=True))
    return [(attempt.number, attempt.usage.tokens, attempt.usage.cost) for attempt in answer.attempts]


async def sums(client: Client) -> tuple[int, float]:
    """Tokens and cost of all jobs."""
    total = (await client.jobs.GetStats(pb.GetStatsRequest())).total
    return total.tokens, total.cost


@pytest.fixture
async def second_attempt(running: Running) -> None:
    """A job whose first attempt failed after 10 tokens, and whose second is running and has used 5."""
    await create(running)
    await start(running)
    await fail(running, usage=usage(tokens=10, cost=1.0))
    await retry(running, immediately=True)
    await start(running)
    await report(running, attempt=2, usage=usage(tokens=5))


@pytest.mark.usefixtures("second_attempt")
async def test_the_usage_of_a_superseded_attempt_is_added_to_its_record_and_to_every_sum(running: Running) -> None:
    before = await get(running)

    job = await tell(running, 1, tokens=30, cost=1.5)

    assert (job.estimated_tokens, job.estimated_cost) == (35, 1.5)
    assert await records(running) == [(1, 30, 1.5)]
    assert await sums(running) == (35, 1.5)
    assert job.version > before.version
    for same in ("state", "attempt", "worker", "attempt_deadline", "progress", "last_error", "claimed"):
        assert getattr(job, same) == getattr(before, same)
    assert (await complete(running, attempt=2, usage=usage(tokens=6))).estimated_tokens == 36
    assert await records(running) == [(1, 30, 1.5), (2, 6, 0.0)]


@pytest.mark.usefixtures("second_attempt")
async def test_the_event_tells_the_attempt_and_its_totals(running: Running) -> None:
    job = await tell(running, 1, tokens=30)

    event = (await history(running))[-1]

    assert (event.type, event.name) == (event_pb2.EVENT_TYPE_USAGE, "processing-job.usage")
    assert event.usage == event_pb2.UsageDetail(attempt=1, usage=usage(tokens=30, cost=1.0))
    assert event.previous_state == event.job.state == job.state
    assert event.job.version == event.sequence == job.version
    assert event.job.update_time == event.time


@pytest.mark.usefixtures("second_attempt")
async def test_totals_only_grow_and_a_repeat_changes_nothing(running: Running) -> None:
    job = await tell(running, 1, tokens=30, cost=0.5)
    assert await records(running) == [(1, 30, 1.0)]
    events = await history(running)

    assert [await tell(running, 1, **used) for used in ({"tokens": 30}, {"tokens": 9}, {"cost": 0.9})] == [job] * 3
    assert await history(running) == events


@pytest.mark.usefixtures("second_attempt")
async def test_the_usage_of_the_running_attempt_is_told_without_a_report_of_progress(running: Running) -> None:
    job = await tell(running, 2, tokens=7)

    assert job.estimated_tokens == 17
    assert names(await history(running))[-1] == "usage"
    assert (await complete(running, attempt=2)).estimated_tokens == 17
    assert await records(running) == [(1, 10, 1.0), (2, 7, 0.0)]


async def test_usage_claims_no_attempt(running: Running) -> None:
    await create(running)
    await start(running)
    await fail(running)
    await retry(running, immediately=True)

    job = await tell(running, 2, tokens=7)

    assert (job.estimated_tokens, job.claimed) == (7, False)


@pytest.mark.parametrize("end", [cancel, complete, lambda client: fail(client, retryable=False)])
async def test_a_final_job_takes_usage_and_stays_as_it_is(
    running: Running, end: Callable[[Client], Awaitable[job_pb2.Job]]
) -> None:
    await create(running)
    await start(running)
    final = await end(running)

    job = await tell(running, 1, tokens=8, cost=0.25)

    assert (job.state, job.complete_time) == (final.state, final.complete_time)
    assert (job.estimated_tokens, job.estimated_cost) == (8, 0.25)
    assert await records(running) == [(1, 8, 0.25)]
    assert await sums(running) == (8, 0.25)
    assert await get(running) == job


@pytest.mark.parametrize(("begun", "attempt"), [(0, 1), (1, 2), (1, 2**31 - 1)])
async def test_an_attempt_that_never_was_is_refused(running: Running, begun: int, attempt: int) -> None:
    await create(running)
    if begun:
        await start(running)

    refusal = await refused(tell(running, attempt, tokens=1))

    assert refusal.brief == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert refusal.metadata["field"] == "attempt"
    assert f"has begun {begun} attempt" in refusal.message


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.ReportUsageRequest(id="job", usage=usage(tokens=1)), "attempt"),
        (pb.ReportUsageRequest(id="job", attempt=-1, usage=usage(tokens=1)), "attempt"),
        (pb.ReportUsageRequest(id="job", attempt=1), "usage"),
        (pb.ReportUsageRequest(id="job", attempt=1, usage=usage()), "usage"),
        (pb.ReportUsageRequest(id="job", attempt=1, usage=usage(tokens=-1)), "usage.tokens"),
        (pb.ReportUsageRequest(id="job", attempt=1, usage=usage(cost=float("nan"))), "usage.cost"),
        (pb.ReportUsageRequest(attempt=1, usage=usage(tokens=1)), "id"),
    ],
)
async def test_a_bad_report_of_usage_names_its_field(
    running: Running, request_: pb.ReportUsageRequest, field: str
) -> None:
    refusal = await refused(running.jobs.ReportUsage(request_))

    assert refusal.fields == [field]


async def test_usage_of_a_job_that_is_not_there_is_refused(running: Running) -> None:
    assert (await refused(tell(running, 1, tokens=1))).reason == "JOB_NOT_FOUND"


@pytest.mark.usefixtures("second_attempt")
async def test_in_a_stream_usage_is_told_of_attempts_that_ended_in_the_same_batch(running: Running) -> None:
    def of(attempt: int, tokens: int) -> pb.JobUpdate:
        return pb.JobUpdate(report_usage=pb.ReportUsageRequest(id="job", attempt=attempt, usage=usage(tokens=tokens)))

    updates = [
        of(1, 20),
        pb.JobUpdate(complete=pb.CompleteRequest(id="job", attempt=2)),
        of(2, 40),
        of(1, 30),
        of(3, 1),
    ]
    (answer,) = [a async for a in running.jobs.StreamUpdates(iter([pb.StreamUpdatesRequest(updates=updates)]))]

    assert [outcome.refusal.reason for outcome in answer.outcomes] == ["", "", "", "", "INVALID_FIELD"]
    assert await records(running) == [(1, 30, 1.0), (2, 40, 0.0)]
    assert (await get(running)).estimated_tokens == 70
    assert await sums(running) == (70, 1.0)


async def test_two_replicas_that_are_told_at_once_lose_nothing_and_count_nothing_twice(clock: WatchedClock) -> None:
    url = postgres_server().new_store()
    async with serving_url(url, clock) as one, serving_url(url, clock) as other:
        await create(one)
        await start(one)
        await fail(one)
        await retry(one, immediately=True)
        await start(one)

        await asyncio.gather(
            *(tell(replica, attempt, tokens=n) for n in range(1, 11) for replica in (one, other) for attempt in (1, 2))
        )

        assert (await get(other)).estimated_tokens == 20
        assert await records(other) == [(1, 10, 0.0)]
        assert await sums(other) == (20, 0.0)


@pytest.mark.parametrize("types", [[], [event_pb2.EVENT_TYPE_COMPLETED]])
async def test_a_watch_until_final_ends_at_once_for_a_job_that_was_told_usage_since(
    running: Running, types: list[event_pb2.EventType.ValueType]
) -> None:
    await create(running)
    await start(running)
    await complete(running)
    await tell(running, 1, tokens=8)
    request = pb.WatchEventsRequest(job_ids=["job"], start=pb.WATCH_START_EARLIEST, until_final=True, types=types)

    async with watching(running, request) as watch:
        events = [event for response in await watch.rest() for event in response.events]

    assert names(events) == (["completed"] if types else ["queued", "started", "completed", "usage"])


# The refusals that it is for.


@pytest.mark.usefixtures("second_attempt")
async def test_a_refused_report_books_nothing_by_itself(running: Running) -> None:
    before = await history(running)

    refusals: list[Refusal] = [await refused(complete(running, attempt=1, usage=usage(tokens=99)))]
    await cancel(running)
    refusals.append(await refused(complete(running, attempt=2, usage=usage(tokens=99))))

    assert [refusal.reason for refusal in refusals] == ["ATTEMPT_SUPERSEDED", "TRANSITION_NOT_ALLOWED"]
    assert await sums(running) == (15, 1.0)
    assert names((await history(running))[len(before) :]) == ["cancelled"]
