"""What is decided together: places and turns that attempts give up for those who ask, and pauses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from typing import Any

import pytest

from jobstate.v1 import dispatch_service_pb2 as dispatch_pb
from jobstate.v1 import job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.domain.durations import SECOND
from jobstate_server.engine.picking import Picker
from jobstate_server.store.postgres.ready_jobs import ReadyReads

from ..support.calls import acquire, create, get, release, settled, span, until_waiting
from ..support.clock import WatchedClock
from ..support.held import held
from ..support.postgres import postgres_server
from ..support.server import Running, serving_url
from ..support.waiting import until

LIMITED: dict[str, dict[str, Any]] = {
    "one": {"concurrency": 1},
    "two": {"concurrency": 2},
    "each": {"lane_concurrency": 1},
    "sequence": {"lane_concurrency": 1, "lane_holds": "job"},
    "pair": {"lane_concurrency": 2, "lane_holds": "job"},
    "paced": {"rate": "6/1m", "burst": 3},
}


@pytest.fixture
async def running(url: str, clock: WatchedClock) -> AsyncIterator[Running]:
    """A server on each store in turn, whose job types have limits."""
    async with serving_url(url, clock, job_types=LIMITED) as running:
        yield running


async def filled(running: Running, job_type: str, **lanes: int) -> None:
    """Create so many jobs in each lane, named a0, a1, … in lane a."""
    requests = [
        pb.CreateRequest(id=f"{lane}{number}", job_type=job_type, lane=lane)
        for lane, count in lanes.items()
        for number in range(count)
    ]
    await running.jobs.BatchCreate(pb.BatchCreateRequest(requests=requests))


async def ids(running: Running, *job_types: str, max_jobs: int = 1) -> list[str]:
    """The ids of the jobs that an Acquire gets."""
    return [job.id for job in await acquire(running, *job_types, max_jobs=max_jobs)]


async def in_one_batch(running: Running, *updates: pb.JobUpdate) -> list[pb.UpdateOutcome]:
    """The outcomes of updates that are decided together."""

    async def batches() -> AsyncIterator[pb.StreamUpdatesRequest]:
        yield pb.StreamUpdatesRequest(batch=1, updates=updates)

    (answer,) = [answer async for answer in running.jobs.StreamUpdates(batches())]
    return list(answer.outcomes)


@pytest.mark.parametrize(("job_type", "limit"), [("one", 1), ("two", 2), ("each", 1), ("sequence", 1)])
async def test_a_worker_that_completes_and_acquires_in_one_batch_gets_the_place_that_it_frees(
    running: Running, job_type: str, limit: int
) -> None:
    await filled(running, job_type, a=4)
    assert await ids(running, job_type, max_jobs=4) == [f"a{number}" for number in range(limit)]

    outcomes = await in_one_batch(
        running,
        pb.JobUpdate(complete=pb.CompleteRequest(id="a0", attempt=1)),
        pb.JobUpdate(acquire=pb.AcquireRequest(job_types=[job_type], max_jobs=4)),
    )

    assert [job.id for job in outcomes[-1].jobs] == [f"a{limit}"]


async def test_the_lane_of_a_job_that_ends_in_the_batch_has_its_turn(running: Running) -> None:
    """It has the fewest under way then. So it is when another end in the batch is refused."""
    await filled(running, "default", a=4, b=4)
    assert await ids(running, max_jobs=2) == ["a0", "b0"]
    acquire_one = pb.JobUpdate(acquire=pb.AcquireRequest(job_types=["default"], max_jobs=1))

    outcomes = await in_one_batch(
        running,
        pb.JobUpdate(complete=pb.CompleteRequest(id="a0", attempt=9)),
        pb.JobUpdate(complete=pb.CompleteRequest(id="b0", attempt=1)),
        acquire_one,
    )

    assert [job.id for job in outcomes[-1].jobs] == ["b1"]


async def test_an_end_that_is_refused_frees_nothing(running: Running) -> None:
    await filled(running, "default", a=4, b=4)
    assert await ids(running, max_jobs=2) == ["a0", "b0"]

    outcomes = await in_one_batch(
        running,
        pb.JobUpdate(complete=pb.CompleteRequest(id="b0", attempt=9)),
        pb.JobUpdate(acquire=pb.AcquireRequest(job_types=["default"], max_jobs=1)),
    )

    assert [job.id for job in outcomes[-1].jobs] == ["a1"]


async def test_a_job_made_ready_in_the_batch_does_not_overtake_its_lane_because_another_lane_is_next(
    running: Running,
) -> None:
    """The first lane's job has a later place than one of another type, so its type seems not to be concerned."""
    background, high = job_pb2.PRIORITY_BACKGROUND, job_pb2.PRIORITY_HIGH
    await create(running, "later", job_type="two", lane="a", priority=background)
    await create(running, "first", job_type="two", lane="b", priority=high)
    await create(running, "other", job_type="default")

    outcomes = await in_one_batch(
        running,
        pb.JobUpdate(create=pb.CreateRequest(id="second", job_type="two", lane="b", priority=high)),
        pb.JobUpdate(acquire=pb.AcquireRequest(job_types=["two", "default"], max_jobs=1)),
    )

    assert [job.id for job in outcomes[-1].jobs] == ["other"]
    assert await ids(running, "two", max_jobs=2) == ["later", "first"]


