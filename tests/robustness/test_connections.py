"""What only real connections show: readers that stop reading and go away, and many calls at once."""

from __future__ import annotations

import asyncio
from pathlib import Path

from jobstate.v1 import job_service_pb2 as pb

from ..support.calls import create, get
from ..support.clock import PATIENCE_S
from ..support.server import serving
from .clients import Stubs


async def test_watchers_that_go_away_without_reading_give_their_places_back(tmp_path: Path) -> None:
    async with serving(tmp_path / "jobs.db") as running:
        reading = Stubs(running.server.address, **{"http2.bdp_probe": 0})
        async with reading.channel:
            calls = [reading.jobs.WatchEvents(pb.WatchEventsRequest(start=pb.WATCH_START_EARLIEST)) for _ in range(20)]
            for call in calls:
                await anext(aiter(call))
            for batch in range(4):
                items = [
                    pb.CreateRequest(id=f"{batch}-{index}", job_type="x", source_id="s" * 200) for index in range(500)
                ]
                await running.jobs.BatchCreate(pb.BatchCreateRequest(requests=items))
            held = running.server.feed.watchers
            for call in calls:
                call.cancel()
            async with asyncio.timeout(PATIENCE_S):
                while running.server.feed.watchers:
                    await get(running, "0-0")

    assert held == 20


async def test_3000_calls_at_once_are_all_answered(tmp_path: Path) -> None:
    async with serving(tmp_path / "jobs.db") as running:
        await create(running)

        jobs = await asyncio.gather(*(get(running) for _ in range(3_000)))

    assert {job.id for job in jobs} == {"job"}
