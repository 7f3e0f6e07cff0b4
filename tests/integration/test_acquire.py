"""Workers ask for work and get it: who gets which job, how long a call waits, and what becomes of an answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from jobstate.v1 import event_pb2, job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.domain.durations import MINUTE, SECOND
from jobstate_server.engine import dispatcher
from jobstate_server.engine.batch import Batch

from ..support.calls import (
    acquire,
    cancel,
    complete,
    create,
    fail,
    get,
    health_of,
    history,
    micros,
    names,
    refused,
    release,
    retry,
    settled,
    span,
    start,
    struct,
    until_waiting,
    watching_live,
)
from ..support.clock import PATIENCE_S, WatchedClock
from ..support.server import Running, client_of, serving, serving_url

PROCESSING = job_pb2.JOB_STATE_PROCESSING


@pytest.fixture
async def running(url: str, clock: WatchedClock) -> AsyncIterator[Running]:
    """A server on each store in turn."""
    async with serving_url(url, clock) as running:
        yield running


def ids(jobs: list[job_pb2.Job]) -> list[str]:
    return [job.id for job in jobs]


def waiting_for_work(running: Running, **fields: Any) -> asyncio.Future[list[job_pb2.Job]]:
    """A call of Acquire that waits."""
    return asyncio.ensure_future(acquire(running, wait=60, **fields))


async def test_an_acquire_begins_the_job_that_is_next_and_leases_it(running: Running) -> None:
    await create(running, "low", priority=job_pb2.PRIORITY_LOW)
    await create(running, "urgent", priority=job_pb2.PRIORITY_URGENT, metadata=struct(a=1))
    await create(running, "normal")

    jobs = await acquire(running, max_jobs=2, worker="me", lease=span(30))

    assert ids(jobs) == ["urgent", "normal"]
    assert jobs[0] == await get(running, "urgent")
    assert (jobs[0].state, jobs[0].attempt, jobs[0].claimed, jobs[0].worker) == (PROCESSING, 1, True, "me")
    assert (micros(jobs[0].lease), micros(jobs[0].claim_time)) == (30 * SECOND, micros(jobs[0].start_time))
    assert ids(await acquire(running, max_jobs=9)) == ["low"]
    assert await acquire(running) == []


async def test_two_workers_that_ask_for_the_one_job_do_not_both_get_it(running: Running) -> None:
    """Row 1: one gets it, the other goes on waiting."""
    first, second = waiting_for_work(running), waiting_for_work(running)
    await until_waiting(running, 2)

    await create(running, "one")
    await asyncio.wait((first, second), return_when=asyncio.FIRST_COMPLETED)

    assert running.server.acquires.count == 1
    await create(running, "other")
    assert sorted(ids(await first) + ids(await second)) == ["one", "other"]
    assert names(await history(running)) == ["queued", "started", "queued", "started"]


async def test_a_job_is_created_and_handed_out_in_one_commit(running: Running) -> None:
    waiting = waiting_for_work(running)
    await until_waiting(running, 1)
    await settled(running)
    commits = running.server.committer.counters.commits

    created = await create(running)
    (job,) = await waiting

    assert running.server.committer.counters.commits == commits + 1
    assert (created.state, created.version + 1) == (job_pb2.JOB_STATE_QUEUED, job.version)


async def test_of_many_that_wait_one_is_woken_for_one_job_first_come_first_served(running: Running) -> None:
    """Row 31: no herd."""
    calls = []
    for number in range(20):
        calls.append(waiting_for_work(running, worker=f"{number}"))
        await until_waiting(running, number + 1)

    for number in range(3):
        await create(running, f"job-{number}")
        (job,) = await calls[number]
        assert (job.id, job.worker) == (f"job-{number}", f"{number}")
        assert running.server.acquires.count == 19 - number
    assert not any(call.done() for call in calls[3:])
    for call in calls[3:]:
        call.cancel()


async def test_a_repeat_after_a_lost_answer_returns_the_same_jobs_and_no_others(running: Running) -> None:
    """Row 2: with a request id."""
    for number in range(4):
        await create(running, f"{number}")
    fields: dict[str, Any] = {"max_jobs": 3, "request_id": "request-1"}
    first = await acquire(running, **fields)
    await complete(running, "0", attempt=1)
    await release(running, "1", attempt=1)

    repeated = await acquire(running, **fields)

    assert ids(first) == ["0", "1", "2"]
    assert repeated == [await get(running, "2")]
    assert ids(await acquire(running, max_jobs=9)) == ["1", "3"]
    again = await acquire(running, **fields)
    assert ids(again) == ["2"]


async def test_a_repeat_is_answered_after_a_restart(url: str) -> None:
    async with serving_url(url) as running:
        await create(running)
        first = await acquire(running, request_id="request-1")
    async with serving_url(url) as running:
        assert await acquire(running, request_id="request-1") == first


async def test_a_repeat_on_another_connection_gets_the_jobs_of_the_call_that_still_waits(running: Running) -> None:
    lost, repeated = (waiting_for_work(running, request_id="request-1") for _ in range(2))
    await until_waiting(running, 2)

    await create(running)

    assert await lost == await repeated
    assert names(await history(running)) == ["queued", "started"]


async def test_what_reaches_nobody_is_released_at_once(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 2: without a request id. The caller goes while a batch has its call."""
    call = running.jobs.Acquire(pb.AcquireRequest(job_types=["default"], wait=span(60)))
    await until_waiting(running, 1)
    served, gone = threading.Event(), threading.Event()
    write = Batch.write

    def write_late(*values: Any, **named: Any) -> Any:
        served.set()
        assert gone.wait(PATIENCE_S)
        return write(*values, **named)

    monkeypatch.setattr(Batch, "write", write_late)
    async with watching_live(running) as watch:
        creating = asyncio.ensure_future(create(running))
        await asyncio.to_thread(served.wait, PATIENCE_S)
        call.cancel()
        await until_withdrawn(running)
        gone.set()
        await creating
        released = await watch.event(event_pb2.EVENT_TYPE_RELEASED)

    assert (released.released.reason, released.actor) == ("not delivered", "server")
    (job,) = await acquire(running)
    assert (job.attempt, job.retry_count) == (2, 0)


