"""A sweep: read jobs page by page, decide which ones to act on, have the committer act in slices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from jobstate_server.domain.commands import Command
from jobstate_server.domain.filters import Position
from jobstate_server.domain.job import Job, JobState
from jobstate_server.domain.statistics import Measure
from jobstate_server.engine.committer import Committer
from jobstate_server.engine.readers import Readers
from jobstate_server.maintenance.task import SCAN_JOBS_MAX, SLICE_COMMANDS_MAX, StillOurs
from jobstate_server.store.base import Reader

ReadPage = Callable[[Reader, Position | None], list[Job]]


async def pages(readers: Readers, read: ReadPage, position_of: Callable[[Job], Position]) -> AsyncIterator[list[Job]]:
    """Every page of a keyset read."""
    after: Position | None = None
    while page := await readers.run(lambda reader, after=after: read(reader, after)):  # type: ignore[misc]
        yield page
        after = position_of(page[-1])


def created(job: Job) -> Position:
    """A job's place among jobs in the order they were created."""
    return Position(job.create_time, job.id)


async def jobs_in_state(readers: Readers, state: JobState) -> AsyncIterator[list[Job]]:
    """Every job in a state, page by page, type by type."""
    tallies = await readers.run(lambda reader: reader.tallies(()))
    for job_type in sorted({key[0] for key in tallies}):
        if not tallies.get((job_type, Measure.STORED, state)):
            continue

        def read(reader: Reader, after: Position | None, job_type: str = job_type) -> list[Job]:
            return reader.jobs_in_state(job_type, state, after, SCAN_JOBS_MAX)

        async for page in pages(readers, read, created):
            yield page


async def act(committer: Committer, commands: Sequence[Command], still_ours: StillOurs) -> list[bool]:
    """Have the committer decide these, in slices. Tells of each whether it did anything; stops once the run is lost."""
    done: list[bool] = []
    for start in range(0, len(commands), SLICE_COMMANDS_MAX):
        if not await still_ours():
            return done
        futures = [committer.submit_own(command) for command in commands[start : start + SLICE_COMMANDS_MAX]]
        for outcome in await asyncio.gather(*futures):
            done.append(outcome.acted)
    return done
