"""What the demo does to its jobs from outside: it creates them, cancels one, and kills the worker of another."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from jobstate_client.aio.client import AsyncClient
from jobstate_client.core.values import Job, NewJob
from jobstate_client.demo.scene import ACTS, LEASE_S, Act, Ending
from jobstate_client.demo.tracker import Tracker
from jobstate_client.demo.workers import Unexpected, Workers
from jobstate_client.errors import AttemptSuperseded, JobCancelled, JobStateError


class Producer:
    """Plays the part of everybody but the workers."""

    def __init__(self, client: AsyncClient, tracker: Tracker, workers: Workers) -> None:
        self._client = client
        self._tracker = tracker
        self._workers = workers

    async def run(self) -> None:
        """Play the scene until every job is final.

        Raises:
            Unexpected: the server gave another answer than it should.
        """
        self._tracker.say("Three workers, one job each at a time. Eight jobs are created; most of them have to wait.")
        async with asyncio.TaskGroup() as group:
            for act in ACTS:
                await asyncio.sleep(act.pause)
                if act.pause:
                    self._tracker.say(f"{act.job_id} comes last and is {act.priority.value}: it goes first.")
                await self._create(act)
                group.create_task(self._interfere(act))
            group.create_task(self._until_final())

    async def _create(self, act: Act) -> None:
        await self._client.create(
            NewJob(
                act.job_type,
                id=act.job_id,
                source_id=act.source_id,
                metadata={"language": "en", "requested_by": "demo"},
                max_retries=act.max_retries,
                priority=act.priority,
            )
        )

    async def _until_final(self) -> None:
        for act in ACTS:
            await self._tracker.until(act.job_id, lambda job: job.is_final)

    async def _interfere(self, act: Act) -> None:
        """Do what the attempts of this job wait for."""
        for number, attempt in enumerate(act.attempts, start=1):
            if attempt.ending not in {Ending.WORKER_IS_KILLED, Ending.IS_CANCELLED}:
                continue
            job = await self._tracker.until(
                act.job_id,
                lambda job, number=number, until=attempt.until: job.attempt == number and job.progress >= until,  # type: ignore[misc]
            )
            if attempt.ending is Ending.IS_CANCELLED:
                await self._client.cancel(job.id, attempt.message)
                await self._must_be_refused(self._client.progress(job, attempt.until, "working"), JobCancelled)
            else:
                await self._kill_worker_of(job)

    async def _kill_worker_of(self, job: Job) -> None:
        self._tracker.say(f"kill -9 {job.worker}, which has {job.id}. Its lease ends within {LEASE_S} s.")
        await self._workers.kill(job.worker)
        after = await self._tracker.until(job.id, lambda now: now.worker not in {"", job.worker})
        await self._must_be_refused(self._client.complete(job), AttemptSuperseded)
        self._tracker.say(f"{after.worker} has taken over {job.id}. A late report of {job.worker} is refused.")

    async def _must_be_refused(self, call: Awaitable[object], error: type[JobStateError]) -> None:
        try:
            await call
        except error:
            return
        except JobStateError as other:
            answer = type(other).__name__
        else:
            answer = "success"
        raise Unexpected(f"a call returned {answer} instead of {error.__name__}")
