"""Servers that share one PostgreSQL are one service: whichever is asked, the answer is the same."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import psycopg
import pytest
from grpc_health.v1 import health_pb2

from jobstate.v1 import job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate.v1 import maintenance_service_pb2 as mpb
from jobstate_server.clock import Clock
from jobstate_server.domain.durations import MINUTE, SECOND
from jobstate_server.domain.job import Job, JobState
from jobstate_server.engine.downtime import RENEW_INTERVAL
from jobstate_server.engine.subscribers import Subscribers
from jobstate_server.maintenance.task import StillClaimed, Task
from jobstate_server.store.base import REPLICA_LEASE
from jobstate_server.store.postgres.store import PostgresStore
from jobstate_server.store.records import ChangedJob, Changes, TaskRun

from ..support.calls import (
    Refusal,
    Watch,
    complete,
    create,
    fail,
    get,
    health_of,
    history,
    names,
    refusal_of,
    refused,
    report,
    retry,
    settled,
    span,
    start,
    watching,
    watching_live,
)
from ..support.clock import PATIENCE_S, WatchedClock
from ..support.postgres import postgres_server
from ..support.server import Client, Running, serving_url
from .support import events_after, live_out

NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def url() -> str:
    """The URL of a store that is not there yet."""
    return postgres_server().ready_store()


@asynccontextmanager
async def replicas(
    url: str, count: int = 2, clock: Clock | None = None, **settings: Any
) -> AsyncIterator[list[Running]]:
    """Servers on one store; with a clock, all go by it."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(serving_url(url, clock, **settings)) for _ in range(count)]


@pytest.fixture
async def pair(url: str) -> AsyncIterator[list[Running]]:
    async with replicas(url) as pair:
        yield pair


# Calls.


async def outcome_of_start(client: Client, worker: str) -> job_pb2.Job | Refusal:
    """The job, or how the Start was refused."""
    (answer,) = await asyncio.gather(start(client, worker=worker), return_exceptions=True)
    return answer if isinstance(answer, job_pb2.Job) else refusal_of(answer)  # type: ignore[arg-type]


async def test_of_200_racing_starts_over_two_replicas_one_wins_and_199_are_refused(pair: list[Running]) -> None:
    await create(pair[0])

    outcomes = await asyncio.gather(*(outcome_of_start(pair[number % 2], f"worker-{number}") for number in range(200)))

    (winner,) = [outcome for outcome in outcomes if isinstance(outcome, job_pb2.Job)]
    losers = [outcome.brief for outcome in outcomes if isinstance(outcome, Refusal)]
    assert losers == [("FAILED_PRECONDITION", "TRANSITION_NOT_ALLOWED")] * 199
    for replica in pair:
        assert await get(replica) == winner
        assert names(await history(replica)) == ["queued", "started"]


async def test_of_100_racing_creates_of_one_id_over_two_replicas_one_makes_the_job(pair: list[Running]) -> None:
    answers = await asyncio.gather(*(create(pair[number % 2]) for number in range(100)), return_exceptions=True)

    assert sum(isinstance(answer, job_pb2.Job) for answer in answers) == 1
    assert names(await history(pair[1])) == ["queued"]


async def test_a_request_id_is_known_to_every_replica(pair: list[Running]) -> None:
    request = pb.CreateRequest(job_type="default", source_id="source", request_id="request-1")
    made = await pair[0].jobs.Create(request)

    repeated = await pair[1].jobs.Create(request)
    request.source_id = "another"
    refusal = await refused(pair[1].jobs.Create(request))

    assert repeated.job.id == made.job.id
    assert refusal.brief == ("ALREADY_EXISTS", "REQUEST_ID_REUSED")


async def test_one_request_id_raced_over_two_replicas_makes_one_job(pair: list[Running]) -> None:
    request = pb.CreateRequest(job_type="default", request_id="request-1")

    answers = await asyncio.gather(*(pair[number % 2].jobs.Create(request) for number in range(60)))

    assert len({answer.job.id for answer in answers}) == 1
    assert len(await history(pair[0])) == 1


async def test_the_fence_of_an_attempt_stands_on_every_replica(pair: list[Running]) -> None:
    one, other = pair
    await create(one)
    await start(other)
    await fail(one, attempt=1)
    await retry(other, immediately=True)
    assert (await start(one)).attempt == 2

    assert (await refused(complete(other, attempt=1))).reason == "ATTEMPT_SUPERSEDED"
    assert (await refused(complete(one))).reason == "ATTEMPT_REQUIRED"
    assert (await complete(other, attempt=2)).state == job_pb2.JOB_STATE_COMPLETED


