"""Get, List, GetStats and ListJobTypes tell what is stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from google.protobuf.timestamp_pb2 import Timestamp

from jobstate.v1 import job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate.v1 import maintenance_service_pb2 as mpb
from jobstate_server.clock import SystemClock
from jobstate_server.domain.caller import Caller
from jobstate_server.domain.durations import HOUR, MILLISECOND, MINUTE, SECOND
from jobstate_server.domain.job import Job
from jobstate_server.domain.reach import Reach
from jobstate_server.rpc.serving import Calls
from jobstate_server.store.records import ChangedJob, Changes
from jobstate_server.store.sqlite.store import SqliteStore

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
    watching_live,
)
from ..support.clock import WatchedClock
from ..support.server import RESTING, Running, serving

ASCENDING = pb.LIST_ORDER_CREATE_TIME_ASC
DESCENDING = pb.LIST_ORDER_CREATE_TIME_DESC


async def test_get_returns_the_job_whole_and_no_attempts_unasked(running: Running) -> None:
    await create(running, metadata=struct(a=1))
    await start(running, worker="me")
    await complete(running, result=struct(b=2))

    answer = await running.jobs.Get(pb.GetRequest(id="job"))

    assert (dict(answer.job.metadata), dict(answer.job.result)) == ({"a": 1}, {"b": 2})
    assert not answer.attempts


async def test_get_with_attempts_returns_each_ended_attempt(running: Running, clock: WatchedClock) -> None:
    await create(running)
    begun = micros((await start(running, worker="one")).start_time)
    clock.advance(2 * SECOND)
    error = pb.FailureReport(code="X", message="broke", details=struct(a=1))
    await fail(running, error=error, usage=job_pb2.Usage(tokens=3, cost=0.5))
    await retry(running, immediately=True)
    await start(running, worker="two")
    running_attempt = await running.jobs.Get(pb.GetRequest(id="job", include_attempts=True))
    clock.advance(3 * SECOND)
    await complete(running, attempt=2, usage=job_pb2.Usage(tokens=4))

    answer = await running.jobs.Get(pb.GetRequest(id="job", include_attempts=True))

    first, second = answer.attempts
    assert list(running_attempt.attempts) == [first]
    assert (first.number, first.outcome, first.worker) == (1, job_pb2.ATTEMPT_OUTCOME_FAILED, "one")
    assert (micros(first.start_time), micros(first.end_time)) == (begun, begun + 2 * SECOND)
    assert (first.error.code, first.error.message, dict(first.error.details)) == ("X", "broke", {"a": 1})
    assert (first.usage.tokens, first.usage.cost) == (3, 0.5)
    assert (second.number, second.outcome, second.worker) == (2, job_pb2.ATTEMPT_OUTCOME_COMPLETED, "two")
    assert (second.usage.tokens, second.HasField("error")) == (4, False)
    assert (answer.job.estimated_tokens, micros(answer.job.duration)) == (7, 5 * SECOND)


# List.


async def listed(running: Running, token: str = "", **filters: Any) -> list[job_pb2.Job]:
    """Every page after a token, as one list."""
    jobs: list[job_pb2.Job] = []
    while True:
        page = await running.jobs.List(pb.ListRequest(page_token=token, **filters))
        jobs.extend(page.jobs)
        token = page.next_page_token
        if not token:
            return jobs


async def fill(running: Running, clock: WatchedClock) -> None:
    """25 jobs, five at a time: of two types and three sources, some running, some cancelled."""
    for number in range(25):
        job_type = "clean_transcript" if number % 2 else "default"
        await create(running, f"job-{number:02}", job_type, source_id=f"source-{number % 3}")
        if number % 5 == 1:
            await start(running, f"job-{number:02}")
        if number % 5 == 2:
            await cancel(running, f"job-{number:02}")
        if number % 5 == 4:
            clock.advance(SECOND)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def many(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """A server that is only read from."""
    clock = WatchedClock()
    async with serving(tmp_path_factory.mktemp("many") / "jobs.db", clock) as running:
        await fill(running, clock)
        yield running


on_shared = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("order", [pb.LIST_ORDER_UNSPECIFIED, DESCENDING, ASCENDING])
@pytest.mark.parametrize("page_size", [1, 4, 5, 24, 25, 26])
@on_shared
async def test_pages_of_any_size_list_every_job_once_in_order(
    many: Running, page_size: int, order: pb.ListOrder.ValueType
) -> None:
    ids = [job.id for job in await listed(many, page_size=page_size, order=order)]

    expected = [f"job-{number:02}" for number in range(25)]
    assert ids == (expected if order == ASCENDING else expected[::-1])


FIRST = 1_700_000_000
"""When the jobs of ``many`` begin, in seconds."""

FILTERS: dict[str, tuple[dict[str, Any], set[int]]] = {
    "states": ({"states": [job_pb2.JOB_STATE_PROCESSING]}, {1, 6, 11, 16, 21}),
    "several states": (
        {"states": [job_pb2.JOB_STATE_PROCESSING, job_pb2.JOB_STATE_CANCELLED]},
        {1, 2, 6, 7, 11, 12, 16, 17, 21, 22},
    ),
    "job types": ({"job_types": ["clean_transcript"]}, set(range(1, 25, 2))),
    "several job types": ({"job_types": ["clean_transcript", "default", "none"]}, set(range(25))),
    "source": ({"source_id": "source-2"}, set(range(2, 25, 3))),
    "from": ({"create_time_from": Timestamp(seconds=FIRST + 3)}, set(range(15, 25))),
    "to": ({"create_time_to": Timestamp(seconds=FIRST + 1)}, set(range(5))),
    "a range": (
        {
            "create_time_from": Timestamp(seconds=FIRST + 1),
            "create_time_to": Timestamp(seconds=FIRST + 2),
        },
        set(range(5, 10)),
    ),
    "all at once": (
        {
            "states": [job_pb2.JOB_STATE_QUEUED, job_pb2.JOB_STATE_PROCESSING],
            "job_types": ["default"],
            "source_id": "source-0",
            "create_time_from": Timestamp(seconds=FIRST + 1),
        },
        {6, 18, 24},
    ),
    "nothing": ({"source_id": "nowhere"}, set()),
}


@pytest.mark.parametrize("order", [DESCENDING, ASCENDING])
@pytest.mark.parametrize(("filters", "numbers"), FILTERS.values(), ids=FILTERS)
@on_shared
async def test_a_listing_has_what_its_filters_ask_for(
    many: Running, filters: dict[str, Any], numbers: set[int], order: pb.ListOrder.ValueType
) -> None:
    jobs = await listed(many, page_size=3, order=order, **filters)

    expected = [f"job-{number:02}" for number in sorted(numbers, reverse=order == DESCENDING)]
    assert [job.id for job in jobs] == expected
    assert jobs == [await get(many, job.id) for job in jobs]


@on_shared
async def test_the_page_size_may_change_from_page_to_page(many: Running) -> None:
    first = await many.jobs.List(pb.ListRequest(page_size=2, order=ASCENDING))
    second = await many.jobs.List(pb.ListRequest(page_size=3, order=ASCENDING, page_token=first.next_page_token))

    assert [job.id for job in (*first.jobs, *second.jobs)] == [f"job-{number:02}" for number in range(5)]


async def test_a_listing_misses_no_job_that_stays_while_others_come_and_go(
    running: Running, clock: WatchedClock
) -> None:
    await fill(running, clock)
    first = await running.jobs.List(pb.ListRequest(page_size=10))
    clock.advance(SECOND)
    await create(running, "job-99")
    await cancel(running, "job-00")

    rest = await listed(running, first.next_page_token)

    assert [job.id for job in (*first.jobs, *rest)] == [f"job-{number:02}" for number in range(24, -1, -1)]


async def test_a_page_has_50_jobs_unless_asked_and_1000_at_most(running: Running) -> None:
    one = pb.CreateRequest(job_type="default")
    for count in (1_000, 1):
        await running.jobs.BatchCreate(pb.BatchCreateRequest(requests=[one] * count))

    unasked = await running.jobs.List(pb.ListRequest())
    huge = await running.jobs.List(pb.ListRequest(page_size=10**9))
    rest = await running.jobs.List(pb.ListRequest(page_size=10**9, page_token=huge.next_page_token))

    assert (len(unasked.jobs), len(huge.jobs), len(rest.jobs)) == (50, 1_000, 1)
    assert not rest.next_page_token


async def test_a_page_ends_at_1_mib_too(running: Running) -> None:
    ids = [f"job-{number:02}" for number in range(40)]
    for job_id in ids:
        await create(running, job_id, metadata=struct(blob="x" * 60_000))

    page = await running.jobs.List(pb.ListRequest(page_size=1_000, order=ASCENDING))
    jobs = await listed(running, page_size=1_000, order=ASCENDING)

    assert 10 <= len(page.jobs) < 20
    assert page.ByteSize() <= 2**20
    assert [job.id for job in jobs] == ids


async def test_jobs_of_any_size_are_all_listed(path: Path) -> None:
    """Larger than the service takes now: kept by a release with other limits."""
    result = struct(blob="x" * 600_000).SerializeToString()
    jobs = [
        Job(id=f"job-{number}", create_sequence=number - 4, job_type="default", result=result) for number in range(4)
    ]
    with closing(SqliteStore(path, SystemClock())) as store, store.transaction() as transaction:
        transaction.write(Changes(inserted=[ChangedJob(job, None) for job in jobs]))

    async with serving(path) as running:
        found = await listed(running, order=ASCENDING)

    assert [job.id for job in found] == [job.id for job in jobs]


# GetStats.


async def test_stats_equal_a_recount_of_jobs_and_events(running: Running, clock: WatchedClock) -> None:
    spans = (10 * MILLISECOND, SECOND, 3 * SECOND, 50 * SECOND)
    for number, time in enumerate(spans):
        await create(running, f"completed-{number}", "clean_transcript")
        await start(running, f"completed-{number}")
        clock.advance(time)
        await complete(running, f"completed-{number}", usage=job_pb2.Usage(tokens=10, cost=0.1))
    for job_id in ("failed", "waiting"):
        await create(running, job_id, "clean_transcript")
        await start(running, job_id)
        await fail(running, job_id, retryable=job_id != "failed", usage=job_pb2.Usage(tokens=5))
    await create(running, "cancelled", "default")
    await cancel(running, "cancelled")
    oldest = clock.now()
    await create(running, "queued", "default")
    clock.advance(SECOND)
    await create(running, "queued-2", "default")
    await create(running, "running", "default")
    await start(running, "running")
    await report(running, "running", usage=job_pb2.Usage(cost=2.5))
    await create(running, "resting", RESTING)
    await start(running, "resting")
    await fail(running, "resting")

    stats = await running.jobs.GetStats(pb.GetStatsRequest())

    jobs, events = await listed(running), await history(running)
    told = Counter(names(events))
    for sums in (*stats.job_types, stats.total):
        stored = Counter(job.state for job in jobs if sums.job_type in {"", job.job_type})
        assert {count.state: count.count for count in sums.stored} == dict(stored)
    assert [sums.job_type for sums in stats.job_types] == ["clean_transcript", "default", RESTING]
    total = stats.total
    assert (total.completed, total.permanently_failed, total.cancelled, total.retries) == (
        told["completed"],
        told["permanently-failed"],
        told["cancelled"],
        told["retrying"],
    )
    assert total.success_rate == 4 / 5
    assert total.tokens == sum(job.estimated_tokens for job in jobs) == 50
    assert total.cost == pytest.approx(sum(job.estimated_cost for job in jobs)) == pytest.approx(2.9)
    assert micros(total.duration_mean) == sum(spans) // 4
    assert SECOND <= micros(total.duration_p50) <= 1.05 * SECOND
    assert 50 * SECOND <= micros(total.duration_p95) <= 52.5 * SECOND
    assert total.duration_p99 == total.duration_p95
    assert micros(total.oldest_queued_time) == oldest
    assert not stats.job_types[0].HasField("oldest_queued_time")
    assert not stats.job_types[1].HasField("success_rate")


@on_shared
async def test_stats_of_asked_types_are_theirs_alone(many: Running) -> None:
    both = await many.jobs.GetStats(pb.GetStatsRequest())
    one = await many.jobs.GetStats(pb.GetStatsRequest(job_types=["clean_transcript", "unheard-of"]))

    assert list(one.job_types) == [both.job_types[0]]
    assert list(one.total.stored) == list(both.job_types[0].stored)


async def test_stats_of_an_empty_store_claim_nothing(running: Running) -> None:
    stats = await running.jobs.GetStats(pb.GetStatsRequest())

    assert not stats.job_types
    # What is said of every store: none of its jobs waits for its turn.
    assert stats.total == pb.JobTypeStats(waiting=[pb.WaitCount(reason=job_pb2.WAIT_REASON_TURN)])


async def test_what_happened_stays_in_the_stats_when_cleanup_deletes_the_jobs(
    running: Running, clock: WatchedClock
) -> None:
    await create(running)
    await start(running)
    clock.advance(SECOND)
    await complete(running, usage=job_pb2.Usage(tokens=10, cost=1))
    before = await running.jobs.GetStats(pb.GetStatsRequest())
    clock.advance(2 * HOUR)

    await running.maintenance.Cleanup(mpb.CleanupRequest(older_than=span(3_600)))

    after = await running.jobs.GetStats(pb.GetStatsRequest())
    assert not after.total.stored
    del before.total.stored[:]
    assert after.total == before.total


# Job types.


async def test_the_policies_in_force_are_listed(path: Path) -> None:
    job_types = {
        "clean_transcript": {"max_retries": 9},
        "render_video": {"timeout": "2h", "jitter": 0.5, "stale_threshold": "7.5min"},
    }
    async with serving(path, job_types=job_types, strict_job_types=True) as running:
        answer = await running.jobs.ListJobTypes(pb.ListJobTypesRequest())

    types = {job_type.name: job_type for job_type in answer.job_types}
    assert list(types) == ["clean_transcript", "default", "extract_insights", "generate_posts", "render_video", RESTING]
    assert answer.strict_job_types
    table = {
        name: (
            policy.max_retries,
            micros(policy.timeout) if policy.HasField("timeout") else None,
            micros(policy.base_delay),
            micros(policy.max_delay),
            micros(policy.stale_threshold),
            policy.jitter,
            policy.auto_retry,
        )
        for name, policy in types.items()
    }
    assert table == {
        "clean_transcript": (9, 60 * SECOND, SECOND, 30 * SECOND, 5 * MINUTE, 0, True),
        "extract_insights": (5, 120 * SECOND, 2 * SECOND, 60 * SECOND, 10 * MINUTE, 0, True),
        "generate_posts": (4, 90 * SECOND, 1_500 * MILLISECOND, 45 * SECOND, 450 * SECOND, 0, True),
        "default": (3, None, SECOND, 60 * SECOND, 15 * MINUTE, 0, True),
        "render_video": (3, 2 * HOUR, SECOND, 60 * SECOND, 450 * SECOND, 0.5, True),
        RESTING: (3, None, SECOND, 60 * SECOND, 15 * MINUTE, 0, False),
    }


async def test_a_job_keeps_what_it_was_created_with_when_its_types_policy_changes(path: Path) -> None:
    async with serving(path) as running:
        await create(running, "job", "clean_transcript")
        await create(running, "own", "clean_transcript", max_retries=7, timeout=span(0))
    async with serving(path, job_types={"clean_transcript": {"max_retries": 1, "timeout": "5s"}}) as running:
        old, own = await get(running), await get(running, "own")
        new = await create(running, "new", "clean_transcript")

    assert (old.max_retries, micros(old.timeout)) == (3, 60 * SECOND)
    assert (own.max_retries, own.HasField("timeout")) == (7, False)
    assert (new.max_retries, micros(new.timeout)) == (1, 5 * SECOND)


# Visibility.


async def test_a_caller_with_a_reach_sees_jobs_within_it_only(
    path: Path, clock: WatchedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, bob = (Caller(name, name, Reach(source_ids=(name,))) for name in ("alice", "bob"))
    caller = alice
    initialise = Calls.__init__
    monkeypatch.setattr(Calls, "__init__", lambda calls, **limits: initialise(calls, lambda _: caller, **limits))
    async with serving(path, clock) as running:
        await create(running, "hers", source_id="alice")
        async with watching_live(running) as hers:
            caller = bob
            await create(running, "his", source_id="bob")

            assert [job.id for job in await listed(running)] == ["his"]
            assert (await refused(get(running, "hers"))).reason == "JOB_NOT_FOUND"
            assert [event.job.id for event in await history(running)] == ["his"]
            caller = alice
            assert [job.id for job in await listed(running)] == ["hers"]
            await start(running, "hers")
            (event,) = await hers.events(1)

    assert (event.job.id, event.actor) == ("hers", "alice")
