"""check-stale: fails claimed attempts that have not reported for their type's stale threshold.

Waiting for a worker is not silence: an attempt that no worker has claimed never becomes stale.
"""

from __future__ import annotations

from jobstate_server.clock import Clock
from jobstate_server.domain.caller import SERVER
from jobstate_server.domain.commands import MarkStale
from jobstate_server.domain.job import JobState
from jobstate_server.domain.job_types import JobTypes
from jobstate_server.engine.committer import Committer
from jobstate_server.engine.readers import Readers
from jobstate_server.maintenance.sweep import Run, jobs_in_state, sweep
from jobstate_server.maintenance.task import StillClaimed, TaskResult
from jobstate_server.store.records import JobSummary


class CheckStale:
    """Finds jobs whose worker is silent and fails their attempts; the lifecycle decides about a retry."""

    name = "check-stale"

    def __init__(
        self, schedule: str, committer: Committer, readers: Readers, job_types: JobTypes, clock: Clock
    ) -> None:
        self.schedule = schedule
        self._committer = committer
        self._readers = readers
        self._job_types = job_types
        self._clock = clock

    async def run_scheduled(self, still_claimed: StillClaimed) -> str:
        result = await self.run_once(Run(still_claimed=still_claimed))
        return f"{result.count} stale"

    async def run_once(self, run: Run) -> TaskResult:
        """Fail what is stale now."""
        # The first transaction after a pause notices it, on whichever replica. A pause must not count as silence.
        grace_until = await self._committer.run(lambda transaction: transaction.times().grace_until())

        def mark_stale(job: JobSummary) -> MarkStale | None:
            if not self._is_stale(job, grace_until):
                return None
            return MarkStale(job_id=job.id, caller=SERVER, attempt=job.attempt, heard_time=job.heard_time)

        return await sweep(jobs_in_state(self._readers, JobState.PROCESSING), mark_stale, self._committer, run)

    def _is_stale(self, job: JobSummary, grace_until: int) -> bool:
        # The members of a group have limits of their own.
        if not job.claimed or job.group_depth:
            return False
        limit = job.heard_time + self._job_types.policy(job.job_type).stale_threshold
        return self._clock.now() >= max(limit, grace_until)