async def test_what_one_replica_has_answered_every_other_reads(pair: list[Running]) -> None:
    for number in range(25):
        for writer, reader in (pair, pair[::-1]):
            job_id = f"{number}-{pair.index(writer)}"
            made = await create(writer, job_id, source_id=job_id)
            assert await get(reader, job_id) == made
            listed = await reader.jobs.List(pb.ListRequest(source_id=job_id))
            assert list(listed.jobs) == [made]


async def test_a_page_token_of_one_replica_goes_on_at_another(pair: list[Running]) -> None:
    for number in range(6):
        await create(pair[0], f"job-{number}")
    found, token = [], ""
    for number in range(3):
        page = await pair[number % 2].jobs.List(pb.ListRequest(page_size=2, page_token=token))
        found += [job.id for job in page.jobs]
        token = page.next_page_token

    assert sorted(found) == [f"job-{number}" for number in range(6)]


# Watching.


async def test_a_watch_opened_after_an_answer_of_another_replica_begins_after_it(pair: list[Running]) -> None:
    """Whoever was answered may open a watch anywhere: what he knows already does not come again."""
    writer, reader = pair
    for number in range(100):
        await create(writer, f"job-{number}")

        async with watching(reader, pb.WatchEventsRequest(follow=False)) as watch:
            (synced,) = await watch.rest()
        assert await events_after(writer, synced.cursor) == []


async def test_a_history_read_after_an_answer_of_another_replica_has_it(pair: list[Running]) -> None:
    writer, reader = pair
    async with watching_live(reader):
        for number in range(100):
            await create(writer, f"job-{number}")

            assert names(await history(reader, f"job-{number}")) == ["queued"]


async def test_a_cursor_of_one_replica_is_resumed_on_another_and_gives_exactly_what_follows(
    pair: list[Running],
) -> None:
    one, other = pair
    await live_out(one, "before")
    async with watching_live(one) as watch:
        await live_out(other, "during")
        await watch.events(3)
        async with watching(one, pb.WatchEventsRequest(follow=False)) as synced:
            cursor = (await synced.rest())[-1].cursor
    await live_out(one, "after")

    following = await events_after(other, cursor)

    assert [event.job.id for event in following] == ["after"] * 3
    assert following == (await history(one))[-3:]


async def sequences(watch: Watch, count: int) -> list[int]:
    """Of the next so many events."""
    return [event.sequence for event in await watch.events(count)]


async def test_watchers_of_every_replica_see_all_events_of_all_in_order_and_once(pair: list[Running]) -> None:
    jobs = 60

    async def work(replica: Running, name: str) -> None:
        for number in range(jobs):
            await live_out(replica, f"{name}-{number}", source_id=name)

    async with AsyncExitStack() as stack:
        watches = [await stack.enter_async_context(watching_live(replica)) for replica in pair]
        filtered = await stack.enter_async_context(watching_live(pair[1], source_ids=["a"]))
        named = await stack.enter_async_context(watching_live(pair[0], job_ids=["b-7", "a-9"]))
        writing = [work(replica, name) for replica, name in zip(pair * 2, "abcd", strict=True)]
        *seen, of_source, of_jobs, _, _, _, _ = await asyncio.gather(
            *(sequences(watch, 12 * jobs) for watch in watches),
            sequences(filtered, 3 * jobs),
            sequences(named, 6),
            *writing,
        )

    everything = [event.sequence for event in await history(pair[0])]
    assert everything == list(range(1, 12 * jobs + 1))
    assert seen == [everything, everything]
    assert of_source == [event.sequence for event in await history(pair[0], source_ids=["a"])]
    assert of_jobs == [event.sequence for event in await history(pair[0], "b-7", "a-9")]


async def test_a_replica_nobody_watches_on_reads_no_events_and_misses_none_once_somebody_does(
    pair: list[Running],
) -> None:
    one, other = pair
    await live_out(one, "unwatched")
    assert other.server.feed.head == 0

    async with watching_live(other) as watch:
        await live_out(one, "watched")
        assert [event.job.id for event in await watch.events(3)] == ["watched"] * 3


# Time.


