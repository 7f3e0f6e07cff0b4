"""A clean-up that deletes the rows of lanes without jobs gives none of them a turn too early."""

from __future__ import annotations

import pytest

from ..support.calls import acquire, complete, create
from ..support.clock import WatchedClock
from ..support.server import serving_url


@pytest.mark.parametrize(("lane", "other"), [("a", "b"), ("b", "a"), ("", "a"), ("a", "")])
async def test_a_lane_that_was_empty_at_a_clean_up_has_its_turn_after_one_that_waited(
    url: str, clock: WatchedClock, lane: str, other: str
) -> None:
    async with serving_url(url, clock) as running:

        async def acquired() -> list[str]:
            return [job.id for job in await acquire(running, "default")]

        await create(running, "other-0", lane=other)
        assert await acquired() == ["other-0"]
        await create(running, "other-1", lane=other)
        await create(running, "job-0", lane=lane)
        assert await acquired() == ["job-0"]
        for job_id in ("other-0", "job-0"):
            await complete(running, job_id)

        await running.server.tasks.evict_inactive.run_once()
        await create(running, "job-1", lane=lane)

        assert await acquired() == ["other-1"]
        assert await acquired() == ["job-1"]
