"""Closing a client ends its watches, calls, waits and runs at once, with one error of ours."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from jobstate_client import AsyncClient, Client, ClientClosed
from jobstate_client.testing import JobstateServer

from .support import PATIENCE_S, done, following, in_thread, items, raised, until


def test_a_watch_that_a_thread_waits_for_ends_with_its_client(server: JobstateServer) -> None:
    client = Client(server.address)
    with client.watch() as watch, in_thread(lambda: list(watch)) as seen:
        client.close()

        assert seen() == []


async def test_a_watch_that_a_task_waits_for_ends_with_its_client(server: JobstateServer) -> None:
    client = AsyncClient(server.address)
    async with client.watch() as watch:
        seen = asyncio.ensure_future(items(watch))
        await asyncio.sleep(0)
        await client.close()

        assert await seen == []


async def test_a_watch_that_waits_for_its_server_ends_with_its_client(server: JobstateServer) -> None:
    client, async_client = Client(server.address), AsyncClient(server.address)
    with client.watch() as watch, in_thread(lambda: list(watch)) as seen:
        async with async_client.watch() as async_watch:
            async_seen = asyncio.ensure_future(items(async_watch))
            await asyncio.to_thread(server.stop)
            client.close()
            await async_client.close()

            assert await async_seen == []
        assert await asyncio.to_thread(seen) == []


async def test_a_wait_raises_that_the_client_was_closed(server: JobstateServer, client: Client) -> None:
    job = client.create("default")
    other, async_other = Client(server.address), AsyncClient(server.address)

    async with asyncio.timeout(PATIENCE_S):
        waiting = asyncio.ensure_future(async_other.wait(job))
        with in_thread(lambda: raised(ClientClosed, lambda: other.wait(job))):
            await asyncio.to_thread(until, lambda: bool(other._watches and async_other._watches))
            other.close()
            await async_other.close()
        with pytest.raises(ClientClosed):
            await waiting


@pytest.mark.parametrize(
    "use",
    [
        lambda client: client.create("default"),
        lambda client: items(client.list()),
        lambda client: client.watch(),
        lambda client: client.wait("first"),
        lambda client: client.run("first"),
    ],
    ids=["call", "listing", "watch", "wait", "run"],
)
async def test_a_client_that_is_closed_says_so(either: Any, use: Callable[[Any], Any]) -> None:
    await done(either.create("default", id="first"))
    await done(either.close())

    with pytest.raises(ClientClosed):
        await done(use(either))


class Stuck:
    """A server that accepts connections and answers nothing."""

    def __enter__(self) -> str:
        self._socket = socket.create_server(("127.0.0.1", 0))
        return f"127.0.0.1:{self._socket.getsockname()[1]}"

    def __exit__(self, *failure: object) -> None:
        self._socket.close()


async def test_a_call_under_way_raises_that_the_client_was_closed_with_what_repeats_it() -> None:
    with Stuck() as address:
        client, async_client = Client(address), AsyncClient(address)
        async with asyncio.timeout(PATIENCE_S):
            call = asyncio.ensure_future(async_client.create("default", request_id="the-same-1", timeout=600.0))
            await asyncio.sleep(0)
            with in_thread(
                lambda: raised(ClientClosed, lambda: client.create("x", request_id="the-same-1", timeout=600.0))
            ) as told:
                await asyncio.to_thread(until, lambda: "Create" in client._stubs)
                client.close()
                await async_client.close()
                error = await asyncio.to_thread(told)
            with pytest.raises(ClientClosed) as async_error:
                await call

    assert (error.request_id, async_error.value.request_id) == ("the-same-1", "the-same-1")


def test_a_channel_that_was_closed_under_its_client_raises_that(server: JobstateServer) -> None:
    channel = grpc.insecure_channel(server.address)
    client = Client(channel=channel)
    client.create("default")
    channel.close()

    with pytest.raises(ClientClosed):
        client.create("default")
    assert list(client._open_watch(client.watch()._session)) == []
    client.close()


async def test_closing_twice_and_closing_unused_is_fine(server: JobstateServer) -> None:
    for client in (Client(server.address), AsyncClient(server.address)):
        await done(client.close())
        await done(client.close())


def test_clients_that_many_threads_close_at_once_close(server: JobstateServer) -> None:
    client = Client(server.address)
    client.create("default")
    threads = [threading.Thread(target=client.close) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)

    assert not any(thread.is_alive() for thread in threads)
    with pytest.raises(ClientClosed):
        client.create("default")


def test_a_watch_made_before_its_client_was_closed_is_at_its_end(client: Client) -> None:
    watch = client.watch(start="earliest")
    client.create("default")
    client.close()

    with pytest.raises(StopIteration):
        next(watch)


async def test_an_asyncio_watch_made_before_its_client_was_closed_is_at_its_end(async_client: AsyncClient) -> None:
    watch = async_client.watch(start="earliest")
    await async_client.close()

    with pytest.raises((StopAsyncIteration, RuntimeError)):
        await following(watch)
