"""PostgreSQL goes away and comes back: nobody is failed for it, nothing answered is lost, and nobody restarts us."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
import psycopg
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2

from jobstate.v1 import job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.domain.durations import MINUTE, SECOND
from jobstate_server.engine.downtime import ALIVE_WITHIN, OUTAGE_MIN, RENEW_INTERVAL
from jobstate_server.engine.store_state import PROBE_INTERVAL

from ..support.calls import (
    Refusal,
    complete,
    create,
    get,
    health_of,
    history,
    names,
    refusal_of,
    report,
    settled,
    start,
    until_health_is,
    watching_live,
)
from ..support.clock import PATIENCE_S, WatchedClock
from ..support.postgres import PostgresServer, own_server, postgres_server
from ..support.server import Client, serving_url

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

RESTART_GRACE = 30 * SECOND


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL that these tests may stop."""
    with own_server() as server:
        yield server


@asynccontextmanager
async def stopped(postgres: PostgresServer) -> AsyncIterator[None]:
    """Shut down meanwhile, as an operator does."""
    await asyncio.to_thread(postgres.stop)
    try:
        yield
    finally:
        await asyncio.to_thread(postgres.start)


async def answer_of(client: Client, job_id: str) -> job_pb2.Job | Refusal:
    """The job made, or how that was refused."""
    request = pb.CreateRequest(id=job_id, job_type="default", request_id=f"request-{job_id}")
    (answer,) = await asyncio.gather(client.jobs.Create(request, timeout=PATIENCE_S), return_exceptions=True)
    return answer.job if isinstance(answer, pb.CreateResponse) else refusal_of(answer)  # type: ignore[arg-type]


async def test_a_restart_of_postgresql_needs_no_restart_of_ours_and_no_watcher_misses_anything(
    postgres: PostgresServer,
) -> None:
    url = postgres.new_store()
    async with AsyncExitStack() as stack:
        pair = [await stack.enter_async_context(serving_url(url)) for _ in range(2)]
        watches = [await stack.enter_async_context(watching_live(replica)) for replica in pair]
        for number, replica in enumerate(pair):
            await create(replica, f"before-{number}")
        async with stopped(postgres):
            refusals = [await answer_of(replica, "meanwhile") for replica in pair]
            reading = await asyncio.gather(get(pair[0], "before-0"), return_exceptions=True)
            for replica in pair:
                await until_health_is(replica, NOT_SERVING)
        for replica in pair:
            await until_health_is(replica, SERVING)
        for number, replica in enumerate(pair):
            await create(replica, f"after-{number}")
            assert (await get(pair[1 - number], f"after-{number}")).id == f"after-{number}"
        everything = await history(pair[1])
        seen = [await watch.events(len(everything)) for watch in watches]

    for refusal in (*refusals, refusal_of(reading[0])):  # type: ignore[arg-type]
        assert isinstance(refusal, Refusal)
        assert refusal.brief == ("UNAVAILABLE", "STORE_UNAVAILABLE")
        assert refusal.detail(error_details_pb2.RetryInfo).retry_delay.ToTimedelta().total_seconds() > 0
    assert seen == [everything, everything]
    answered = {"before-0", "before-1", "after-0", "after-1"}
    assert answered <= {event.job.id for event in everything} <= answered | {"meanwhile"}


async def test_a_call_repeated_until_postgresql_is_back_is_done_once(postgres: PostgresServer) -> None:
    """With the same request_id, on whichever replica, whatever became of the tries before."""
    url = postgres.new_store()
    async with AsyncExitStack() as stack:
        pair = [await stack.enter_async_context(serving_url(url)) for _ in range(2)]
        tries = 0

        async def until_done(name: str) -> None:
            nonlocal tries
            answer: job_pb2.Job | Refusal | None = None
            async with asyncio.timeout(PATIENCE_S):
                while not isinstance(answer, job_pb2.Job):
                    answer = await answer_of(pair[tries % 2], name)
                    tries += 1

        async with stopped(postgres):
            callers = [asyncio.ensure_future(until_done(f"job-{number}")) for number in range(10)]
            await until_health_is(pair[0], NOT_SERVING)
        await asyncio.gather(*callers)
        created = await history(pair[0])

    assert sorted(event.job.id for event in created) == sorted(f"job-{number}" for number in range(10))


async def test_timeouts_that_passed_while_postgresql_was_away_are_postponed(postgres: PostgresServer) -> None:
    """The worker could not report: its attempt must not fail for an outage of ours."""
    clock = WatchedClock()
    async with serving_url(postgres.new_store(), clock) as running:
        clock.advance(RESTART_GRACE)
        await create(running, "job", "clean_transcript")
        await start(running)
        async with stopped(postgres):
            await clock.armed(RENEW_INTERVAL)
            clock.advance(RENEW_INTERVAL)
            await until_health_is(running, NOT_SERVING)
            clock.advance(2 * MINUTE)
        await clock.armed(PROBE_INTERVAL)
        clock.advance(PROBE_INTERVAL)
        await until_health_is(running, SERVING)
        await settled(running)
        assert running.server.committer.grace_until > clock.now() + RESTART_GRACE - MINUTE
        assert (await get(running)).state == job_pb2.JOB_STATE_PROCESSING
        assert (await complete(running)).state == job_pb2.JOB_STATE_COMPLETED


