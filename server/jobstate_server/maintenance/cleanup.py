"""cleanup: deletes jobs that ended long ago, and events beyond retention."""

from __future__ import annotations

from jobstate_server.clock import Clock
from jobstate_server.domain.commands import SERVER_ACTOR, Delete
from jobstate_server.domain.filters import Position
from jobstate_server.domain.job import Job
from jobstate_server.engine.committer import Committer
from jobstate_server.engine.readers import Readers
from jobstate_server.maintenance.age import removal_is_held
from jobstate_server.maintenance.sweep import act, pages
from jobstate_server.maintenance.task import SCAN_JOBS_MAX, Report, StillOurs, always_ours
from jobstate_server.store.base import Reader

EVENTS_AT_ONCE = 1_000
"""Events removed in one transaction: about 10 ms, so that no writer waits long behind it."""


def _ended(job: Job) -> Position:
    assert job.complete_time is not None
    return Position(job.complete_time, job.id)


class Cleanup:
    """Deletes final jobs ``job_retention`` after they ended, each with a ``.deleted`` event, and the oldest events."""

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

    async def run_scheduled(self, still_ours: StillOurs) -> str:
        if await removal_is_held(self._committer, self._clock):
            report = Report()
            # What the log may take up in bytes has nothing to do with the time.
            await self._trim_events(report, 0, False, still_ours)
            return f"nothing was deleted for its age, because time has jumped; {report.events} events for their size"
        report = await self.run_once(still_ours=still_ours)
        return f"{report.count} jobs and {report.events} events deleted"

    async def run_once(
        self, *, older_than: int | None = None, dry_run: bool = False, still_ours: StillOurs = always_ours
    ) -> Report:
        """Delete what is past its time; with ``dry_run`` only tell.

        Args:
            older_than: microseconds since a job ended; None takes the retention of the settings. Events always follow
                the settings.
        """
        report = Report()
        now = self._clock.now()
        await self._delete_jobs(
            report, now - (self._job_retention if older_than is None else older_than), dry_run, still_ours
        )
        await self._trim_events(report, now - self._event_retention, dry_run, still_ours)
        return report

    async def _delete_jobs(self, report: Report, completed_before: int, dry_run: bool, still_ours: StillOurs) -> None:
        def read(reader: Reader, after: Position | None) -> list[Job]:
            return reader.finished_jobs(completed_before, after, SCAN_JOBS_MAX)

        async for page in pages(self._readers, read, _ended):
            acted = [True] * len(page)
            if not dry_run:
                commands = [
                    Delete(job_id=job.id, actor=SERVER_ACTOR, attempt=job.attempt, completed_before=completed_before)
                    for job in page
                ]
                acted = await act(self._committer, commands, still_ours)
            for job, done in zip(page, acted, strict=False):
                if done:
                    report.add(job.id)

    async def _trim_events(self, report: Report, older_than: int, dry_run: bool, still_ours: StillOurs) -> None:
        bytes_max = self._event_retention_bytes
        if dry_run:
            report.events = await self._readers.run(lambda reader: reader.trimmable_events(older_than, bytes_max))
            return
        while await still_ours():
            removed = await self._committer.run(
                lambda transaction: transaction.trim_events(older_than, bytes_max, EVENTS_AT_ONCE)
            )
            report.events += removed
            if not removed:
                return
