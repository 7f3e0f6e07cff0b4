"""Limits, rates and pauses of servers on one PostgreSQL hold over all of them together."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import grpc
import pytest

from jobstate.v1 import dispatch_service_pb2 as dispatch_pb
from jobstate.v1 import event_pb2, job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.domain.reads import Reads

from ..store.postgres.support import opened_at
from ..support.calls import acquire, complete, create, history, micros, release, span, start, until_waiting
from ..support.postgres import postgres_server
from ..support.server import Running, serving_url

TYPES: dict[str, dict[str, Any]] = {
    "ten": {"concurrency": 10, "lane_concurrency": 4},
    "one": {"concurrency": 1},
    "paced": {"rate": "20/s", "burst": 3},
}


@pytest.fixture
def url() -> str:
    """The URL of a store that is not there yet."""
    return postgres_server().ready_store()


@asynccontextmanager
async def replicas(url: str, count: int) -> AsyncIterator[list[Running]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(serving_url(url, job_types=TYPES)) for _ in range(count)]


LIMITED: dict[str, dict[str, Any]] = {
    "one": {"concurrency": 1},
    "slow": {"rate": "20/s", "burst": 1},
    "one-of-a-lane": {"lane_concurrency": 1},
}


@pytest.mark.parametrize("job_type", LIMITED)
async def test_a_job_that_another_transaction_has_locked_takes_no_place_of_a_limit(url: str, job_type: str) -> None:
    async with serving_url(url, job_types=LIMITED) as running:
        for job_id in ("locked", "free", "later"):
            await create(running, job_id, job_type, lane="lane")
        with opened_at(url) as store, store.transaction() as transaction:
            transaction.load(Reads(job_ids={"locked"}))

            assert [job.id for job in await acquire(running, job_type)] == ["free"]


def is_claim(event: event_pb2.Event) -> bool:
    started = event.type == event_pb2.EVENT_TYPE_STARTED and not event.started.resumed
    return started or event.type == event_pb2.EVENT_TYPE_CLAIMED


def most_running(events: list[event_pb2.Event], lane: str | None = None) -> int:
    """The most attempts that were claimed at any event."""
    running: set[str] = set()
    most = 0
    for event in events:
        if lane is not None and event.job.lane != lane:
            continue
        if is_claim(event):
            running.add(event.job.id)
        elif event.job.state != job_pb2.JOB_STATE_PROCESSING or not event.job.claimed:
            running.discard(event.job.id)
        most = max(most, len(running))
    return most


async def fill(running: Running, job_type: str, count: int, lanes: int = 5) -> None:
    requests = [pb.CreateRequest(id=f"{n:04}", job_type=job_type, lane=f"{n % lanes}") for n in range(count)]
    await running.jobs.BatchCreate(pb.BatchCreateRequest(requests=requests))


async def test_a_limit_of_ten_is_never_eleven_with_three_servers_and_many_workers(url: str) -> None:
    """Row 17 and P5: counted in the log, where all servers' events are in one order."""
    async with replicas(url, 3) as servers:
        await fill(servers[0], "ten", 300)
        done: Counter[str] = Counter()

        async def work(running: Running) -> None:
            while jobs := await acquire(running, "ten", wait=1, max_jobs=3):
                await asyncio.sleep(0)
                for job in jobs:
                    await complete(running, job.id, attempt=job.attempt)
                    done[job.id] += 1

        await asyncio.gather(*(work(server) for server in servers for _ in range(15)))
        events = await history(servers[0])

    assert done == {f"{n:04}": 1 for n in range(300)}
    assert most_running(events) == 10
    assert max(most_running(events, f"{lane}") for lane in range(5)) <= 4


