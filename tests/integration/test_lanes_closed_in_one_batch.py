"""What is decided together: holds, pauses, and turns that come late, before those who ask."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

import pytest

from jobstate.v1 import dispatch_service_pb2 as dispatch_pb
from jobstate.v1 import job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.engine.picking import Picker
from jobstate_server.store.postgres.ready_jobs import ReadyReads

from ..support.calls import acquire, create, get, release, span, until_waiting
from ..support.clock import WatchedClock
from ..support.held import held
from ..support.postgres import postgres_server
from ..support.server import Running, serving_url
from ..support.waiting import until
from .lanes_in_one_batch import LIMITED, filled, ids, in_one_batch, running

__all__ = ["running"]


async def test_a_lane_that_is_held_in_the_batch_lets_no_new_job_overtake_in_the_others(running: Running) -> None:
    """Nothing was read of the other lane, as the first one had enough ready jobs."""
    await filled(running, "default", a=4, b=3)
    assert await ids(running, max_jobs=4) == ["a0", "b0", "a1", "b1"]
    await running.jobs.Complete(pb.CompleteRequest(id="a0", attempt=1))

    outcomes = await in_one_batch(
        running,
        pb.JobUpdate(release=pb.ReleaseRequest(id="a1", attempt=1, hold_lane=span(100))),
        pb.JobUpdate(create=pb.CreateRequest(id="new", job_type="default", lane="b")),
        pb.JobUpdate(acquire=pb.AcquireRequest(job_types=["default"])),
    )

    assert [job.id for job in outcomes[-1].jobs] == ["b2"]


async def test_a_lane_that_is_paused_in_the_batch_lets_no_new_job_overtake_in_the_others(running: Running) -> None:
    await filled(running, "default", a=2, b=1)
    async with held(running.server) as hold:
        before = running.server.committer.backlog
        pausing = asyncio.ensure_future(running.dispatch.Pause(dispatch_pb.PauseRequest(job_type="default", lane="a")))
        await hold.has(1)
        asking = asyncio.ensure_future(
            in_one_batch(
                running,
                pb.JobUpdate(create=pb.CreateRequest(id="new", job_type="default", lane="b")),
                pb.JobUpdate(acquire=pb.AcquireRequest(job_types=["default"])),
            )
        )
        await until(lambda: running.server.committer.backlog >= before + 3)
        hold.release()
        await pausing

    assert [job.id for job in (await asking)[-1].jobs] == ["b0"]


@pytest.mark.parametrize("lane", [None, ""])
async def test_the_first_pause_of_a_type_holds_for_what_comes_after_it_in_the_commit(
    running: Running, lane: str | None
) -> None:
    asking = asyncio.ensure_future(acquire(running, wait=60))
    await until_waiting(running, 1)
    async with held(running.server) as hold:
        # Calls of one connection stay in order, whatever the server itself has put into the queue.
        for _ in range(3):
            running.server.committer.run(lambda _transaction: None)
        pausing = asyncio.ensure_future(running.dispatch.Pause(dispatch_pb.PauseRequest(job_type="default", lane=lane)))
        await hold.has(1)
        creating = asyncio.ensure_future(create(running, "job"))
        await hold.has(2)
        hold.release()
        paused, _ = await asyncio.gather(pausing, creating)

    assert (paused.head, paused.ready) == (0, 0)
    assert (await get(running, "job")).state == job_pb2.JOB_STATE_QUEUED
    await running.dispatch.Unpause(dispatch_pb.UnpauseRequest(job_type="default", lane=lane))
    assert [job.id for job in await asking] == ["job"]


async def test_a_pause_counts_what_came_before_it_in_the_commit(running: Running) -> None:
    async with held(running.server) as hold:
        creating = asyncio.ensure_future(create(running, "job"))
        await hold.has(1)
        pausing = asyncio.ensure_future(running.dispatch.Pause(dispatch_pb.PauseRequest(job_type="default")))
        await hold.has(2)
        hold.release()
        paused, _ = await asyncio.gather(pausing, creating)

    assert (paused.head, paused.ready) == (1, 1)


async def test_a_lane_that_is_held_in_the_batch_gives_way_to_as_many_lanes_as_are_asked_for(running: Running) -> None:
    """The lane without a name is held like any other. Nothing is handed out twice."""
    await running.jobs.BatchCreate(
        pb.BatchCreateRequest(requests=[pb.CreateRequest(id=f"x{number}", job_type="default") for number in range(9)])
    )
    assert await ids(running) == ["x0"]
    await filled(running, "default", a=2, b=2, c=2)
    assert await ids(running, max_jobs=3) == ["a0", "b0", "c0"]
    acquire_four = pb.JobUpdate(acquire=pb.AcquireRequest(job_types=["default"], max_jobs=4))

    outcomes = await in_one_batch(
        running,
        pb.JobUpdate(acquire=pb.AcquireRequest(job_types=["default"])),
        pb.JobUpdate(release=pb.ReleaseRequest(id="x0", attempt=1, hold_lane=span(100))),
        acquire_four,
        pb.JobUpdate(release=pb.ReleaseRequest(id="a0", attempt=1, hold_lane=span(100))),
        acquire_four,
    )

    assert [[job.id for job in outcomes[number].jobs] for number in (0, 2, 4)] == [["x1"], ["a1", "b1", "c1"], []]


async def test_a_lane_that_is_held_is_held_when_there_is_no_other(running: Running) -> None:
    await create(running, "x0")
    await create(running, "x1")
    assert await ids(running) == ["x0"]

    outcomes = await in_one_batch(
        running,
        pb.JobUpdate(release=pb.ReleaseRequest(id="x0", attempt=1, hold_lane=span(100))),
        pb.JobUpdate(acquire=pb.AcquireRequest(job_types=["default"])),
    )

    assert list(outcomes[-1].jobs) == []


@pytest.mark.parametrize("pauses", [True, False])
async def test_a_pause_of_one_lane_opens_no_other(running: Running, pauses: bool) -> None:
    """One that is paused already is not counted on."""
    await filled(running, "default", a=2, b=1, c=1)
    await running.dispatch.Pause(dispatch_pb.PauseRequest(job_type="default", lane="a"))
    async with held(running.server) as hold:
        before = running.server.committer.backlog
        if pauses:
            change: Any = running.dispatch.Pause(dispatch_pb.PauseRequest(job_type="default", lane="c"))
        else:
            change = running.dispatch.Unpause(dispatch_pb.UnpauseRequest(job_type="default", lane="c"))
        changing = asyncio.ensure_future(change)
        await hold.has(1)
        asking = asyncio.ensure_future(
            in_one_batch(
                running,
                pb.JobUpdate(create=pb.CreateRequest(id="new", job_type="default", lane="b")),
                pb.JobUpdate(acquire=pb.AcquireRequest(job_types=["default"])),
            )
        )
        await until(lambda: running.server.committer.backlog >= before + 3)
        hold.release()
        await changing

    assert [job.id for job in (await asking)[-1].jobs] == ["b0"]


@pytest.mark.parametrize("lane", [None, "b"])
async def test_what_goes_on_in_the_batch_lets_no_new_job_overtake(running: Running, lane: str | None) -> None:
    await filled(running, "default", b=2)
    await running.dispatch.Pause(dispatch_pb.PauseRequest(job_type="default", lane=lane))
    async with held(running.server) as hold:
        before = running.server.committer.backlog
        going_on = asyncio.ensure_future(
            running.dispatch.Unpause(dispatch_pb.UnpauseRequest(job_type="default", lane=lane))
        )
        await hold.has(1)
        asking = asyncio.ensure_future(
            in_one_batch(
                running,
                pb.JobUpdate(create=pb.CreateRequest(id="new", job_type="default", lane="b")),
                pb.JobUpdate(acquire=pb.AcquireRequest(job_types=["default"], max_jobs=9)),
            )
        )
        await until(lambda: running.server.committer.backlog >= before + 3)
        hold.release()
        await going_on

    assert [job.id for job in (await asking)[-1].jobs] == ["b0", "b1", "new"]


async def test_each_acquire_after_a_hold_picks_once_more_and_none_without(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    picks = []
    pick_again = Picker.pick_again

    def counted(*args: Any) -> bool:
        picks.append(args)
        return pick_again(*args)

    monkeypatch.setattr(Picker, "pick_again", counted)
    await filled(running, "default", a=9, b=9, c=9)
    assert await ids(running, max_jobs=6) == ["a0", "b0", "c0", "a1", "b1", "c1"]
    acquire_one = pb.JobUpdate(acquire=pb.AcquireRequest(job_types=["default"]))
    await in_one_batch(running, pb.JobUpdate(release=pb.ReleaseRequest(id="c1", attempt=1)), acquire_one, acquire_one)
    assert picks == []

    def held_by(job_id: str) -> pb.JobUpdate:
        return pb.JobUpdate(release=pb.ReleaseRequest(id=job_id, attempt=1, hold_lane=span(100)))

    both = await in_one_batch(running, held_by("a0"), held_by("a1"), acquire_one, acquire_one)
    assert [job.id for outcome in both[2:] for job in outcome.jobs] == ["b2", "c2"]
    assert len(picks) == 1
    each = await in_one_batch(running, held_by("b0"), acquire_one, held_by("c0"), acquire_one, held_by("b1"))
    assert [job.id for outcome in (each[1], each[3]) for job in outcome.jobs] == ["c3"]
    assert len(picks) == 3


async def test_a_turn_that_comes_late_in_the_batch_goes_by_what_the_batch_has_decided(
    clock: WatchedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lane that is next by what is stored has been held, and the job of the other is older than the new one."""
    late = iter([True])
    try_turns = ReadyReads.try_turns

    def refused_once(reads: ReadyReads, names: Collection[str]) -> Any:
        return try_turns(reads, ["another"] if next(late, False) else names)

    async with serving_url(postgres_server().new_store(), clock, job_types=LIMITED) as running:
        await filled(running, "default", b=7)
        assert await ids(running, max_jobs=6) == [f"b{number}" for number in range(6)]
        await filled(running, "default", a=9)
        assert await ids(running) == ["a0"]
        monkeypatch.setattr(ReadyReads, "try_turns", refused_once)
        async with held(running.server) as hold:
            before = running.server.committer.backlog
            releasing = asyncio.ensure_future(release(running, "a0", attempt=1, hold_lane=span(100)))
            await hold.has(1)
            creating = asyncio.ensure_future(create(running, "new", lane="b"))
            await hold.has(2)
            asking = asyncio.ensure_future(acquire(running, "default", wait=60))
            await until(lambda: running.server.committer.backlog >= before + 3)
            hold.release()
            await asyncio.gather(releasing, creating)

        assert [job.id for job in await asking] == ["b6"]
        assert list(late) == []


