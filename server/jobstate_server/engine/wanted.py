"""What a batch wants to hand out, and what its commands may free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from jobstate_server.domain.commands import (
    Cancel,
    Command,
    Complete,
    Fail,
    MarkStale,
    Release,
    Retry,
    ReturnUndelivered,
    ServeDue,
    Start,
)
from jobstate_server.domain.job import Job
from jobstate_server.domain.job_types import JobTypes
from jobstate_server.domain.lanes import counts_of
from jobstate_server.domain.waiting import is_ready
from jobstate_server.engine.batch import Batch

_ENDING = (Complete, Fail, Release, Cancel, MarkStale, ReturnUndelivered)
"""Commands that end an attempt. Those that are due are decided with ServeDue."""

_ENDING_REST = (Cancel, Retry)
"""Commands after which a job no longer rests. Those that are due are resumed with ServeDue."""


@dataclass(slots=True)
class Wanted:
    """What a batch wants to hand out."""

    jobs: dict[tuple[str, ...], int] = field(default_factory=dict)
    """How many jobs, by the types that are asked for together."""
    pauses: set[tuple[str, str | None]] = field(default_factory=set)
    """The types and lanes that are paused in the batch, or go on."""
    commands: Sequence[Command] = ()
    """Those of the batch that come after the pick. Some may end attempts, so that others can have their places."""
    whole_batch: Sequence[Command] = ()
    """All commands of the batch."""
    spare: int = 0
    """How many of the jobs that are found the batch may not hand out after all: see ``spared``."""
    is_first: bool = True
    """Whether nothing of the batch has been decided yet, so that all is as it is stored."""

    @property
    def job_types(self) -> set[str]:
        """All types that are named."""
        return {name for types in self.jobs for name in types} | {name for name, _ in self.pauses}


def spared(commands: Sequence[Command], batch: Batch) -> int:
    """How many more jobs must be found, since these commands may take some away, or take their places.

    A ready job of the batch may be taken by any command. One that is created in the batch and started by hand takes a
    place of its lane, so that another lane is next.
    """
    created = sum(type(each) is Start and each.job_id not in batch.jobs for each in commands)
    return sum(map(is_ready, batch.jobs.values())) + created


def ending(commands: Sequence[Command], batch: Batch, job_types: JobTypes) -> list[Job]:
    """The jobs of a batch that these commands may take from the places that they have: of a limit, or in a turn.

    A running attempt has one. Where jobs hold their places, so has a job that rests.
    """
    named: set[str] = set()
    named_at_rest: set[str] = set()
    serves_due = False
    for each in commands:
        if isinstance(each, _ENDING):
            named.add(each.job_id)
        if isinstance(each, _ENDING_REST):
            named_at_rest.add(each.job_id)
        serves_due = serves_due or type(each) is ServeDue
    found = []
    for job in batch.jobs.values():
        counts = counts_of(job)
        if counts.running or (counts.resting and job_types.policy(job.job_type).holds_jobs):
            is_due = serves_due and job.due_time is not None and job.due_time <= batch.now
            if is_due or job.id in (named if counts.running else named_at_rest):
                found.append(job)
    return found
