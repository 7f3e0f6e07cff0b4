"""A sweep: reads jobs page by page, and submits commands for those that need one, in slices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from jobstate_server.domain.commands import JobCommand
from jobstate_server.domain.filters import Position
from jobstate_server.domain.job import JobState
from jobstate_server.domain.statistics import Measure
from jobstate_server.engine.committer import Committer
from jobstate_server.engine.readers import Readers
from jobstate_server.maintenance.task import StillClaimed, TaskResult, always_claimed
from jobstate_server.store.base import Reader
from jobstate_server.store.records import JobSummary

SLICE_COMMANDS_MAX = 100
"""Commands that a sweep has in the committer at once: some 10 ms of work, so that callers never wait behind it."""

PAGE_JOBS_MAX = 500
"""Jobs that a sweep reads at once."""

ReadPage = Callable[[Reader, Position | None], list[JobSummary]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """How a sweep is run."""

    dry_run: bool = False
    """Only report what would be done."""
    still_claimed: StillClaimed = always_claimed


async def sweep(
    jobs: AsyncIterator[list[JobSummary]],
    command_for: Callable[[JobSummary], JobCommand | None],
    committer: Committer,
    run: Run,
) -> TaskResult:
    """Submit ``command_for`` each job to the committer, unless it is None. Counts the jobs that changed.

    Ends early once the run is no longer claimed.
    """
    result = TaskResult()
    async for page in jobs:
        commands = [command for job in page if (command := command_for(job)) is not None]
        changed = [True] * len(commands) if run.dry_run else await _act(committer, commands, run.still_claimed)
        for command, has_changed in zip(commands, changed, strict=False):
            if has_changed:
                result.add(command.job_id)
        if len(changed) < len(commands):
            break
    return result


async def pages(
    readers: Readers, read: ReadPage, position_of: Callable[[JobSummary], Position]
) -> AsyncIterator[list[JobSummary]]:
    """Every page of a keyset read."""
    after: Position | None = None
    while page := await readers.run(lambda reader, after=after: read(reader, after)):  # type: ignore[misc]
        yield page
        after = position_of(page[-1])


async def jobs_in_state(readers: Readers, state: JobState) -> AsyncIterator[list[JobSummary]]:
    """Every job in a state, page by page, type by type, oldest first."""
    tallies = await readers.run(lambda reader: reader.tallies(()))
    for job_type in sorted({key[0] for key in tallies}):
        if not tallies.get((job_type, Measure.STORED, state)):
            continue

        def read(reader: Reader, after: Position | None, job_type: str = job_type) -> list[JobSummary]:
            return reader.jobs_in_state(job_type, state, after, PAGE_JOBS_MAX)

        async for page in pages(readers, read, _creation):
            yield page


def _creation(job: JobSummary) -> Position:
    return Position(job.create_time, job.create_sequence)


async def _act(committer: Committer, commands: Sequence[JobCommand], still_claimed: StillClaimed) -> list[bool]:
    """Have the committer decide these, in slices. Says of each whether it changed anything; stops once not claimed."""
    changed: list[bool] = []
    for start in range(0, len(commands), SLICE_COMMANDS_MAX):
        if not await still_claimed():
            return changed
        futures = [committer.submit_own(command) for command in commands[start : start + SLICE_COMMANDS_MAX]]
        changed += [outcome.acted for outcome in await asyncio.gather(*futures)]
    return changed
