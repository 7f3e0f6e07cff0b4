"""check-stale: fails claimed attempts that nothing was heard of for their type's stale threshold.

Waiting for a worker is not silence: an attempt that nobody has claimed is left alone, however long it waits.
"""

from __future__ import annotations

from jobstate_server.clock import Clock
from jobstate_server.domain.commands import SERVER_ACTOR, MarkStale
from jobstate_server.domain.job import Job, JobState
from jobstate_server.domain.job_types import JobTypes
from jobstate_server.engine.committer import Committer
from jobstate_server.engine.readers import Readers
from jobstate_server.maintenance.sweep import act, jobs_in_state
from jobstate_server.maintenance.task import Report, StillOurs, always_ours


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

    async def run_scheduled(self, still_ours: StillOurs) -> str:
        report = await self.run_once(still_ours=still_ours)
        return f"{report.count} stale"

    async def run_once(self, *, dry_run: bool = False, still_ours: StillOurs = always_ours) -> Report:
        """Fail what is stale now; with ``dry_run`` only tell."""
        report = Report()
        # A pause is noticed by the first transaction after it, on whichever replica, and must not pass for silence.
        grace_until = await self._committer.run(lambda transaction: transaction.times().grace_until())
        async for page in jobs_in_state(self._readers, JobState.PROCESSING):
            stale = [job for job in page if self._is_stale(job, grace_until)]
            acted = [True] * len(stale)
            if not dry_run:
                commands = [
                    MarkStale(job_id=job.id, actor=SERVER_ACTOR, attempt=job.attempt, heard_time=job.heard_time)
                    for job in stale
                ]
                acted = await act(self._committer, commands, still_ours)
            for job, done in zip(stale, acted, strict=False):
                if done:
                    report.add(job.id)
        return report

    def _is_stale(self, job: Job, grace_until: int) -> bool:
        if not job.claimed:
            return False
        limit = job.heard_time + self._job_types.policy(job.job_type).stale_threshold
        return self._clock.now() >= max(limit, grace_until)
