"""retry-failed: a safety net for the timers. Retries jobs that are FAILED although their type retries automatically."""

from __future__ import annotations

from jobstate_server.domain.caller import SERVER
from jobstate_server.domain.commands import RetryResting
from jobstate_server.domain.job import JobState
from jobstate_server.domain.job_types import JobTypes
from jobstate_server.domain.lifecycle import retry_is_allowed
from jobstate_server.engine.committer import Committer
from jobstate_server.engine.due_timer import DueTimer
from jobstate_server.engine.readers import Readers
from jobstate_server.maintenance.sweep import Run, jobs_in_state, sweep
from jobstate_server.maintenance.task import StillClaimed, TaskResult
from jobstate_server.store.records import JobSummary


class RetryFailed:
    """Moves retryable jobs to RETRYING: those that failed before auto_retry was switched on for their type.

    It also serves due jobs, in case a timer was lost.
    """

    name = "retry-failed"

    def __init__(
        self, schedule: str, committer: Committer, readers: Readers, job_types: JobTypes, due_timer: DueTimer
    ) -> None:
        self.schedule = schedule
        self._committer = committer
        self._due_timer = due_timer
        self._readers = readers
        self._job_types = job_types

    async def run_scheduled(self, still_claimed: StillClaimed) -> str:
        result = await self.run_once(Run(still_claimed=still_claimed))
        return f"{result.count} retried"

    async def run_once(self, run: Run) -> TaskResult:
        """Retry these jobs now."""
        result = await sweep(jobs_in_state(self._readers, JobState.FAILED), self._retry, self._committer, run)
        if not run.dry_run:
            self._due_timer.serve_due()
        return result

    def _retry(self, job: JobSummary) -> RetryResting | None:
        may_retry = retry_is_allowed(bool(job.error_retryable), job.retry_count, job.max_retries)
        if not may_retry or not self._job_types.policy(job.job_type).auto_retry:
            return None
        return RetryResting(job_id=job.id, caller=SERVER, attempt=job.attempt)
