"""A caller with a limited reach: jobs beyond it do not exist for any call, but that an id is taken."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from jobstate.v1 import job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.domain.caller import ANONYMOUS, Caller
from jobstate_server.domain.reach import Reach
from jobstate_server.rpc.serving import Calls

from ..support.calls import cancel, complete, create, fail, get, history, refused, report, retry, start, watching
from ..support.server import Running, serving

Become = Callable[[Caller], None]

RENDERER = Caller("renderer", "renderer", Reach(("render_*",)))

OF_SOURCES = Caller("mine", "mine", Reach(None, ("mine/*",)))


@asynccontextmanager
async def serving_callers(path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Running, Become]]:
    """A server, and what makes all calls from then on those of one caller."""
    callers = [ANONYMOUS]
    initialise = Calls.__init__
    monkeypatch.setattr(Calls, "__init__", lambda calls, **limits: initialise(calls, lambda _: callers[-1], **limits))
    async with serving(path) as running:
        yield running, callers.append


USED = pb.ReportUsageRequest(id="unseen", attempt=1, usage=job_pb2.Usage(tokens=1))


async def listed(running: Running, **fields: Any) -> list[str]:
    """The ids of a List."""
    return [job.id for job in (await running.jobs.List(pb.ListRequest(**fields))).jobs]


CALLS: dict[str, Callable[[Running], Awaitable[Any]]] = {
    "Get": lambda running: get(running, "unseen"),
    "Start": lambda running: start(running, "unseen"),
    "UpdateProgress": lambda running: report(running, "unseen", progress=1),
    "Complete": lambda running: complete(running, "unseen"),
    "Fail": lambda running: fail(running, "unseen"),
    "Cancel": lambda running: cancel(running, "unseen"),
    "Retry": lambda running: retry(running, "unseen"),
    "ReportUsage": lambda running: running.jobs.ReportUsage(
        pb.ReportUsageRequest(id="unseen", attempt=1, usage=job_pb2.Usage(tokens=1))
    ),
}


async def test_no_call_finds_a_job_out_of_reach(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving_callers(path, monkeypatch) as (running, become):
        await create(running, "unseen", "clean_transcript")
        become(RENDERER)

        found = {name: (await refused(call(running))).reason for name, call in CALLS.items()}
        update = pb.JobUpdate(start=pb.StartRequest(id="unseen"))
        batches = iter([pb.StreamUpdatesRequest(updates=[update])])
        (answer,) = [each async for each in running.jobs.StreamUpdates(batches)]

    assert found == dict.fromkeys(CALLS, "JOB_NOT_FOUND")
    assert [outcome.refusal.reason for outcome in answer.outcomes] == ["JOB_NOT_FOUND"]


async def test_pages_events_and_statistics_leave_out_what_is_out_of_reach(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving_callers(path, monkeypatch) as (running, become):
        for job_id, job_type in (("seen", "render_film"), ("unseen", "clean_transcript")):
            await create(running, job_id, job_type)
        become(RENDERER)

        assert await listed(running) == ["seen"]
        assert await listed(running, job_types=["clean_transcript"]) == []
        assert [event.job.id for event in await history(running)] == ["seen"]
        stats = await running.jobs.GetStats(pb.GetStatsRequest())
        assert [sums.job_type for sums in stats.job_types] == ["render_film"]
        assert [count.count for count in stats.total.stored if count.count] == [1]
        named = await running.jobs.GetStats(pb.GetStatsRequest(job_types=["clean_transcript"]))
        assert not named.job_types


async def test_a_job_can_be_created_only_within_reach_and_under_an_id_that_is_not_taken(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving_callers(path, monkeypatch) as (running, become):
        await create(running, "unseen", "clean_transcript")
        become(RENDERER)

        assert (await refused(create(running, "unseen", "render_film"))).reason == "JOB_EXISTS"
        assert (await refused(create(running, "new", "clean_transcript"))).metadata["field"] == "job_type"
        items = [pb.CreateRequest(id=job_type, job_type=job_type) for job_type in ("render_film", "clean_transcript")]
        refusal = await refused(running.jobs.BatchCreate(pb.BatchCreateRequest(requests=items)))
        assert refusal.metadata["field"] == "requests[1].job_type"
        assert await listed(running) == []


async def test_a_caller_of_some_sources_names_one_to_list_and_gets_no_statistics(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving_callers(path, monkeypatch) as (running, become):
        await create(running, "theirs", source_id="theirs/1")
        become(OF_SOURCES)
        await create(running, "mine", source_id="mine/1")

        assert (await refused(listed(running))).metadata["field"] == "source_id"
        assert await listed(running, source_id="mine/1") == ["mine"]
        assert await listed(running, source_id="theirs/1") == []
        assert [event.job.id for event in await history(running)] == ["mine"]
        assert (await refused(running.jobs.GetStats(pb.GetStatsRequest()))).reason == "INVALID_FIELD"
        assert (await refused(create(running, "new", source_id="theirs/1"))).metadata["field"] == "source_id"


async def test_the_counts_of_a_group_are_told_to_those_only_who_reach_every_type(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving_callers(path, monkeypatch) as (running, become):
        created = await create(running, "group", "render_day", group=job_pb2.GroupPolicy())
        assert created.HasField("members")
        await create(running, "member", "clean_transcript", group_id="group")
        become(RENDERER)

        jobs = [
            await get(running, "group"),
            await create(running, "other", "render_day", group=job_pb2.GroupPolicy()),
            (await running.jobs.CloseGroup(pb.CloseGroupRequest(id="group"))).job,
            *(await running.jobs.List(pb.ListRequest())).jobs,
            *[event.job for event in await history(running)],
            *[event.job for event in await history(running, "group")],
        ]
        async with watching(running, pb.WatchEventsRequest(snapshot=True, follow=False)) as watch:
            jobs += [job for response in await watch.rest() for job in response.jobs]

    assert {job.id for job in jobs} == {"group", "other"}
    assert len(jobs) == 13
    assert [job.HasField("group") for job in jobs] == [True] * len(jobs)
    assert [job.HasField("members") for job in jobs] == [False] * len(jobs)
