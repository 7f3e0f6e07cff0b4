"""What gRPC has received and nobody has read is measured for each connection, and bounded when memory is short."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.domain.limits import MEBIBYTE
from jobstate_server.rpc.receive_buffers import CALL_BYTES, ReceiveBuffers

from ..bench.drivers import headers
from ..bench.http2 import Broken, Connection, framed
from ..robustness.attackers import Nothing
from ..support.calls import create, get, refusal_of, struct
from ..support.server import Running, serving
from ..support.waiting import until


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    async with serving(tmp_path / "jobs.db") as running:
        # Only the test measures.
        running.server.grpc.receive_buffers.stop()
        yield running


@pytest.fixture
def short_of_memory(running: Running) -> ReceiveBuffers:
    """What measures the server, which takes its memory for short."""
    buffers = running.server.grpc.receive_buffers
    buffers._memory_short = 1
    return buffers


def half_sent(address: str, method: str, size: int) -> Connection:
    """A connection that sends a request of this size, but for its last byte."""
    connection = Connection(address)
    connection.send_raw(connection.open(headers(method), Nothing()), framed(bytes(size))[:-1], end=False)
    return connection


def go_on(*connections: Connection) -> None:
    """Send and receive what is possible now."""
    for connection in connections:
        connection.receive()
        connection.flush()


def is_open(connection: Connection) -> bool:
    """Whether the server has left this connection open."""
    try:
        go_on(connection)
    except (Broken, OSError):
        return False
    return True


@pytest.mark.parametrize("method", ["Create", "StreamUpdates", "WatchEvents"])
async def test_a_request_counts_while_it_arrives(running: Running, method: str) -> None:
    buffers = running.server.grpc.receive_buffers
    connection = half_sent(running.server.address, method, 4 * MEBIBYTE)
    await until(lambda: buffers.measure() >= 4 * MEBIBYTE, lambda: go_on(connection))
    assert buffers.measure() < 5 * MEBIBYTE
    connection.close()

    await until(lambda: buffers.measure() < MEBIBYTE)


async def test_what_has_been_read_does_not_count(running: Running) -> None:
    buffers = running.server.grpc.receive_buffers
    for number in range(50):
        await create(running, f"{number}", metadata=struct(text="m" * 50_000))
    stream = running.jobs.StreamUpdates()
    update = pb.JobUpdate(progress=pb.UpdateProgressRequest(id="0", attempt=1, message="m" * 1_000))
    for number in range(5):
        await stream.write(pb.StreamUpdatesRequest(batch=number, updates=[update] * 500))
        await stream.read()
    items = [pb.CreateRequest(job_type="x", metadata=struct(text="m" * 5_000)) for _ in range(500)]
    await running.jobs.BatchCreate(pb.BatchCreateRequest(requests=items))

    assert buffers.measure() < 55 * CALL_BYTES
    stream.cancel()


async def test_the_connections_with_most_unread_are_closed_while_memory_is_short(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    measuring = running.server.grpc.receive_buffers
    sizes = [1, 3, 5, 7]
    connections = [half_sent(running.server.address, "StreamUpdates", size * MEBIBYTE) for size in sizes]
    await until(lambda: measuring.measure() >= sum(sizes) * MEBIBYTE, lambda: go_on(*connections))

    plenty, short = (
        ReceiveBuffers(5 * MEBIBYTE, memory_short, resident=lambda: 2**30) for memory_short in (2**40, 2**30)
    )
    plenty.port = short.port = measuring.port
    # Enough checks for a measurement.
    for _ in range(100):
        plenty.check()
    assert [is_open(connection) for connection in connections] == [True] * 4
    with caplog.at_level(logging.WARNING, "jobstate_server.rpc.receive_buffers"):
        short.check()

    await until(lambda: [is_open(connection) for connection in connections] == [True, True, False, False])
    assert [record.__dict__["connections"] for record in caplog.records] == [2]
    await create(running)
    assert (await get(running)).id == "job"
    for connection in connections:
        connection.close()


async def test_the_event_loop_closes_connections_while_the_thread_gets_no_turn(
    running: Running, short_of_memory: ReceiveBuffers
) -> None:
    await create(running)

    while not await one_is_closed(running):
        # On a slow machine the server may have ended the streams first, because they took too long to arrive.
        pass


async def one_is_closed(running: Running) -> bool:
    """Whether the server closes one of the connections that together send more than may be unread."""
    # Five eighths of 64 MiB may be unread.
    connections = [half_sent(running.server.address, "StreamUpdates", 8 * MEBIBYTE) for _ in range(8)]
    try:
        for _ in range(500):
            if not all(map(is_open, connections)):
                return True
            # Somebody else's call gives the loop a turn.
            await get(running)
        return False
    finally:
        for connection in connections:
            connection.close()


async def test_requests_of_a_connection_that_was_closed_for_memory_are_dropped(
    running: Running, short_of_memory: ReceiveBuffers
) -> None:
    update = pb.JobUpdate(progress=pb.UpdateProgressRequest(id="none", attempt=1))
    stream = running.jobs.StreamUpdates()
    await stream.write(pb.StreamUpdatesRequest(updates=[update]))
    await stream.read()
    (peer,) = running.server.grpc.calls.admission.streams.by_connection
    short_of_memory._closed = {peer: MEBIBYTE}
    await stream.write(pb.StreamUpdatesRequest(updates=[update]))

    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stream.read()
    assert refusal_of(raised.value).reason == "OVERLOADED"
