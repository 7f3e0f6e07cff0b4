"""retry-failed: the net below the timers. Retries what rests in FAILED though its type retries by itself."""

from __future__ import annotations

from jobstate_server.domain.commands import SERVER_ACTOR, RetryResting
from jobstate_server.domain.job import JobState
from jobstate_server.domain.job_types import JobTypes
from jobstate_server.domain.lifecycle import Facts, can_retry
from jobstate_server.engine.committer import Committer
from jobstate_server.engine.readers import Readers
from jobstate_server.maintenance.sweep import act, jobs_in_state
from jobstate_server.maintenance.task import Report, StillOurs, always_ours


class RetryFailed:
    """Sends retryable jobs to RETRYING: those that came to rest before auto_retry was switched on for their type.

    It also has the committer look at everything that is due, in case a timer was lost.
    """

    name = "retry-failed"

    def __init__(self, schedule: str, committer: Committer, readers: Readers, job_types: JobTypes) -> None:
        self.schedule = schedule
        self._committer = committer
        self._readers = readers
        self._job_types = job_types

    async def run_scheduled(self, still_ours: StillOurs) -> str:
        report = await self.run_once(still_ours=still_ours)
        return f"{report.count} retried"

    async def run_once(self, *, dry_run: bool = False, still_ours: StillOurs = always_ours) -> Report:
        """Retry what rests; with ``dry_run`` only tell."""
        report = Report()
        async for page in jobs_in_state(self._readers, JobState.FAILED):
            resting = [
                job
                for job in page
                if self._job_types.policy(job.job_type).auto_retry and can_retry(Facts(job, job.update_time))
            ]
            acted = [True] * len(resting)
            if not dry_run:
                commands = [RetryResting(job_id=job.id, actor=SERVER_ACTOR, attempt=job.attempt) for job in resting]
                acted = await act(self._committer, commands, still_ours)
            for job, done in zip(resting, acted, strict=False):
                if done:
                    report.add(job.id)
        if not dry_run:
            self._committer.ring_due()
        return report