async def until_withdrawn(running: Running) -> None:
    """Wait until the server has noticed that the only caller has gone."""
    async with asyncio.timeout(PATIENCE_S):
        while running.server.grpc.calls.admission.streams.held > running.server.feed.watchers:
            await health_of(running)


async def test_a_caller_that_goes_while_it_waits_takes_nothing(running: Running) -> None:
    call = running.jobs.Acquire(pb.AcquireRequest(job_types=["default"], wait=span(60)))
    await until_waiting(running, 1)

    call.cancel()
    await until_waiting(running, 0)
    await create(running)

    assert (await get(running)).attempt == 0
    assert ids(await acquire(running)) == ["job"]


async def test_a_call_ends_empty_when_its_wait_is_over(running: Running, clock: WatchedClock) -> None:
    waiting = asyncio.ensure_future(acquire(running, wait=30))
    await clock.armed(30 * SECOND)
    await until_waiting(running, 1)
    clock.advance(30 * SECOND - 1)
    await settled(running)
    assert not waiting.done()

    clock.advance(1)

    assert await waiting == []
    assert running.server.acquires.count == 0


async def test_several_types_are_waited_for_at_once_and_others_are_not(running: Running) -> None:
    waiting = asyncio.ensure_future(acquire(running, "a", "b", "a", wait=60))
    await until_waiting(running, 1)

    await create(running, "other", "c")
    await create(running, "wanted", "b")

    assert ids(await waiting) == ["wanted"]
    assert running.server.committer.parked.job_types == []


@pytest.mark.parametrize("way", ["retry", "release", "fail"])
async def test_whatever_makes_a_job_ready_hands_it_out(running: Running, clock: WatchedClock, way: str) -> None:
    await create(running)
    await acquire(running)
    waiting = waiting_for_work(running)
    await until_waiting(running, 1)

    if way == "release":
        await release(running, attempt=1)
    else:
        await fail(running, attempt=1)
        if way == "retry":
            await retry(running, immediately=True)
        else:
            await clock.armed(SECOND)
            clock.advance(SECOND)

    (job,) = await waiting
    assert (job.id, job.attempt, job.claimed) == ("job", 2, True)
    assert names(await history(running))[-2:] == ["started", "claimed"]