@pytest.mark.parametrize("way", ["by a notification", "by polling"])
async def test_a_retry_that_one_replica_wrote_is_resumed_by_another_when_that_one_is_gone(
    pair: list[Running], way: str
) -> None:
    gone, left = pair
    for replica in pair:
        await settled(replica)
    gone.server.due_timer.stop()
    await gone.server.membership.stop()
    if way == "by a notification":
        await left.server.membership.stop()
    else:
        assert left.server.replication is not None
        left.server.replication.due_written = Subscribers(lambda: None)
    await create(gone)
    await start(gone)
    async with watching_live(left) as watch:
        await fail(gone, retry_delay=span(0.01))

        _, _, started = await watch.events(3)

        await settled(left)

    assert started.started.resumed
    assert left.server.committer.counters.events == 1


async def test_a_retry_in_the_hands_of_a_replica_that_dies_is_resumed_by_another(url: str) -> None:
    """It was passed over when it was due, and nobody tells when the hands that held it are gone."""
    clock = WatchedClock()
    async with serving_url(url, clock) as running:
        await create(running)
        await start(running)
        await fail(running)
        async with watching_live(running) as watch:
            with psycopg.connect(url) as dying:
                dying.execute("SELECT 1 FROM job FOR UPDATE")
                clock.advance(SECOND)
                await settled(running)
                assert (await get(running)).state == job_pb2.JOB_STATE_RETRYING
                dying.rollback()

            await clock.armed(RENEW_INTERVAL - SECOND)
            clock.advance(RENEW_INTERVAL - SECOND)
            (started,) = await watch.events(1)

    assert started.started.resumed


def retrying(number: int, due: int) -> Job:
    """A job that has failed once and waits."""
    return Job(
        id=f"job-{number:05}",
        create_sequence=number + 1,
        job_type="default",
        state=JobState.RETRYING,
        attempt=1,
        retry_count=1,
        max_retries=3,
        create_time=number,
        next_retry_time=due,
        due_time=due,
    )


async def test_10_000_retries_that_fall_due_at_one_moment_are_resumed_once_each_by_three_replicas(url: str) -> None:
    count, clock = 10_000, WatchedClock()
    due = clock.now() + MINUTE
    store = PostgresStore(url, clock)
    with store.transaction() as transaction:
        transaction.write(Changes(inserted=[ChangedJob(retrying(number, due), None) for number in range(count)]))
    store.close()

    async with replicas(url, 3, clock) as three:
        async with watching_live(three[0]) as watch:
            for replica in three:
                await settled(replica)
            clock.advance(MINUTE)
            async with asyncio.timeout(60):
                events = await watch.events(count)
        for replica in three:
            await settled(replica)
        done = [replica.server.committer.counters.events for replica in three]
        assert await history(three[1]) == events

    assert Counter(event.job.id for event in events) == Counter({f"job-{number:05}": 1 for number in range(count)})
    assert {(event.job.attempt, event.started.resumed) for event in events} == {(2, True)}
    assert [event.sequence for event in events] == list(range(1, count + 1))
    assert sum(done) == count


# Tasks.


def has_run(replica: Running, token: str = "ran") -> list[str]:
    """Have this replica's evict-inactive do nothing but note that it ran."""
    ran: list[str] = []

    async def run_scheduled(still_claimed: StillClaimed) -> str:
        assert await still_claimed()
        ran.append(token)
        return token

    replica.server.tasks.evict_inactive.run_scheduled = run_scheduled  # type: ignore[method-assign]
    return ran


async def last_run(replica: Running, task: str = "evict-inactive") -> TaskRun | None:
    """The last run of a task, as the store has it."""
    return (await replica.server.readers.run(lambda reader: reader.task_runs())).get(task)


async def runs_done(replica: Running) -> None:
    """Wait until this replica's runs have ended."""
    async with asyncio.timeout(PATIENCE_S):
        await replica.server.schedule.idle()


async def test_a_task_runs_once_for_each_instant_over_all_replicas(url: str) -> None:
    clock = WatchedClock()
    async with replicas(url, 3, clock) as three:
        ran = [has_run(replica) for replica in three]
        for instant in (5, 6, 7):
            await asyncio.gather(
                *(
                    replica.server.schedule.run_claimed(replica.server.tasks.evict_inactive, instant)
                    for replica in three
                )
            )

            assert sum(map(len, ran)) == instant - 4
        run = await last_run(three[0])

    assert run is not None
    assert (run.last_due, run.outcome) == (7, "ran")


class Gate:
    """A run that is in the middle of its work until the test lets it go on."""

    def __init__(self, task: Task) -> None:
        self.began = asyncio.Event()
        self.may_go_on = asyncio.Event()
        self.was_ours: bool | None = None
        task.run_scheduled = self.run_scheduled  # type: ignore[method-assign]

    async def run_scheduled(self, still_claimed: StillClaimed) -> str:
        """Wait, then ask as before every slice."""
        self.began.set()
        await self.may_go_on.wait()
        self.was_ours = await still_claimed()
        return "late"


