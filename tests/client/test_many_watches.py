"""A client opens another connection before the streams of one are used up, so that no watch is blocked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from jobstate_client import AsyncClient, Client
from jobstate_client.core import watch_connections
from jobstate_client.core.watch_connections import WatchConnections
from jobstate_server.rpc import transport

from ..support.server import serving
from .support import PATIENCE_S

OF_CONNECTION = 4
"""What the server of these tests allows; the client leaves one for calls."""


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections with few streams."""
    monkeypatch.setattr(watch_connections, "WATCHES_PER_CONNECTION_MAX", OF_CONNECTION - 1)
    options = [*transport.SERVER_OPTIONS, ("grpc.max_concurrent_streams", OF_CONNECTION)]
    monkeypatch.setattr(transport, "SERVER_OPTIONS", options)


@asynccontextmanager
async def address(path: Path) -> AsyncIterator[str]:
    async with serving(path) as running:
        yield running.server.address


@pytest.mark.usefixtures("few")
async def test_more_watches_than_a_connection_takes_are_open_at_once_with_asyncio(tmp_path: Path) -> None:
    async with address(tmp_path / "jobs.db") as at, AsyncClient(at) as client, asyncio.timeout(PATIENCE_S):
        for _ in range(2):
            async with AsyncExitStack() as stack:
                watches = [await stack.enter_async_context(client.watch()) for _ in range(3 * OF_CONNECTION)]
                job = await client.create("default")

                assert {(await anext(watch)).job.id for watch in watches} == {job.id}


@pytest.mark.usefixtures("few")
async def test_more_watches_than_a_connection_takes_are_open_at_once_in_threads(tmp_path: Path) -> None:
    def watched(at: str) -> list[Any]:
        with Client(at) as client, ExitStack() as stack:
            watches = [stack.enter_context(client.watch()) for _ in range(3 * OF_CONNECTION)]
            job = client.create("default")
            return [next(watch).job.id == job.id for watch in watches]

    async with address(tmp_path / "jobs.db") as at, asyncio.timeout(PATIENCE_S):
        assert all(await asyncio.to_thread(watched, at))


def test_a_released_connection_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_connections, "WATCHES_PER_CONNECTION_MAX", 2)
    taken = WatchConnections()

    assert [taken.acquire() for _ in range(5)] == [0, 0, 1, 1, 2]
    taken.release(0)
    assert [taken.acquire(), taken.acquire(), taken.acquire()] == [0, 2, 3]
