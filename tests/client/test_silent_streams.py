"""A watch whose stream is silently dead is resumed after three missing heartbeats."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from jobstate.v1 import event_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate_client import AsyncClient, Client, Unreachable
from jobstate_client.core import watch_session
from jobstate_client.core.watch_request import watch_request
from jobstate_client.core.watch_session import WatchSession
from jobstate_server.domain import limits
from jobstate_server.domain.durations import SECOND

from .support import PATIENCE_S

CLIENTS = pytest.mark.parametrize("kind", [Client, AsyncClient])

SYNCED = pb.WatchEventsResponse(kind=pb.WATCH_RESPONSE_KIND_SYNCED, cursor="position-1")
EVENT = pb.WatchEventsResponse(
    kind=pb.WATCH_RESPONSE_KIND_EVENTS, cursor="position-2", events=[event_pb2.Event(sequence=2, name="after")]
)


class SilentServer:
    """A server that says what it is told to say on each watch, and then nothing any more; the stream stays open."""

    def __init__(self, *courses: list[pb.WatchEventsResponse]) -> None:
        self.address = ""
        self.cursors: list[str] = []
        """Where each watch began."""
        self._courses = iter(courses)

    async def watch(self, request: pb.WatchEventsRequest, _context: Any) -> AsyncIterator[pb.WatchEventsResponse]:
        self.cursors.append(request.cursor)
        for response in next(self._courses, []):
            yield response
        await asyncio.Event().wait()


@asynccontextmanager
async def silent(*courses: list[pb.WatchEventsResponse]) -> AsyncIterator[SilentServer]:
    """Such a server."""
    silent = SilentServer(*courses)
    server = grpc.aio.server()
    handler: grpc.RpcMethodHandler[Any, Any] = grpc.unary_stream_rpc_method_handler(
        silent.watch,
        request_deserializer=pb.WatchEventsRequest.FromString,
        response_serializer=pb.WatchEventsResponse.SerializeToString,
    )
    handlers = {"WatchEvents": handler}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("jobstate.v1.JobService", handlers),))
    silent.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield silent
    finally:
        await server.stop(None)


async def first_of(kind: Any, address: str, **options: Any) -> Any:
    """The first item of a watch with the shortest heartbeats."""

    def in_a_thread() -> Any:
        with Client(address, **options) as client, client.watch(heartbeat_interval=1.0) as watch:
            return next(watch)

    async with asyncio.timeout(PATIENCE_S):
        if kind is Client:
            return await asyncio.to_thread(in_a_thread)
        async with AsyncClient(address, **options) as client, client.watch(heartbeat_interval=1.0) as watch:
            return await anext(watch)


@CLIENTS
async def test_after_three_missing_heartbeats_a_watch_continues_where_it_was(kind: Any) -> None:
    async with silent([SYNCED], [EVENT]) as server:
        event = await first_of(kind, server.address)

    assert event.name == "after"
    assert server.cursors == ["", "position-1"]


@CLIENTS
async def test_a_watch_that_is_never_answered_fails_within_the_clients_timeout(kind: Any) -> None:
    async with silent() as server:
        with pytest.raises(Unreachable, match="the server has not answered"):
            await first_of(kind, server.address, timeout=3.0)

    assert server.cursors == [""]


@CLIENTS
async def test_a_watch_that_was_answered_once_tries_again_when_it_is_not_any_more(kind: Any) -> None:
    async with silent([SYNCED], [], [EVENT]) as server:
        event = await first_of(kind, server.address, timeout=3.0)

    assert event.name == "after"
    assert server.cursors == ["", "position-1", "position-1"]


async def test_threads_that_look_for_timeouts_end_with_their_client() -> None:
    async with silent([SYNCED, EVENT]) as server:
        await first_of(Client, server.address)
        for thread in threading.enumerate():
            if thread.name == "jobstate-timeouts":
                await asyncio.to_thread(thread.join, PATIENCE_S)
                assert not thread.is_alive()


def test_the_limits_of_heartbeats_are_those_of_the_server() -> None:
    own = (watch_session.HEARTBEAT_S_MIN, watch_session.HEARTBEAT_S, watch_session.HEARTBEAT_S_MAX)

    assert own == tuple(
        value / SECOND for value in (limits.HEARTBEAT_MIN, limits.HEARTBEAT_DEFAULT, limits.HEARTBEAT_MAX)
    )


@pytest.mark.parametrize(("asked", "limit"), [(None, 90.0), (0.1, 3.0), (10, 30.0), (3600, 900.0)])
def test_three_intervals_are_waited_for_whatever_was_asked(asked: float | None, limit: float) -> None:
    session = WatchSession(watch_request(heartbeat_interval=asked), connect_s=5.0)
    session.next_request()
    before = session.silence_limit_s()
    session.message_received()

    assert (before <= 5.0, session.silence_limit_s()) == (True, limit)
    assert session.silence_error().code is grpc.StatusCode.UNAVAILABLE
