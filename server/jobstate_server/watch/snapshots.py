"""Reads jobs for watchers: pages of a snapshot, and the jobs that a watch was asked to see through to their end."""

from __future__ import annotations

from jobstate_server.domain.filters import EventFilter, JobFilter, Order, Position
from jobstate_server.domain.job import Job
from jobstate_server.engine.readers import Readers
from jobstate_server.event_log.pages import PAGE_BYTES_MAX
from jobstate_server.store.records import JobPage

SNAPSHOT_JOBS_MAX = 200
"""Jobs of one snapshot page: some milliseconds of the interpreter, which callers wait for meanwhile."""


class Snapshots:
    """Reads with the readers that catch up, so that a large snapshot delays no Get."""

    def __init__(self, readers: Readers, jobs_max: int = SNAPSHOT_JOBS_MAX) -> None:
        self._readers = readers
        self.jobs_max = jobs_max

    async def page(self, wanted: EventFilter, after: Position | None) -> JobPage:
        """The next of the jobs whose events are wanted."""
        jobs = JobFilter(
            job_ids=tuple(wanted.job_ids),
            job_types=tuple(wanted.job_types),
            source_ids=tuple(wanted.source_ids),
            labels=wanted.labels,
            reach=wanted.reach,
        )
        return await self._readers.run(
            lambda reader: reader.list_jobs(jobs, Order.OLDEST_FIRST, after, self.jobs_max, PAGE_BYTES_MAX)
        )

    async def named(self, wanted: EventFilter) -> tuple[dict[str, Job], int]:
        """Those of the named jobs that exist, and a head of the log that is no older than what was read."""
        return await self._readers.run(
            lambda reader: (reader.jobs(wanted.job_ids, wanted.reach), reader.log_state().head)
        )
