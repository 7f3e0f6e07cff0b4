"""A connection that is dead without a word is noticed, by the client and by the server, when they say that it is."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest

from jobstate.v1 import job_service_pb2 as pb
from jobstate.v1 import job_service_pb2_grpc as rpc
from jobstate_client.core.channel import KEEPALIVE_S, KEEPALIVE_TIMEOUT_S, channel_options
from jobstate_server.rpc import transport

from ..support.calls import refused
from ..support.clock import PATIENCE_S
from ..support.server import Running, serving
from ..support.tcp_proxy import tcp_proxy
from ..support.waiting import until

QUICKER = 20
"""The options of both sides with their times divided by this, so that a minute is three seconds."""


def quicker(options: dict[str, int]) -> list[tuple[str, int]]:
    """The same options, with the times of keepalive shortened; nothing else is added."""
    times = {name for name in options if "keepalive_t" in name or "ping_timeout" in name}
    return [(name, value // QUICKER if name in times else value) for name, value in options.items()]


async def test_a_client_notices_a_dead_server(running: Running) -> None:
    options = quicker(dict(channel_options("127.0.0.1:1", None, ())))
    async with (
        tcp_proxy(running.server.address) as proxy,
        grpc.aio.insecure_channel(proxy.address, options=options) as channel,
    ):
        stub: rpc.JobServiceAsyncStub = rpc.JobServiceStub(channel)
        responses = aiter(stub.WatchEvents(pb.WatchEventsRequest()))
        await anext(responses)
        proxy.stop_forwarding()

        # gRPC's own limit, without the option that works, is a minute.
        async with asyncio.timeout(PATIENCE_S):
            refusal = await refused(anext(responses))

    assert refusal.code is grpc.StatusCode.UNAVAILABLE
    assert "ping timeout" in refusal.message


async def test_a_server_notices_a_dead_client(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "SERVER_OPTIONS", quicker(dict(transport.SERVER_OPTIONS)))
    async with (
        serving(path) as running,
        tcp_proxy(running.server.address) as proxy,
        grpc.aio.insecure_channel(proxy.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel,
    ):
        stub: rpc.JobServiceAsyncStub = rpc.JobServiceStub(channel)
        await anext(aiter(stub.WatchEvents(pb.WatchEventsRequest())))
        assert running.server.feed.watchers == 1
        proxy.stop_forwarding()

        await until(lambda: not running.server.feed.watchers)


def test_the_numbers_are_those_of_the_documentation() -> None:
    pages = Path(__file__).resolve().parents[2] / "docs"
    server = dict(transport.SERVER_OPTIONS)
    client = KEEPALIVE_S + KEEPALIVE_TIMEOUT_S

    assert f"noticed within {client} s" in (pages / "clients.md").read_text("utf-8")
    both = (server["grpc.keepalive_time_ms"] + server["grpc.http2.ping_timeout_ms"]) // 1_000
    assert f"end after {both} s" in (pages / "operations.md").read_text("utf-8")