async def test_a_job_that_is_cancelled_while_it_rests_gives_its_place_to_who_asks_then(
    running: Running,
) -> None:
    await filled(running, "sequence", a=2)
    assert await ids(running, "sequence") == ["a0"]
    await release(running, "a0", attempt=1, delay=span(100))

    outcomes = await in_one_batch(
        running,
        pb.JobUpdate(cancel=pb.CancelRequest(id="a0")),
        pb.JobUpdate(acquire=pb.AcquireRequest(job_types=["sequence"])),
    )

    assert [job.id for job in outcomes[-1].jobs] == ["a1"]


async def test_a_job_that_is_cancelled_while_it_rests_gives_its_place_to_who_waits(running: Running) -> None:
    await filled(running, "sequence", a=2)
    assert await ids(running, "sequence") == ["a0"]
    await release(running, "a0", attempt=1, delay=span(100))
    waiting = asyncio.ensure_future(acquire(running, "sequence", wait=60))
    await until_waiting(running, 1)

    await running.jobs.Cancel(pb.CancelRequest(id="a0"))

    assert [job.id for job in await waiting] == ["a1"]


async def test_the_lane_of_a_resting_job_that_is_cancelled_in_the_batch_has_its_turn(running: Running) -> None:
    await filled(running, "pair", a=2, b=2)
    assert await ids(running, "pair", max_jobs=2) == ["a0", "b0"]
    for job_id in ("a0", "b0"):
        await release(running, job_id, attempt=1, delay=span(100))

    outcomes = await in_one_batch(
        running,
        pb.JobUpdate(cancel=pb.CancelRequest(id="b0")),
        pb.JobUpdate(acquire=pb.AcquireRequest(job_types=["pair"])),
    )

    assert [job.id for job in outcomes[-1].jobs] == ["b1"]


async def test_a_retry_in_the_batch_does_not_overtake_a_job_that_came_back_before_it(running: Running) -> None:
    """While it rests, its lane has more under way than the other. When it comes back, its lane is next."""
    await filled(running, "pair", a=2, b=1)
    assert await ids(running, "pair", max_jobs=3) == ["a0", "b0", "a1"]
    await running.jobs.Complete(pb.CompleteRequest(id="b0", attempt=1))
    await release(running, "a0", attempt=1)
    await release(running, "a1", attempt=1, delay=span(100))
    await filled(running, "pair", c=1)
    assert await ids(running, "pair") == ["c0"]
    await running.jobs.Complete(pb.CompleteRequest(id="c0", attempt=1))
    await create(running, "c1", job_type="pair", lane="c")

    outcomes = await in_one_batch(
        running,
        pb.JobUpdate(retry=pb.RetryRequest(id="a1", immediately=True)),
        pb.JobUpdate(acquire=pb.AcquireRequest(job_types=["pair"])),
    )

    assert [job.id for job in outcomes[-1].jobs] == ["a0"]


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