async def test_a_retry_goes_to_the_end_of_its_row(running: Running, clock: WatchedClock) -> None:
    """Row 8: a poison job does not stand at the head for ever."""
    await create(running, "poison")
    clock.advance(1)
    await create(running, "second")
    clock.advance(1)
    await acquire(running)
    await fail(running, "poison", attempt=1)
    await retry(running, "poison", immediately=True)

    assert ids(await acquire(running, max_jobs=2)) == ["second", "poison"]


async def test_a_retry_keeps_its_priority(running: Running, clock: WatchedClock) -> None:
    """Row 8."""
    await create(running, "urgent", priority=job_pb2.PRIORITY_URGENT)
    await acquire(running)
    await create(running, "normal")
    await fail(running, "urgent", attempt=1)
    await clock.armed(SECOND)
    clock.advance(SECOND)
    await settled(running)

    assert ids(await acquire(running, max_jobs=2)) == ["urgent", "normal"]


async def test_a_job_of_low_priority_waits_no_longer_than_its_levels_are_worth(
    running: Running, clock: WatchedClock
) -> None:
    """Row 10: with new urgent jobs all the time, and hands for those alone."""
    await create(running, "low", priority=job_pb2.PRIORITY_LOW)
    overtaken = 0
    while True:
        clock.advance(MINUTE)
        await create(running, f"urgent-{overtaken}", priority=job_pb2.PRIORITY_URGENT)
        (job,) = await acquire(running)
        await complete(running, job.id)
        if job.id == "low":
            break
        overtaken += 1

    # Three levels of ten minutes. At that moment both have the same place, and the older goes first.
    assert overtaken == 29


async def test_the_five_priorities_are_words_and_normal_is_what_is_not_named(running: Running) -> None:
    """Row 11: which way is higher cannot be asked."""
    for name in ("BACKGROUND", "LOW", "NORMAL", "HIGH", "URGENT"):
        await create(running, name, priority=job_pb2.Priority.Value(f"PRIORITY_{name}"))
    unnamed = await create(running, "unnamed")

    assert unnamed.priority == job_pb2.PRIORITY_NORMAL
    assert ids(await acquire(running, max_jobs=9)) == ["URGENT", "HIGH", "NORMAL", "unnamed", "LOW", "BACKGROUND"]


async def test_a_resumed_attempt_may_wait_for_ever_without_going_stale(running: Running, clock: WatchedClock) -> None:
    """Row 9: waiting for one's turn is not silence."""
    await create(running)
    await acquire(running)
    await release(running, attempt=1)
    clock.advance(30 * 24 * 3600 * SECOND)
    await settled(running)

    (job,) = await acquire(running)
    assert (job.attempt, job.retry_count) == (2, 0)


async def test_no_more_is_taken_than_was_asked_for(running: Running) -> None:
    """Row 12: nothing is prefetched, so what is urgent goes first at the next free hand."""
    for number in range(5):
        await create(running, f"{number}")
    first = await acquire(running)
    await create(running, "urgent", priority=job_pb2.PRIORITY_URGENT)

    assert ids(first) == ["0"]
    assert ids(await acquire(running)) == ["urgent"]


async def test_start_and_acquire_serve_the_same_type(running: Running) -> None:
    """Row 22: the fence decides each attempt."""
    for job_id in ("a", "b"):
        await create(running, job_id)
    await start(running, "a")

    assert ids(await acquire(running, max_jobs=2)) == ["b"]
    assert (await refused(start(running, "b"))).reason == "TRANSITION_NOT_ALLOWED"


async def test_an_answer_ends_at_a_mebibyte_and_what_is_left_was_never_taken(running: Running) -> None:
    """Row 32."""
    large = struct(text="x" * 60_000)
    requests = [pb.CreateRequest(id=f"{n:02}", job_type="default", metadata=large) for n in range(30)]
    await running.jobs.BatchCreate(pb.BatchCreateRequest(requests=requests))

    first, second = await acquire(running, max_jobs=1_000), await acquire(running, max_jobs=1_000)

    assert sum(job.ByteSize() for job in first) <= 2**20
    assert ids(first) + ids(second) == [f"{n:02}" for n in range(30)]
    assert len(first) in (16, 17)


