"""Erase: afterwards no text of a job is anywhere, and everything else is as it was."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message

from jobstate.v1 import event_pb2, job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate.v1 import maintenance_service_pb2 as mpb
from jobstate_server.domain.durations import DAY
from jobstate_server.maintenance import erase as erasing
from jobstate_server.store.sqlite.backup import back_up
from jobstate_server.store.sqlite.check import check_file

from ..support.calls import (
    cancel,
    complete,
    create,
    get,
    history,
    names,
    refused,
    report,
    settled,
    span,
    start,
    struct,
    watching,
    watching_live,
)
from ..support.clock import PATIENCE_S, WatchedClock
from ..support.postgres import postgres_server
from ..support.server import Running, serving, serving_url
from .erasing import BYTES, LABELS, SECRET, erase, holds, stored_text, tell_everything
from .relating import create_group, create_with_needs
from .support import events_after

BY_SOURCE: dict[str, Any] = {"source_id": SECRET}
BY_LABEL: dict[str, Any] = {"labels": LABELS}

OF = {"source_id": "a source", "labels": "labels"}
"""What the audit says of each."""

all_ways = pytest.mark.parametrize("wanted", [BY_SOURCE, BY_LABEL], ids=["by source", "by label"])

DELETED = event_pb2.EVENT_TYPE_DELETED


@pytest.fixture
async def either(url: str, clock: WatchedClock) -> AsyncIterator[Running]:
    """A server on each kind of store in turn."""
    async with serving_url(url, clock) as running:
        yield running


# What is erased.


async def test_no_query_finds_a_text_of_an_erased_job(
    either: Running, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await tell_everything(either, "one", SECRET)
    await create(either, "other", source_id="kept")
    assert BYTES.decode() in stored_text(url)

    first = await erase(either, id="one")
    again = await erase(either, id="one")

    told = stored_text(url)
    assert [part for part in ("Zoë", "\\xc3\\xab-confidential", "Zoe", "confidential") if part in told] == []
    assert (first.jobs, first.events, first.request_ids) == (1, 11, 3)
    assert again == mpb.EraseResponse()
    assert (await get(either, "other")).source_id == "kept"
    audit = [record for record in caplog.records if record.name == erasing.__name__]
    assert [record.getMessage() for record in audit] == ["erasing", "erased"] * 2
    assert (audit[1].__dict__["job"], audit[1].__dict__["jobs"], audit[1].__dict__["outcome"]) == ("one", 1, "done")


@all_ways
async def test_all_jobs_of_a_source_or_with_a_label_are_erased_and_those_of_others_are_not(
    either: Running, url: str, wanted: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for number in range(20):
        await create(either, f"mine-{number}", **wanted, metadata=struct(text=SECRET))
        await cancel(either, f"mine-{number}", reason=SECRET)
    await create(either, "theirs", source_id="other", labels=dict.fromkeys(LABELS, "other"))
    await cancel(either, "theirs", reason="their reason")
    before = await get(either, "theirs")

    done = await erase(either, **wanted)

    assert (done.jobs, done.events, done.unfinished) == (20, 40, 0)
    told = stored_text(url)
    assert [part for part in ("ë-confidential", "\\xc3\\xab-confidential") if part in told] == []
    assert await get(either, "theirs") == before
    assert (await history(either, "theirs"))[-1].cancelled.reason == "their reason"
    audit = [record.__dict__ for record in caplog.records if record.name == erasing.__name__]
    assert [(line["of"], line["job"]) for line in audit] == [(OF[next(iter(wanted))], "")] * 2
    assert "confidential" not in str(audit)


async def test_the_events_of_jobs_that_cleanup_deleted_are_erased_too(
    either: Running, url: str, clock: WatchedClock
) -> None:
    for job_id, named in {"by-id": BY_SOURCE, "by-source": BY_SOURCE, "by-label": BY_LABEL}.items():
        await create(either, job_id, **named, metadata=struct(text=SECRET), request_id="Zoe-" + job_id)
        await cancel(either, job_id)
    clock.advance(31 * DAY)
    await either.maintenance.Cleanup(mpb.CleanupRequest(older_than=span(0), force=True))
    await create(either, "by-id", source_id=SECRET)
    await cancel(either, "by-id")

    one = await erase(either, id="by-id")
    rest = await erase(either, source_id=SECRET)
    labelled = await erase(either, labels=LABELS)

    assert (one.jobs, rest.jobs, labelled.jobs) == (1, 0, 0)
    # Of the events, retention has left the deletion.
    assert (labelled.events, labelled.request_ids) == (1, 1)
    assert "confidential" not in stored_text(url)


@pytest.mark.parametrize("text", ["~", SECRET, SECRET * 500], ids=["a byte", "a word", "8 KiB"])
@all_ways
async def test_no_byte_of_it_is_in_the_file_nor_in_a_backup(
    path: Path, clock: WatchedClock, text: str, wanted: dict[str, Any]
) -> None:
    if wanted is BY_LABEL:
        wanted = {"labels": dict.fromkeys(LABELS, text[:30])}
    async with serving(path, clock) as running:
        for number in range(8):
            await create(running, f"other-{number}", metadata=struct(text="ordinary" * 500 * number))
        await tell_everything(running, "one", text, source_id=SECRET)
        for number in range(8):
            await cancel(running, f"other-{number}", reason="ordinary")
        assert len(text) == 1 or holds(path, BYTES)

        await erase(running, **wanted)

        back_up(path, path.with_name("backup.db"), lambda _done, _all: None)
        searched = (BYTES, b"Zoe-", text.encode() * 20)
        assert holds(path, *searched) == []
        assert not any(found in path.with_name("backup.db").read_bytes() for found in searched)
        checked = check_file(path)
        assert (checked.problems, checked.jobs) == ([], 8)
    async with serving(path, clock) as running:
        assert names(await history(running, "one"))[-1] == "deleted"


# What remains.


async def test_order_types_states_and_times_remain(either: Running) -> None:
    await tell_everything(either, "one", SECRET)
    before = await history(either)

    await erase(either, id="one")

    *after, deleted = await history(either)
    for event in before:
        event.actor, event.erased = "", True
        event.ClearField(event.WhichOneof("detail") or "actor")
        job = job_pb2.Job()
        for name in ("id", "job_type", "state", "version", "update_time"):
            if isinstance(getattr(job, name), Message):
                getattr(job, name).CopyFrom(getattr(event.job, name))
            else:
                setattr(job, name, getattr(event.job, name))
        event.job.CopyFrom(job)
    assert after == before
    assert (deleted.type, deleted.job.id, deleted.job.state) == (DELETED, "one", job_pb2.JOB_STATE_COMPLETED)
    assert deleted.job.version == deleted.sequence == before[-1].sequence + 1
    assert deleted.erased


async def test_cursors_from_before_stay_valid_also_after_a_restart(url: str, clock: WatchedClock) -> None:
    async with serving_url(url, clock) as running:
        async with watching_live(running) as watch:
            seen: list[tuple[str, int]] = []
            for number in range(4):
                await create(running, f"job-{number}", source_id=SECRET)
                response = await watch.response()
                seen.append((response.cursor, response.events[-1].sequence))
        for number in range(4):
            await cancel(running, f"job-{number}", reason=SECRET)

        await erase(running, source_id=SECRET)

        for cursor, sequence in seen:
            events = await events_after(running, cursor)
            assert [event.sequence for event in events] == list(range(sequence + 1, 13))
    async with serving_url(url, clock) as running:
        for cursor, sequence in seen:
            events = await events_after(running, cursor)
            assert [event.sequence for event in events] == list(range(sequence + 1, 13))


# What is not erased.


async def test_a_job_that_is_not_final_is_refused_with_its_state(either: Running, url: str) -> None:
    await create(either, "one", source_id=SECRET)
    before = stored_text(url)

    refusal = await refused(erase(either, id="one"))

    assert refusal.brief == ("FAILED_PRECONDITION", "TRANSITION_NOT_ALLOWED")
    assert (refusal.metadata["job_id"], refusal.metadata["state"]) == ("one", "QUEUED")
    assert stored_text(url) == before


async def test_what_unfinished_jobs_need_is_kept_until_they_have_ended(either: Running, url: str) -> None:
    await create(either, "needed", source_id=SECRET)
    await create_with_needs(either, "child", "needed")
    await start(either, "needed")
    await complete(either, "needed", result=struct(text=SECRET))
    await settled(either)
    refusal = await refused(erase(either, id="needed"))
    left = await erase(either, source_id=SECRET)
    await cancel(either, "child")
    await settled(either)

    done = await erase(either, source_id=SECRET)

    assert (refusal.brief[1], refusal.metadata["why"]) == ("TRANSITION_NOT_ALLOWED", "kept")
    assert (left.jobs, left.events, left.unfinished, list(left.unfinished_job_ids)) == (0, 0, 1, ["needed"])
    assert (done.jobs, done.unfinished) == (1, 0)
    assert "confidential" not in stored_text(url)


async def test_a_member_of_a_running_group_is_kept(either: Running) -> None:
    await create_group(either, "group")
    await create(either, "member", group_id="group")
    await cancel(either, "member")

    assert (await refused(erase(either, id="member"))).metadata["why"] == "kept"


@all_ways
async def test_unfinished_jobs_are_counted_and_untouched(either: Running, wanted: dict[str, Any]) -> None:
    await create(either, "ended", **wanted)
    await cancel(either, "ended")
    await create(either, "running", **wanted, metadata=struct(text=SECRET), request_id="Zoe-running")
    before = await get(either, "running")
    history_before = await history(either, "running")

    done = await erase(either, **wanted)

    assert (done.jobs, done.unfinished, list(done.unfinished_job_ids)) == (1, 1, ["running"])
    assert await get(either, "running") == before
    assert await history(either, "running") == history_before
    # Its request id is still known.
    assert await create(either, "running", **wanted, metadata=struct(text=SECRET), request_id="Zoe-running") == before


async def test_a_new_job_with_the_id_of_an_erased_one_is_not_touched(either: Running) -> None:
    await create(either, "one", source_id=SECRET, request_id="Zoe-first-create")
    await cancel(either, "one")
    await erase(either, id="one")
    await create(either, "one", source_id="new", request_id="second-create")

    done = await erase(either, source_id=SECRET)
    refusal = await refused(erase(either, id="one"))

    assert done == mpb.EraseResponse()
    assert refusal.metadata["state"] == "QUEUED"
    assert (await history(either, "one"))[-1].job.source_id == "new"
    assert (await create(either, "one", source_id="new", request_id="second-create")).version == 4


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        ({}, "id"),
        ({"id": "a", "source_id": "b"}, "source_id"),
        ({"id": " "}, "id"),
        ({"source_id": "x" * 257}, "source_id"),
        ({"source_id": "a", "labels": LABELS}, "labels"),
        ({"labels": {"": "x"}}, "labels"),
        ({"labels": {"a b": "x"}}, "labels"),
        ({"labels": {"a": "x" * 65}}, "labels[a]"),
        ({"labels": {f"a{number}": "" for number in range(9)}}, "labels"),
    ],
    ids=["nothing", "both", "no id", "a long source", "a source and labels", "no key", "a space", "long", "9 labels"],
)
async def test_what_names_no_jobs_is_refused(running: Running, wanted: dict[str, Any], field: str) -> None:
    refusal = await refused(erase(running, **wanted))

    assert refusal.brief == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert refusal.fields == [field]


# Watchers.


async def test_watchers_of_any_filter_get_the_deletion_live_and_later(either: Running) -> None:
    filters: list[dict[str, Any]] = [{}, {"job_ids": ["one"]}, {"source_ids": [SECRET]}, {"job_types": ["default"]}]
    filters.append({"labels": LABELS})
    latest: list[str] = []
    await create(either, "one", source_id=SECRET, labels=LABELS)
    await cancel(either, "one", reason=SECRET)
    for wanted in filters:
        async with watching(either, pb.WatchEventsRequest(**wanted)) as watch:
            latest.append((await watch.response()).cursor)
    live = (watching_live(either, source_ids=[SECRET]), watching_live(either, labels=LABELS))
    async with asyncio.TaskGroup() as tasks, live[0] as by_source, live[1] as by_label:
        deletions = [tasks.create_task(watch.event(DELETED)) for watch in (by_source, by_label)]
        await erase(either, labels=LABELS)
        assert [(await deletion).job.id for deletion in deletions] == ["one", "one"]

    for wanted, cursor in zip(filters, latest, strict=True):
        (event,) = await events_after(either, cursor, **wanted)
        assert (event.type, event.job.id, event.job.source_id, dict(event.job.labels)) == (DELETED, "one", "", {})


async def test_a_watcher_in_the_middle_of_the_log_reads_on_without_the_text(either: Running) -> None:
    for number in range(30):
        await create(either, f"job-{number:02}", source_id=SECRET, metadata=struct(text=SECRET * 3_000))
        await cancel(either, f"job-{number:02}")
    request = pb.WatchEventsRequest(start=pb.WATCH_START_EARLIEST, follow=False)
    async with watching(either, request) as watch:
        first = await watch.response()

        await erase(either, source_id=SECRET)

        rest = [event for response in await watch.rest() for event in response.events]
    sequences = [event.sequence for event in (*first.events, *rest)]
    assert sequences == list(range(1, sequences[-1] + 1))
    assert all(event.erased for event in await history(either))


async def test_a_watcher_of_the_latest_progress_gets_what_is_left_of_it(either: Running) -> None:
    await create(either, "one")
    await start(either, "one")
    for value in (1, 2):
        await report(either, "one", progress=value, metadata=struct(text=SECRET))
    await complete(either, "one")
    await erase(either, id="one")

    request = pb.WatchEventsRequest(start=pb.WATCH_START_EARLIEST, follow=False, progress=pb.WATCH_PROGRESS_LATEST)
    events = [event async for response in either.jobs.WatchEvents(request) for event in response.events]

    assert names(events) == ["queued", "started", "progress", "completed", "deleted"]


async def test_another_replica_hands_out_nothing_of_it() -> None:
    url = postgres_server().new_store()
    async with serving_url(url) as one, serving_url(url) as two, watching_live(two) as watch:
        for number in range(3):
            await create(two, f"job-{number}", source_id=SECRET, metadata=struct(text=SECRET))
            await cancel(one, f"job-{number}", reason=SECRET)
        await watch.events(6)
        assert two.server.feed.recent.after(0, 9)

        await erase(one, source_id=SECRET)

        # It answers from memory, if it has not heard of it.
        events = await history(two)
        assert [event.erased for event in events] == [True] * 9
        assert "confidential" not in str(events)
        assert [event.type for event in await watch.events(3)] == [DELETED] * 3


# Twice at once, and beside others.


async def test_of_two_at_once_one_is_refused_and_two_after_each_other_are_done(running: Running) -> None:
    await create(running, "one", source_id=SECRET)
    await cancel(running, "one")

    answers = await asyncio.gather(erase(running, id="one"), erase(running, id="one"), return_exceptions=True)

    assert sum(isinstance(answer, mpb.EraseResponse) for answer in answers) >= 1
    assert (await erase(running, id="one")).jobs == 0


async def test_while_an_old_state_is_read_the_bytes_cannot_go_and_the_call_says_so(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasing, "BLOCKED_TRIES_MAX", 2)
    monkeypatch.setattr(erasing, "TRY_AGAIN", 1)
    async with serving(path) as running:
        await create(running, "one", source_id=SECRET)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN")
            other.execute("SELECT * FROM job").fetchall()
            await cancel(running, "one", reason=SECRET)

            refusal = await refused(erase(running, id="one"))
        again = await erase(running, id="one")

        assert refusal.brief == ("UNAVAILABLE", "STORE_UNAVAILABLE")
        assert "an old state" in refusal.message
        assert again == mpb.EraseResponse()
        assert holds(path, BYTES) == []


async def test_callers_are_served_while_a_file_is_cleared(path: Path) -> None:
    async with serving(path) as running:
        for number in range(40):
            await create(running, f"big-{number}", source_id=SECRET, metadata=struct(text=SECRET * 3_000))
            await cancel(running, f"big-{number}")
        await create(running, "live")
        await start(running, "live")
        running_erase = asyncio.ensure_future(erase(running, source_id=SECRET))
        reports = 0
        async with asyncio.timeout(PATIENCE_S):
            while not running_erase.done():
                await report(running, "live", progress=reports % 100, message=f"report {reports}")
                reports += 1

        assert (await running_erase).jobs == 40
        assert reports > 3
        assert holds(path, BYTES) == []
        assert check_file(path).problems == []
