"""Caches unfinished jobs for the writer of a store.

The cache has only what this server committed, so a job found here need not be read, unless another server may have
changed it since. Final jobs are dropped: no command will change them.
"""

from __future__ import annotations

from collections.abc import Iterable

from jobstate_server.domain.job import Job
from jobstate_server.store.sizes import document_bytes

_OVERHEAD = 1_024
"""Approximate memory of a job besides its texts and documents."""


class JobCache:
    """The most recently changed jobs, by id. Used only by the writer's thread."""

    def __init__(self, bytes_max: int) -> None:
        self._jobs: dict[str, Job] = {}
        self._sizes: dict[str, int] = {}
        self._bytes = 0
        self._bytes_max = bytes_max

    def found(self, job_ids: Iterable[str]) -> dict[str, Job]:
        """The named jobs that are cached."""
        jobs = self._jobs
        return {job_id: jobs[job_id] for job_id in job_ids if job_id in jobs}

    def get(self, job_id: str) -> Job | None:
        """The job as this server committed it; None when it is not cached."""
        return self._jobs.get(job_id)

    def keep(self, job: Job) -> None:
        """Store the current version of a job. The least recently changed jobs make room for it."""
        job_id = job.id
        self.drop(job_id)
        if job.state.is_final:
            return
        size = _OVERHEAD + document_bytes(job)
        self._jobs[job_id] = job
        self._sizes[job_id] = size
        self._bytes += size
        while self._bytes > self._bytes_max:
            self.drop(next(iter(self._jobs)))

    def drop(self, job_id: str) -> None:
        """Remove a job."""
        if self._jobs.pop(job_id, None) is not None:
            self._bytes -= self._sizes.pop(job_id)

    def clear(self) -> None:
        """Remove every job."""
        self._jobs.clear()
        self._sizes.clear()
        self._bytes = 0
