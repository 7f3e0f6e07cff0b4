"""Calls of Acquire that wait, in their thousands, and when the store or the server goes away under them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from jobstate_server.domain.commands import Acquire
from jobstate_server.domain.durations import MINUTE
from jobstate_server.domain.errors import Draining, StoreUnavailable
from jobstate_server.domain.job import Job
from jobstate_server.engine.batch import Batch
from jobstate_server.store.errors import StoreUnreachable

from ..support.calls import acquire, create, refused, settled, until_waiting
from ..support.clock import PATIENCE_S, WatchedClock
from ..support.server import Running, serving


def waiting_calls(running: Running, count: int) -> list[asyncio.Task[tuple[Job, ...]]]:
    """So many calls that wait for one job each, as the RPC makes them: a connection may have only a hundred."""
    acquires = running.server.acquires
    command = ("default",)
    return [
        asyncio.create_task(acquires.acquire(Acquire(job_types=command, max_jobs=1, worker=f"{number}"), 100, MINUTE))
        for number in range(count)
    ]


async def waiting(running: Running, count: int) -> list[asyncio.Task[tuple[Job, ...]]]:
    """The same, once they wait."""
    calls: list[asyncio.Task[tuple[Job, ...]]] = []
    while len(calls) < count:
        # The queue of the committer has room for so many.
        calls += waiting_calls(running, min(1_000, count - len(calls)))
        await until_waiting(running, len(calls))
    return calls


async def test_ten_thousand_wait_and_each_job_wakes_one(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 31."""
    calls = await waiting(running, 10_000)
    decided = 0
    answer = Batch.answer

    def counted(batch: Batch, command: Any) -> Any:
        nonlocal decided
        decided += isinstance(command, Acquire)
        return answer(batch, command)

    monkeypatch.setattr(Batch, "answer", counted)
    for number in range(3):
        await create(running, f"job-{number}")
        (job,) = await asyncio.wait_for(calls[number], PATIENCE_S)
        assert (job.id, job.worker) == (f"job-{number}", f"{number}")
        assert running.server.acquires.count == 10_000 - number - 1

    # Nobody else was looked at.
    assert decided == 3
    assert not any(call.done() for call in calls[3:])
    for call in calls[3:]:
        call.cancel()
    await asyncio.wait(calls)
    assert running.server.acquires.count == 0


async def test_a_server_that_stops_ends_a_thousand_waits_and_keeps_nothing_of_them(
    path: Path, clock: WatchedClock
) -> None:
    async with serving(path, clock) as running:
        calls = await waiting(running, 1_000)
        running.server.job_service.drain()
        ends = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(end) for end in ends} == {Draining}
        assert running.server.acquires.count == 0
        assert (await refused(acquire(running, wait=60))).reason == "DRAINING"
        await create(running)
        assert [job.id for job in await acquire(running, wait=60)] == ["job"]


async def test_those_who_wait_outlast_an_outage_of_the_store(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = await waiting(running, 100)
    transaction = running.server.store.transaction

    def lost() -> Any:
        raise StoreUnreachable("the disk is gone")

    monkeypatch.setattr(running.server.store, "transaction", lost)
    assert (await refused(create(running))).reason == "STORE_UNAVAILABLE"
    running.server.acquires.look()
    with pytest.raises(StoreUnavailable):
        await settled(running)
    assert running.server.acquires.count == 100
    monkeypatch.setattr(running.server.store, "transaction", transaction)
    for number in range(100):
        await create(running, f"job-{number}")

    found = await asyncio.wait_for(asyncio.gather(*calls), PATIENCE_S)
    assert [(job.id, job.attempt) for (job,) in found] == [(f"job-{number}", 1) for number in range(100)]
