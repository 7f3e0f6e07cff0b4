"""The clock of PostgreSQL is set, under replicas and while none is there: the store's time goes on all the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise

import psycopg
import pytest

from jobstate.v1 import job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate.v1 import maintenance_service_pb2 as mpb
from jobstate_server.domain.durations import HOUR, MINUTE, SECOND

from ..support.calls import complete, create, fail, get, history, micros, settled, span, start, watching_live
from ..support.clock import PATIENCE_S
from ..support.postgres import StoreWithClock, postgres_server
from ..support.server import Running, serving_url

TEN_MINUTES_S = 600


@pytest.fixture
def store() -> StoreWithClock:
    return postgres_server().new_store_with_a_clock()


@asynccontextmanager
async def pair(store: StoreWithClock) -> AsyncIterator[list[Running]]:
    """Two replicas."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(serving_url(store.url)) for _ in range(2)]


def offset_s(store: StoreWithClock) -> float:
    """By how much the store's time is set apart from the database's clock, in seconds."""
    with psycopg.connect(store.url) as connection:
        ((offset,),) = connection.execute("SELECT clock_offset FROM log").fetchall()
    return float(offset) / SECOND


async def told_of_clock(running: Running) -> bool:
    report = await running.maintenance.CheckHealth(mpb.CheckHealthRequest())
    return any("behind the store's time" in problem for problem in report.problems)


async def test_waits_keep_their_time_when_the_clock_is_set_back(store: StoreWithClock) -> None:
    """A retry and a timeout, on whichever replica; and the two do not both make up for the one step."""
    async with pair(store) as (one, other), watching_live(one) as watch:
        await create(one, "retried")
        await start(one, "retried")
        await create(other, "timed", timeout=span(3))
        await start(other, "timed")
        failed = await fail(one, "retried", retry_delay=span(3))
        assert not await told_of_clock(one)
        await asyncio.to_thread(store.set_clock, -TEN_MINUTES_S)
        events = await watch.events(9)
        async with asyncio.timeout(PATIENCE_S):
            while not (await told_of_clock(one) and await told_of_clock(other)):
                await settled(one)
                await settled(other)
        offset = await asyncio.to_thread(offset_s, store)

    assert TEN_MINUTES_S - 30 < offset < TEN_MINUTES_S + 1
    (resumed,) = [event for event in events if event.job.id == "retried" and event.started.resumed]
    assert micros(resumed.time) - micros(failed.update_time) >= 3 * SECOND
    times = [micros(event.time) for event in events]
    assert all(later - earlier > -SECOND for earlier, later in pairwise(times))


async def test_time_goes_on_when_the_clock_was_set_back_while_no_server_was_there(store: StoreWithClock) -> None:
    async with pair(store) as (one, _):
        await create(one)
        await start(one)
        await fail(one, retry_delay=span(2))
    await asyncio.to_thread(store.set_clock, -TEN_MINUTES_S)

    async with pair(store) as (one, other), watching_live(other) as watch:
        if (await get(one)).state == job_pb2.JOB_STATE_RETRYING:
            await watch.events(1)
        await complete(one, attempt=2)
        everything = await history(other)
        answer = await other.jobs.Get(pb.GetRequest(id="job", include_attempts=True))
        assert await told_of_clock(one)

    times = [micros(event.time) for event in everything]
    assert times == sorted(times)
    assert [attempt.number for attempt in answer.attempts] == [1, 2]


async def test_a_clock_that_is_set_right_again_is_met_at_once(store: StoreWithClock) -> None:
    async with pair(store) as (one, other):
        await asyncio.to_thread(store.set_clock, -TEN_MINUTES_S)
        for replica in (one, other):
            await create(replica, f"{replica.server.replica}-1")
        assert await asyncio.to_thread(offset_s, store) > TEN_MINUTES_S - 30
        await asyncio.to_thread(store.set_clock, TEN_MINUTES_S)
        for replica in (one, other):
            await create(replica, f"{replica.server.replica}-2")
            assert not await told_of_clock(replica)
        times = [micros(event.time) for event in await history(one)]

    assert max(times) - min(times) < MINUTE


async def test_a_clock_that_is_set_forward_counts_as_a_pause(store: StoreWithClock) -> None:
    """On every replica: of those that notice, none fails an attempt for the time that jumped."""
    async with pair(store) as (one, other):
        for number in range(4):
            await create(one, f"job-{number}", timeout=span(60))
            await start(one, f"job-{number}")
        await asyncio.to_thread(store.set_clock, HOUR / SECOND)
        for replica in (one, other, one, other):
            await settled(replica)
        for number in range(4):
            replica = (one, other)[number % 2]
            job = await complete(replica, f"job-{number}", attempt=1)
            assert job.state == job_pb2.JOB_STATE_COMPLETED
            assert micros(job.update_time) - micros(job.create_time) > 59 * MINUTE
