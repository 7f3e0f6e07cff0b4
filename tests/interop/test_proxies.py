"""Behind the proxies of docs/operations.md: long streams, large ones, long errors, and a server that is away."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest

from jobstate.v1 import job_service_pb2 as pb
from jobstate_client import AsyncClient, Client, Event, InvalidField, NewJob, Synced, Unreachable
from jobstate_client.core.rpc_errors import error_from_rpc

from .proxies import KINDS, LossyUpstream, proxy
from .support import PATIENCE_S, InteropServer, stub_of

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def upstream(server: InteropServer) -> Iterator[LossyUpstream]:
    """The way from the proxy to the server."""
    upstream = LossyUpstream(server.address)
    try:
        yield upstream
    finally:
        upstream.close()


@pytest.fixture(params=KINDS)
def address(request: pytest.FixtureRequest, server: InteropServer, tmp_path: Path) -> Iterator[str]:
    """A proxy before the server."""
    with proxy(request.param, server.address, tmp_path) as address:
        yield address


@pytest.fixture
def lossy(upstream: LossyUpstream, tmp_path: Path) -> Iterator[str]:
    """An nginx whose connections to the server can fall silent. HAProxy sends all streams over the silent one."""
    with proxy("nginx", upstream.address, tmp_path) as address:
        yield address


def test_the_longest_error_comes_through(address: str) -> None:
    """Without being cut it has more than 4 KiB of headers, and nginx answers 502 in its place."""
    request = pb.BatchCreateRequest()
    for _ in range(20):
        create = request.requests.add(job_type="default")
        create.metadata.fields["ü" * 500].number_value = math.inf
    with stub_of(address) as stub, pytest.raises(grpc.RpcError) as caught:
        stub.BatchCreate(request, timeout=PATIENCE_S)
    error = error_from_rpc(caught.value)

    assert isinstance(error, InvalidField)
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert error.field.startswith("requests[0].metadata.ü")
    assert error.violations


def test_a_request_of_some_mebibytes_comes_through(address: str) -> None:
    jobs = [NewJob("default", metadata={"text": "x" * 60_000}) for _ in range(60)]
    with Client(address) as client:
        assert len(client.create_many(jobs)) == 60


def test_a_stream_of_updates_may_be_longer_than_any_request(address: str) -> None:
    def batches() -> Iterator[pb.StreamUpdatesRequest]:
        for number in range(20):
            create = pb.CreateRequest(id=f"job-{number}", job_type="default")
            create.metadata.update({"text": "x" * 60_000})
            yield pb.StreamUpdatesRequest(updates=[pb.JobUpdate(create=create)] * 4)

    with stub_of(address) as stub:
        answers = list(stub.StreamUpdates(batches(), timeout=PATIENCE_S))

    assert [answer.outcomes[0].HasField("refusal") for answer in answers] == [False] * 20


async def test_more_watches_than_a_connection_allows_are_open_at_once(address: str) -> None:
    """A connection through a proxy allows some hundred streams, as one to the server does."""
    async with AsyncClient(address) as client, AsyncExitStack() as stack, asyncio.timeout(PATIENCE_S):
        watches = [await stack.enter_async_context(client.watch(snapshot=True)) for _ in range(150)]
        for watch in watches:
            while not isinstance(await anext(watch), Synced):
                pass
        await client.create("default", id="for-all")
        events = [await anext(watch) for watch in watches]

    assert {event.job.id for event in events if isinstance(event, Event)} == {"for-all"}


def test_a_dead_server_is_noticed_by_its_heartbeats_in_threads(
    server: InteropServer, upstream: LossyUpstream, lossy: str
) -> None:
    with Client(server.address) as direct, Client(lossy) as client, client.watch(heartbeat_interval=1.0) as watch:
        upstream.lose()
        direct.create("default", id="after")

        assert next(watch).job.id == "after"


async def test_a_dead_server_is_noticed_by_its_heartbeats_with_asyncio(
    server: InteropServer, upstream: LossyUpstream, lossy: str
) -> None:
    async with (
        AsyncClient(server.address) as direct,
        AsyncClient(lossy) as client,
        client.watch(heartbeat_interval=1.0) as watch,
    ):
        upstream.lose()
        await direct.create("default", id="after")

        async with asyncio.timeout(PATIENCE_S):
            assert (await anext(watch)).job.id == "after"


def test_a_server_that_is_away_is_waited_for_if_that_is_asked_for(server: InteropServer, address: str) -> None:
    with (
        Client(address, timeout=PATIENCE_S, wait_for_ready=True) as client,
        Client(address, timeout=PATIENCE_S) as other,
    ):
        client.create("default", id="before")
        server.end()
        # The one that is not to wait shows that the other has met the same before the server is back.
        with pytest.raises(Unreachable):
            other.get("before")
        back = threading.Timer(3.0, server.start)
        back.start()
        try:
            assert client.get("before").id == "before"
        finally:
            back.join()
