"""A watch ends when it was asked to or when the server stops, and leaves nothing behind."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2

from jobstate.v1 import event_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate.v1 import maintenance_service_pb2 as mpb
from jobstate_server.domain.durations import HOUR
from jobstate_server.event_log import feed

from ..support.calls import (
    EVENTS,
    SYNCED,
    cancel,
    complete,
    create,
    fail,
    names,
    refusal_of,
    refused,
    retry,
    span,
    start,
    watching,
    watching_live,
)
from ..support.clock import WatchedClock
from ..support.server import Running, client_of, serving
from .support import EARLIEST, events_after, live_out

DRAINING = pb.WATCH_RESPONSE_KIND_DRAINING


async def test_without_follow_the_stream_ends_ok_after_synced(running: Running) -> None:
    await live_out(running)
    async with watching(running, pb.WatchEventsRequest(start=EARLIEST, follow=False)) as watch:
        responses = await watch.rest()
        code = await watch.call.code()

    assert [response.kind for response in responses] == [EVENTS, SYNCED]
    assert code is grpc.StatusCode.OK


# Until final.


async def test_until_final_the_stream_ends_ok_with_the_last_job(running: Running) -> None:
    await create(running, "one")
    await create(running, "two")
    async with watching(running, pb.WatchEventsRequest(job_ids=["one", "two"], until_final=True)) as watch:
        assert (await watch.response()).kind == SYNCED
        await cancel(running, "one")
        await start(running, "two")
        await fail(running, "two", retryable=False)
        responses = await watch.rest()
        code = await watch.call.code()

    events = [event for response in responses for event in response.events]
    assert names(events) == ["cancelled", "started", "failed", "permanently-failed"]
    assert code is grpc.StatusCode.OK


async def test_until_final_ends_at_once_when_the_job_is_final_already(running: Running) -> None:
    await live_out(running)
    for position in ({}, {"start": EARLIEST}):
        request = pb.WatchEventsRequest(job_ids=["job"], until_final=True, **position)  # type: ignore[arg-type]
        async with watching(running, request) as watch:
            responses = await watch.rest()
        events = [event for response in responses for event in response.events]

        assert names(events) == (["queued", "started", "completed"] if position else [])
        assert responses[-1].kind == SYNCED


async def test_until_final_ends_although_the_end_itself_is_filtered_out(running: Running) -> None:
    await create(running)
    request = pb.WatchEventsRequest(job_ids=["job"], until_final=True, types=[event_pb2.EVENT_TYPE_STARTED])
    async with watching(running, request) as watch:
        assert (await watch.response()).kind == SYNCED
        await start(running)
        await complete(running)
        responses = await watch.rest()

    assert names([event for response in responses for event in response.events]) == ["started"]


async def test_until_final_a_job_deleted_since_the_cursor_counts_as_final(
    running: Running, clock: WatchedClock
) -> None:
    async with watching_live(running) as watch:
        await create(running)
        cursor = (await watch.response()).cursor
    await cancel(running)
    clock.advance(2 * HOUR)
    await running.maintenance.Cleanup(mpb.CleanupRequest(older_than=span(3_600)))
    async with watching(running, pb.WatchEventsRequest(job_ids=["job"], cursor=cursor, until_final=True)) as watch:
        responses = await watch.rest()

    assert names([event for response in responses for event in response.events]) == ["cancelled", "deleted"]


async def test_until_final_a_retried_job_goes_on(running: Running) -> None:
    await create(running)
    request = pb.WatchEventsRequest(job_ids=["job"], until_final=True)
    async with watching(running, request) as watch:
        assert (await watch.response()).kind == SYNCED
        await start(running)
        await fail(running)
        await retry(running, immediately=True)
        await start(running)
        await complete(running, attempt=2)
        responses = await watch.rest()

    told = names([event for response in responses for event in response.events])
    assert told == ["started", "failed", "retrying", "started", "claimed", "completed"]


# The end of the server.


async def test_a_stopping_server_tells_its_watchers_where_to_go_on(path: Path, clock: WatchedClock) -> None:
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(serving(path, clock))
        async with client_of(running.server.address) as client, watching_live(client) as watch:
            await create(client)
            await watch.events(1)
            stopping = asyncio.ensure_future(stack.aclose())
            draining = await watch.response()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await watch.response()
            await stopping
    async with serving(path, clock) as running:
        await start(running)
        events = await events_after(running, draining.cursor)

    assert draining.kind == DRAINING
    assert 0 <= draining.reconnect_after.ToMilliseconds() <= 2_000
    assert refusal_of(caught.value).brief == ("UNAVAILABLE", "DRAINING")
    assert names(events) == ["started"]


# Limits.


def next_to_leave(running: Running) -> asyncio.Event:
    """Set once the server has noticed that a watcher broke off."""
    left = asyncio.Event()
    leave = running.server.feed.leave

    def leave_and_tell(waiter: feed.Waiter) -> None:
        leave(waiter)
        left.set()

    running.server.feed.leave = leave_and_tell  # type: ignore[method-assign]
    return left


async def test_one_watcher_too_many_is_refused_until_another_leaves(
    path: Path,
) -> None:
    async with serving(path, open_streams_max=10) as running, AsyncExitStack() as others:
        for _ in range(9):
            await others.enter_async_context(watching_live(running))
        async with watching_live(running):
            refusal = await refused(anext(aiter(running.jobs.WatchEvents(pb.WatchEventsRequest()))))
            left = next_to_leave(running)
        await left.wait()
        async with watching_live(running) as watch:
            await create(running)
            assert names(await watch.events(1)) == ["queued"]

    assert refusal.brief == ("RESOURCE_EXHAUSTED", "OVERLOADED")
    assert refusal.detail(error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() > 0


async def test_a_watcher_that_broke_off_leaves_nothing_behind(running: Running) -> None:
    left = next_to_leave(running)
    async with watching_live(running, job_ids=["job"]):
        assert running.server.feed.watchers == 1
    await left.wait()

    assert running.server.feed.watchers == 0