def cut_all(url: str) -> None:
    """End every connection of ours, as when the network fails for a moment, and wait until all are gone."""
    ours = "SELECT pid FROM pg_stat_activity WHERE application_name = 'jobstate-server'"
    with psycopg.connect(url, autocommit=True) as operator:
        processes = [pid for (pid,) in operator.execute(ours)]
        operator.execute("SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) AS pid", (processes,))
        while operator.execute(f"{ours} AND pid = ANY(%s)", (processes,)).fetchall():
            pass


async def cut() -> None:
    """Cut off all servers; new connections can be made at once."""
    await asyncio.to_thread(cut_all, postgres_server().url)


async def test_connections_that_were_cut_are_made_anew_unnoticed() -> None:
    """Neither a call nor a read fails, timeouts stay where they were, and the watch goes on."""
    clock = WatchedClock()
    async with serving_url(postgres_server().new_store(), clock) as running, watching_live(running) as watch:
        await settled(running)
        grace = running.server.committer.grace_until
        await create(running)
        await start(running)
        for number in range(3):
            await cut()
            await report(running, progress=number)
            await cut()
            assert (await get(running)).progress == number
            await cut()
            assert [job.progress for job in (await running.jobs.List(pb.ListRequest())).jobs] == [number]
            assert await health_of(running) == SERVING
        events = await watch.events(5)

    assert names(events) == ["queued", "started", "progress", "progress", "progress"]
    assert running.server.committer.grace_until == grace


async def test_an_outage_shorter_than_it_takes_to_notice_postpones_nothing() -> None:
    clock = WatchedClock()
    async with serving_url(postgres_server().new_store(), clock) as running:
        await settled(running)
        grace = running.server.committer.grace_until
        clock.advance(OUTAGE_MIN)
        await cut()
        clock.advance(OUTAGE_MIN)
        await create(running)

    assert running.server.committer.grace_until == grace


async def test_a_notifier_alone_that_is_cut_costs_no_watcher_an_event() -> None:
    url = postgres_server().new_store()
    async with AsyncExitStack() as stack:
        one, other = [await stack.enter_async_context(serving_url(url)) for _ in range(2)]
        watch = await stack.enter_async_context(watching_live(other))
        assert other.server.replication is not None
        for number in range(3):
            process = other.server.replication.listener._notifier._database.process  # type: ignore[attr-defined]
            with psycopg.connect(url, autocommit=True) as operator:
                operator.execute("SELECT pg_terminate_backend(%s, 20000)", (process,))
            await create(one, f"job-{number}")
            (event,) = await watch.events(1)
            assert event.job.id == f"job-{number}"


async def test_a_database_that_has_lost_events_ends_the_watches_that_saw_them_and_serves_on() -> None:
    """As after a fail-over to a standby that was behind: what was answered is gone, and nobody is told otherwise."""
    url = postgres_server().new_store()
    async with serving_url(url) as replica:
        async with watching_live(replica) as watch:
            kept = await create(replica, "kept")
            await create(replica, "lost")
            await watch.events(2)
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("DELETE FROM event WHERE sequence > %s", (kept.version,))
                connection.execute("DELETE FROM job WHERE id = 'lost'")
                connection.execute("UPDATE log SET head = %s", (kept.version,))
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                await watch.response()
        again = await create(replica, "again")
        async with watching_live(replica) as new:
            await create(replica, "newest")
            seen = await new.events(1)
        everything = await history(replica)

    assert refusal_of(ended.value).brief == ("FAILED_PRECONDITION", "CURSOR_UNKNOWN")
    assert again.version == kept.version + 1
    assert [event.job.id for event in seen] == ["newest"]
    assert [event.job.id for event in everything] == ["kept", "again", "newest"]


async def test_a_replica_that_joins_others_postpones_no_timeout_and_one_that_comes_alone_does() -> None:
    url, clock = postgres_server().new_store(), WatchedClock()
    async with serving_url(url, clock) as first:
        await settled(first)
        assert first.server.committer.grace_until == clock.now() + RESTART_GRACE
        clock.advance(RESTART_GRACE)
        await create(first, "job", "clean_transcript")
        await start(first)
        async with serving_url(url, clock) as second, watching_live(second) as watch:
            await settled(second)
            assert second.server.committer.grace_until == 0
            clock.advance(MINUTE)
            (failed, *_) = await watch.events(2)
            assert failed.failed.error.code == "ATTEMPT_TIMEOUT"
    async with serving_url(url, clock) as alone:
        await settled(alone)
        assert alone.server.committer.grace_until == clock.now() + RESTART_GRACE


async def test_a_replica_that_comes_when_all_others_have_fallen_silent_postpones_timeouts() -> None:
    url, clock = postgres_server().new_store(), WatchedClock()
    async with serving_url(url, clock) as silent:
        await settled(silent)
        silent.server.membership._is_stopping = True
        clock.advance(ALIVE_WITHIN)
        async with serving_url(url, clock) as soon:
            await settled(soon)
            # It may be that one's successor: for as long nobody may have been there.
            assert soon.server.committer.grace_until == clock.now() + ALIVE_WITHIN
            soon.server.membership._is_stopping = True
        clock.advance(ALIVE_WITHIN + 1)
        async with serving_url(url, clock) as late:
            await settled(late)
            assert late.server.committer.grace_until == clock.now() + RESTART_GRACE
