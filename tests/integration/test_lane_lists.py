"""Which lanes ListLanes tells of, on each store."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from jobstate.v1 import dispatch_service_pb2 as dispatch_pb

from ..support.calls import acquire, create, fail
from ..support.clock import WatchedClock
from ..support.server import Running, serving_url


@pytest.fixture
async def running(url: str, clock: WatchedClock) -> AsyncIterator[Running]:
    """A server on each store in turn, with a type whose jobs hold their place in their lane."""
    async with serving_url(url, clock, job_types={"sequence": {"lane_concurrency": 1, "lane_holds": "job"}}) as running:
        yield running


async def listed(running: Running, job_type: str) -> list[tuple[str, int, int]]:
    """The lanes of a type, with what is ready and what is under way."""
    answer = await running.dispatch.ListLanes(dispatch_pb.ListLanesRequest(job_type=job_type))
    return sorted((lane.lane, lane.ready, lane.running) for lane in answer.lanes)


@pytest.mark.parametrize(("job_type", "expected"), [("default", []), ("sequence", [("", 0, 1), ("a", 0, 1)])])
async def test_a_lane_whose_jobs_only_wait_for_a_retry_is_told_of_where_they_hold_their_place(
    running: Running, job_type: str, expected: list[tuple[str, int, int]]
) -> None:
    await create(running, "plain", job_type=job_type)
    await create(running, "in-a", job_type=job_type, lane="a")
    assert len(await acquire(running, job_type, max_jobs=2)) == 2
    assert await listed(running, job_type) == [("", 0, 1), ("a", 0, 1)]

    for job_id in ("plain", "in-a"):
        await fail(running, job_id, retryable=True)

    assert await listed(running, job_type) == expected
