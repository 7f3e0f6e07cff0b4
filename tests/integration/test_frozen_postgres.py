"""PostgreSQL that keeps its connections and answers nothing: callers and health hear of it, and nobody restarts us."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Iterator

import grpc
import pytest
from grpc_health.v1 import health_pb2

from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.engine.committer import DISCONNECT_TURNS
from jobstate_server.store.postgres.connection import Postgres
from jobstate_server.supervision.supervisor import SILENT_TURNS_MAX

from ..support.calls import create, get, health_of, refused, until_health_is, watching_live
from ..support.clock import PATIENCE_S
from ..support.postgres import PostgresServer, own_server, postgres_server
from ..support.server import client_of, serving_url
from ..support.waiting import until
from .support import take_turns

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL that these tests may freeze."""
    with own_server() as server:
        yield server


async def test_while_postgresql_is_frozen_health_and_callers_are_told_and_all_goes_on_by_itself_when_it_thaws(
    postgres: PostgresServer,
) -> None:
    async with serving_url(postgres.new_store()) as running, watching_live(running) as watch:
        await create(running, "before")
        await watch.events(1)
        server = running.server
        with postgres.frozen():
            calls: list[Awaitable[object]] = [
                asyncio.ensure_future(create(running, "during", request_id="request-1")),
                asyncio.ensure_future(get(running, "before")),
            ]
            await until(lambda: server.committer._under_way and server.readers._running)
            take_turns(running, SILENT_TURNS_MAX)
            assert await health_of(running) == NOT_SERVING
            assert server.supervisor.liveness() is None
            take_turns(running, DISCONNECT_TURNS - SILENT_TURNS_MAX)

            # No more turns are taken by hand: what ends these calls is that their connections were ended.
            for call in calls:
                assert (await refused(call)).brief == ("UNAVAILABLE", "STORE_UNAVAILABLE")
            assert await health_of(running) == NOT_SERVING
        await until_health_is(running, SERVING)
        assert (await create(running, "during", request_id="request-1")).id == "during"
        assert (await get(running, "before")).id == "before"
        (event,) = await watch.events(1)
        assert event.job.id == "during"
        assert not server.supervisor.watchdog._restarts


async def test_a_notifier_that_is_left_without_an_answer_makes_a_new_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hung_up = asyncio.Event()
    loop = asyncio.get_running_loop()
    disconnect = Postgres.disconnect

    def noticed(database: Postgres) -> None:
        disconnect(database)
        loop.call_soon_threadsafe(hung_up.set)

    url = postgres_server().new_store()
    async with serving_url(url) as one, serving_url(url) as other, watching_live(other) as watch:
        assert other.server.replication is not None
        listener = other.server.replication.listener
        monkeypatch.setattr(Postgres, "disconnect", noticed)
        process = listener._notifier._database.process  # type: ignore[attr-defined]
        # Its thread stays where it is: the waits that it goes on with are not counted.
        listener._waits_seen = listener._waits
        for _ in range(DISCONNECT_TURNS + 1):
            listener._waits_seen = listener._waits
            listener.turn()
        async with asyncio.timeout(PATIENCE_S):
            await hung_up.wait()
        await until(lambda: listener._notifier._database.process not in {None, process})  # type: ignore[attr-defined]
        await create(one, "heard")
        (event,) = await watch.events(1)

    assert event.job.id == "heard"


async def test_a_server_whose_postgresql_is_frozen_stops_when_told_and_tells_who_waits(
    postgres: PostgresServer,
) -> None:
    command = [sys.executable, "-m", "jobstate_server", "serve", "--listen", "127.0.0.1:0"]
    process = await asyncio.create_subprocess_exec(
        *command,
        *("--store", postgres.new_store()),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "JOBSTATE_SHUTDOWN_GRACE": "1s"},
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            address = (await process.stdout.readline()).decode().rpartition(" ")[2].strip()
            async with client_of(address) as client:
                await create(client, "before")
                with postgres.frozen():
                    waiting = [
                        asyncio.ensure_future(client.jobs.Create(pb.CreateRequest(id="during", job_type="default"))),
                        asyncio.ensure_future(client.jobs.Get(pb.GetRequest(id="before"))),
                    ]
                    await until_health_is(client, NOT_SERVING)
                    process.send_signal(signal.SIGTERM)
                    _, log = await process.communicate()
                    codes = {(await refused(call)).code for call in waiting}
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()

    assert process.returncode == 0
    assert codes <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    assert b"the store has not answered for" in log
    assert b"Traceback" not in log
