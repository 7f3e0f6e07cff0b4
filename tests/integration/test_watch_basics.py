"""A watch sends every matching event once and in order, from wherever it is asked to begin."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from jobstate.v1 import event_pb2, job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate.v1 import maintenance_service_pb2 as mpb
from jobstate_server.domain.clock import HOUR, MINUTE, SECOND
from jobstate_server.watch import hub

from ..support.calls import (
    EVENTS,
    SYNCED,
    cancel,
    complete,
    create,
    fail,
    get,
    history,
    names,
    refusal_of,
    refused,
    report,
    retry,
    span,
    start,
    struct,
    watching,
    watching_live,
)
from ..support.clock import WatchedClock
from ..support.server import Client, Running, client_of, serving

HEARTBEAT = pb.WATCH_RESPONSE_KIND_HEARTBEAT
DRAINING = pb.WATCH_RESPONSE_KIND_DRAINING
SNAPSHOT = pb.WATCH_RESPONSE_KIND_SNAPSHOT
EARLIEST = pb.WATCH_START_EARLIEST


async def events_after(client: Client, cursor: str, **filters: Any) -> list[event_pb2.Event]:
    """Everything after a cursor."""
    request = pb.WatchEventsRequest(cursor=cursor, follow=False, **filters)
    async with watching(client, request) as watch:
        return [event for response in await watch.rest() for event in response.events]


async def live_out(client: Client, job_id: str = "job", job_type: str = "default", **fields: Any) -> None:
    """Create, start and complete a job: three events."""
    await create(client, job_id, job_type, **fields)
    await start(client, job_id)
    await complete(client, job_id)


async def test_a_watch_begins_at_the_end_of_the_log_and_sends_events_as_they_happen(running: Running) -> None:
    await create(running, "before")
    async with watching_live(running) as watch:
        await live_out(running)
        events = await watch.events(3)

    assert names(events) == ["queued", "started", "completed"]
    assert {event.job.id for event in events} == {"job"}
    sequences = [event.sequence for event in events]
    assert sequences == sorted(set(sequences))
    assert [event.job.version for event in events] == sequences
    assert [event.previous_state for event in events] == [0, job_pb2.JOB_STATE_QUEUED, job_pb2.JOB_STATE_PROCESSING]


async def test_an_event_is_there_as_soon_as_its_change_and_its_change_as_soon_as_it(running: Running) -> None:
    async with watching_live(running) as watch:
        created = await create(running)
        (event,) = await watch.events(1)

    assert event.job == created == await get(running)


async def test_from_earliest_comes_the_whole_log_then_synced_once_then_what_happens(running: Running) -> None:
    await live_out(running)
    async with watching(running, pb.WatchEventsRequest(start=EARLIEST)) as watch:
        *caught_up, synced = await watch.until(SYNCED)
        await create(running, "later")
        live = await watch.response()

    assert names([event for response in caught_up for event in response.events]) == ["queued", "started", "completed"]
    assert synced.cursor
    assert not synced.events
    assert live.kind == EVENTS
    assert live.events[0].job.id == "later"


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


async def test_without_follow_the_stream_ends_ok_after_synced(running: Running) -> None:
    await live_out(running)
    async with watching(running, pb.WatchEventsRequest(start=EARLIEST, follow=False)) as watch:
        responses = await watch.rest()
        code = await watch.call.code()

    assert [response.kind for response in responses] == [EVENTS, SYNCED]
    assert code is grpc.StatusCode.OK


async def test_the_history_of_one_job_is_one_call(running: Running) -> None:
    await live_out(running, "one")
    await live_out(running, "other")

    events = await history(running, "one")

    assert [(event.job.id, name) for event, name in zip(events, names(events), strict=True)] == [
        ("one", "queued"),
        ("one", "started"),
        ("one", "completed"),
    ]


FILTERS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "none": ({}, ["a.queued", "a.started", "a.completed", "b.queued", "b.started", "b.completed", "c.queued"]),
    "job_ids": ({"job_ids": ["a", "c"]}, ["a.queued", "a.started", "a.completed", "c.queued"]),
    "job_types": ({"job_types": ["clean_transcript"]}, ["b.queued", "b.started", "b.completed"]),
    "source_ids": ({"source_ids": ["south", "east"]}, ["b.queued", "b.started", "b.completed", "c.queued"]),
    "types": (
        {"types": [event_pb2.EVENT_TYPE_STARTED, event_pb2.EVENT_TYPE_COMPLETED]},
        ["a.started", "a.completed", "b.started", "b.completed"],
    ),
    "two kinds": ({"source_ids": ["south"], "job_types": ["default"]}, ["c.queued"]),
    "all kinds": (
        {
            "job_ids": ["a", "b"],
            "job_types": ["clean_transcript", "default"],
            "source_ids": ["south"],
            "types": [event_pb2.EVENT_TYPE_QUEUED],
        },
        ["b.queued"],
    ),
    "what nothing matches": ({"job_ids": ["a"], "source_ids": ["south"]}, []),
}


@pytest.mark.parametrize(("filters", "expected"), FILTERS.values(), ids=FILTERS)
async def test_a_filter_passes_the_same_events_from_the_log_and_live(
    running: Running, filters: dict[str, Any], expected: list[str]
) -> None:
    async with watching_live(running, **filters) as watch:
        await live_out(running, "a", source_id="north")
        await live_out(running, "b", "clean_transcript", source_id="south")
        await create(running, "c", source_id="south")
        live = await watch.events(len(expected)) if expected else []
    caught_up = await history(running, *filters.pop("job_ids", ()), **filters)

    told = [f"{event.job.id}.{name}" for event, name in zip(live, names(live), strict=True)]
    assert told == expected
    assert caught_up == live


async def test_two_watchers_get_the_same_events(running: Running) -> None:
    async with watching_live(running) as one, watching_live(running) as other:
        await live_out(running)

        assert await one.events(3) == await other.events(3)


async def test_an_event_carries_metadata_and_result_only_when_it_set_them(running: Running) -> None:
    await create(running, metadata=struct(a=1))
    await start(running)
    await report(running, progress=1)
    answered = await report(running, metadata=struct(b=2))
    await complete(running, result=struct(c=3))

    queued, started, plain, with_metadata, completed = await history(running)

    assert [event.job.HasField("metadata") for event in (queued, started, plain, with_metadata, completed)] == [
        True,
        False,
        False,
        True,
        False,
    ]
    assert dict(with_metadata.job.metadata) == dict(answered.metadata) == {"a": 1, "b": 2}
    assert not with_metadata.job.HasField("result")
    assert dict(completed.job.result) == {"c": 3}


async def test_a_slow_reader_of_large_events_loses_none(running: Running) -> None:
    await create(running)
    await start(running)
    async with watching_live(running) as watch:
        for number in range(60):
            await report(running, metadata=struct(number=number, blob="x" * 50_000))
        events: list[event_pb2.Event] = []
        sizes = []
        while len(events) < 60:
            response = await watch.response()
            sizes.append(response.ByteSize())
            events.extend(response.events)

    assert [event.job.metadata["number"] for event in events] == list(range(60))
    assert max(sizes) < 1.2 * 2**20


# Heartbeats.


async def test_silence_brings_a_heartbeat_that_moves_the_cursor_of_a_filtered_watch(
    running: Running, clock: WatchedClock
) -> None:
    async with watching(running, pb.WatchEventsRequest(job_ids=["quiet"])) as watch:
        synced = await watch.response()
        await live_out(running, "other")
        await clock.armed(30 * SECOND)
        clock.advance(30 * SECOND)
        heartbeat = await watch.response()
    await create(running, "quiet")

    assert (synced.kind, heartbeat.kind) == (SYNCED, HEARTBEAT)
    assert heartbeat.cursor != synced.cursor
    assert names(await events_after(running, heartbeat.cursor)) == ["queued"]


@pytest.mark.parametrize(
    ("asked", "interval"),
    [(None, 30 * SECOND), (span(7), 7 * SECOND), (span(0.01), 1 * SECOND), (span(86_400), 5 * MINUTE)],
    ids=["unset", "7 s", "too short", "too long"],
)
async def test_heartbeats_come_as_often_as_asked_within_bounds(
    running: Running, clock: WatchedClock, asked: Any, interval: int
) -> None:
    async with watching_live(running, heartbeat_interval=asked) as watch:
        for _ in range(2):
            await clock.armed(interval)
            clock.advance(interval)
            assert (await watch.response()).kind == HEARTBEAT


# Snapshots.


async def test_a_snapshot_is_all_matching_jobs_then_synced_then_what_happens(running: Running) -> None:
    items = [pb.CreateRequest(id=f"job-{number:04}", job_type="default", metadata=struct(a=1)) for number in range(600)]
    await running.jobs.BatchCreate(pb.BatchCreateRequest(requests=items))
    await create(running, "other", "clean_transcript")
    async with watching(running, pb.WatchEventsRequest(job_types=["default"], snapshot=True)) as watch:
        *pages, synced = await watch.until(SYNCED)
        await start(running, "job-0000")
        (event,) = await watch.events(1)

    jobs = [job for page in pages for job in page.jobs]
    assert [job.id for job in jobs] == [item.id for item in items]
    assert all(page.kind == SNAPSHOT and not page.cursor for page in pages)
    assert all(job.metadata["a"] == 1 for job in jobs)
    assert synced.cursor
    assert event.job.version > jobs[0].version


async def test_a_snapshot_beside_a_cursor_is_not_sent(running: Running) -> None:
    await create(running)
    async with watching_live(running) as watch:
        await start(running)
        cursor = (await watch.response()).cursor
    await complete(running)
    async with watching(running, pb.WatchEventsRequest(cursor=cursor, snapshot=True, follow=False)) as watch:
        kinds = [response.kind for response in await watch.rest()]

    assert kinds == [EVENTS, SYNCED]


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


# Progress LATEST.


async def test_under_latest_progress_gives_way_to_later_progress_but_metadata_only_to_metadata(
    running: Running,
) -> None:
    for job_id in ("one", "two"):
        await create(running, job_id)
        await start(running, job_id)
    await report(running, "one", metadata=struct(a=1))
    await report(running, "one", progress=10, metadata=struct(b=2))
    await report(running, "two", progress=5)
    await report(running, "one", progress=20)
    await report(running, "one", progress=30)
    await complete(running, "one")

    events = await history(running, progress=pb.WATCH_PROGRESS_LATEST)

    told = [(event.job.id, name, event.job.progress) for event, name in zip(events, names(events), strict=True)]
    assert told[4:] == [
        ("one", "progress", 10),
        ("two", "progress", 5),
        ("one", "progress", 30),
        ("one", "completed", 100),
    ]
    assert dict(events[4].job.metadata) == {"a": 1, "b": 2}


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


# Retention.


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


# Limits.


def next_to_leave(running: Running) -> asyncio.Event:
    """Set once the server has noticed that a watcher broke off."""
    left = asyncio.Event()
    leave = running.server.hub.leave

    def leave_and_tell(waiter: hub.Waiter) -> None:
        leave(waiter)
        left.set()

    running.server.hub.leave = leave_and_tell  # type: ignore[method-assign]
    return left


async def test_one_watcher_too_many_is_refused_until_another_leaves(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "WATCHERS_MAX", 2)
    async with watching_live(running):
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
        assert running.server.hub.watchers == 1
    await left.wait()

    assert running.server.hub.watchers == 0
