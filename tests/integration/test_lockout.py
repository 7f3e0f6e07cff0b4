"""Whoever takes all that there is to take shuts nobody out: a client that comes later is served within seconds."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from grpc_health.v1 import health_pb2

from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.logs import is_worth_logging
from jobstate_server.rpc import admission, health
from jobstate_server.rpc.fair_limit import FairLimit

from ..bench.drivers import headers
from ..bench.http2 import Connection, header_block
from ..robustness.attackers import Nothing, Unreading
from ..support.calls import create, get, struct
from ..support.clock import PATIENCE_S
from ..support.server import Running, client_of, serving
from ..support.waiting import pause, until

GET = pb.GetRequest(id="job").SerializeToString()

Begin = Callable[[Connection], None]


@asynccontextmanager
async def crowd(
    running: Running, count: int, begin: Begin, kind: type[Connection] = Connection
) -> AsyncIterator[list[Connection]]:
    """Many connections, each of which has begun."""

    def opened() -> Connection:
        connection = kind(running.server.address)
        begin(connection)
        connection.flush()
        return connection

    connections = [await asyncio.to_thread(opened) for _ in range(count)]
    try:
        yield connections
    finally:
        for connection in connections:
            connection.close()


def calls(connection: Connection) -> None:
    """Calls whose answers nobody will read."""
    for _ in range(100):
        connection.send(connection.open(headers("Get"), Nothing()), GET, end=True)


def headers_of_calls(connection: Connection) -> None:
    """Calls of which only the headers come."""
    for _ in range(100):
        connection.open(headers("Get"), Nothing())


def test_the_last_part_of_a_limit_is_kept_for_connections_that_have_none_open() -> None:
    limit = FairLimit(12, 4)
    assert [limit.take("a") for _ in range(10)] == [True] * 9 + [False]
    assert [limit.take("b") for _ in range(2)] == [True, False]
    assert limit.take("c")
    limit.give_back("a")
    assert not limit.take("b")
    assert limit.take("d")
    assert limit.take("e")
    assert not limit.take("f")
    for connection, count in (("a", 8), ("b", 1), ("c", 1), ("d", 1), ("e", 1)):
        for _ in range(count):
            limit.give_back(connection)
    assert (limit.held, limit.by_connection) == (0, {})


@pytest.fixture(autouse=True)
def _unlogged_answers() -> Iterator[None]:
    """Lines that a server does not log are not kept here either: their tracebacks would keep calls open."""
    of_grpc = logging.getLogger("grpc._cython.cygrpc")
    of_grpc.addFilter(is_worth_logging)
    yield
    of_grpc.removeFilter(is_worth_logging)


async def test_a_client_gets_in_while_others_leave_all_answers_unread(tmp_path: Path) -> None:
    async with serving(tmp_path / "jobs.db") as running:
        open_calls = running.server.grpc.calls.admission.calls
        await create(running)
        # Enough of them for every call that may be open.
        async with crowd(running, 25, calls, Unreading):
            await until(lambda: open_calls.held >= open_calls.limit * 0.75)
            async with client_of(running.server.address) as late, asyncio.timeout(PATIENCE_S):
                for _ in range(20):
                    await late.jobs.Get(pb.GetRequest(id="job"))
                await late.jobs.Create(pb.CreateRequest(job_type="x"))


async def test_connections_that_leave_answers_unread_are_ended_when_calls_are_refused_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "UNREAD_S", 0.0)
    monkeypatch.setattr(admission, "_CHECK_INTERVAL_S", 0.0)
    async with serving(tmp_path / "jobs.db") as running:
        open_calls = running.server.grpc.calls.admission.calls
        open_calls.limit = 20
        await create(running)
        async with crowd(running, 1, calls, Unreading) as connections, asyncio.timeout(PATIENCE_S):
            await until(lambda: open_calls.held)
            while open_calls.held:
                # Its own calls may all have been refused before the first was answered. These are refused afterwards.
                async with crowd(running, 1, calls, Unreading):
                    await pause(0.05)
            connections[0].socket.setblocking(True)
            while await asyncio.to_thread(connections[0].socket.recv, 1 << 16):
                pass
        assert (await get(running)).id == "job"


async def test_a_client_gets_in_while_requests_of_others_do_not_come(tmp_path: Path) -> None:
    async with serving(tmp_path / "jobs.db") as running:
        await create(running)
        async with crowd(running, 25, headers_of_calls), asyncio.timeout(PATIENCE_S):
            await until(lambda: running.server.grpc.calls.admission.calls.held > 1_000)
            async with client_of(running.server.address) as late:
                for _ in range(20):
                    await late.jobs.Get(pb.GetRequest(id="job"))


async def test_requests_that_do_not_come_are_ended_when_calls_are_refused_for_them(tmp_path: Path) -> None:
    async with serving(tmp_path / "jobs.db") as running:
        await create(running)
        open_calls = running.server.grpc.calls.admission.calls
        open_calls.limit = 200
        ends: list[str] = []

        class Told(Nothing):
            def ended(self, problem: str) -> None:
                ends.append(problem)

        def begin(connection: Connection) -> None:
            for _ in range(100):
                connection.open(headers("Get"), Told())

        async with crowd(running, 4, begin) as connections, asyncio.timeout(PATIENCE_S):
            while len(ends) < 400:
                for connection in connections:
                    connection.receive()
                    connection.flush()
                await pause(0.05)
            await until(lambda: not open_calls.held)

    assert all("grpc-status\\x018" in end for end in ends), set(ends)
    assert sum("did not arrive" in end for end in ends) >= 150


@pytest.mark.parametrize("method", ["Check", "List", "Watch"])
async def test_health_is_told_while_others_open_more_calls_of_it_than_there_is_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(health, "CALLS_MAX", 200)
    refused: list[str] = []

    class Told(Nothing):
        def ended(self, problem: str) -> None:
            refused.append(problem)

    def begin(connection: Connection) -> None:
        for _ in range(100):
            connection.open(header_block(f"/grpc.health.v1.Health/{method}"), Told())

    async with (
        serving(tmp_path / "jobs.db") as running,
        crowd(running, 3, begin) as connections,
        asyncio.timeout(PATIENCE_S),
    ):
        while len(refused) < 100:
            for connection in connections:
                connection.receive()
                connection.flush()
            await pause(0.05)
        async with client_of(running.server.address) as late:
            for _ in range(20):
                assert (await late.health.Check(health_pb2.HealthCheckRequest())).status

    assert all("grpc-status\\x018" in problem for problem in refused), set(refused)


async def test_a_request_that_does_not_come_is_left_alone_while_no_call_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path / "jobs.db") as running:
        await create(running)

        def begin(connection: Connection) -> None:
            connection.open(headers("Get"), Nothing())

        async with crowd(running, 1, begin):
            for _ in range(20):
                await get(running)
            await until(lambda: running.server.grpc.calls.admission.calls.held == 1)


@pytest.mark.parametrize("method", ["List", "WatchEvents"])
async def test_a_client_is_answered_while_others_leave_all_that_may_be_unread_unread(
    tmp_path: Path, method: str
) -> None:
    request: Any = pb.ListRequest() if method == "List" else pb.WatchEventsRequest(snapshot=True)

    def begin(connection: Connection) -> None:
        for _ in range(20):
            connection.send(connection.open(headers(method), Nothing()), request.SerializeToString(), end=True)

    def get_large(connection: Connection) -> None:
        for _ in range(20):
            body = pb.GetRequest(id="0").SerializeToString()
            connection.send(connection.open(headers("Get"), Nothing()), body, end=True)

    async with serving(tmp_path / "jobs.db") as running:
        answers = running.server.grpc.calls.answers
        # Nobody is ended for it.
        answers._unread_s = 1e9
        text = struct(text="m" * 60_000)
        for number in range(20):
            await create(running, f"{number}", metadata=text)
        async with crowd(running, 8, begin, Unreading), crowd(running, 6, get_large, Unreading):
            await until(lambda: len(answers._waiting) == 14)
            async with client_of(running.server.address) as late, asyncio.timeout(PATIENCE_S):
                for _ in range(20):
                    assert (await get(late, "0")).metadata == text
            assert len(answers._waiting) == 14


async def test_a_client_can_watch_while_others_hold_all_streams(tmp_path: Path) -> None:
    request = pb.WatchEventsRequest().SerializeToString()

    def begin(connection: Connection) -> None:
        for _ in range(100):
            connection.send(connection.open(headers("WatchEvents"), Nothing()), request, end=True)

    async with serving(tmp_path / "jobs.db", open_streams_max=300) as running:
        streams = running.server.grpc.calls.admission.streams
        async with crowd(running, 10, begin):
            await until(lambda: streams.held > streams.limit * 0.9)
            async with client_of(running.server.address) as late, asyncio.timeout(PATIENCE_S):
                await anext(aiter(late.jobs.WatchEvents(pb.WatchEventsRequest())))