async def test_a_run_of_a_replica_that_fell_silent_is_taken_over_after_its_lease_and_goes_no_further(
    url: str,
) -> None:
    clock = WatchedClock()
    async with replicas(url, 2, clock) as (silent, heir):
        gate, taken = Gate(silent.server.tasks.evict_inactive), has_run(heir, "taken over")
        running = asyncio.ensure_future(silent.server.schedule.run_claimed(silent.server.tasks.evict_inactive, 5))
        async with asyncio.timeout(PATIENCE_S):
            await gate.began.wait()
        await settled(silent)
        silent.server.membership._is_stopping = True
        clock.advance(REPLICA_LEASE - 1)
        await heir.server.schedule.look_for_abandoned()
        await runs_done(heir)
        assert taken == []

        clock.advance(1)
        await heir.server.schedule.look_for_abandoned()
        await runs_done(heir)
        assert taken == ["taken over"]
        gate.may_go_on.set()
        async with asyncio.timeout(PATIENCE_S):
            await running
        run = await last_run(heir)

    assert gate.was_ours is False
    assert run is not None
    assert (run.outcome, run.replica, run.last_due) == ("taken over", heir.server.replica, 5)


async def test_a_run_of_a_replica_that_stopped_is_taken_over_without_waiting_for_its_lease(url: str) -> None:
    clock = WatchedClock()
    async with serving_url(url, clock) as heir:
        taken = has_run(heir, "taken over")
        async with serving_url(url, clock) as stopped:
            gate = Gate(stopped.server.tasks.evict_inactive)
            stopped.server.schedule._begin(stopped.server.schedule.run_claimed(stopped.server.tasks.evict_inactive, 5))
            async with asyncio.timeout(PATIENCE_S):
                await gate.began.wait()
        await heir.server.schedule.look_for_abandoned()
        await runs_done(heir)

    assert taken == ["taken over"]


async def test_progress_of_one_job_over_two_replicas_is_all_in_its_history(pair: list[Running]) -> None:
    await create(pair[0])
    await start(pair[0])

    await asyncio.gather(*(report(pair[number % 2], progress=number) for number in range(100)))

    events = await history(pair[0], "job")
    assert sorted(event.job.progress for event in events[2:]) == list(range(100))
    assert (await get(pair[1])).version == events[-1].job.version == events[-1].sequence


async def test_replicas_agree_on_how_many_job_types_come_to_be_and_on_which(url: str) -> None:
    """At once through all of them, and afterwards each takes what any of them has made."""
    async with replicas(url, 3, max_job_types=2) as three:
        wanted = [(replica, f"type-{number}") for replica in three for number in range(4)]
        made = await asyncio.gather(
            *(create(replica, "", job_type) for replica, job_type in wanted), return_exceptions=True
        )
        types = {job.job_type for job in made if isinstance(job, job_pb2.Job)}
        assert len(types) == 2

        for replica in three:
            for number in range(4):
                job_type = f"type-{number}"
                (answer,) = await asyncio.gather(create(replica, "", job_type), return_exceptions=True)
                if job_type in types:
                    assert isinstance(answer, job_pb2.Job)
                else:
                    assert isinstance(answer, grpc.aio.AioRpcError)
                    assert refusal_of(answer).reason == "UNKNOWN_JOB_TYPE"


async def test_replicas_and_their_successors_agree_on_how_the_jobs_are(url: str) -> None:
    async with replicas(url, 3) as three:
        for number in range(10):
            await create(three[number % 3], f"job-{number}")
            await start(three[0], f"job-{number}")
            await fail(three[1], f"job-{number}", retryable=False)
        reports = [await replica.maintenance.CheckHealth(mpb.CheckHealthRequest()) for replica in three]
        sentence = "100% of the 10 jobs of type default that ended within an hour failed for good; the limit is 50%"
        assert [(list(report.problems), report.failure_rate) for report in reports] == [([sentence], 1.0)] * 3

        first = three[0].server
        await first.schedule.run_claimed(first.tasks.check_health, first.clock.now())
        for replica in three:
            await replica.server._read_jobs_health()
            assert await health_of(replica, "jobs") == NOT_SERVING

    async with replicas(url, 1) as (successor,):
        assert await health_of(successor, "jobs") == NOT_SERVING