async def test_a_turn_that_comes_late_in_the_batch_is_enough_for_all_who_ask_in_it(
    clock: WatchedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The calls of the batch come after those that wait, and before the job that the batch has created."""
    refusals = iter([True])
    try_turns = ReadyReads.try_turns

    def refused_once(reads: ReadyReads, names: Collection[str]) -> Any:
        return try_turns(reads, ["another"] if next(refusals, False) else names)

    url = postgres_server().new_store()
    async with serving_url(url, clock, job_types=LIMITED) as running, serving_url(url, clock) as other:
        first = asyncio.ensure_future(acquire(running, "default", wait=60))
        await until_waiting(running, 1)
        async with held(running.server) as hold:
            before = running.server.committer.backlog
            await filled(other, "default", a=6)
            creating = asyncio.ensure_future(create(running, "new", lane="a"))
            await hold.has(1)
            asking = asyncio.ensure_future(acquire(running, "default", wait=60, max_jobs=5))
            await until(lambda: running.server.committer.backlog >= before + 2)
            monkeypatch.setattr(ReadyReads, "try_turns", refused_once)
            hold.release()
            await creating

        assert [job.id for job in await first] == ["a0"]
        assert [job.id for job in await asking] == ["a1", "a2", "a3", "a4", "a5"]
        assert list(refusals) == []
