"""``admin_listen``: probes that tell the truth on a port of their own, over HTTP and over gRPC."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from jobstate_server.admin.probes import AdminPort, ProbeLimits
from jobstate_server.app import CannotServe
from jobstate_server.store.errors import StoreUnreachable
from jobstate_server.store.sqlite.transaction import SqliteTransaction
from jobstate_server.supervision.supervisor import SILENT_TURNS_MAX

from ..support.calls import create, health_of
from ..support.clock import PATIENCE_S
from ..support.held import held
from ..support.server import Running, serving, settings_for


@asynccontextmanager
async def serving_probes(path: Path) -> AsyncIterator[tuple[Running, int]]:
    """A server that answers probes, and the port on which it does."""
    async with serving(path, admin_listen="127.0.0.1:0") as running:
        assert running.server.admin_port is not None
        yield running, running.server.admin_port.port


def ask(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    """Status and text."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)) as connection:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read().decode().strip()


async def asked(port: int, path: str) -> tuple[int, str]:
    """The same, without holding up the server of this process."""
    return await asyncio.to_thread(ask, port, path)


async def grpc_health(port: int, service: str = "") -> int:
    """What gRPC health says there."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service=service)
        answer = await stub.Check(request, timeout=PATIENCE_S, wait_for_ready=True)
        return int(answer.status)


async def test_a_well_server_is_alive_and_ready_over_http_and_serving_over_grpc(path: Path) -> None:
    async with serving_probes(path) as (_, port):
        assert await asked(port, "/livez") == (200, "ok")
        assert await asked(port, "/readyz?verbose") == (200, "ok")
        assert await grpc_health(port) == health_pb2.HealthCheckResponse.SERVING


async def test_a_store_that_does_not_answer_makes_a_server_unready_but_not_dead(path: Path) -> None:
    async with serving_probes(path) as (running, port), held(running.server):
        for _ in range(SILENT_TURNS_MAX):
            running.server.committer.turn()
        running.server.supervisor.turn()
        status, text = await asked(port, "/readyz")

        assert (status, text.startswith("the store has not answered for ")) == (503, True)
        assert await asked(port, "/livez") == (200, "ok")
        assert await grpc_health(port) == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_a_part_that_died_makes_a_server_dead(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving_probes(path) as (running, port):
        monkeypatch.setattr(running.server.committer, "_delivery_failed", True)

        assert await asked(port, "/livez") == (503, "the thread delivery has died")
        assert (await asked(port, "/readyz"))[0] == 503
        monkeypatch.undo()


async def test_a_server_that_stops_is_unready_until_its_end(path: Path) -> None:
    async with serving_probes(path) as (running, port):
        async with held(running.server) as hold:
            call = asyncio.ensure_future(create(running))
            await hold.has(1)
            stopping = asyncio.create_task(running.server.stop())
            await asyncio.sleep(0)
            assert await asked(port, "/readyz") == (503, "the server is stopping")
            hold.release()
            await asyncio.gather(call, return_exceptions=True)
        await stopping
        with pytest.raises(ConnectionRefusedError):
            await asked(port, "/livez")


async def test_nothing_else_is_told_there(path: Path) -> None:
    async with serving_probes(path) as (_, port):
        assert (await asked(port, "/"))[0] == 404
        assert (await asyncio.to_thread(ask, port, "/livez", "POST"))[0] == 501
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await grpc_health(port, "jobstate.v1.JobService")
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND


async def test_connections_that_say_nothing_take_some_places_and_are_closed(path: Path) -> None:
    async with serving(path) as running:
        limits = ProbeLimits(connections_max=4, silence_max_s=0.1)
        admin = AdminPort("127.0.0.1", 0, running.server.supervisor, limits)
        admin.start()
        silent = [socket.create_connection(("127.0.0.1", admin.port)) for _ in range(20)]
        for connection in silent:
            connection.settimeout(PATIENCE_S)
            with closing(connection):
                assert await asyncio.to_thread(connection.recv, 1) == b""
        assert await asked(admin.port, "/livez") == (200, "ok")
        await asyncio.to_thread(admin.stop)


async def test_its_thread_is_replaced_when_it_dies(path: Path) -> None:
    async with serving_probes(path) as (running, port):
        admin = running.server.admin_port
        assert admin is not None
        admin._server.shutdown()
        await asyncio.to_thread(admin._thread.join, PATIENCE_S)
        assert admin.dead == ["admin-port"]

        running.server.supervisor.watchdog._restart_if_dead(admin, 1)

        assert await asked(port, "/livez") == (200, "ok")


async def test_an_address_that_is_taken_refuses_to_start(path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CannotServe, match=f"cannot listen on 127.0.0.1:{port} for admin_listen: Address already"):
            async with serving(path, admin_listen=f"127.0.0.1:{port}"):
                pass


def test_an_address_beyond_loopback_needs_a_word(path: Path) -> None:
    with pytest.raises(ValueError, match="set insecure_admin = true"):
        settings_for(path, admin_listen="0.0.0.0:9464")

    assert json.loads(settings_for(path, admin_listen="0.0.0.0:9464", insecure_admin=True).model_dump_json())


async def test_a_store_that_cannot_be_written_is_told_before_the_first_call(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_transaction: SqliteTransaction) -> None:
        raise StoreUnreachable("database or disk is full")

    monkeypatch.setattr(SqliteTransaction, "probe", full)
    async with serving_probes(path) as (running, port):
        assert await asked(port, "/readyz") == (503, "the store cannot be written: database or disk is full")
        assert await health_of(running) == health_pb2.HealthCheckResponse.NOT_SERVING