async def test_a_retry_in_the_batch_does_not_overtake_its_lane_when_two_types_are_asked_for(
    running: Running, clock: WatchedClock
) -> None:
    background, high = job_pb2.PRIORITY_BACKGROUND, job_pb2.PRIORITY_HIGH
    await create(running, "back", job_type="two", lane="b", priority=high)
    assert await ids(running, "two") == ["back"]
    await release(running, "back", attempt=1, delay=span(100))
    await create(running, "later", job_type="two", lane="a", priority=background)
    await create(running, "first", job_type="two", lane="b", priority=high)
    await create(running, "other", job_type="default")
    clock.advance(SECOND)
    retry = pb.JobUpdate(retry=pb.RetryRequest(id="back", immediately=True))
    acquire = pb.JobUpdate(acquire=pb.AcquireRequest(job_types=["two", "default"], max_jobs=1))

    *_, acquired = await in_one_batch(running, retry, acquire)

    assert [job.id for job in acquired.jobs] == ["other"]
    assert await ids(running, "two", max_jobs=2) == ["later", "first"]


async def test_the_lane_whose_turn_it_is_gets_the_last_of_a_rate(running: Running) -> None:
    """Whatever may end in the batch, and does not."""
    await filled(running, "paced", a=4, b=4)
    assert await ids(running, "paced", max_jobs=2) == ["a0", "b0"]

    outcomes = await in_one_batch(
        running,
        pb.JobUpdate(complete=pb.CompleteRequest(id="b0", attempt=9)),
        pb.JobUpdate(acquire=pb.AcquireRequest(job_types=["paced"], max_jobs=4)),
    )

    assert [job.id for job in outcomes[-1].jobs] == ["a1"]


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


async def test_of_jobs_that_come_back_to_their_places_the_urgent_one_is_next(url: str, clock: WatchedClock) -> None:
    """Their lane may come to have more of them than it has places, when its limit is lowered."""
    async with serving_url(url, clock, job_types={"sequence": {"lane_concurrency": 2, "lane_holds": "job"}}) as before:
        for job_id, priority in (("low", job_pb2.PRIORITY_LOW), ("urgent", job_pb2.PRIORITY_URGENT)):
            await create(before, job_id, job_type="sequence", lane="a", priority=priority)
        assert await ids(before, "sequence", max_jobs=2) == ["urgent", "low"]
        await create(before, "new", job_type="sequence", lane="a", priority=job_pb2.PRIORITY_URGENT)
        clock.advance(SECOND)
        for job_id in ("low", "urgent"):
            await before.jobs.Release(pb.ReleaseRequest(id=job_id, attempt=1, delay=span(1)))
        clock.advance(SECOND)
        await asyncio.sleep(0)
        for _ in range(2):
            await settled(before)
    async with serving_url(url, clock, job_types=LIMITED) as after:
        assert await ids(after, "sequence") == ["urgent"]


async def test_a_rate_that_is_used_up_in_the_batch_keeps_back_no_job_of_another_type(running: Running) -> None:
    """However many jobs of the limited type come before it."""
    await filled(running, "paced", a=9)
    await filled(running, "default", other=2)
    assert await ids(running, "paced") == ["a0"]

    outcomes = await in_one_batch(
        running,
        pb.JobUpdate(complete=pb.CompleteRequest(id="a0", attempt=1)),
        pb.JobUpdate(acquire=pb.AcquireRequest(job_types=["paced", "default"], max_jobs=4)),
    )

    assert [job.id for job in outcomes[-1].jobs] == ["a1", "a2", "other0", "other1"]


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
