"""The workers of the demo: each takes one job through its scene."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from jobstate_client.aio.client import AsyncClient
from jobstate_client.core.states import State
from jobstate_client.core.values import Job, NewJob
from jobstate_client.demo.scene import Act, Attempt, Ending
from jobstate_client.demo.tracker import Tracker
from jobstate_client.errors import AttemptSuperseded, JobCancelled, JobStateError

STEP_PERCENT = 5

REACTION_S = 0.4
"""How long a worker takes to claim a job, so that people see it wait."""


class Unexpected(Exception):
    """The outcome was not the expected one. The message says what differs."""


class Worker:
    """Creates a job and works on it until it is final."""

    def __init__(self, client: AsyncClient, tracker: Tracker, act: Act) -> None:
        self._client = client
        self._tracker = tracker
        self._act = act
        self._name = f"worker-{act.job_id.rpartition('-')[2]}"

    async def run(self) -> None:
        """Play the whole life of the job.

        Raises:
            Unexpected: the server gave another answer than it should.
        """
        act = self._act
        await asyncio.sleep(act.starts_after)
        await self._create()
        late: Job | None = None
        for number, attempt in enumerate(act.attempts, start=1):
            job = await self._start(number)
            if late is not None:
                await self._must_be_refused(self._client.complete(late), AttemptSuperseded)
            await self._work(job, attempt)
            await self._end(job, attempt)
            # A worker whose attempt timed out reports later, and must not be taken for its successor.
            late = job if attempt.ending is Ending.FALLS_SILENT else None
        await self._tracker.until(act.job_id, lambda job: job.is_final)

    async def _create(self) -> None:
        act = self._act
        await self._client.create(
            NewJob(
                act.job_type,
                id=act.job_id,
                source_id=act.source_id,
                metadata={"language": "en", "requested_by": "demo"},
                max_retries=act.max_retries,
            )
        )

    async def _start(self, number: int) -> Job:
        if number > 1:
            # The server resumes a job when the wait for its retry is over, and the watch reports it.
            await self._tracker.until(self._act.job_id, lambda job: job.attempt == number)
        await asyncio.sleep(REACTION_S)
        job = await self._client.start(self._act.job_id, worker=self._name)
        if job.attempt != number:
            raise Unexpected(f"{job.id}: start returned attempt {job.attempt} instead of {number}")
        return job

    async def _work(self, job: Job, attempt: Attempt) -> None:
        # Complete itself sets the progress to 100.
        steps = range(STEP_PERCENT, min(attempt.until, 99) + 1, STEP_PERCENT)
        messages = self._act.messages
        for percent in steps:
            await asyncio.sleep(attempt.seconds / len(steps))
            message = messages[min(percent * len(messages) // 100, len(messages) - 1)]
            # Usage is a total of the attempt so far, so that a report that is sent twice counts once.
            await self._client.progress(job, percent, message, tokens=percent * 40, cost=percent * 0.0004)

    async def _end(self, job: Job, attempt: Attempt) -> None:
        match attempt.ending:
            case Ending.COMPLETES:
                await self._client.complete(job, result_count=12)
            case Ending.FAILS:
                await self._client.fail(job, attempt.code, attempt.message)
            case Ending.FALLS_SILENT:
                await self._tracker.until(job.id, lambda job: job.state is not State.PROCESSING)
            case Ending.IS_CANCELLED:
                await self._client.cancel(job, attempt.message)
                await self._must_be_refused(self._client.progress(job, attempt.until, "working"), JobCancelled)

    async def _must_be_refused(self, call: Awaitable[object], error: type[JobStateError]) -> None:
        try:
            await call
        except error:
            return
        except JobStateError as other:
            answer = type(other).__name__
        else:
            answer = "success"
        state = self._tracker.jobs[self._act.job_id].state
        raise Unexpected(f"{self._act.job_id} ({state}): a call returned {answer} instead of {error.__name__}")
