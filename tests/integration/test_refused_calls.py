"""A call that was refused is over at once, and so is what it took, without the help of the collector."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator

import grpc
import pytest

from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.event_log import feed

from ..support.calls import refused
from ..support.clock import PATIENCE_S
from ..support.server import Running

CALLS = 20


@pytest.fixture
def no_collector() -> Iterator[None]:
    """A collector that comes as rarely as that of a busy server."""
    gc.disable()
    yield
    gc.enable()


async def over(running: Running) -> None:
    """Wait until no call is counted as open any more."""
    admission = running.server.grpc.calls.admission
    async with asyncio.timeout(PATIENCE_S):
        while admission.calls.held or admission.streams.held:
            await running.server.readers.probe()


@pytest.mark.usefixtures("no_collector")
async def test_unary_calls_that_were_refused_are_not_counted_as_open(running: Running) -> None:
    for _ in range(CALLS):
        assert (await refused(running.jobs.Get(pb.GetRequest(id="none")))).reason == "JOB_NOT_FOUND"
        bad = pb.BatchCreateRequest(requests=[pb.CreateRequest(id="a b")])
        assert (await refused(running.jobs.BatchCreate(bad))).code is grpc.StatusCode.INVALID_ARGUMENT

    await over(running)


@pytest.mark.usefixtures("no_collector")
async def test_watches_that_were_refused_are_not_counted_as_open(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "FILTERS_BYTES_MAX", 100)
    for _ in range(CALLS):
        watch = running.jobs.WatchEvents(pb.WatchEventsRequest())
        assert (await refused(anext(aiter(watch)))).reason == "OVERLOADED"

    await over(running)
