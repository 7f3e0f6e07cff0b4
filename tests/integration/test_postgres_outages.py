"""What health says and callers are answered while PostgreSQL is out of reach; afterwards all goes on by itself."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from urllib.parse import urlsplit

import psycopg
import pytest
from grpc_health.v1 import health_pb2

from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.engine.committer import DISCONNECT_TURNS, WAIT_TURNS_MAX
from jobstate_server.supervision.supervisor import PROBE_TURNS, SILENT_TURNS_MAX

from ..support.calls import Refusal, create, get, health_of, refused, until_health_is, watching_live
from ..support.clock import PATIENCE_S
from ..support.postgres import PostgresServer, own_server
from ..support.server import Running, serving_url
from ..support.tcp_proxy import TcpProxy, tcp_proxy
from ..support.waiting import until
from .support import take_turns

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

STORE_UNAVAILABLE = ("UNAVAILABLE", "STORE_UNAVAILABLE")


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL that these tests may mistreat."""
    with own_server() as server:
        yield server


class Network:
    """The network between a server and PostgreSQL: a proxy on an event loop of its own, for the server blocks ours."""

    def __init__(self, loop: asyncio.AbstractEventLoop, proxy: TcpProxy) -> None:
        self.address = proxy.address
        self._loop, self._proxy = loop, proxy

    def swallow(self) -> None:
        """Keep all connections, and carry nothing any more."""
        self._loop.call_soon_threadsafe(self._proxy.stop_forwarding)

    def recover(self) -> None:
        """Carry everything again."""
        self._loop.call_soon_threadsafe(self._proxy.go_on)


@contextmanager
def network_to(upstream: str) -> Iterator[Network]:
    """A network that leads to this socket."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    stack = AsyncExitStack()
    entering = stack.enter_async_context(tcp_proxy(upstream))
    try:
        yield Network(loop, asyncio.run_coroutine_threadsafe(entering, loop).result(PATIENCE_S))
    finally:
        asyncio.run_coroutine_threadsafe(stack.aclose(), loop).result(PATIENCE_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE_S)
        loop.close()


@asynccontextmanager
async def healthy_before_and_after(url: str) -> AsyncIterator[Running]:
    """A server that serves, in the end all that it served before, and no part of which was restarted for an outage."""
    async with serving_url(url) as running, watching_live(running) as watch:
        await create(running, "before")
        await watch.events(1)
        yield running
        await until_health_is(running, SERVING)
        assert (await get(running, "before")).id == "before"
        assert (await create(running, "during", request_id="request-1")).id == "during"
        (event,) = await watch.events(1)
        assert event.job.id == "during"
        assert not running.server.supervisor.watchdog._restarts


async def asked(running: Running) -> list[Refusal]:
    """How a change and a read are refused."""
    calls: list[Awaitable[object]] = [
        running.jobs.Create(pb.CreateRequest(id="during", job_type="default", request_id="request-1")),
        running.jobs.Get(pb.GetRequest(id="before")),
    ]
    return await asyncio.gather(*map(refused, calls))


def briefs(refusals: Sequence[Refusal]) -> list[tuple[str, str]]:
    """Code and reason of each."""
    return [refusal.brief for refusal in refusals]


async def test_a_network_that_swallows_everything_is_told_after_five_seconds_and_given_up_after_fifteen(
    postgres: PostgresServer,
) -> None:
    parts = urlsplit(postgres.new_store())
    directory = parts.query.partition("host=")[2].partition("&")[0]
    options = parts.query.partition("options=")[2]
    with network_to(f"{directory}/.s.PGSQL.5432") as network:
        url = f"postgresql://postgres@{network.address}/postgres?options={options}"
        async with healthy_before_and_after(url) as running:
            server = running.server
            network.swallow()
            asking = asyncio.ensure_future(asked(running))
            await until(lambda: server.committer._under_way and server.readers._running)
            take_turns(running, SILENT_TURNS_MAX)
            assert await health_of(running) == NOT_SERVING
            assert server.supervisor.liveness() is None
            assert server.supervisor.health.problems[0].startswith("the store has not answered for ")

            take_turns(running, DISCONNECT_TURNS - SILENT_TURNS_MAX)
            # No more turns are taken by hand: that their connections were ended ends these calls, not their age.
            refusals = await asking
            assert briefs(refusals) == [STORE_UNAVAILABLE] * 2
            assert not [refusal for refusal in refusals if f"not answered for {WAIT_TURNS_MAX} s" in refusal.message]
            assert await health_of(running) == NOT_SERVING
            network.recover()


async def test_postgresql_that_is_shut_down_is_told_at_the_first_change(postgres: PostgresServer) -> None:
    async with healthy_before_and_after(postgres.new_store()) as running:
        await asyncio.to_thread(postgres.stop)
        try:
            assert briefs(await asked(running)) == [STORE_UNAVAILABLE] * 2
            assert await health_of(running) == NOT_SERVING
            assert running.server.supervisor.health.problems[0].startswith("the store cannot be written: ")
        finally:
            await asyncio.to_thread(postgres.start)


async def test_postgresql_that_is_shut_down_while_nobody_calls_is_told_all_the_same(postgres: PostgresServer) -> None:
    async with healthy_before_and_after(postgres.new_store()) as running:
        await asyncio.to_thread(postgres.stop)
        try:
            take_turns(running, PROBE_TURNS)
            await until_health_is(running, NOT_SERVING)
        finally:
            await asyncio.to_thread(postgres.start)


async def test_postgresql_that_gives_no_connections_is_told_once_one_is_needed_and_not_before(
    postgres: PostgresServer,
) -> None:
    url = postgres.new_store()
    schema = url.rpartition("%3D")[2]
    with psycopg.connect(postgres.url, autocommit=True) as operator:
        operator.execute(f'CREATE ROLE "{schema}" LOGIN'.encode())
        operator.execute(f'ALTER SCHEMA "{schema}" OWNER TO "{schema}"'.encode())
        async with healthy_before_and_after(url.replace("postgres:@", f"{schema}@")) as running:
            operator.execute(f'ALTER ROLE "{schema}" CONNECTION LIMIT 0'.encode())
            # The connections there are go on.
            await running.server.committer.probe()
            await get(running, "before")
            assert await health_of(running) == SERVING
            ended = "SELECT pg_terminate_backend(pid, 20000) FROM pg_stat_activity WHERE usename = %s"
            operator.execute(ended, (schema,))

            assert briefs(await asked(running)) == [STORE_UNAVAILABLE] * 2
            assert await health_of(running) == NOT_SERVING
            assert "too many connections for role" in running.server.supervisor.health.problems[0]
            operator.execute(f'ALTER ROLE "{schema}" CONNECTION LIMIT -1'.encode())
