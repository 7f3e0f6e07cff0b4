"""What the tests of lanes in one batch have in common."""

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
    "pair": {"lane_concurrency": 2, "lane_holds": "job"},
    "paced": {"rate": "6/1m", "burst": 3},
    "steady": {"lane_rate": "6/1m", "lane_burst": 2},
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
