"""The server ends calls whose clients do not send or read. A client may leave at the same moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.domain.errors import JobStateError, Overloaded
from jobstate_server.rpc.call import StreamCall
from jobstate_server.rpc.job_service import JobService

from ..support.calls import create, get
from ..support.server import serving
from ..support.waiting import until

WATCH_EVENTS = JobService.WatchEvents


async def test_a_call_that_its_client_has_left_can_still_be_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[Callable[[JobStateError], None]] = []

    def watch_events(self: JobService, request: pb.WatchEventsRequest, call: StreamCall) -> AsyncIterator[bytes]:
        ends.append(call.end)
        return WATCH_EVENTS(self, request, call)

    monkeypatch.setattr(JobService, "WatchEvents", watch_events)
    async with serving(tmp_path / "jobs.db") as running:
        await create(running)
        watch = running.jobs.WatchEvents(pb.WatchEventsRequest())
        await watch.read()
        watch.cancel()
        await until(lambda: not running.server.grpc.calls.admission.streams.held)

        # gRPC has dropped the call by now. Whoever used its context would crash the process.
        ends[0](Overloaded("unread", 0.5))
        for _ in range(3):
            await asyncio.sleep(0)

        assert (await get(running)).id == "job"
