"""The model of the bars below ``jobstate watch``: the running jobs, as the watch reports them."""

from __future__ import annotations

import threading
from datetime import datetime

from jobstate_client.core.values import Job
from jobstate_client.views.phase import Phase
from jobstate_client.views.rows import JobRow

RUNNING_JOBS_MAX = 1_000
"""Running jobs that are kept. More than any screen has lines, and few enough to cost nothing."""


class RunningJobs:
    """The running jobs that a watch has reported. Safe for threads."""

    def __init__(self) -> None:
        self._jobs: dict[str, JobRow] = {}
        self._lock = threading.Lock()

    def update(self, job: Job) -> None:
        """Note the state of a job."""
        with self._lock:
            self._jobs.pop(job.id, None)
            row = JobRow.of(job)
            if row.phase is Phase.RUNNING:
                while len(self._jobs) >= RUNNING_JOBS_MAX:
                    # The job whose last event is the oldest is dropped: it comes back with its next event.
                    del self._jobs[next(iter(self._jobs))]
                self._jobs[job.id] = row

    def clear(self) -> None:
        """Forget all jobs."""
        with self._lock:
            self._jobs.clear()

    def all(self, now: datetime) -> list[JobRow]:
        """All of them, the longest running first, so that lines stay in place."""
        with self._lock:
            return sorted(self._jobs.values(), key=lambda job: (job.claim_time or now, job.id))
