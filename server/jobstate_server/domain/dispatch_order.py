"""The order in which ready jobs are handed out.

A job's place is its ready_time less what its priority is worth, then the order of creation. Nothing of this changes
while a job waits, so no job has to be sorted again, and a job is overtaken only by jobs that became ready less than the
difference of priorities later.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Iterator, Mapping
from heapq import merge
from typing import NamedTuple

from jobstate_server.domain.job import INT64_MAX, Job
from jobstate_server.domain.job_types import JobTypes
from jobstate_server.domain.waiting import is_ready


class Place(NamedTuple):
    """The place of a ready job. It compares as the jobs are handed out."""

    score: int
    create_sequence: int
    """INT64_MAX for a job of the current transaction, whose sequence is not known yet. It is later than all others."""
    number: int
    """Orders the jobs of the current transaction."""
    job_id: str
    attempt: int
    """With another attempt the job has another place."""


def score(ready_time: int, level: int, priority_step: int) -> int:
    """The time by which jobs are ordered: the smallest is handed out first."""
    return ready_time - level * priority_step


class ReadyJobs:
    """The ready jobs of some types in one transaction: those the store found, and those that became ready since."""

    def __init__(self, job_types: JobTypes) -> None:
        self._job_types = job_types
        self._steps: dict[str, int] = {}
        self._places: dict[str, list[Place]] = {}
        self._passed: dict[str, int] = {}
        """How many places of a type, from the first, belong to jobs that are no longer ready."""
        self._count = 0

    def add(self, job: Job) -> None:
        """Add a job that is ready now."""
        name = job.job_type
        step = self._steps.get(name)
        if step is None:
            step = self._steps[name] = self._job_types.policy(name).priority_step
        self._count += 1
        sequence = job.create_sequence or INT64_MAX
        place = Place(score(job.ready_time, job.level, step), sequence, self._count, job.id, job.attempt)
        insort(self._places.setdefault(name, []), place, lo=self._passed.get(name, 0))

    def in_order(self, job_types: Iterable[str], jobs: Mapping[str, Job]) -> Iterator[Job]:
        """The jobs of these types that are still ready, the next one first.

        Args:
            jobs: the jobs as they are now. A job that is not ready any more is left out.
        """
        return (job for _, job in merge(*(self._of_type(name, jobs) for name in job_types), key=_place))

    def has_any(self, job_type: str, jobs: Mapping[str, Job]) -> bool:
        """Whether a job of this type can be handed out."""
        return next(self._of_type(job_type, jobs), None) is not None

    @property
    def job_types(self) -> Iterable[str]:
        """The types of which a job was ready at any time in this transaction."""
        return self._places

    def _of_type(self, name: str, jobs: Mapping[str, Job]) -> Iterator[tuple[Place, Job]]:
        places = self._places.get(name, ())
        at = self._passed.get(name, 0)
        has_passed_all = True
        while at < len(places):
            place = places[at]
            job = jobs.get(place.job_id)
            at += 1
            if job is not None and job.attempt == place.attempt and is_ready(job):
                has_passed_all = False
                yield place, job
            elif has_passed_all:
                self._passed[name] = at


def _place(found: tuple[Place, Job]) -> Place:
    return found[0]
