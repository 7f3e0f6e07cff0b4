"""A store that does not answer turns health to NOT_SERVING, ends the calls that wait for it, and holds up no stop."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2

from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.engine.committer import WAIT_TURNS_MAX
from jobstate_server.store.errors import StoreUnreachable
from jobstate_server.supervision.supervisor import PROBE_TURNS, SILENT_TURNS_MAX

from ..support.calls import create, health_of, refused
from ..support.clock import PATIENCE_S
from ..support.held import held
from ..support.server import Running

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


# A store that does not answer is not a dead part.


async def test_a_store_that_does_not_answer_makes_health_tell_after_five_seconds_and_serves_again_afterwards(
    running: Running,
) -> None:
    server = running.server
    async with held(server) as hold:
        waiting = asyncio.ensure_future(create(running))
        await hold.has(1)
        for _ in range(SILENT_TURNS_MAX):
            server.committer.turn()
        server.supervisor.turn()

        assert server.supervisor.health.problems == [f"the store has not answered for {server.committer.silence} s"]
        assert await health_of(running) == NOT_SERVING
        hold.release()
        await waiting
    server.supervisor.turn()

    assert await health_of(running) == SERVING


async def test_a_change_that_the_store_does_not_answer_is_told_after_half_a_minute_and_may_have_been_made(
    running: Running,
) -> None:
    async with held(running.server) as hold:
        first = asyncio.ensure_future(create(running, "first", request_id="request-1"))
        await hold.has(1)
        for _ in range(WAIT_TURNS_MAX + 1):
            running.server.committer.turn()
        refusal = await refused(first)
        hold.release()

    assert refusal.brief == ("UNAVAILABLE", "STORE_UNAVAILABLE")
    assert refusal.message == (
        "the store has not answered for 30 s: the outcome is unknown, repeat with the same request_id"
    )
    assert (await create(running, "first", request_id="request-1")).id == "first"
    assert running.server.committer.backlog == 0


async def test_a_batch_of_a_stream_that_the_store_does_not_answer_is_refused_update_by_update(
    running: Running,
) -> None:
    async with held(running.server):
        updates = [pb.JobUpdate(create=pb.CreateRequest(job_type="default")) for _ in range(3)]
        stream = running.jobs.StreamUpdates()
        await stream.write(pb.StreamUpdatesRequest(batch=1, updates=updates))
        async with asyncio.timeout(PATIENCE_S):
            while running.server.committer.backlog < len(updates):
                await running.jobs.ListJobTypes(pb.ListJobTypesRequest())
        for _ in range(WAIT_TURNS_MAX + 1):
            running.server.committer.turn()
        answer = await stream.read()

    assert isinstance(answer, pb.StreamUpdatesResponse)
    assert [outcome.refusal.reason for outcome in answer.outcomes] == ["STORE_UNAVAILABLE"] * 3
    stream.cancel()


async def test_while_nobody_calls_the_store_is_looked_at_all_the_same(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object) -> None:
        raise StoreUnreachable("the disk is gone")

    server = running.server
    monkeypatch.setattr(server.committer._writer, "_work_once", unreachable)
    for _ in range(PROBE_TURNS):
        server.supervisor.turn()
    async with asyncio.timeout(PATIENCE_S):
        while server.supervisor.health.is_serving:
            await server.readers.probe()

    assert server.supervisor.health.problems == ["the store cannot be written: the disk is gone"]
    assert await health_of(running) == NOT_SERVING


async def test_a_server_whose_store_does_not_answer_stops_all_the_same_and_tells_who_waits(running: Running) -> None:
    async with held(running.server) as hold:
        waiting = asyncio.ensure_future(create(running))
        await hold.has(1)
        async with asyncio.timeout(PATIENCE_S):
            await running.server.stop()
        refusal = await refused(waiting)

    assert refusal.code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
