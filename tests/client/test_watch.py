"""A watch yields everything once and in order, over restarts, crashes and drains, and has its position."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from jobstate_client import (
    Client,
    CursorExpired,
    DeadlineExceeded,
    Event,
    EventType,
    InvalidField,
    JobNotFound,
    NewJob,
    RetryDecision,
    SnapshotJob,
    SnapshotStarted,
    State,
    Synced,
    Unreachable,
)
from jobstate_client.core import watch_session
from jobstate_client.testing import JobstateServer

from ..support.ports import ReservedPort
from ..support.server import served
from .support import PATIENCE_S, Either, done, following, in_thread, items, log_of

RESTARTS = 20


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drained watchers come back at once instead of within two seconds."""
    monkeypatch.setattr("jobstate_server.watch.session.RECONNECT_SPREAD", 1)
    monkeypatch.setattr(watch_session, "RESUME_DELAY_S_MAX", 0.2)


async def sequences_until(watch: Any, job_id: str) -> list[int]:
    """The sequences of the events up to the first of this job."""
    found = []
    while True:
        event = await following(watch)
        found.append(event.sequence)
        if event.job.id == job_id:
            return found


async def test_events_have_what_happened(either: Any, server: JobstateServer) -> None:
    job = await done(either.start(await done(either.create("clean_transcript", id="first", metadata={"a": 1}))))
    await done(either.progress(job, 50, "half way"))
    await done(either.fail(job, "BROKEN", "it broke"))
    server.advance(1.0)
    await done(either.complete(await done(either.start("first", worker="me")), result={"b": 2}))
    await done(either.cancel(await done(either.create("default", id="second")), "not needed"))

    events: list[Event] = await items(either.watch(start="earliest", follow=False))

    assert [(event.job.id, event.type, event.previous_state) for event in events] == [
        ("first", EventType.QUEUED, None),
        ("first", EventType.STARTED, State.QUEUED),
        ("first", EventType.PROGRESS, State.PROCESSING),
        ("first", EventType.FAILED, State.PROCESSING),
        ("first", EventType.RETRYING, State.FAILED),
        ("first", EventType.STARTED, State.RETRYING),
        ("first", EventType.CLAIMED, State.PROCESSING),
        ("first", EventType.COMPLETED, State.PROCESSING),
        ("second", EventType.QUEUED, None),
        ("second", EventType.CANCELLED, State.QUEUED),
    ]
    queued, _, progress, failed, retrying, resumed, claimed, completed, _, cancelled = events
    assert (queued.sets_metadata, queued.job.metadata, progress.sets_metadata) == (True, {"a": 1}, False)
    assert (progress.name, progress.job.progress) == ("processing-job.progress", 50)
    assert failed.detail.error == failed.job.last_error
    assert failed.detail.decision is RetryDecision.WILL_RETRY
    assert (retrying.detail.delay, retrying.detail.next_retry_time) == (timedelta(seconds=1), resumed.time)
    assert (resumed.detail.resumed, claimed.detail.worker) == (True, "me")
    assert (completed.sets_result, completed.job.result) == (True, {"b": 2})
    assert cancelled.detail.reason == "not needed"


async def test_a_watch_is_open_once_its_block_begins(either: Any) -> None:
    async with Either(either.watch()) as watch:
        await done(either.create("default", id="first"))

        assert (await following(watch)).job.id == "first"


async def test_a_watch_is_narrowed_down(either: Any) -> None:
    for job_id, job_type, source_id in [("a", "x", "s"), ("b", "y", "s"), ("c", "x", "t")]:
        await done(either.start(await done(either.create(job_type, id=job_id, source_id=source_id))))

    async def seen(**filters: Any) -> list[str]:
        return [event.job.id for event in await items(either.watch(start="earliest", follow=False, **filters))]

    assert await seen(job_ids=["b"]) == ["b", "b"]
    assert await seen(job_types=["x"], source_ids=["s"]) == ["a", "a"]
    assert await seen(types=[EventType.STARTED]) == ["a", "b", "c"]
    assert await seen(types=["QUEUED"], source_ids=["t"]) == ["c"]


async def test_the_cursor_leads_on_from_what_was_handed_out(either: Any) -> None:
    await done(either.create("default", id="first"))
    async with Either(either.watch(start="earliest")) as watch:
        assert (await following(watch)).job.id == "first"
        cursor = watch.cursor
    await done(either.create("default", id="second"))

    later = await items(either.watch(cursor=cursor, follow=False))

    assert [event.job.id for event in later] == ["second"]


async def test_the_cursor_waits_for_the_last_event_of_a_response(either: Any) -> None:
    await done(either.create_many(NewJob("default", id=f"job-{number}") for number in range(3)))
    watch = either.watch(start="earliest", follow=False)
    first = await following(watch)
    cursors = [watch.cursor]
    for _ in range(2):
        await following(watch)
        cursors.append(watch.cursor)

    assert first.job.id == "job-0"
    assert cursors[0] == cursors[1] != cursors[2]
    assert await items(either.watch(cursor=cursors[2], follow=False)) == []


@pytest.mark.usefixtures("at_once")
async def test_nothing_is_missed_or_yielded_twice_over_restarts(
    either: Any, client: Client, server: JobstateServer
) -> None:
    async with Either(either.watch()) as watch:
        if isinstance(either, Client):
            with in_thread(lambda: asyncio.run(sequences_until(watch, "last"))) as seen:
                await asyncio.to_thread(change_and_restart, client, server)
                found = await asyncio.to_thread(seen)
        else:
            seeing = asyncio.create_task(sequences_until(watch, "last"))
            await asyncio.to_thread(change_and_restart, client, server)
            found = await seeing
        cursor = watch.cursor

    assert found == log_of(client)
    assert await items(either.watch(cursor=cursor, follow=False)) == []


