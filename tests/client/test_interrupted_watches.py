"""A cancelled or interrupted read of a watch loses nothing and ends nothing; an error is raised again."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import weakref
from typing import Any

import pytest

from jobstate_client import AsyncClient, Client, CursorUnknown, EventType
from jobstate_client.testing import JobstateServer

from ..support.ports import ReservedPort
from .support import PATIENCE_S, done, following, until


async def cancelled_read(watch: Any) -> None:
    """Ask for an item that does not come, and give up."""
    read = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    assert watch._reading is not None
    read.cancel()
    await asyncio.wait({read})
    assert read.cancelled()


async def test_a_cancelled_read_of_a_quiet_watch_loses_nothing(async_client: AsyncClient, client: Client) -> None:
    async with async_client.watch() as watch:
        for _ in range(5):
            await cancelled_read(watch)
        for number in range(5):
            await asyncio.to_thread(client.create, "default", id=f"job-{number}")
        async with asyncio.timeout(PATIENCE_S):
            seen = [(await anext(watch)).job.id for _ in range(5)]

    assert seen == [f"job-{number}" for number in range(5)]


async def test_a_loop_over_a_watch_that_a_timeout_ended_may_be_entered_again(
    async_client: AsyncClient, client: Client
) -> None:
    seen: list[str] = []

    async def collect(count: int, limit_s: float) -> None:
        async with asyncio.timeout(limit_s):
            async for event in watch:
                seen.append(event.job.id)
                if len(seen) == count:
                    break

    async with async_client.watch() as watch:
        for number in range(3):
            with pytest.raises(TimeoutError):
                await collect(number + 1, 0.01)
            await asyncio.to_thread(client.create, "default", id=f"job-{number}")
            await collect(number + 1, PATIENCE_S)

    assert seen == ["job-0", "job-1", "job-2"]


async def test_a_watch_whose_opening_was_cancelled_opens_when_asked_again(
    async_client: AsyncClient, client: Client
) -> None:
    client.create("default", id="first")
    watch = async_client.watch(start="earliest")
    await cancelled_read(watch)

    assert (await following(watch)).job.id == "first"
    watch.close()


async def test_a_cancelled_read_continues_over_a_restart(
    async_client: AsyncClient, client: Client, server: JobstateServer
) -> None:
    async with async_client.watch() as watch:
        await cancelled_read(watch)
        await asyncio.to_thread(server.restart)
        await asyncio.to_thread(server.client(wait_for_ready=True).create, "default", id="first")

        assert (await following(watch)).job.id == "first"


async def test_two_tasks_may_wait_for_a_watch_and_each_item_goes_to_one(
    async_client: AsyncClient, client: Client
) -> None:
    async with async_client.watch() as watch:
        reads = [asyncio.ensure_future(anext(watch)) for _ in range(4)]
        await asyncio.sleep(0)
        await asyncio.to_thread(lambda: [client.create("default", id=f"job-{number}") for number in range(4)])
        async with asyncio.timeout(PATIENCE_S):
            seen = await asyncio.gather(*reads)

    assert sorted(event.job.id for event in seen) == [f"job-{number}" for number in range(4)]


async def test_a_watch_that_is_deleted_while_a_cancelled_read_continues_is_collected(async_client: AsyncClient) -> None:
    watch: Any = async_client.watch()
    await cancelled_read(watch)
    task, forgotten = watch._reading, weakref.ref(watch)
    del watch
    gc.collect()

    assert forgotten() is None
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.wait({task})


def test_an_interrupted_read_loses_nothing(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    with client.watch() as watch:
        session: Any = watch._session
        items = session.items

        def interrupted(response: Any) -> Any:
            monkeypatch.setattr(session, "items", items)
            raise KeyboardInterrupt
            yield

        client.create("default", id="first")
        monkeypatch.setattr(session, "items", interrupted)
        with pytest.raises(KeyboardInterrupt):
            next(watch)
        client.create("default", id="second")

        assert [next(watch).job.id for _ in range(2)] == ["first", "second"]


async def test_a_watch_that_failed_fails_again_and_does_not_seem_complete(either: Any) -> None:
    watch = either.watch(cursor="of another log")

    for _ in range(2):
        with pytest.raises(CursorUnknown):
            await following(watch)


async def test_a_watch_that_has_ended_stays_ended(either: Any, client: Client) -> None:
    client.create("default")
    watch = either.watch(start="earliest", follow=False)

    assert (await following(watch)).type is EventType.QUEUED
    for _ in range(2):
        with pytest.raises((StopIteration, StopAsyncIteration, RuntimeError)):
            await done(following(watch))


def test_a_watch_of_a_client_that_nobody_holds_continues(server: JobstateServer, client: Client) -> None:
    watch = Client(server.address).watch(start="earliest")
    gc.collect()
    client.create("default", id="first")

    assert next(watch).job.id == "first"
    watch.close()
    until(lambda: watch._call is None or not watch._call.is_active())


def closed_at(line: int, address: str) -> bool:
    """Close a watch at this line of the code that runs while it waits to be resumed. False if there are fewer lines.

    It is closed by the thread that waits, as a handler of signals does that interrupts it there.
    """
    lines_left = None

    def trace(_frame: Any, event: str, _argument: Any) -> Any:
        nonlocal lines_left
        if event == "line" and lines_left is not None:
            lines_left -= 1
            if not lines_left:
                watch.close()
        return trace

    with Client(address, timeout=PATIENCE_S) as client:
        watch = client.watch()

        def resume_delay_s(_error: Exception) -> float:
            nonlocal lines_left
            if lines_left is not None:
                # The watch has waited, and nothing was closed.
                watch.close()
            else:
                lines_left = line + 1
            return 0.001

        setattr(watch._session, "resume_delay_s", resume_delay_s)  # noqa: B010 - mypy lets no method be assigned to
        sys.settrace(trace)
        try:
            assert not list(watch)
        finally:
            sys.settrace(None)
    assert lines_left is not None
    return lines_left <= 0


def test_a_watch_can_be_closed_wherever_a_signal_interrupts_its_wait() -> None:
    port = ReservedPort()
    closed: list[bool] = []

    def close_at_each_line() -> None:
        for line in range(1, 80):
            closed.append(closed_at(line, port.address))

    thread = threading.Thread(target=close_at_each_line, daemon=True)
    thread.start()
    thread.join(PATIENCE_S)

    assert not thread.is_alive(), f"it hangs at line {len(closed) + 1}"
    assert len(closed) == 79
    assert sum(closed) > 20
