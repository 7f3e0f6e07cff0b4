"""A watch sends every matching event once and in order, from the log or as it happens."""

from __future__ import annotations

from typing import Any

import pytest

from jobstate.v1 import event_pb2, job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.domain.durations import MINUTE, SECOND
from jobstate_server.maintenance.schedule import CHECK_INTERVAL

from ..support.calls import (
    EVENTS,
    SYNCED,
    complete,
    create,
    get,
    history,
    names,
    report,
    span,
    start,
    struct,
    watching,
    watching_live,
)
from ..support.clock import WatchedClock
from ..support.server import Running
from .support import EARLIEST, events_after, live_out

HEARTBEAT = pb.WATCH_RESPONSE_KIND_HEARTBEAT

SNAPSHOT = pb.WATCH_RESPONSE_KIND_SNAPSHOT


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


async def test_the_history_of_one_job_is_one_call(running: Running) -> None:
    await live_out(running, "one")
    await live_out(running, "other")

    events = await history(running, "one")

    assert [(event.job.id, name) for event, name in zip(events, names(events), strict=True)] == [
        ("one", "queued"),
        ("one", "started"),
        ("one", "completed"),
    ]


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
            # The schedule of the tasks looks at the time every 30 s too.
            await clock.armed(interval, 2 if interval == CHECK_INTERVAL else 1)
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
