"""What gRPC itself takes from the network: streams of a connection, connections, compressed and oversized requests."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from jobstate.v1 import job_service_pb2 as pb
from jobstate.v1 import job_service_pb2_grpc as rpc
from jobstate_server.domain.limits import REQUEST_BYTES_MAX
from jobstate_server.rpc import transport
from jobstate_server.rpc import transport_limits as limits
from jobstate_server.rpc.connections import IDLE_TURNS, UNUSED_TURNS, Connections, end_connections

from ..bench.drivers import headers
from ..bench.http2 import Connection
from ..support.calls import create, refused
from ..support.clock import PATIENCE_S
from ..support.server import client_of, serving


async def test_a_compressed_request_is_refused_with_a_reason(tmp_path: Path) -> None:
    async with (
        serving(tmp_path / "jobs.db") as running,
        grpc.aio.insecure_channel(running.server.address, compression=grpc.Compression.Gzip) as channel,
    ):
        stub: rpc.JobServiceAsyncStub = rpc.JobServiceStub(channel)

        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await stub.Get(pb.GetRequest(id="a" * 500))

    assert refusal.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "gzip" in str(refusal.value.details())


async def test_no_more_streams_of_a_connection_are_open_than_the_limit_and_the_next_goes_on_after_one(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path / "jobs.db") as running:
        watches = [running.jobs.WatchEvents(pb.WatchEventsRequest()) for _ in range(limits.CONNECTION_STREAMS_MAX)]
        for watch in watches:
            await anext(aiter(watch))
        waiting = asyncio.ensure_future(create(running))
        async with client_of(running.server.address) as other:
            await other.jobs.ListJobTypes(pb.ListJobTypesRequest())
        assert not waiting.done()
        assert running.server.feed.watchers == limits.CONNECTION_STREAMS_MAX
        watches[0].cancel()
        async with asyncio.timeout(PATIENCE_S):
            await waiting


async def test_calls_that_are_reset_at_once_do_not_fill_the_queue_for_others(tmp_path: Path) -> None:
    groups = 20
    block = headers("Get")
    async with serving(tmp_path / "jobs.db") as running:
        connection = await asyncio.to_thread(Connection, running.server.address)
        connection.socket.setblocking(True)
        refused = 0
        # Nothing of the server's loop runs meanwhile, as if it were busy.
        for group in range(groups):
            first = 1 + 2 * group * limits.CONNECTION_STREAMS_MAX
            streams = range(first, first + 2 * limits.CONNECTION_STREAMS_MAX, 2)
            refused += refusals(connection, b"".join(frame(1, 4, stream, block) for stream in streams))
            reset = bytes((0, 0, 0, 8))
            refused += refusals(connection, b"".join(frame(3, 0, stream, reset) for stream in streams))
        connection.close()
        assert (await create(running)).id == "job"

    assert refused >= (groups - 1) * limits.CONNECTION_STREAMS_MAX - transport.ENDED_STREAMS_MAX - 1


async def test_connections_beyond_the_limit_are_closed_and_another_is_taken_once_one_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "CONNECTIONS_MAX", 3)
    async with serving(tmp_path / "jobs.db") as running:
        host, _, port = running.server.address.rpartition(":")
        await create(running)
        held = [await asyncio.open_connection(host, int(port)) for _ in range(2)]
        for reader, _ in held:
            await reader.readexactly(9)
        beyond, writer = await asyncio.open_connection(host, int(port))
        async with asyncio.timeout(PATIENCE_S):
            assert await beyond.read() == b""
        writer.close()
        for _, writer in held:
            writer.close()
        async with client_of(running.server.address) as other, asyncio.timeout(PATIENCE_S):
            await other.jobs.ListJobTypes(pb.ListJobTypesRequest(), wait_for_ready=True)


async def test_a_request_a_little_too_large_is_refused_with_a_reason_and_one_far_too_large_by_grpc(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path / "jobs.db") as running:
        little = pb.CreateRequest(job_type="x", source_id="s" * REQUEST_BYTES_MAX)
        assert (await refused(running.jobs.Create(little))).reason == "MESSAGE_TOO_LARGE"
        far = pb.CreateRequest(job_type="x", source_id="s" * limits.TRANSPORT_BYTES_MAX)
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await running.jobs.Create(far)

    assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_connection_that_says_nothing_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = {**dict(transport.SERVER_OPTIONS), "grpc.server_handshake_timeout_ms": 200}
    monkeypatch.setattr(transport, "SERVER_OPTIONS", tuple(quick.items()))
    async with serving(tmp_path / "jobs.db") as running:
        host, _, port = running.server.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        async with asyncio.timeout(PATIENCE_S):
            # What the server says first, and then the end.
            await reader.read()
        writer.close()


def test_fewer_files_mean_fewer_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (512, 512))

    assert transport.connections_max() == 512 - transport.FILES_RESERVED


async def test_calls_of_which_only_the_headers_come_are_counted_and_give_their_places_back(tmp_path: Path) -> None:
    async def never() -> AsyncIterator[pb.GetRequest]:
        await asyncio.Event().wait()
        yield pb.GetRequest()

    async with serving(tmp_path / "jobs.db") as running:
        calls = running.server.grpc.calls.admission.calls
        await create(running)
        async with grpc.aio.insecure_channel(running.server.address) as channel:
            get: Any = channel.stream_unary("/jobstate.v1.JobService/Get", pb.GetRequest.SerializeToString)
            unfinished = [get(never()) for _ in range(20)]
            async with asyncio.timeout(PATIENCE_S):
                while calls.held < 20:
                    await running.jobs.ListJobTypes(pb.ListJobTypesRequest())
            for call in unfinished:
                call.cancel()
        async with asyncio.timeout(PATIENCE_S):
            while calls.held > 1:
                await running.jobs.ListJobTypes(pb.ListJobTypesRequest())
                await asyncio.sleep(0)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """An HTTP/2 frame."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def refusals(connection: Connection, frames: bytes) -> int:
    """Send these, and count the streams that are reset until all of it has been read."""
    # Settings are acknowledged once all before them has been read.
    connection.socket.sendall(frames + frame(4, 0, 0, b""))
    received, reset = b"", 0
    while data := connection.socket.recv(1 << 16):
        received += data
        while len(received) >= 9 and len(received) >= 9 + int.from_bytes(received[:3], "big"):
            size, kind, flags = int.from_bytes(received[:3], "big"), received[3], received[4]
            if (kind, flags) == (4, 1):
                return reset
            reset += kind == 3
            received = received[9 + size :]
    raise AssertionError("the connection was closed")


