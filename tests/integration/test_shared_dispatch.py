"""Servers on one PostgreSQL hand out one job once, in one order, whichever is asked."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from jobstate.v1 import event_pb2, job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.domain.reads import Reads, Ready, StateOf
from jobstate_server.store.errors import ConnectionLost
from jobstate_server.store.postgres.ready_jobs import Marks
from jobstate_server.store.postgres.store import PostgresStore
from jobstate_server.store.records import Changes

from ..store.postgres.support import ended_by, opened_at, until_it_waits
from ..store.support import a_job, keep_jobs
from ..support.calls import acquire, complete, create, history, release, settled, span, until_waiting
from ..support.postgres import postgres_server
from ..support.reads import reads
from ..support.server import Running, serving_url

STARTED, CLAIMED = event_pb2.EVENT_TYPE_STARTED, event_pb2.EVENT_TYPE_CLAIMED


@pytest.fixture
def url() -> str:
    """The URL of a store that is not there yet."""
    return postgres_server().ready_store()


@asynccontextmanager
async def replicas(url: str, count: int) -> AsyncIterator[list[Running]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(serving_url(url)) for _ in range(count)]


async def test_a_job_made_at_one_server_is_handed_out_by_another_that_waits(url: str) -> None:
    async with replicas(url, 2) as (first, second):
        waiting = asyncio.ensure_future(acquire(second, wait=60))
        await until_waiting(second, 1)

        await create(first)

        assert [job.id for job in await waiting] == ["job"]
        waiting = asyncio.ensure_future(acquire(second, wait=60))
        await until_waiting(second, 1)
        await release(first, attempt=1)
        assert [(job.id, job.attempt) for job in await waiting] == [("job", 2)]


async def test_two_servers_that_take_all_at_once_hand_out_each_attempt_once_and_all_of_them(url: str) -> None:
    """P1: for each job and attempt, one event that a worker has it."""
    async with replicas(url, 2) as pair:
        requests = [pb.CreateRequest(id=f"{n:03}", job_type="default") for n in range(120)]
        await pair[0].jobs.BatchCreate(pb.BatchCreateRequest(requests=requests))

        async def work(running: Running) -> list[job_pb2.Job]:
            done: list[job_pb2.Job] = []
            while jobs := await acquire(running, max_jobs=7):
                await asyncio.gather(*(complete(running, job.id, attempt=job.attempt) for job in jobs))
                done += jobs
            return done

        done = [job for jobs in await asyncio.gather(*map(work, pair * 2)) for job in jobs]
        events = await history(pair[0])

    handed = [event for event in events if event.type == CLAIMED or (event.type == STARTED and event.job.claimed)]
    assert Counter(job.id for job in done) == Counter(f"{n:03}" for n in range(120))
    assert [(event.job.id, event.job.attempt) for event in handed] == [(f"{n:03}", 1) for n in range(120)]


async def test_a_repeat_at_another_server_returns_the_same_jobs(url: str) -> None:
    async with replicas(url, 2) as (first, second):
        await create(first, "a")
        await create(first, "b")
        jobs = await acquire(first, request_id="request-1")

        assert await acquire(second, request_id="request-1") == jobs
        assert [job.id for job in await acquire(second, max_jobs=2)] == ["b"]


async def test_a_call_that_waits_here_is_answered_by_its_repeat_there(url: str) -> None:
    async with replicas(url, 2) as (first, second):
        calls = []
        for running in (first, second):
            request = pb.AcquireRequest(job_types=["default"], wait=span(60), request_id="request-1")
            calls.append(asyncio.ensure_future(_jobs(running, request)))
            await until_waiting(running, 1)

        await create(first)

        assert await calls[0] == await calls[1]
        assert len(await calls[0]) == 1


async def _jobs(running: Running, request: pb.AcquireRequest) -> list[job_pb2.Job]:
    return list((await running.jobs.Acquire(request)).jobs)


async def test_work_is_found_though_the_notification_was_lost(url: str) -> None:
    """P11: within a second."""
    async with replicas(url, 2) as (first, second):
        assert second.server.replication is not None
        second.server.replication.jobs_ready._subscribers.clear()
        waiting = asyncio.ensure_future(acquire(second, wait=60))
        await until_waiting(second, 1)

        await create(first)

        assert [job.id for job in await waiting] == ["job"]


async def test_what_another_server_made_ready_goes_before_what_is_made_here(url: str) -> None:
    """P2: also for a call that waits, when the notification has not come yet."""
    async with replicas(url, 2) as (first, second):
        assert second.server.replication is not None
        second.server.replication.jobs_ready._subscribers.clear()
        waiting = asyncio.ensure_future(acquire(second, wait=60))
        await until_waiting(second, 1)

        await create(first, "older")
        await create(second, "newer")

        assert [job.id for job in await waiting] == ["older"]
        assert [job.id for job in await acquire(second, max_jobs=2)] == ["newer"]


async def test_a_server_hands_out_nothing_while_it_is_the_turn_of_another(url: str) -> None:
    """P2: not even what it makes itself, for the other may be about to hand out what comes first."""
    async with serving_url(url) as running:
        waiting = asyncio.ensure_future(acquire(running, wait=60))
        await until_waiting(running, 1)
        with opened_at(url) as other, other.transaction() as transaction:
            transaction.load(Reads())
            assert transaction.hand_out_states([StateOf("default", 1, 1, False, False)]).turns

            await create(running, "newer")

            assert (await running.jobs.Get(pb.GetRequest(id="newer"))).job.state == job_pb2.JOB_STATE_QUEUED
            assert running.server.acquires.count == 1
        assert [job.id for job in await waiting] == ["newer"]


def _found(transaction: Any, limit: int = 10, **options: Any) -> tuple[list[str], bool]:
    transaction.load(Reads())
    states = transaction.hand_out_states([StateOf("type", limit, limit, False, False)], **options)
    if not states.turns:
        return [], False
    found = transaction.ready_jobs([Ready((("type", 10),), limit)])
    return [job.id for job in found.jobs], found.is_complete


def test_the_turn_of_a_type_belongs_to_one_transaction(url: str) -> None:
    """Row 17 and 36: another is told to come back, and waits for it only when asked to."""
    with opened_at(url) as store, opened_at(url) as other:
        keep_jobs(store, a_job("one", ready_time=1), a_job("other", ready_time=2))
        with store.transaction() as transaction:
            assert _found(transaction, 1) == (["one"], True)
            with other.transaction() as second:
                assert _found(second) == ([], False)
        with other.transaction() as second:
            assert _found(second) == (["one", "other"], True)


async def test_a_turn_is_waited_for_until_the_other_transaction_ends(url: str) -> None:
    with opened_at(url) as store, opened_at(url) as other:
        keep_jobs(store, a_job("one", ready_time=1))

        def waits() -> tuple[list[str], bool]:
            with other.transaction() as second:
                return _found(second, may_wait=True)

        with store.transaction() as transaction:
            assert _found(transaction) == (["one"], True)
            waiting = asyncio.create_task(asyncio.to_thread(waits))
            await asyncio.to_thread(until_it_waits, url, other.database.process)
            transaction.write(Changes())
        assert await waiting == (["one"], True)


async def test_the_turn_of_a_frozen_server_is_free_once_postgresql_has_ended_its_session(url: str) -> None:
    """Row 36: whoever asks meanwhile gets jobs then, even if the call does not wait for any."""
    async with serving_url(url) as running:
        with opened_at(url) as frozen:
            frozen.database.raw_connection.execute("SET idle_in_transaction_session_timeout = '300ms'")
            with ended_by(ConnectionLost, frozen) as transaction:
                assert _found(transaction) == ([], True)
                for job_id in ("first", "second"):
                    await create(running, job_id, "type")

                one, other = await asyncio.gather(acquire(running, "type"), acquire(running, "type", wait=60))

                assert sorted(job.id for job in one + other) == ["first", "second"]
                transaction.next_due()


def test_a_job_that_another_transaction_has_locked_is_passed_over(url: str) -> None:
    with opened_at(url) as store, opened_at(url) as other:
        keep_jobs(store, a_job("locked", ready_time=1), a_job("free", ready_time=2))
        with store.transaction() as transaction, other.transaction() as second:
            transaction.load(Reads(job_ids={"locked"}))

            assert _found(second) == (["free"], False)
            assert _found(second, 1) == (["free"], False)


def test_who_only_asks_when_the_next_job_is_due_has_no_job_in_hand(url: str) -> None:
    """Otherwise a job that has to begin in time would be overtaken while another replica serves what is due."""
    with opened_at(url) as store, opened_at(url) as other:
        due = store._time.now() + 60_000_000
        keep_jobs(store, a_job("first", ready_time=1, due_time=due, start_within=due), a_job("second", ready_time=2))
        with store.transaction() as transaction, other.transaction() as second:
            transaction.load(reads(due=10))
            assert transaction.next_due() == due

            assert _found(second, 1) == (["first"], True)


def test_a_pick_begins_near_the_first_job_of_the_last_one_and_at_times_at_the_beginning(url: str) -> None:
    """The mark against dead rows is only a hint: what is before it is found later."""
    with opened_at(url) as store:
        start = store._time.now()
        keep_jobs(store, a_job("new", ready_time=start))
        with store.transaction() as transaction:
            assert _found(transaction) == (["new"], True)
        _make_ready_early(store, start)

        with store.transaction() as transaction:
            assert _found(transaction) == (["new"], True)
        store._marks = Marks()
        with store.transaction() as transaction:
            assert _found(transaction) == (["early", "new"], True)


def _make_ready_early(store: PostgresStore, start: int) -> None:
    """As another replica does: this one does not learn of it."""
    keep_jobs(store, a_job("early", ready_time=start - 60_000_000))


async def test_the_servers_own_releases_are_found_at_once(url: str) -> None:
    async with serving_url(url) as running:
        for job_id in ("first", "second"):
            await create(running, job_id)
        await acquire(running, max_jobs=2)
        await settled(running)
        await release(running, "first", attempt=1)

        assert [job.id for job in await acquire(running, max_jobs=2)] == ["first"]
