"""Which jobs and events a reader wants: OR within a field, AND between fields. An empty field does not restrict."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from enum import IntEnum

from jobstate_server.domain.events import EventType
from jobstate_server.domain.job import Job, JobState
from jobstate_server.domain.labels import Labels
from jobstate_server.domain.reach import EVERYTHING, Reach
from jobstate_server.domain.waiting import WaitReason, wait_reason


class Order(IntEnum):
    """The order of a list of jobs. Jobs with equal times are in the order in which the log has their creation."""

    NEWEST_FIRST = 1
    OLDEST_FIRST = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """Which of the jobs within reach to list."""

    job_ids: tuple[str, ...] = ()
    states: tuple[JobState, ...] = ()
    job_types: tuple[str, ...] = ()
    source_ids: tuple[str, ...] = ()
    create_time_from: int | None = None
    """Inclusive."""
    create_time_to: int | None = None
    """Exclusive."""
    group_id: str = ""
    """Only members of this group. At most one of this and the next two is given."""
    needed_by: str = ""
    """Only jobs that this job needs, in the order of its needs' keys."""
    needs: str = ""
    """Only jobs that need this job, in the order of their keys."""
    wait_reasons: tuple[WaitReason, ...] = ()
    labels: Labels = ()
    """Only jobs that have all of these."""
    worker: str = ""
    """Only jobs whose current or last attempt this worker claimed."""
    error_code: str = ""
    """Only jobs whose last error has this code."""
    complete_time_from: int | None = None
    """Inclusive. With this or the next, the page is in the order of the jobs' ends."""
    complete_time_to: int | None = None
    """Exclusive."""
    reach: Reach = EVERYTHING

    @property
    def by_end(self) -> bool:
        """Whether the page is in the order of the jobs' ends."""
        return self.complete_time_from is not None or self.complete_time_to is not None

    def still_admits(self, job: Job) -> bool:
        """Whether a job that was found with this filter still matches it, as far as jobs change."""
        return (
            (not self.states or job.state in self.states)
            and (not self.wait_reasons or wait_reason(job) in self.wait_reasons)
            and self.worker in ("", job.worker)
            and (not self.error_code or (job.last_error is not None and job.last_error.code == self.error_code))
            and self._admits_end(job.complete_time)
        )

    def _admits_end(self, time: int | None) -> bool:
        """Whether a job that ended then, or has not ended, is within the bounds."""
        if time is None:
            return not self.by_end
        is_late_enough = self.complete_time_from is None or time >= self.complete_time_from
        return is_late_enough and (self.complete_time_to is None or time < self.complete_time_to)

    def within_reach(self, known_types: Iterable[str]) -> JobFilter | None:
        """The same filter with the types and sources within reach named, where they can be listed.

        None if no job can match.

        Args:
            known_types: the types that ever had a job.
        """
        reach, job_types, source_ids = self.reach, self.job_types, self.source_ids
        if reach.job_types is not None:
            job_types = tuple(name for name in sorted(job_types or known_types) if reach.admits_type(name))
            if not job_types:
                return None
        sources = source_ids or reach.named_sources
        if reach.source_ids is not None and sources is not None:
            source_ids = tuple(name for name in sources if reach.admits_source(name))
            if not source_ids:
                return None
        return replace(self, job_types=job_types, source_ids=source_ids)


@dataclass(frozen=True, slots=True)
class Position:
    """Where a page of jobs ended. The next page begins right after it."""

    time: int
    """When the last job was created; in a page by the order of their ends, when it ended."""
    create_sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """Which events of the jobs within reach to watch."""

    job_ids: frozenset[str] = frozenset()
    job_types: frozenset[str] = frozenset()
    source_ids: frozenset[str] = frozenset()
    types: frozenset[EventType] = frozenset()
    labels: Labels = ()
    """Only events of jobs that have all of these. ``passes`` does not know them: the payload of an event has them."""
    reach: Reach = EVERYTHING

    @property
    def passes_all(self) -> bool:
        """Whether every event passes this filter."""
        return self == _EVERYTHING

    def passes(self, job_id: str, job_type: str, source_id: str, type_: int, *, of_any_source: bool = False) -> bool:
        """Whether an event with these properties passes.

        Args:
            of_any_source: whether it is the deletion of a job whose source was erased. It passes every filter of
                sources, because whoever has a copy of the job must learn of it.
        """
        return (
            _wants(self.job_ids, job_id)
            and _wants(self.job_types, job_type)
            and (of_any_source or _wants(self.source_ids, source_id))
            and _wants(self.types, type_)
            and (self.reach is EVERYTHING or self.reach.admits(job_type, source_id))
        )


def _wants(wanted: Collection[object], value: object) -> bool:
    return not wanted or value in wanted


_EVERYTHING = EventFilter()