async def test_starts_by_hand_count_against_hand_outs_of_other_servers(url: str) -> None:
    """P5: before each hand-out by Acquire fewer than the limit run, also while others Start jobs by hand."""
    async with replicas(url, 2) as servers:
        await fill(servers[0], "ten", 200, lanes=50)
        left = deque(f"{n:04}" for n in range(199, 149, -1))

        async def start_by_hand() -> None:
            while left:
                job_id = left.popleft()
                with suppress(grpc.aio.AioRpcError):  # Acquire was first.
                    await start(servers[1], job_id)
                    await complete(servers[1], job_id)

        async def work(running: Running) -> None:
            while jobs := await acquire(running, "ten", wait=1, max_jobs=3):
                for job in jobs:
                    await complete(running, job.id, attempt=job.attempt)

        await asyncio.gather(*(work(servers[0]) for _ in range(8)), *(start_by_hand() for _ in range(4)))
        events = await history(servers[0])

    running: set[str] = set()
    for event in events:
        if is_claim(event):
            if event.job.HasField("lease"):
                assert len(running) < 10
            running.add(event.job.id)
        elif event.job.state != job_pb2.JOB_STATE_PROCESSING:
            running.discard(event.job.id)


async def test_a_rate_holds_over_all_servers(url: str) -> None:
    """P6: in any half-open period at most count + burst - 1."""
    async with replicas(url, 2) as servers:
        await fill(servers[0], "paced", 30)
        got = 0

        async def work(running: Running) -> None:
            nonlocal got
            while got < 30:
                jobs = await acquire(running, "paced", wait=1)
                got += len(jobs)

        await asyncio.gather(*(work(server) for server in servers for _ in range(3)))
        times = [micros(event.time) for event in await history(servers[0]) if is_claim(event)]

    assert len(times) == 30
    for first in times:
        assert sum(first <= time < first + 1_000_000 for time in times) <= 22


async def test_a_place_that_is_freed_here_wakes_a_call_that_waits_there(url: str) -> None:
    async with replicas(url, 2) as (first, second):
        await fill(first, "one", 2)
        (job,) = await acquire(first, "one")
        waiting = asyncio.ensure_future(acquire(second, "one", wait=60))
        await until_waiting(second, 1)

        await complete(first, job.id)

        assert [job.id for job in await waiting] == ["0001"]


async def test_a_pause_at_one_server_is_in_effect_at_all_when_it_is_answered(url: str) -> None:
    """P7: no event after its head hands out a job; and calls that wait elsewhere are served when it ends."""
    async with replicas(url, 3) as servers:
        await fill(servers[0], "default", 300)
        stopping, some_done, all_done, done = False, asyncio.Event(), asyncio.Event(), set[str]()

        async def work(running: Running) -> None:
            while not stopping:
                for job in await acquire(running, wait=0.1, max_jobs=2):
                    await complete(running, job.id)
                    done.add(job.id)
                if len(done) > 20:
                    some_done.set()
                if len(done) == 301:
                    all_done.set()

        workers = [asyncio.ensure_future(work(server)) for server in servers for _ in range(4)]
        await some_done.wait()
        request = dispatch_pb.PauseRequest(job_type="default", reason="invoice")
        paused = await servers[1].dispatch.Pause(request)
        assert await acquire(servers[2], wait=0.3) == []
        again = await servers[2].dispatch.Pause(request)
        await create(servers[0], "late")
        goes_on = await servers[2].dispatch.Unpause(dispatch_pb.UnpauseRequest(job_type="default"))
        await all_done.wait()
        stopping = True
        await asyncio.gather(*workers)
        events = await history(servers[0])

    claims = [event.sequence for event in events if is_claim(event)]
    assert paused.head <= again.head <= goes_on.head
    assert not [sequence for sequence in claims if paused.head < sequence <= goes_on.head]
    assert len(claims) == 301


async def test_a_hold_at_one_server_holds_the_lane_at_all(url: str) -> None:
    async with replicas(url, 2) as (first, second):
        await fill(first, "default", 4, lanes=2)
        assert len(await acquire(first, max_jobs=2)) == 2
        await release(first, "0000", hold_lane=span(30))

        assert [job.id for job in await acquire(second, max_jobs=9)] == ["0003"]
