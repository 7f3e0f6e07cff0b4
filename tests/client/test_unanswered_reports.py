"""A batch of reports that is not answered makes a new stream: runs end although their stream was silently dead."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from jobstate.v1 import job_service_pb2 as pb
from jobstate.v1 import job_service_pb2_grpc as rpc
from jobstate_client import AsyncClient, Client, NewJob, State
from jobstate_client.core import report_queue
from jobstate_client.core.calls import RPCS

from ..support.server import serving
from .support import PATIENCE_S


class DeafFirst:
    """A way to a server on which the first stream of updates is never answered."""

    def __init__(self, jobs: rpc.JobServiceAsyncStub) -> None:
        self.streams: list[list[pb.StreamUpdatesRequest]] = []
        self._jobs = jobs

    async def updates(self, requests: AsyncIterator[pb.StreamUpdatesRequest], _context: Any) -> AsyncIterator[Any]:
        sent: list[pb.StreamUpdatesRequest] = []
        self.streams.append(sent)
        is_deaf = len(self.streams) == 1
        async for request in requests:
            sent.append(request)
            if not is_deaf:
                async for answer in self._jobs.StreamUpdates(iter([request])):
                    yield answer

    def pass_on(self, name: str) -> grpc.RpcMethodHandler[Any, Any]:
        """A handler that hands a call on."""
        of = RPCS[name]

        async def handle(request: Any, _context: Any) -> Any:
            return await getattr(self._jobs, name)(request)

        return grpc.unary_unary_rpc_method_handler(
            handle,
            request_deserializer=of.request_type.FromString,
            response_serializer=of.response_type.SerializeToString,
        )


@asynccontextmanager
async def deaf_first(path: Path) -> AsyncIterator[tuple[DeafFirst, str]]:
    """Such a way, and its address."""
    async with serving(path) as running:
        way = DeafFirst(running.jobs)
        handlers = {name: way.pass_on(name) for name in ("Create", "Start", "Get")}
        handlers["StreamUpdates"] = grpc.stream_stream_rpc_method_handler(
            way.updates,
            request_deserializer=pb.StreamUpdatesRequest.FromString,
            response_serializer=pb.StreamUpdatesResponse.SerializeToString,
        )
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("jobstate.v1.JobService", handlers),))
        address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        try:
            yield way, address
        finally:
            await server.stop(None)


async def one_run(kind: Any, address: str) -> Any:
    """A job after a run with a report."""

    def in_a_thread() -> Any:
        with Client(address) as client:
            with client.run(NewJob("default", id="job")) as run:
                run.progress(50, "half way")
            return client.get("job")

    async with asyncio.timeout(PATIENCE_S):
        if kind is Client:
            return await asyncio.to_thread(in_a_thread)
        async with AsyncClient(address) as client:
            async with client.run(NewJob("default", id="job")) as run:
                run.progress(50, "half way")
            return await client.get("job")


@pytest.mark.parametrize("kind", [Client, AsyncClient])
async def test_a_run_ends_although_the_stream_of_reports_is_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    monkeypatch.setattr(report_queue, "ANSWER_TIMEOUT_S", 2.0)
    async with deaf_first(tmp_path / "jobs.db") as (way, address):
        job = await one_run(kind, address)

    deaf, *others = way.streams
    assert job.state is State.COMPLETED
    assert deaf
    assert deaf[0].updates[0].progress in [
        update.progress for stream in others for sent in stream for update in sent.updates
    ]


def test_an_answer_may_take_longer_than_the_server_takes_for_any_call() -> None:
    """It answers each within 30 s, if only that the outcome is unknown."""
    assert report_queue.ANSWER_TIMEOUT_S > 30.0
