"""What one batch can hand out, and what it has handed out."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

from jobstate_server.domain.dispatch_order import ReadyJobs
from jobstate_server.domain.job import Job
from jobstate_server.domain.job_types import JobTypes
from jobstate_server.domain.waiting import is_ready, is_running


class HandingOut:
    """The ready jobs of a batch. Those of types that nobody asks for are not remembered."""

    def __init__(self, job_types: JobTypes, wanted_types: Container[str], jobs: Mapping[str, Job]) -> None:
        """``jobs``: the jobs of the batch, as they are now."""
        self.handed_out = 0
        """How many attempts workers have claimed in this batch."""
        self.turns: set[str] | None = None
        """The types that this transaction may hand out. None if there are no other replicas to take turns with."""
        self._ready = ReadyJobs(job_types)
        self.wanted_types = wanted_types
        """The types of which what becomes ready is remembered."""
        self._jobs = jobs

    def add(self, job: Job) -> None:
        """Add a ready job that the store found."""
        self._ready.add(job)

    def note(self, before: Job | None, after: Job) -> None:
        """Note a change of a job of a wanted type: it may have become ready, or may have been handed out."""
        if is_ready(after):
            if before is None or not is_ready(before) or before.attempt != after.attempt:
                self._ready.add(after)
        elif is_running(after) and not (before is not None and is_running(before)):
            self.handed_out += 1

    def in_order(self, job_types: Iterable[str]) -> Iterable[Job]:
        """The ready jobs of these types, the next one first. Of types that are not this transaction's turn, none."""
        if self.turns is not None:
            job_types = [name for name in job_types if name in self.turns]
        return self._ready.in_order(job_types, self._jobs)

    def ready_types(self) -> list[str]:
        """The wanted types of which a job is ready now."""
        return [name for name in self._ready.job_types if self._ready.has_any(name, self._jobs)]

    def count(self, job_types: Iterable[str], limit: int) -> int:
        """How many jobs of these types are ready now, counted up to ``limit``."""
        count = 0
        for _ in self.in_order(job_types):
            count += 1
            if count == limit:
                break
        return count
