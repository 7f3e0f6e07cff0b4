"""cleanup: deletes final jobs past their time, and the oldest events of the log."""

from __future__ import annotations

from jobstate_server.clock import Clock
from jobstate_server.domain.caller import SERVER
from jobstate_server.domain.commands import DeleteFinished
from jobstate_server.domain.filters import Position
from jobstate_server.domain.job import FinishedJob
from jobstate_server.engine.committer import Committer
from jobstate_server.engine.outcomes import DeletedOutcome
from jobstate_server.engine.readers import Readers
from jobstate_server.maintenance.age import removal_is_suspended
from jobstate_server.maintenance.slices import Slices
from jobstate_server.maintenance.sweep import PAGE_JOBS_MAX, Run, pages
from jobstate_server.maintenance.task import StillClaimed, TaskResult
from jobstate_server.store.base import Reader
from jobstate_server.store.records import JobSummary

JOBS_AT_ONCE = 512
"""Jobs deleted in one transaction at most, when there are no callers."""

EVENTS_AT_ONCE = 1_000
"""Events removed in one transaction: about 10 ms, so that no writer waits long behind it."""


class Cleanup:
    """Deletes final jobs ``job_retention`` after they ended, each with a ``.deleted`` event, and the oldest events.

    Jobs that an unfinished job needs, and members of unfinished groups, are kept until these have ended.
    """

    name = "cleanup"

    def __init__(
        self,
        schedule: str,
        committer: Committer,
        readers: Readers,
        clock: Clock,
        *,
        job_retention: int,
        event_retention: int,
        event_retention_bytes: int,
    ) -> None:
        self.schedule = schedule
        self._committer = committer
        self._readers = readers
        self._clock = clock
        self._job_retention = job_retention
        self._event_retention = event_retention
        self._event_retention_bytes = event_retention_bytes

    async def run_scheduled(self, still_claimed: StillClaimed) -> str:
        run = Run(still_claimed=still_claimed)
        if await removal_is_suspended(self._committer, self._clock):
            # The limit of the log in bytes does not depend on the time.
            events = await self._trim_events(0, run)
            return f"nothing was deleted for its age, because time has jumped; {events} events for their size"
        result = await self.run_once(run)
        return f"{result.count} jobs and {result.events} events deleted"

    async def run_once(self, run: Run, *, older_than: int | None = None) -> TaskResult:
        """Delete what is past its time.

        Args:
            older_than: microseconds since a job ended; None takes the retention of the settings. Events always follow
                the settings.
        """
        now = self._clock.now()
        age = self._job_retention if older_than is None else older_than
        result = await self._delete_jobs(now - age, run)
        result.events = await self._trim_events(now - self._event_retention, run)
        return result

    async def _delete_jobs(self, completed_before: int, run: Run) -> TaskResult:
        """Delete these jobs in slices. A job that another replica changes at that moment is left to the next run."""
        if run.dry_run:
            return await self._count_jobs(completed_before)
        result = TaskResult()
        slices = Slices(self._committer, self._clock, JOBS_AT_ONCE)
        after: Position | None = None
        while await run.still_claimed():
            limit = slices.rows
            command = DeleteFinished(caller=SERVER, before=completed_before, after=after, limit=limit)
            outcome = await self._committer.submit_own(command)
            assert isinstance(outcome, DeletedOutcome)
            for job in outcome.deleted:
                result.add(job.id)
            if outcome.found < limit or outcome.last is None:
                break
            after = _completion(outcome.last)
            await slices.after(limit, outcome)
        return result

    async def _count_jobs(self, completed_before: int) -> TaskResult:
        def read(reader: Reader, after: Position | None) -> list[JobSummary]:
            return reader.finished_jobs(completed_before, after, PAGE_JOBS_MAX)

        result = TaskResult()
        async for page in pages(self._readers, read, _completion):
            for job in page:
                if not job.is_kept:
                    result.add(job.id)
        return result

    async def _trim_events(self, older_than: int, run: Run) -> int:
        """Remove the oldest events, those from before ``older_than`` and those beyond the bytes. Returns how many."""
        bytes_max = self._event_retention_bytes
        if run.dry_run:
            return await self._readers.run(lambda reader: reader.trimmable_events(older_than, bytes_max))
        slices = Slices(self._committer, self._clock, EVENTS_AT_ONCE)
        return await slices.run_all(
            lambda transaction, limit: transaction.trim_events(older_than, bytes_max, limit), run.still_claimed
        )


def _completion(job: JobSummary | FinishedJob) -> Position:
    assert job.complete_time is not None
    return Position(job.complete_time, job.create_sequence)
