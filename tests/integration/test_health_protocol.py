"""The standard health protocol and reflection: bounded, never held up by who does not read, and over with the drain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from jobstate_server.rpc import health, reflection

from ..support.calls import health_of, refused
from ..support.clock import PATIENCE_S
from ..support.server import Client, Running, client_of, serving

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

NAMES = {"", "jobstate.v1.DispatchService", "jobstate.v1.JobService", "jobstate.v1.MaintenanceService", "jobs"}


def watch(client: Client, service: str = "") -> Any:
    """An open Watch."""
    return client.health.Watch(health_pb2.HealthCheckRequest(service=service))


def reflecting(client: Client) -> Any:
    """An open reflection stream."""
    stub: Any = reflection_pb2_grpc.ServerReflectionStub
    return stub(client.channel).ServerReflectionInfo()


@asynccontextmanager
async def unreading(address: str) -> AsyncIterator[None]:
    """A watcher of the health whose connection takes not one byte of an answer: its window is closed."""
    reader, writer = await asyncio.open_connection(*address.rsplit(":", 1))
    headers = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", b"/grpc.health.v1.Health/Watch"),
        (b":authority", b"x"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
    ]
    block = b"".join(b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value for name, value in headers)

    def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload

    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"\x00\x04" + (0).to_bytes(4)))
    writer.write(frame(4, 1, 0, b"") + frame(1, 4, 1, block) + frame(0, 1, 1, bytes(5)))
    await writer.drain()
    try:
        yield
    finally:
        reader.feed_eof()
        writer.close()


async def until_watched(running: Running, count: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while running.server.grpc.health.watchers < count:
            await health_of(running)


async def test_every_name_is_listed_with_its_status(running: Running) -> None:
    listed = await running.health.List(health_pb2.HealthListRequest())  # type: ignore[attr-defined]

    assert {name: answer.status for name, answer in listed.statuses.items()} == dict.fromkeys(NAMES, SERVING)


async def test_a_name_that_there_is_not_is_not_found_and_may_be_watched(running: Running) -> None:
    assert (await refused(health_of(running, "nobody"))).code is grpc.StatusCode.NOT_FOUND
    assert (await anext(aiter(watch(running, "nobody")))).status == UNKNOWN


async def test_a_watcher_is_told_every_change(running: Running) -> None:
    answers = aiter(watch(running, "jobs"))
    told = [(await anext(answers)).status]
    for is_serving in (False, True):
        running.server.grpc.health.set("jobs", is_serving)
        told.append((await anext(answers)).status)

    assert told == [SERVING, NOT_SERVING, SERVING]


async def test_what_is_no_request_is_refused(running: Running) -> None:
    channel: Any = running.channel
    for raw in (b"\xff\xff", health_pb2.HealthCheckRequest(service="x" * 5_000).SerializeToString()):
        for method in (channel.unary_unary("/grpc.health.v1.Health/Check")(raw),):
            assert (await refused(method)).code is grpc.StatusCode.INVALID_ARGUMENT
        stream = channel.unary_stream("/grpc.health.v1.Health/Watch")(raw)
        assert (await refused(anext(aiter(stream)))).code is grpc.StatusCode.INVALID_ARGUMENT


async def test_who_does_not_read_holds_up_neither_the_news_nor_the_answers(running: Running) -> None:
    async with unreading(running.server.address):
        reading = aiter(watch(running))
        assert (await anext(reading)).status == SERVING
        await until_watched(running, 2)

        running.server.grpc.health.set("", False)

        assert (await anext(reading)).status == NOT_SERVING
        assert await health_of(running) == NOT_SERVING


async def test_watchers_are_bounded_for_each_connection_and_over_all(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "WATCHERS_MAX", 3)
    monkeypatch.setattr(health, "WATCHERS_CONNECTION_MAX", 2)
    open_ones = [watch(running), watch(running)]
    for call in open_ones:
        await anext(aiter(call))

    assert (await refused(anext(aiter(watch(running))))).code is grpc.StatusCode.RESOURCE_EXHAUSTED
    async with client_of(running.server.address) as other:
        open_ones.append(watch(other))
        await anext(aiter(open_ones[-1]))
        assert (await refused(anext(aiter(watch(other))))).code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await health_of(other) == SERVING
        for call in open_ones:
            call.cancel()
        async with asyncio.timeout(PATIENCE_S):
            while running.server.grpc.health.watchers:
                await health_of(running)
        assert (await anext(aiter(watch(other)))).status == SERVING


async def test_reflection_streams_are_bounded(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reflection, "STREAMS_MAX", 1)
    first = reflecting(running)
    await first.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    assert (await first.read()).list_services_response.service

    assert (await refused(anext(aiter(reflecting(running))))).code is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_stop_ends_the_watches_and_the_reflection_streams_and_does_not_wait_for_them(path: Path) -> None:
    async with AsyncExitStack() as stack:
        # Waiting for the grace would outlast the test's patience.
        running = await stack.enter_async_context(serving(path, shutdown_grace=f"{4 * PATIENCE_S}s"))
        other = await stack.enter_async_context(client_of(running.server.address))
        await stack.enter_async_context(unreading(running.server.address))
        watching, idle = aiter(watch(other)), reflecting(other)
        assert (await anext(watching)).status == SERVING
        await idle.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        await idle.read()
        await until_watched(running, 2)

        async with asyncio.timeout(PATIENCE_S):
            stopping = asyncio.create_task(running.server.stop())
            assert (await anext(watching)).status == NOT_SERVING
            ends = [await refused(anext(watching)), await refused(idle.read())]
            await stopping

    assert [end.code for end in ends] == [grpc.StatusCode.UNAVAILABLE] * 2
