"""What watches take of memory is bounded: their filters, and what was prepared for those that do not read."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.domain.durations import SECOND
from jobstate_server.domain.filters import EventFilter
from jobstate_server.event_log import feed
from jobstate_server.rpc.byte_budget import ByteBudget
from jobstate_server.watch.requests import Watch

from ..support.calls import create, refused, struct
from ..support.clock import PATIENCE_S
from ..support.server import Running, serving

MEBIBYTE = 1024 * 1024


async def test_watches_whose_filters_have_no_room_are_refused_until_one_has_ended(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "FILTERS_BYTES_MAX", 10_000)
    request = pb.WatchEventsRequest(job_ids=[f"job-{number}" for number in range(15)])
    first = running.jobs.WatchEvents(request)
    await anext(aiter(first))

    assert (await refused(anext(aiter(running.jobs.WatchEvents(request))))).reason == "OVERLOADED"
    first.cancel()
    async with asyncio.timeout(PATIENCE_S):
        while running.server.feed.watchers:
            await running.jobs.ListJobTypes(pb.ListJobTypesRequest())
    await anext(aiter(running.jobs.WatchEvents(request)))


async def test_a_watcher_is_in_the_index_from_its_beginning_to_its_end_and_heartbeats_leave_it_alone(
    running: Running,
) -> None:
    at = running.server.feed
    waiter = at.join(EventFilter(job_ids=frozenset(f"job-{number}" for number in range(1_000))))
    index = {key: dict(groups) for key, groups in at._index.items()}
    waiting = asyncio.create_task(at.wait(waiter, SECOND))
    await asyncio.sleep(0)
    waiter.time_out()
    assert await waiting is None

    assert at._index == index
    at.leave(waiter)
    assert not at._index
    assert not at._groups


async def test_snapshots_that_are_not_read_are_not_prepared_beyond_their_room(running: Running) -> None:
    await running.jobs.Create(pb.CreateRequest(id="job", job_type="x"))
    watching = running.server.job_service._watching
    budget = ByteBudget(limit=3 * 1024 * 1024, of_connection=3 * 1024 * 1024)
    watch = Watch(wanted=EventFilter(), snapshot=True)
    shares = [budget.share(str(number), lambda: None) for number in range(10)]
    streams = [watching.stream(watch, share) for share in shares]
    # Each response is small, so what was taken for a whole page is given back, but for what it has.
    async with asyncio.timeout(PATIENCE_S):
        sizes = [len(await anext(stream)) for stream in streams]

    assert budget.held == sum(sizes)
    for stream in streams:
        await anext(stream)
    for share in shares:
        share.close()
    assert budget.held == 0


async def test_recent_events_take_two_elevenths_of_the_caches_and_older_ones_are_read_from_the_log(path: Path) -> None:
    async with serving(path, cache_bytes=22 * MEBIBYTE) as running:
        for number in range(40):
            await create(running, f"job-{number}", metadata=struct(text="m" * 60_000))
        watch = running.jobs.WatchEvents(pb.WatchEventsRequest(start=pb.WATCH_START_EARLIEST))
        seen: list[str] = []
        async with asyncio.timeout(PATIENCE_S):
            while len(seen) < 40:
                seen += [event.job.id for event in (await anext(aiter(watch))).events]

        assert running.server.feed.recent._bytes <= 4 * MEBIBYTE < 40 * 2 * 60_000
    assert seen == [f"job-{number}" for number in range(40)]
