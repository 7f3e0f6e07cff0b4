"""The block of a group, whatever happens in it: it ends its own group, once, and no other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from jobstate_client import (
    AsyncClient,
    AttemptSuperseded,
    Client,
    GroupClosed,
    GroupExists,
    GroupPolicy,
    Job,
    JobExists,
    NewJob,
    State,
    TransportError,
)
from jobstate_client.core.calls import CallRetries
from jobstate_client.testing import JobstateServer

from .support import PATIENCE_S, Either, done, items
from .test_interrupted_runs import ctrl_c_during


@asynccontextmanager
async def group(either: Any, job_type: str = "import_day", **fields: Any) -> AsyncIterator[Any]:
    """The block of a group of either client."""
    async with Either(either.group(job_type, **fields)) as entered:
        yield entered


async def settle(server: JobstateServer) -> None:
    """Let everything happen that is due."""
    for _ in range(3):
        await asyncio.to_thread(server.advance, 0)


def at_the_first_failure(monkeypatch: pytest.MonkeyPatch, do: Callable[[], None]) -> None:
    """Do this when a call of a client has failed, before it is repeated."""
    wait_s = CallRetries.wait_s

    def after_failure(retries: CallRetries, error: Any) -> float:
        monkeypatch.undo()
        do()
        return wait_s(retries, error)

    monkeypatch.setattr(CallRetries, "wait_s", after_failure)


async def test_a_block_leaves_a_group_alone_that_another_call_created(either: Any, client: Client) -> None:
    first = client.create(NewJob("import_day", group=GroupPolicy(), unique_key="friday"))
    entered: list[str] = []

    async def block() -> None:
        async with group(either, unique_key="friday") as day:
            entered.append(day.id)

    with pytest.raises(GroupExists, match=f"group_id='{first.id}'.*close_group") as refused:
        await block()

    assert (entered, refused.value.job_id, isinstance(refused.value, JobExists)) == ([], first.id, True)
    left = client.get(first)
    assert (left.state, left.members is not None and left.members.closed) == (State.PROCESSING, False)
    client.create("fetch", group_id=first)


async def test_a_block_says_of_a_job_with_its_unique_key_that_it_is_no_group(either: Any, client: Client) -> None:
    first = client.create("import_day", unique_key="friday")

    with pytest.raises(GroupExists, match=f"{first.id} is no group"):
        await Either(either.group("import_day", unique_key="friday")).__aenter__()

    assert client.get(first).state is State.QUEUED


async def test_a_program_that_repeats_its_block_after_a_lost_answer_goes_on_with_its_group(
    either: Any, client: Client
) -> None:
    repeated: dict[str, Any] = {"unique_key": "friday", "request_id": "the-same"}
    made = client.create(NewJob("import_day", group=GroupPolicy(), **repeated))

    async with group(either, **repeated) as day:
        await done(day.create("fetch", id="fetch", request_id="fetch-fetch"))
        await done(day.create("fetch", id="fetch", request_id="fetch-fetch"))

    left = client.get(made)
    assert (day.id, left.members and (left.members.closed, left.members.total)) == (made.id, (True, 1))


@pytest.mark.parametrize("fails", [False, True])
async def test_a_block_ends_its_group_although_the_server_is_away_at_its_end(
    either: Any, server: JobstateServer, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    async def block() -> None:
        async with group(either, id="day") as day:
            await done(day.create("fetch"))
            await asyncio.to_thread(server.stop)
            at_the_first_failure(monkeypatch, server.start)
            if fails:
                raise ZeroDivisionError

    if fails:
        with pytest.raises(ZeroDivisionError) as raised:
            await block()
        assert not hasattr(raised.value, "__notes__")
    else:
        await block()

    left = server.client(wait_for_ready=True).get("day")
    assert (left.state, left.members and left.members.closed) == (
        (State.CANCELLED, False) if fails else (State.PROCESSING, True)
    )


async def test_a_block_that_cannot_close_its_group_says_how_to(either: Any, server: JobstateServer) -> None:
    async def block() -> None:
        async with group(either, id="day", patience=0):
            await asyncio.to_thread(server.stop)

    with pytest.raises(TransportError) as raised:
        await block()
    await asyncio.to_thread(server.start)
    with server.client(wait_for_ready=True).group("import_day", patience=0) as week:
        pass

    members = server.client().get(week).members
    assert members is not None
    assert members.closed
    assert "the group day" in raised.value.__notes__[0]
    assert "close_group" in raised.value.__notes__[0]


async def test_a_group_that_stops_within_its_block_keeps_the_verdict_of_its_members(
    either: Any, server: JobstateServer
) -> None:
    async def block() -> None:
        async with group(either, id="day", on_excess="cancel") as day:
            await done(either.start(await done(day.create("fetch", id="running"))))
            await done(either.cancel(await done(day.create("fetch"))))
            try:
                await done(day.create("fetch"))
            except GroupClosed as refusal:
                raise ZeroDivisionError from refusal

    with pytest.raises(ZeroDivisionError) as raised:
        await block()
    await settle(server)

    ended = await done(either.get("day"))
    assert (ended.state, ended.last_error and ended.last_error.code) == (State.PERMANENTLY_FAILED, "MEMBERS_FAILED")
    assert (await done(either.get("running"))).state is State.CANCELLED
    assert not hasattr(raised.value, "__notes__")


async def test_nothing_is_noted_of_a_group_that_somebody_else_has_cancelled(either: Any) -> None:
    async def block() -> None:
        async with group(either, id="day") as day:
            await done(either.cancel(day, "the wrong day"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as raised:
        await block()

    assert not hasattr(raised.value, "__notes__")
    assert (await done(either.get("day"))).cancel_reason == "the wrong day"


async def test_a_group_may_be_empty_closed_within_its_block_and_in_a_block_that_fails(
    either: Any, server: JobstateServer
) -> None:
    async with group(either, id="week") as week:
        with pytest.raises(ZeroDivisionError):
            async with group(either, id="day", group_id=week.id):
                raise ZeroDivisionError
        async with group(either, id="empty", group_id=week):
            pass
        await done(either.close_group(week))
    await settle(server)

    states = {job.id: job.state for job in await items(either.list())}
    assert states == {"week": State.PERMANENTLY_FAILED, "day": State.CANCELLED, "empty": State.COMPLETED}


async def test_a_group_has_one_block(either: Any) -> None:
    day = either.group("import_day")
    async with Either(day):
        with pytest.raises(RuntimeError, match="one block"):
            await Either(day).__aenter__()
    with pytest.raises(RuntimeError, match="one block"):
        await Either(day).__aenter__()

    assert len(await items(either.list())) == 1


async def test_an_attempt_that_is_over_adds_nothing_to_the_group_that_it_made(either: Any, client: Client) -> None:
    first = client.start(client.create("crawl"))

    async def block() -> None:
        async with group(either, "site", by=first) as site:
            await done(site.create("page", id="page"))
            client.release(first)
            await done(site.create_many([NewJob("page")]))

    with pytest.raises(AttemptSuperseded):
        await block()

    (site,) = client.list(job_types=["site"])
    assert (site.state, site.members and site.members.total) == (State.CANCELLED, 1)


@pytest.mark.parametrize("after", [False, True])
def test_ctrl_c_while_a_group_is_created_leaves_none_open(
    client: Client, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        ctrl_c_during(Client, "_invoke", monkeypatch, after=after),
        client.group("import_day"),
    ):
        raise AssertionError

    assert [job.state for job in client.list()] == [State.CANCELLED]


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_ctrl_c_at_the_end_of_a_block_ends_its_group_all_the_same(
    client: Client, monkeypatch: pytest.MonkeyPatch, fails: bool, after: bool
) -> None:
    day = client.group("import_day")

    def block() -> None:
        with day:
            day.create("fetch")
            interrupt_next(client, monkeypatch, after=after)
            if fails:
                raise ZeroDivisionError

    with pytest.raises(KeyboardInterrupt):
        block()

    left = client.get(day)
    assert (left.state, left.members and left.members.closed) == (
        (State.CANCELLED, False) if fails else (State.PROCESSING, True)
    )


def interrupt_next(client: Client, monkeypatch: pytest.MonkeyPatch, *, after: bool) -> None:
    """Have the next call of this client interrupted, before it does anything or right after."""
    invoke = client._invoke

    def interrupted(call: Any) -> Any:
        monkeypatch.undo()
        if after:
            invoke(call)
        raise KeyboardInterrupt

    monkeypatch.setattr(client, "_invoke", interrupted)


async def test_a_block_that_is_cancelled_at_any_point_of_its_beginning_leaves_no_group_open(
    async_client: AsyncClient, client: Client
) -> None:
    async def work() -> None:
        async with async_client.group("import_day"):
            await asyncio.Event().wait()

    for turns in range(12):
        task = asyncio.create_task(work())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert {job.state for job in client.list()} <= {State.CANCELLED}


async def test_a_block_that_is_cancelled_at_its_end_closes_its_group_all_the_same(
    async_client: AsyncClient, server: JobstateServer
) -> None:
    at_its_end = asyncio.Event()

    async def work() -> Job:
        async with async_client.group("import_day") as day:
            await day.create("fetch")
            await asyncio.to_thread(server.stop)
            at_its_end.set()
        return day.job

    task = asyncio.create_task(work())
    async with asyncio.timeout(PATIENCE_S):
        await at_its_end.wait()
        for _ in range(3):
            await asyncio.sleep(0)
            task.cancel()
        await asyncio.to_thread(server.start)
        with pytest.raises(asyncio.CancelledError):
            await task

    (day,) = server.client(wait_for_ready=True).list(job_types=["import_day"])
    assert day.members is not None
    assert (day.state, day.members.closed) == (State.PROCESSING, True)


def test_a_block_is_of_its_own_client(async_client: AsyncClient) -> None:
    assert isinstance(async_client.group("import_day"), AbstractAsyncContextManager)
    with pytest.raises(ValueError, match="patience"):
        async_client.group("import_day", patience=-1)
