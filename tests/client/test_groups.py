"""Needs and groups, as both clients offer them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from jobstate_client import (
    AttemptSuperseded,
    CancelCause,
    Client,
    GroupClosed,
    GroupMembers,
    GroupPolicy,
    HoldReason,
    InvalidField,
    Job,
    Need,
    NeedCondition,
    NeedStatus,
    NewJob,
    NotAGroup,
    OnExcess,
    State,
    WaitReason,
)
from jobstate_client.testing import JobstateServer

from .support import done, items


@asynccontextmanager
async def group(either: Any, job_type: str = "import_day", **fields: Any) -> AsyncIterator[Any]:
    """The block of a group of either client."""
    context = either.group(job_type, **fields)
    if isinstance(context, AbstractAsyncContextManager):
        async with context as entered:
            yield entered
    else:
        with context as entered:
            yield entered


async def complete(either: Any, server: JobstateServer, *jobs: Any, **result: Any) -> None:
    """Do these jobs, and what follows from their ends."""
    for job in jobs:
        started = await done(either.start(job))
        await done(either.complete(started, result=result or None))
    await settle(server)


async def settle(server: JobstateServer) -> None:
    """Let everything happen that is due."""
    await asyncio.to_thread(server.advance, 0)


async def test_a_job_waits_for_what_it_needs_and_reads_its_results(either: Any, server: JobstateServer) -> None:
    fetch = await done(either.create("fetch"))
    extract = await done(either.create("extract", needs=[fetch]))
    assert (extract.state, extract.wait_reason) == (State.QUEUED, WaitReason.NEEDS)
    assert await done(either.needs(extract)) == (NeedStatus(fetch.id, NeedCondition.COMPLETED, False, None),)
    (hold, *_) = (await done(either.explain(extract))).holds
    assert (hold.reason, hold.subject) == (HoldReason.NEED, fetch.id)
    assert [job.id for job in await items(either.list(wait_reasons=["needs"]))] == [extract.id]

    await complete(either, server, fetch, words=3)

    assert (await done(either.get(extract))).wait_reason is WaitReason.TURN
    assert await done(either.needs(extract)) == (NeedStatus(fetch.id, NeedCondition.COMPLETED, True, State.COMPLETED),)
    assert [job.result for job in await items(either.list(needed_by=extract))] == [{"words": 3}]
    assert [job.id for job in await items(either.list(needs=fetch))] == [extract.id]


def test_a_copy_of_a_job_follows_what_it_waits_for(client: Client, server: JobstateServer) -> None:
    fetch = client.create("fetch")
    met, hurried = (client.create("extract", needs=[fetch], delay=60.0) for _ in range(2))
    client.retry(hurried, immediately=True)
    assert_the_copy_is_right(client, hurried, WaitReason.NEEDS)
    client.complete(client.start(fetch))
    server.advance(0)
    assert_the_copy_is_right(client, met, WaitReason.TIME)
    assert_the_copy_is_right(client, hurried, WaitReason.TURN)


def assert_the_copy_is_right(client: Client, job: Job, reason: WaitReason) -> None:
    *_, newest = client.watch(job_ids=[job], start="earliest", follow=False)
    copy, now = newest.job, client.get(job)
    assert (copy.version, copy.wait_reason, copy.ready_time) == (now.version, now.wait_reason, now.ready_time)
    assert now.wait_reason is reason


async def test_a_job_is_cancelled_for_a_need_that_cannot_be_met_any_more(either: Any, server: JobstateServer) -> None:
    fetch = await done(either.create("fetch"))
    extract = await done(either.create("extract", needs=[Need(fetch)]))
    clean_up = await done(either.create(NewJob("clean_up", needs=[Need(fetch.id, "not_completed")])))
    await done(either.cancel(fetch))
    await settle(server)

    cancelled = await done(either.get(extract))
    assert (cancelled.state, cancelled.cancel_cause, cancelled.cancel_cause_id) == (
        State.CANCELLED,
        CancelCause.NEED,
        fetch.id,
    )
    assert (await done(either.get(clean_up))).wait_reason is WaitReason.TURN


async def test_a_group_is_closed_at_the_end_of_its_block_and_ends_with_its_members(
    either: Any, server: JobstateServer
) -> None:
    async with group(either, tolerated_failures=1, id="day", metadata={"day": "friday"}) as day:
        assert day.job.metadata == {"day": "friday"}
        fetch = await done(day.create("fetch", source_id="episode-1"))
        (clean,) = await done(day.create_many([NewJob("clean", needs=[fetch])]))
        report = await done(either.create("report", needs=[Need(day, "final")]))
    assert fetch.group_id == day.id == "day"
    assert sorted(job.id for job in await items(either.list(group=day))) == sorted([fetch.id, clean.id])

    await complete(either, server, fetch)
    await done(either.cancel(clean))
    await settle(server)

    ended = await done(either.get(day))
    assert (ended.state, ended.group) == (State.COMPLETED, GroupPolicy(1, OnExcess.FINISH))
    assert ended.members == GroupMembers(2, 1, 0, 1, 0, 0.0, closed=True, stopping=False)
    assert ended.members.ended == 2
    assert (await done(either.get(report))).wait_reason is WaitReason.TURN
    assert (await done(either.wait(day, timeout=30))).version == ended.version


async def test_a_group_whose_block_fails_is_cancelled_with_its_members(either: Any, server: JobstateServer) -> None:
    async def block() -> None:
        async with group(either, id="day") as day:
            await done(day.create("fetch", id="member"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await block()
    await settle(server)

    cancelled = await done(either.get("day"))
    assert (cancelled.state, cancelled.cancel_reason) == (
        State.CANCELLED,
        "the block that creates its members failed: ZeroDivisionError",
    )
    assert (await done(either.get("member"))).cancel_cause is CancelCause.GROUP


async def test_a_failure_to_cancel_the_group_is_noted_and_the_error_of_the_block_is_raised(either: Any) -> None:
    async def block() -> None:
        async with group(either, id="day"):
            await done(either.close())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as raised:
        await block()

    assert "the group day could not be cancelled" in raised.value.__notes__[0]


async def test_an_async_block_that_is_cancelled_cancels_its_group(server: JobstateServer) -> None:
    async with server.async_client() as client:
        entered: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        async def block() -> None:
            async with client.group("import_day") as day:
                entered.set_result(day.id)
                await asyncio.Event().wait()

        task = asyncio.create_task(block())
        group_id = await entered
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert (await client.get(group_id)).state is State.CANCELLED


async def test_a_run_adds_to_its_group_until_its_attempt_is_over(either: Any, server: JobstateServer) -> None:
    async with group(either, "crawl", id="site") as site:
        await done(site.create("page", id="first"))
    context = either.run("first")
    is_async = isinstance(context, AbstractAsyncContextManager)
    run = await context.__aenter__() if is_async else context.__enter__()
    (second,) = await done(run.create_many([NewJob("page", metadata={"url": "/second"})]))
    await (context.__aexit__(None, None, None) if is_async else asyncio.to_thread(context.__exit__, None, None, None))

    assert (await done(either.get(second))).group_id == "site"
    with pytest.raises(AttemptSuperseded):
        await done(run.create_many([NewJob("page")]))
    with pytest.raises(GroupClosed):
        await done(either.create("page", group_id="site"))
    await complete(either, server, second)
    assert (await done(either.get("site"))).state is State.COMPLETED


async def test_a_group_within_a_group_stops_with_it(either: Any, server: JobstateServer) -> None:
    async with (
        group(either, id="week", on_excess="cancel") as week,
        group(either, id="day", group_id="week") as day,
    ):
        await done(day.create("fetch", id="fetch"))
        await done(week.create("other", id="other"))
    await done(either.cancel("other"))
    for _ in range(4):
        await settle(server)

    assert (await done(either.get("fetch"))).state is State.CANCELLED
    assert (await done(either.get("week"))).state is State.PERMANENTLY_FAILED


async def test_what_cannot_be_is_refused(either: Any) -> None:
    job = await done(either.create("fetch", id="job"))
    with pytest.raises(InvalidField, match="needs"):
        await done(either.create("fetch", needs=[job.id] * 2))
    with pytest.raises(InvalidField, match="tolerated_failures"):
        await done(either.create("fetch", group=GroupPolicy(-2)))
    with pytest.raises(NotAGroup):
        await done(either.create("fetch", group_id="job"))
    with pytest.raises(NotAGroup):
        await done(either.close_group(job))
    with pytest.raises(ValueError, match="NeedCondition"):
        await done(either.create("fetch", needs=[Need(job, "sometimes")]))
    with pytest.raises(ValueError, match="OnExcess"):
        either.group("import_day", on_excess="explode")
    with pytest.raises(TypeError, match="colour"):
        either.group("import_day", colour="red")
    with pytest.raises(RuntimeError, match="when its block begins"):
        _ = either.group("import_day").id
    with pytest.raises(TypeError, match="all the fields"):
        await done(either.create(NewJob("fetch"), needs=[job]))


async def test_a_member_of_one_group_is_not_created_in_another(either: Any) -> None:
    async with group(either) as day:
        with pytest.raises(TypeError, match="cannot also be one of other"):
            await done(day.create(NewJob("fetch", group_id="other")))
        with pytest.raises(TypeError, match="set them in it"):
            await done(day.create(NewJob("fetch"), source_id="episode"))
