"""The server ends calls whose clients do not send or read. A client may leave, or send, at the same moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.domain.errors import JobStateError, Overloaded
from jobstate_server.rpc import admission
from jobstate_server.rpc.admission import Admission
from jobstate_server.rpc.call import StreamCall
from jobstate_server.rpc.job_service import JobService

from ..bench.drivers import headers
from ..bench.http2 import Connection
from ..robustness.attackers import Nothing
from ..support.calls import create, get
from ..support.server import serving, stored_job_ids
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


class Ender:
    """Ends the calls whose requests are missing in the very turn of the loop in which gRPC has news of one of them.

    That is before the handler's own turn: its read is over, and it does not know.
    """

    def __init__(self, calls: Admission, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(admission, "REQUEST_S", 0.0)
        monkeypatch.setattr(admission, "CHECKS_MAX", 1)
        self.has_ended = False
        self._calls = calls

    def look(self) -> None:
        tasks: list[Any] = [call.task for call in self._calls._receiving]
        if any(task is not None and task._fut_waiter.done() for task in tasks):
            self.has_ended = True
            self._calls._end_late()
        elif self._calls.calls.held:
            asyncio.get_running_loop().call_soon(self.look)


async def test_calls_can_be_ended_in_the_turn_of_the_loop_in_which_their_client_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_requests(address: str) -> Connection:
        connection = Connection(address)
        for _ in range(50):
            connection.open(headers("Get"), Nothing())
        connection.flush()
        return connection

    async with serving(tmp_path / "jobs.db") as running:
        await create(running)
        calls = running.server.grpc.calls.admission
        ended = 0
        while ended < 5:
            connection = await asyncio.to_thread(without_requests, running.server.address)
            await until(lambda: len(calls._receiving) == 50)
            ender = Ender(calls, monkeypatch)
            ender.look()
            await asyncio.to_thread(connection.close)
            await until(lambda: not calls.calls.held)
            ended += ender.has_ended

        assert (await get(running)).id == "job"


async def test_a_call_that_is_refused_because_its_request_did_not_arrive_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[str] = []

    class Told(Nothing):
        def ended(self, problem: str) -> None:
            ends.append(problem)

    request = pb.CreateRequest(job_type="x").SerializeToString()
    async with serving(tmp_path / "jobs.db") as running:
        calls = running.server.grpc.calls.admission
        connection = await asyncio.to_thread(Connection, running.server.address)
        for _ in range(10):
            stream = connection.open(headers("Create"), Told())
            connection.flush()
            await until(lambda: len(calls._receiving) == 1)
            Ender(calls, monkeypatch).look()
            connection.send(stream, request, end=True)
            connection.flush()
            told = len(ends)

            def receive() -> None:
                connection.receive()
                connection.flush()

            await until(lambda told=told: len(ends) > told, receive)  # type: ignore[misc]
        connection.close()
        await until(lambda: not calls.calls.held)

    assert all("did not arrive" in end for end in ends), ends
    assert stored_job_ids(tmp_path / "jobs.db") == set()
