"""Callers who use everything a server offers, and remember what they were answered."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, closing
from typing import Any

import grpc
import psycopg
from grpc_health.v1 import health_pb2

from jobstate.v1 import job_service_pb2 as pb

from .calls import create, fail, get, refusal_of, span, start
from .server import Client
from .waiting import pause

CALLERS = 6
"""How many there are."""

BETWEEN_S = 0.05
"""From one answer to the next call."""


def jobs_in(store: str) -> set[str]:
    """The ids of all jobs in the store at a URL, as a foreign program reads them."""
    if store.startswith("sqlite"):
        with closing(sqlite3.connect(store.removeprefix("sqlite:///"))) as file:
            assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            return {job for (job,) in file.execute("SELECT id FROM job")}
    with psycopg.connect(store) as connection:
        return {job for (job,) in connection.execute("SELECT id FROM job")}


class Callers:
    """Call one server, each a call at a time, whatever becomes of it."""

    def __init__(self, client: Client) -> None:
        self.answered: list[str] = []
        """The jobs whose creation was answered."""
        self.served: Counter[str] = Counter()
        """By caller, its calls that were answered."""
        self.refused: dict[str, set[str]] = defaultdict(set)
        """By caller, the reasons that its calls were refused for."""
        self._client = client
        self._ended = 0
        self.is_over = False
        """Set in the end: grpc.aio may turn the cancellation of a task into an error of its call."""
        self._numbers = iter(range(1_000_000))

    @property
    def ended(self) -> int:
        """Calls that were answered or refused."""
        return self._ended

    def _next_job(self) -> str:
        return f"job-{next(self._numbers)}"

    async def create(self) -> None:
        """Make a job, and look at it."""
        job = await create(self._client, self._next_job())
        self.answered.append(job.id)
        await get(self._client, job.id)

    async def retry(self) -> None:
        """Make a job that is due for a retry at once."""
        job = await create(self._client, self._next_job(), max_retries=1)
        self.answered.append(job.id)
        await start(self._client, job.id)
        await fail(self._client, job.id, retry_delay=span(0.05))

    async def read_the_log(self) -> None:
        """Read all events from the store."""
        request = pb.WatchEventsRequest(start=pb.WATCH_START_EARLIEST, follow=False)
        async for _ in self._client.jobs.WatchEvents(request):
            pass

    async def watch_health(self) -> None:
        """Open a watch of the server's health, and read what it says first."""
        watch = self._client.health.Watch(health_pb2.HealthCheckRequest())
        try:
            await watch.read()
        finally:
            watch.cancel()

    async def stream(self) -> None:
        """Make a job over a stream of updates."""
        stream = self._client.jobs.StreamUpdates()
        try:
            update = pb.JobUpdate(create=pb.CreateRequest(id=self._next_job(), job_type="default"))
            await stream.write(pb.StreamUpdatesRequest(batch=1, updates=[update]))
            answer = await stream.read()
            for outcome in answer.outcomes if isinstance(answer, pb.StreamUpdatesResponse) else ():
                if outcome.HasField("refusal"):
                    self.refused["stream"].add(outcome.refusal.reason)
                else:
                    self.answered.append(outcome.id)
        finally:
            stream.cancel()

    async def wait_for_a_job(self) -> None:
        """Wait a moment for a job that never comes."""
        await self._client.jobs.Acquire(pb.AcquireRequest(job_types=["never"], wait=span(0.2)))

    async def repeat(self, call: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Make a call again and again."""
        while not self.is_over:
            try:
                await call()
                self.served[call.__name__] += 1
            except grpc.aio.AioRpcError as error:
                self.refused[call.__name__].add(refusal_of(error).reason)
            except asyncio.InvalidStateError:
                # grpc.aio says so of a stream that has ended with an error.
                self.refused[call.__name__].add("")
            self._ended += 1
            await pause(BETWEEN_S)


@asynccontextmanager
async def calling(client: Client) -> AsyncIterator[Callers]:
    """Callers of every kind, until the end of the block."""
    callers = Callers(client)
    calls = (
        callers.create,
        callers.retry,
        callers.read_the_log,
        callers.watch_health,
        callers.stream,
        callers.wait_for_a_job,
    )
    tasks = [asyncio.create_task(callers.repeat(call)) for call in calls]
    try:
        yield callers
    finally:
        callers.is_over = True
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(end is None or isinstance(end, asyncio.CancelledError) for end in ends), ends
