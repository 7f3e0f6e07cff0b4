"""A watch goes on right after any cursor that the log still reaches, and is refused one that it no longer does."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobstate.v1 import job_service_pb2 as pb
from jobstate.v1 import maintenance_service_pb2 as mpb
from jobstate_server.domain.durations import HOUR

from ..support.calls import (
    EVENTS,
    SYNCED,
    complete,
    create,
    history,
    names,
    refused,
    report,
    start,
    watching,
    watching_live,
)
from ..support.clock import WatchedClock
from ..support.server import Running, serving
from .support import events_after


@pytest.mark.parametrize("count", range(4))
async def test_a_watch_goes_on_right_after_any_cursor(running: Running, count: int) -> None:
    async with watching_live(running) as watch:
        cursors = []
        for step in (create, start, complete):
            await step(running)
            cursors.append((await watch.response()).cursor)
    beginning = await watching_from_nothing(running)
    whole = await history(running)

    events = await events_after(running, [beginning, *cursors][count])

    assert events == whole[count:]


async def watching_from_nothing(running: Running) -> str:
    """The cursor before the first event."""
    refusal = await refused(anext(aiter(running.jobs.WatchEvents(pb.WatchEventsRequest(cursor="nothing")))))
    return refusal.metadata["oldest_cursor"]


async def test_a_cursor_is_good_for_a_watch_with_other_filters(running: Running) -> None:
    async with watching_live(running, job_ids=["job"]) as watch:
        await create(running)
        cursor = (await watch.response()).cursor
    await create(running, "other", "extract_insights")

    events = await events_after(running, cursor, job_types=["extract_insights"])

    assert [event.job.id for event in events] == ["other"]


async def test_a_snapshot_beside_a_cursor_is_not_sent(running: Running) -> None:
    await create(running)
    async with watching_live(running) as watch:
        await start(running)
        cursor = (await watch.response()).cursor
    await complete(running)
    async with watching(running, pb.WatchEventsRequest(cursor=cursor, snapshot=True, follow=False)) as watch:
        kinds = [response.kind for response in await watch.rest()]

    assert kinds == [EVENTS, SYNCED]


async def test_a_watch_goes_on_over_a_restart(path: Path, clock: WatchedClock) -> None:
    async with serving(path, clock) as running:
        async with watching_live(running) as watch:
            await create(running)
            cursor = (await watch.response()).cursor
        await start(running)
    async with serving(path, clock) as running, watching(running, pb.WatchEventsRequest(cursor=cursor)) as watch:
        (caught_up,) = await watch.events(1)
        assert (await watch.response()).kind == SYNCED
        await complete(running)
        (live,) = await watch.events(1)

    assert names([caught_up, live]) == ["started", "completed"]


@pytest.mark.parametrize("is_in_ring", [True, False], ids=["while the server remembers them", "after a restart"])
async def test_a_cursor_before_retention_is_expired_and_the_oldest_one_works(
    path: Path, clock: WatchedClock, is_in_ring: bool
) -> None:
    async with serving(path, clock, event_retention="1h") as running:
        async with watching_live(running) as watch:
            await create(running)
            cursor = (await watch.response()).cursor
        await start(running)
        await report(running, progress=1)
        clock.advance(2 * HOUR)
        await report(running, progress=2)
        answer = await running.maintenance.Cleanup(mpb.CleanupRequest())
        assert answer.events == 3
        if is_in_ring:
            await assert_expired(running, cursor)
    async with serving(path, clock, event_retention="1h") as running:
        await assert_expired(running, cursor)


async def assert_expired(running: Running, cursor: str) -> None:
    """The cursor is refused, and the one that is told instead begins at the oldest event kept."""
    refusal = await refused(anext(aiter(running.jobs.WatchEvents(pb.WatchEventsRequest(cursor=cursor)))))
    assert refusal.brief == ("OUT_OF_RANGE", "CURSOR_EXPIRED")
    events = await events_after(running, refusal.metadata["oldest_cursor"])
    assert [event.job.progress for event in events] == [2]
    assert await history(running) == events
