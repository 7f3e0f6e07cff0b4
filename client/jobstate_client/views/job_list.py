"""A bounded, sorted list of jobs, for views."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from jobstate_client.views.phase import Phase
from jobstate_client.views.rows import JobRow

JOBS_KEPT_MAX = 1_000
"""Jobs kept in one list: more than any screen has lines. The counts beside it are the server's and include all jobs."""

_LONG_AGO = datetime.min.replace(tzinfo=UTC)


def longest_running_first(job: JobRow) -> tuple[Any, ...]:
    """The longest running first: lines then stay in place while jobs come and go."""
    return (job.claim_time or _LONG_AGO, job.id)


def next_retry_first(job: JobRow) -> tuple[Any, ...]:
    """Those that wait for a worker first, the longest wait first, and then those that fall due next."""
    is_due = job.phase is Phase.WAITING
    return (not is_due, (job.start_time if is_due else job.next_retry_time) or _LONG_AGO, job.id)


class JobList:
    """At most JOBS_KEPT_MAX jobs, the first ones in an order."""

    def __init__(self, order: Callable[[JobRow], tuple[Any, ...]]) -> None:
        self._order = order
        self._jobs: dict[str, JobRow] = {}
        self._sorted: list[JobRow] | None = []

    def put(self, job: JobRow) -> None:
        """Add or replace a job. If there are too many, the last is dropped: it would be the last to be shown."""
        self._jobs[job.id] = job
        self._sorted = None
        if len(self._jobs) > JOBS_KEPT_MAX:
            del self._jobs[self.all()[-1].id]
            self._sorted = None

    def discard(self, job_id: str) -> None:
        """Remove a job, if it is there."""
        if self._jobs.pop(job_id, None) is not None:
            self._sorted = None

    def version(self, job_id: str) -> int:
        """The version of a job; 0 if it is not there."""
        job = self._jobs.get(job_id)
        return 0 if job is None else job.version

    def clear(self) -> None:
        """Remove all jobs."""
        self._jobs.clear()
        self._sorted = None

    def all(self) -> list[JobRow]:
        """All jobs, in order."""
        if self._sorted is None:
            self._sorted = sorted(self._jobs.values(), key=self._order)
        return self._sorted