@asynccontextmanager
async def listening() -> AsyncIterator[int]:
    """A server that only listens, and its port."""

    async def ended(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(ended, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
    await asyncio.sleep(0)


def name_of(writer: asyncio.StreamWriter) -> str:
    """A peer as gRPC names it."""
    host, port = writer.get_extra_info("sockname")
    return f"ipv4:{host}:{port}"


async def close(opened: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]) -> None:
    """Close connections, whether or not the other end has done so before."""
    for _, writer in opened:
        writer.close()
    await asyncio.gather(*(writer.wait_closed() for _, writer in opened), return_exceptions=True)


async def is_closed(reader: asyncio.StreamReader) -> bool:
    """Whether the other end has closed."""
    async with asyncio.timeout(PATIENCE_S):
        return await reader.read() == b""


async def test_connections_are_ended_by_the_names_that_grpc_gives_them() -> None:
    connections = Connections(10)
    async with listening() as port:
        opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        for _, writer in opened[:2]:
            connections.end(name_of(writer))
        assert await is_closed(opened[0][0])
        assert await is_closed(opened[1][0])
        assert not opened[2][0].at_eof()
        await close(opened)


async def test_when_connections_become_scarce_those_that_never_made_a_call_are_ended() -> None:
    connections = Connections(8)
    async with listening() as port:
        connections.port = port
        opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(8)]
        used, has_a_call = name_of(opened[0][1]), name_of(opened[1][1])
        connections.count_as_used(lambda: (has_a_call,))
        connections.called(used)
        for _ in range(UNUSED_TURNS):
            await asyncio.sleep(0)
            assert not any(reader.at_eof() for reader, _ in opened)
            connections.turn()
        for _ in range(2 * IDLE_TURNS):
            connections.turn()
        async with asyncio.timeout(PATIENCE_S):
            ended = [await reader.read() == b"" for reader, _ in opened[2:4]]

        assert ended == [True, True]
        assert not opened[0][0].at_eof()
        assert not opened[1][0].at_eof()
        await close(opened)


async def test_a_client_gets_in_while_silent_connections_take_all_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "CONNECTIONS_MAX", 64)
    async with serving(tmp_path / "jobs.db") as running:
        host, _, port = running.server.address.rpartition(":")
        # The first thing that an HTTP/2 client says, and then nothing.
        greeting = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
        silent = [await asyncio.open_connection(host, int(port)) for _ in range(64)]
        for _, writer in silent:
            writer.write(greeting)
        async with client_of(running.server.address) as late, asyncio.timeout(PATIENCE_S):
            await late.jobs.ListJobTypes(pb.ListJobTypesRequest(), wait_for_ready=True)
        await close(silent)


@pytest.mark.parametrize("peer", ["unix:", "ipv4:127.0.0.1:1", "nothing", "ipv4:127.0.0.1:x"])
async def test_a_peer_that_is_not_connected_is_not_ended(peer: str) -> None:
    connections = Connections(10)
    connections.end(peer)
    await asyncio.sleep(0)

    assert end_connections([("127.0.0.1", 1)]) == 0
