"""A call that was refused is over at once, and so is what it took, without the help of the collector."""

from __future__ import annotations

import asyncio
import tracemalloc

import grpc
import pytest

from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.event_log import feed

from ..bench.drivers import headers
from ..robustness.attackers import Nothing, Unreading
from ..support.calls import refused
from ..support.clock import PATIENCE_S
from ..support.server import Running
from ..support.waiting import until

CALLS = 20


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


@pytest.mark.usefixtures("no_collector")
async def test_what_streams_have_sent_is_not_kept_after_their_end(running: Running) -> None:
    update = pb.JobUpdate(progress=pb.UpdateProgressRequest(id="none", attempt=1, message="m" * 1_000))
    batch = pb.StreamUpdatesRequest(updates=[update] * 1_000).SerializeToString()
    streams = running.server.grpc.calls.admission.update_streams
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(10):
            connection = await asyncio.to_thread(Unreading, running.server.address)
            stream = connection.open(headers("StreamUpdates"), Nothing())
            connection.send(stream, batch, end=False)
            connection.send(stream, batch, end=False)
            answered = running.server.committer.counters.commands
            while running.server.committer.counters.commands == answered:
                connection.receive()
                connection.flush()
                await running.server.readers.probe()
            connection.close()
            await until(lambda: not streams.held)
        await until(lambda: tracemalloc.get_traced_memory()[0] - before < 5 * len(batch))
    finally:
        tracemalloc.stop()
