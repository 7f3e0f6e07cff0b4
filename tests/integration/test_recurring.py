"""Recurring jobs: what is created when, what is missed, and what happens when the store or the clock fails."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format

from jobstate.v1 import job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate.v1 import maintenance_service_pb2 as mpb
from jobstate_server.domain.durations import DAY, HOUR, MINUTE
from jobstate_server.domain.errors import StoreUnavailable
from jobstate_server.maintenance.recurring import RETRY_DELAY

from ..support.calls import cancel, create, get
from ..support.clock import PATIENCE_S, WatchedClock
from ..support.held import held
from ..support.instants import micros
from ..support.server import Client, Running, client_of, served, serving, serving_url

NIGHTLY = {"name": "nightly", "schedule": "0 2 * * *", "job_type": "import"}
START = micros(datetime(2026, 1, 1, 12, tzinfo=UTC))


@pytest.fixture
def clock() -> WatchedClock:
    """At noon."""
    return WatchedClock(START)


@asynccontextmanager
async def with_entries(
    url: str, clock: WatchedClock, *entries: dict[str, Any], **settings: Any
) -> AsyncIterator[Running]:
    """A server with recurring entries, which has created what is due."""
    async with serving_url(url, clock, recurring=entries, **settings) as running:
        await running.server.recurring.idle()
        yield running


async def pass_time(clock: WatchedClock, running: Running, span: int) -> None:
    """Let time pass, and have the server see it, as if its timers had run at once."""
    clock.pause(span)
    clock.advance(0)
    await running.server.recurring.idle()


async def job_ids(client: Client) -> list[str]:
    answer = await client.jobs.List(pb.ListRequest(page_size=1_000))
    return sorted(job.id for job in answer.jobs)


async def listed(client: Client, name: str = "nightly") -> mpb.Task:
    answer = await client.maintenance.ListTasks(mpb.ListTasksRequest())
    (task,) = [task for task in answer.tasks if task.name == name and task.job_type]
    return task


async def test_a_job_is_created_at_its_instant_as_the_entry_says(url: str, clock: WatchedClock) -> None:
    entry = {
        **NIGHTLY,
        "schedule": "30 2 * * *",
        "time_zone": "Europe/Berlin",
        "source_id": "warehouse",
        "priority": "high",
        "lane": "one",
        "labels": {"team": "data"},
        "metadata": {"bucket": "incoming", "tries": 3, "of": {"full": False, "days": [1, 2.5]}},
    }
    async with with_entries(url, clock, entry) as running:
        assert await job_ids(running) == []
        await pass_time(clock, running, 13 * HOUR + 30 * MINUTE)
        job = await get(running, "nightly-2026-01-02T01:30:00Z")
        task = await listed(running)

    assert (job.job_type, job.source_id, job.priority, job.lane) == (
        "import",
        "warehouse",
        job_pb2.PRIORITY_HIGH,
        "one",
    )
    assert dict(job.labels) == entry["labels"]
    assert json_format.MessageToDict(job.metadata) == entry["metadata"]
    assert (task.schedule, task.time_zone, task.job_type) == ("30 2 * * *", "Europe/Berlin", "import")
    assert (task.last_job_id, task.last_error, task.last_outcome) == (job.id, "", f"{job.id} created")
    assert task.last_run == job.create_time
    assert task.next_run.ToJsonString() == "2026-01-03T01:30:00Z"


async def test_before_its_first_instant_an_entry_is_listed_without_a_run(url: str, clock: WatchedClock) -> None:
    async with with_entries(url, clock, NIGHTLY, {**NIGHTLY, "name": "cleanup"}) as running:
        tasks = (await running.maintenance.ListTasks(mpb.ListTasksRequest())).tasks

    assert [task.name for task in tasks[-3:]] == ["check-health", "nightly", "cleanup"]
    assert not tasks[-1].HasField("last_run")
    assert tasks[-1].next_run.ToJsonString() == "2026-01-02T02:00:00Z"
    assert tasks[0].time_zone == "UTC"


@pytest.mark.parametrize(("missed", "expected"), [("one", ["nightly-2026-01-11T02:00:00Z"]), ("none", [])])
async def test_of_instants_that_were_missed_the_latest_has_a_job_or_none_has(
    url: str, clock: WatchedClock, missed: str, expected: list[str]
) -> None:
    entry = {**NIGHTLY, "missed": missed}
    async with with_entries(url, clock, entry):
        pass
    clock.advance(10 * DAY)
    for _ in range(2):
        async with with_entries(url, clock, entry) as running:
            assert await job_ids(running) == expected
    async with with_entries(url, clock, entry) as running:
        await pass_time(clock, running, DAY - 10 * HOUR)

        assert await job_ids(running) == [*expected, "nightly-2026-01-12T02:00:00Z"]


@pytest.mark.parametrize(("missed", "expected"), [("one", ["nightly-2026-01-04T02:00:00Z"]), ("none", [])])
async def test_what_comes_while_a_server_is_suspended_was_missed(
    url: str, clock: WatchedClock, missed: str, expected: list[str]
) -> None:
    async with with_entries(url, clock, {**NIGHTLY, "missed": missed}) as running:
        await pass_time(clock, running, 3 * DAY)

        assert await job_ids(running) == expected


@pytest.mark.parametrize(
    "changed",
    [{"name": "renamed"}, {"schedule": "0 3 * * *"}, {"time_zone": "Asia/Tokyo"}, None],
    ids=["renamed", "another schedule", "another zone", "removed and back"],
)
async def test_an_entry_that_is_new_or_was_changed_has_missed_nothing(
    url: str, clock: WatchedClock, changed: dict[str, str] | None
) -> None:
    async with with_entries(url, clock, NIGHTLY):
        pass
    clock.advance(2 * DAY)
    async with with_entries(url, clock, *([] if changed is None else [{**NIGHTLY, **changed}])) as running:
        assert await job_ids(running) == []
    clock.advance(2 * DAY)
    async with with_entries(url, clock, {**NIGHTLY, **(changed or {})}) as running:
        assert len(await job_ids(running)) == (0 if changed is None else 1)
        await pass_time(clock, running, DAY)
        assert len(await job_ids(running)) == (1 if changed is None else 2)


async def test_an_entry_of_which_only_the_job_was_changed_goes_on(url: str, clock: WatchedClock) -> None:
    async with with_entries(url, clock, NIGHTLY):
        pass
    clock.advance(2 * DAY)
    async with with_entries(url, clock, {**NIGHTLY, "job_type": "another", "metadata": {"a": 1}}) as running:
        assert await job_ids(running) == ["nightly-2026-01-03T02:00:00Z"]


async def test_an_instant_whose_job_was_deleted_has_no_second_one(url: str, clock: WatchedClock) -> None:
    async with with_entries(url, clock, NIGHTLY) as running:
        await pass_time(clock, running, DAY)
        (job_id,) = await job_ids(running)
        await cancel(running, job_id)
        clock.advance(1)
        request = mpb.CleanupRequest(force=True)
        request.older_than.FromSeconds(0)
        await running.maintenance.Cleanup(request)
    for _ in range(2):
        clock.advance(HOUR)
        async with with_entries(url, clock, NIGHTLY) as running:
            assert await job_ids(running) == []


async def test_an_instant_waits_for_a_store_that_is_away(
    path: Path, clock: WatchedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with with_entries(f"sqlite:///{path}", clock, {**NIGHTLY, "missed": "none"}) as running:
        server = running.server
        commit = server.committer.submit_own

        def away(_command: Any) -> asyncio.Future[Any]:
            future = asyncio.get_running_loop().create_future()
            future.set_exception(StoreUnavailable("the store cannot be written", 0.5))
            return future

        monkeypatch.setattr(server.committer, "submit_own", away)
        clock.pause(14 * HOUR)
        clock.advance(0)
        await clock.armed(RETRY_DELAY)
        assert (await listed(running)).last_error == "the store cannot be written"
        for _ in range(30):
            clock.advance(RETRY_DELAY)
            await clock.armed(RETRY_DELAY)
        monkeypatch.setattr(server.committer, "submit_own", commit)
        clock.advance(RETRY_DELAY)
        await server.recurring.idle()

        assert await job_ids(running) == ["nightly-2026-01-02T02:00:00Z"]
        assert (await listed(running)).last_error == ""


async def test_a_job_that_is_refused_is_told_and_the_next_instant_is_tried(path: Path, clock: WatchedClock) -> None:
    async with with_entries(f"sqlite:///{path}", clock, NIGHTLY) as running:
        await create(running, "nightly-2026-01-02T02:00:00Z")
        clock.pause(14 * HOUR)
        clock.advance(0)
        await clock.armed(RETRY_DELAY)
        task = await listed(running)
        assert "exists already" in task.last_error
        assert task.last_job_id == ""

        clock.pause(DAY)
        clock.advance(0)
        await running.server.recurring.idle()
        assert (await listed(running)).last_job_id == "nightly-2026-01-03T02:00:00Z"


async def test_a_clock_that_is_set_back_makes_no_instant_twice(path: Path, clock: WatchedClock) -> None:
    async with with_entries(f"sqlite:///{path}", clock, {**NIGHTLY, "schedule": "0 * * * *"}) as running:
        await pass_time(clock, running, HOUR)
        clock.step(-2 * HOUR)
        await pass_time(clock, running, 90 * MINUTE)
        assert await job_ids(running) == ["nightly-2026-01-01T13:00:00Z"]

        await pass_time(clock, running, 90 * MINUTE)

        # By the wall clock: the store's time is two hours ahead.
        assert await job_ids(running) == ["nightly-2026-01-01T13:00:00Z", "nightly-2026-01-01T14:00:00Z"]


async def test_a_clock_that_was_wrong_by_months_silences_no_entry(path: Path, clock: WatchedClock) -> None:
    async with with_entries(f"sqlite:///{path}", clock, NIGHTLY) as running:
        clock.step(60 * DAY)
        await pass_time(clock, running, MINUTE)
        clock.step(-60 * DAY)
        await pass_time(clock, running, MINUTE)
        await pass_time(clock, running, DAY)

        assert await job_ids(running) == ["nightly-2026-01-02T02:00:00Z", "nightly-2026-03-02T02:00:00Z"]


async def test_work_that_a_defect_has_ended_goes_on_at_the_next_turn_of_the_watchdog(
    path: Path, clock: WatchedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with with_entries(f"sqlite:///{path}", clock, NIGHTLY) as running:
        jobs = running.server.recurring

        def defect(*_: object) -> None:
            raise ZeroDivisionError

        with monkeypatch.context() as broken:
            broken.setattr(running.server.committer, "submit_own", defect)
            clock.pause(14 * HOUR)
            clock.advance(0)
            with pytest.raises(ZeroDivisionError):
                await jobs.idle()
        jobs.turn()
        await jobs.idle()

        assert await job_ids(running) == ["nightly-2026-01-02T02:00:00Z"]


async def test_jobs_of_many_entries_at_once_are_one_commit(path: Path, clock: WatchedClock) -> None:
    entries = [{**NIGHTLY, "name": f"nightly-{number}"} for number in range(300)]
    async with with_entries(f"sqlite:///{path}", clock, *entries) as running:
        async with held(running.server):
            clock.pause(14 * HOUR)
            clock.advance(0)
            await asyncio.sleep(0)
            before = running.server.committer.counters.commits
        await running.server.recurring.idle()

        assert len(await job_ids(running)) == 300
        assert running.server.committer.counters.commits - before <= 5


# Killed servers


async def test_a_missed_instant_has_one_job_however_often_the_server_is_killed(path: Path, tmp_path: Path) -> None:
    entries = [{**NIGHTLY, "name": f"nightly-{number}", "job_type": "default"} for number in range(20)]
    ago = WatchedClock(micros(datetime.now(UTC)) - 3 * DAY)
    async with serving(path, ago, recurring=entries) as running:
        await running.server.recurring.idle()
    config = tmp_path / "jobstate.toml"
    tables = (f'[[recurring]]\nname = "{e["name"]}"\nschedule = "0 2 * * *"\njob_type = "default"\n' for e in entries)
    config.write_text("".join(tables))

    for number in range(3):
        async with served(path, "--config", str(config)) as process, client_of(process.address) as client:
            if number == 1:
                # Their ids are free again, so nothing but the stored instant keeps them from coming back.
                for job_id in await created_ids(client, until=len(entries)):
                    await cancel(client, job_id)
                request = mpb.CleanupRequest(force=True)
                request.older_than.FromSeconds(0)
                await client.maintenance.Cleanup(request)
            await process.end(signal.SIGKILL)
    async with served(path, "--config", str(config)) as process, client_of(process.address) as client:
        created = Counter(await created_ids(client))

    assert set(created.values()) == {1}
    assert len(created) == len(entries)


async def created_ids(client: Client, *, until: int | None = None) -> list[str]:
    """The ids of the jobs that the log says were created; with ``until``, once there are so many."""
    request = pb.WatchEventsRequest(start=pb.WATCH_START_EARLIEST, follow=until is not None)
    found: list[str] = []
    async with asyncio.timeout(PATIENCE_S):
        async for response in client.jobs.WatchEvents(request):
            found += [event.job.id for event in response.events if event.job.state == job_pb2.JOB_STATE_QUEUED]
            if until is not None and len(found) >= until:
                break
    return found
