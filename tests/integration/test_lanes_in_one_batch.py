"""What is decided together: places and turns that attempts give up for those who ask."""

from __future__ import annotations

import asyncio

import pytest

from jobstate.v1 import job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.domain.durations import SECOND
from jobstate_server.engine import picking

from ..support.calls import acquire, create, release, settled, span, until_waiting
from ..support.clock import WatchedClock
from ..support.server import Running, serving_url
from .lanes_in_one_batch import LIMITED, filled, ids, in_one_batch, running

__all__ = ["running"]


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


async def _first_by_turns_but_not_by_rate(running: Running, clock: WatchedClock) -> None:
    """Leave a lane a that comes first with more jobs than its rate allows at once, and behind it a lane b with three
    under way."""
    await filled(running, "steady", b=5)
    assert await ids(running, "steady", max_jobs=2) == ["b0", "b1"]
    clock.advance(10 * SECOND)
    assert await ids(running, "steady") == ["b2"]
    clock.advance(10 * SECOND)
    await filled(running, "steady", a=4)


async def test_a_lane_that_uses_up_its_rate_gives_way_to_the_next_in_the_same_call(
    running: Running, clock: WatchedClock
) -> None:
    await _first_by_turns_but_not_by_rate(running, clock)

    assert await ids(running, "steady", max_jobs=3) == ["a0", "a1", "b3"]


async def test_a_lane_that_uses_up_its_rate_lets_no_new_job_overtake_in_the_next(
    running: Running, clock: WatchedClock
) -> None:
    await _first_by_turns_but_not_by_rate(running, clock)

    outcomes = await in_one_batch(
        running,
        pb.JobUpdate(create=pb.CreateRequest(id="new", job_type="steady", lane="b")),
        pb.JobUpdate(acquire=pb.AcquireRequest(job_types=["steady"], max_jobs=3)),
    )

    assert [job.id for job in outcomes[-1].jobs] == ["a0", "a1", "b3"]


@pytest.mark.parametrize("job_type", ["default", "paced", "each", "steady"])
async def test_a_job_created_and_started_in_the_batch_lets_no_new_job_overtake_in_the_next_lane(
    running: Running, job_type: str
) -> None:
    """Its lane has more under way than was known when the stored jobs were picked."""
    await filled(running, job_type, a=2, b=2)

    outcomes = await in_one_batch(
        running,
        pb.JobUpdate(create=pb.CreateRequest(id="by-hand", job_type=job_type, lane="a")),
        pb.JobUpdate(start=pb.StartRequest(id="by-hand")),
        pb.JobUpdate(create=pb.CreateRequest(id="new", job_type=job_type, lane="b")),
        pb.JobUpdate(acquire=pb.AcquireRequest(job_types=[job_type], max_jobs=1)),
    )

    assert [job.id for job in outcomes[-1].jobs] == ["b0"]


async def _leave_lanes_without_rate(url: str, clock: WatchedClock) -> None:
    """Leave lanes a to d, which come first and have used up their rate, and behind them a lane z."""
    async with serving_url(url, clock, job_types=LIMITED) as running:
        await filled(running, "steady", a=5, b=5, c=5, d=5, z=4)
        for count in (10, 8):
            clock.advance(20 * SECOND)
            acquired = await ids(running, "steady", max_jobs=count)
            assert len(acquired) == count
            for job_id in acquired:
                if not job_id.startswith("z"):
                    await running.jobs.Complete(pb.CompleteRequest(id=job_id, attempt=1))


async def test_lanes_that_their_rate_closes_again_after_a_start_let_no_new_job_overtake_in_the_next(
    url: str, clock: WatchedClock
) -> None:
    """A start opens all of them, because their rate may have changed."""
    await _leave_lanes_without_rate(url, clock)

    async with serving_url(url, clock, job_types=LIMITED) as running:
        outcomes = await in_one_batch(
            running,
            pb.JobUpdate(create=pb.CreateRequest(id="new", job_type="steady", lane="z")),
            pb.JobUpdate(acquire=pb.AcquireRequest(job_types=["steady"], max_jobs=1)),
        )

    assert [job.id for job in outcomes[-1].jobs] == ["z2"]


async def test_nothing_is_handed_out_while_more_lanes_are_to_be_closed_than_one_pick_reads(
    url: str, clock: WatchedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next commits read the others."""
    monkeypatch.setattr(picking, "OPEN_LANES_READ_MAX", 1)
    await _leave_lanes_without_rate(url, clock)

    async with serving_url(url, clock, job_types=LIMITED) as running:
        outcomes = await in_one_batch(
            running,
            pb.JobUpdate(create=pb.CreateRequest(id="new", job_type="steady", lane="z")),
            pb.JobUpdate(acquire=pb.AcquireRequest(job_types=["steady"], max_jobs=1)),
        )
        next_job = await acquire(running, "steady", wait=60)

    assert not outcomes[-1].jobs
    assert [job.id for job in next_job] == ["z2"]
