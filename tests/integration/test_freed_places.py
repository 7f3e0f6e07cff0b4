"""Places and turns that attempts give up which end in the batch that asks for jobs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from jobstate.v1 import job_service_pb2 as pb

from ..support.calls import acquire
from ..support.clock import WatchedClock
from ..support.server import Running, serving_url

LIMITED: dict[str, dict[str, Any]] = {
    "one": {"concurrency": 1},
    "two": {"concurrency": 2},
    "each": {"lane_concurrency": 1},
    "sequence": {"lane_concurrency": 1, "lane_holds": "job"},
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