async def test_more_that_wait_than_one_commit_serves_are_served_by_the_next(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "HANDED_OUT_MAX", 2)
    calls = [waiting_for_work(running) for _ in range(5)]
    await until_waiting(running, 5)

    requests = [pb.CreateRequest(id=f"{number}", job_type="default") for number in range(5)]
    await running.jobs.BatchCreate(pb.BatchCreateRequest(requests=requests))

    assert sorted(ids([job for call in calls for job in await call])) == [f"{number}" for number in range(5)]


async def test_a_draining_server_ends_waits_and_delivers_what_was_handed_out(path: Path) -> None:
    """Row 34."""
    async with serving(path) as running:
        waiting = waiting_for_work(running)
        await until_waiting(running, 1)
        running.server.acquires.drain()

        refusal = await refused(waiting)
        assert refusal.reason == "DRAINING"
        await create(running)
        assert ids(await acquire(running, wait=30)) == ["job"]
        assert (await refused(acquire(running, wait=30))).reason == "DRAINING"


async def test_a_strict_server_refuses_an_unknown_type_and_another_waits_for_it(path: Path) -> None:
    """Row 35."""
    async with serving(path) as running:
        waiting = asyncio.ensure_future(acquire(running, "unknown", wait=60))
        await until_waiting(running, 1)
        await create(running, job_type="unknown")
        assert ids(await waiting) == ["job"]
    async with serving(path, strict_job_types=True) as running:
        refusal = await refused(acquire(running, "default", "typo"))
    assert (refusal.reason, refusal.metadata) == ("UNKNOWN_JOB_TYPE", {"field": "job_types[1]", "job_type": "typo"})


async def test_beyond_the_limit_of_streams_an_acquire_is_refused_and_other_calls_are_not(path: Path) -> None:
    async with (
        serving(path, open_streams_max=10) as running,
        client_of(running.server.address) as other,
        watching_live(running),
    ):
        calls = [waiting_for_work(running) for _ in range(9)]
        await until_waiting(running, 9)

        assert (await refused(acquire(other))).brief == ("RESOURCE_EXHAUSTED", "OVERLOADED")
        await create(other, "one")
        await create(other, "two")
        assert sorted(ids(await calls[0] + await calls[1])) == ["one", "two"]
        assert ids(await acquire(other)) == []


@pytest.mark.parametrize(
    ("fields", "bad"),
    [
        ({"job_types": []}, ["job_types"]),
        ({"job_types": ["x"] * 101}, ["job_types"]),
        ({"job_types": ["ok", "not ok"]}, ["job_types[1]"]),
        ({"max_jobs": 1_001}, ["max_jobs"]),
        ({"max_jobs": -1}, ["max_jobs"]),
        ({"wait": span(60.1)}, ["wait"]),
        ({"wait": span(-1)}, ["wait"]),
        ({"lease": span(4.9)}, ["lease"]),
        ({"lease": span(3_601)}, ["lease"]),
        ({"worker": "x" * 129, "request_id": "short"}, ["worker", "request_id"]),
    ],
)
async def test_bad_fields_are_named(running: Running, fields: dict[str, Any], bad: list[str]) -> None:
    refusal = await refused(running.jobs.Acquire(pb.AcquireRequest(**{"job_types": ["default"]} | fields)))

    assert (refusal.reason, refusal.fields) == ("INVALID_FIELD", bad)


async def test_a_store_that_refuses_the_batch_leaves_those_who_wait_waiting(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = waiting_for_work(running)
    await until_waiting(running, 1)
    transaction = running.server.store.transaction
    failed = 0

    def refusing() -> Any:
        nonlocal failed
        failed += 1
        if failed == 1:
            raise ZeroDivisionError
        return transaction()

    monkeypatch.setattr(running.server.store, "transaction", refusing)
    await create(running)

    assert ids(await waiting) == ["job"]


async def test_calls_that_wait_count_among_the_streams_and_not_among_the_calls(running: Running) -> None:
    calls = [waiting_for_work(running) for _ in range(3)]
    await until_waiting(running, 3)

    assert running.server.grpc.calls.admission.calls.held == 0
    assert running.server.grpc.calls.admission.streams.held == 3
    for call in calls:
        call.cancel()
    await until_waiting(running, 0)


async def test_a_cancelled_job_is_not_handed_out(running: Running) -> None:
    await create(running)
    await cancel(running)

    assert await acquire(running) == []