def change_and_restart(client: Client, server: JobstateServer) -> None:
    for turn in range(RESTARTS):
        client.create_many(NewJob("default", id=f"job-{turn}-{number}") for number in range(20))
        server.restart()
        client.start(f"job-{turn}-0")
    client.create("default", id="last")


@pytest.mark.usefixtures("at_once")
async def test_nothing_is_missed_or_yielded_twice_when_the_server_is_killed(tmp_path: Path) -> None:
    port = ReservedPort()
    listen = ("--listen", port.address)
    path = tmp_path / "jobs.db"
    ids = [f"job-{number}" for number in range(4)]
    with Client(listen[1], wait_for_ready=True) as client:
        async with served(path, *listen):
            watch = await asyncio.to_thread(client.watch(job_types=["default"]).__enter__)
        with in_thread(lambda: asyncio.run(sequences_until(watch, ids[-1]))) as seen:
            for job_id in ids[:-1]:
                async with served(path, *listen):
                    # Leaving the block kills it.
                    await asyncio.to_thread(client.create, "default", id=job_id)
            async with served(path, *listen):
                await asyncio.to_thread(client.create, "default", id=ids[-1])
                found = await asyncio.to_thread(seen)
                log = await asyncio.to_thread(log_of, client)
        await asyncio.to_thread(watch.close)

    assert found == log
    assert len(log) == len(ids)


async def test_a_snapshot_is_followed_by_what_happens_then(either: Any) -> None:
    await done(either.create_many(NewJob("default", id=f"job-{number}") for number in range(3)))
    async with Either(either.watch(snapshot=True, job_types=["default"])) as watch:
        marks = [await following(watch) for _ in range(5)]
        await done(either.start("job-1"))
        event = await following(watch)

    assert marks[0] == SnapshotStarted()
    assert [item.job.id for item in marks[1:4] if isinstance(item, SnapshotJob)] == ["job-0", "job-1", "job-2"]
    assert isinstance(marks[4], Synced)
    assert marks[4].cursor
    assert (event.job.id, event.type) == ("job-1", EventType.STARTED)


async def test_a_snapshot_of_nothing_begins_and_ends(either: Any) -> None:
    begun, synced = await items(either.watch(snapshot=True, follow=False))

    assert begun == SnapshotStarted()
    assert isinstance(synced, Synced)


async def test_a_watch_until_final_ends_with_the_job(either: Any) -> None:
    job = await done(either.start(await done(either.create("default"))))
    async with Either(either.watch(job_ids=[job], until_final=True)) as watch:
        await done(either.complete(job))

        assert [event.type for event in await items(watch)] == [EventType.COMPLETED]


async def test_an_expired_cursor_is_raised_to_the_caller(either: Any, server: JobstateServer) -> None:
    job = await done(either.create("default"))
    watch = either.watch(start="earliest", follow=False)
    await items(watch)
    await done(either.cancel(job))
    server.advance(timedelta(days=8))
    await done(either.cleanup())

    with pytest.raises(CursorExpired) as expired:
        await items(either.watch(cursor=watch.cursor))

    assert await items(either.watch(cursor=expired.value.oldest_cursor, follow=False)) == []


async def test_a_watch_that_cannot_be_is_refused(either: Any) -> None:
    with pytest.raises(JobNotFound):
        await items(either.watch(job_ids=["nobody"], until_final=True))
    with pytest.raises(InvalidField):
        await items(either.watch(until_final=True))
    with pytest.raises(ValueError, match="yesterday"):
        either.watch(start="yesterday")


async def test_a_closed_watch_ends(either: Any) -> None:
    async with Either(either.watch()) as watch:
        if isinstance(either, Client):
            with in_thread(lambda: list(watch)) as rest:
                watch.close()
                assert rest() == []
        else:
            waiting = asyncio.create_task(items(watch))
            await asyncio.sleep(0)
            watch.close()
            assert await waiting == []


async def test_a_task_that_watches_can_be_cancelled(async_client: Any) -> None:
    watching_task = asyncio.create_task(items(async_client.watch()))
    await asyncio.sleep(0)
    watching_task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await watching_task


def test_a_server_that_was_never_there_is_reported_in_time() -> None:
    port = ReservedPort()
    with Client(port.address, timeout=0.3) as hasty, pytest.raises(Unreachable):
        next(hasty.watch())
    with Client(port.address) as patient, pytest.raises(Unreachable):
        patient.get("first")


@pytest.mark.usefixtures("at_once")
def test_patience_with_a_server_that_went_away_ends(client: Client, server: JobstateServer) -> None:
    with client.watch(patience=0.3) as watch:
        server.stop()

        with pytest.raises(Unreachable):
            next(watch)


async def test_waiting_for_a_job_returns_it_when_it_ends(either: Any) -> None:
    job = await done(either.start(await done(either.create("default"))))
    if isinstance(either, Client):
        with in_thread(lambda: either.wait(job)) as waited:
            either.complete(job, result_count=3)
            ended = waited()
    else:
        waiting = asyncio.create_task(either.wait(job))
        await either.complete(job, result_count=3)
        ended = await waiting

    assert (ended.state, ended.result_count) == (State.COMPLETED, 3)
    assert await done(either.wait(job, timeout=PATIENCE_S)) == ended


async def test_waiting_for_a_job_ends_with_the_timeout(either: Any) -> None:
    job = await done(either.create("default"))

    with pytest.raises(DeadlineExceeded):
        await done(either.wait(job, timeout=0.2))
    with pytest.raises(JobNotFound):
        await done(either.wait("nobody"))
