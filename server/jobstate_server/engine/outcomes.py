"""What came of each command of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jobstate_server.domain.bulk import BulkProgress
from jobstate_server.domain.errors import JobStateError
from jobstate_server.domain.groups import Group
from jobstate_server.domain.job import FinishedJob, Job


@dataclass(slots=True)
class Outcome:
    """The outcome of a command that was not refused."""

    jobs: tuple[Job, ...]
    """The jobs of the answer, as they are now. A deleted job is not among them."""
    encoded: bytes | None = None
    """The first job as its last event has it, which ``wire.jobs.with_names`` completes. None if this command made no
    event."""
    acted: bool = True
    """False for a command of the server that did nothing, because the job had changed since."""
    existing: tuple[bool, ...] = ()
    """Of Creates with a unique key: whether each job was there before. Empty if none was."""
    groups: Mapping[str, Group] | None = None
    """The counts of those of the jobs that are groups, by id. None if none is."""


@dataclass(slots=True)
class SliceOutcome(Outcome):
    """The outcome of a slice of the server's own work: a command that changes many jobs."""

    spent: int = 0
    """Microseconds of the committer's time: of what the transaction took, as much as its part of the events."""
    others: int = 0
    """How many other commands the batch had."""
    events: int = 0

    def take_share(self, spent: int, _working: int, events: int) -> None:
        """Note its part of the microseconds that the transaction took, whose events are so many.

        ``_working``: of ``spent``, without the time to read and to commit.
        """
        self.spent = spent * self.events // max(1, events)


@dataclass(slots=True)
class DueOutcome(SliceOutcome):
    """The outcome of a command that serves due jobs. Its ``spent`` leaves out the time to read and to commit, which the
    batch takes for its other commands anyway."""

    served: int = 0
    """How many of its commands, one for each due job, did something."""
    failed: int = 0
    """How many of them did nothing."""
    has_more: bool = False
    """Whether one of its commands has left more to do."""
    besides: int = 0
    """Microseconds that the transaction took besides: to read and to commit."""
    next_due: int | None = None
    """When the next job in the store is due. None if none is."""
    now: int = 0
    """The time of the transaction. What was due by then and is left, another replica has in hand."""

    def take_share(self, spent: int, working: int, events: int) -> None:
        self.besides = spent - working
        SliceOutcome.take_share(self, working, working, events)


@dataclass(slots=True)
class PauseOutcome(Outcome):
    """The outcome of a command that pauses a type or lane, or lets it go on."""

    ready: int = 0
    """Jobs of it that are ready."""
    running: int = 0
    """Attempts of it that are claimed."""
    head: int = 0
    """The sequence of the last event before it."""


@dataclass(slots=True)
class DeletedOutcome(SliceOutcome):
    """The outcome of a command that deletes finished jobs."""

    deleted: Sequence[FinishedJob] = ()
    found: int = 0
    """How many were selected, with those that must be kept."""
    last: FinishedJob | None = None
    """The last one that was selected."""
    left: Sequence[FinishedJob] = ()
    """Those that were selected and not deleted, if they were selected by their ids."""


@dataclass(slots=True)
class BulkOutcome(SliceOutcome):
    """The outcome of a command of a bulk run."""

    progress: BulkProgress | None = None
    """How far it has come. None if its request id is not stored any more."""
    changed: Sequence[str] = ()
    """The ids of the jobs that this command has changed."""


Verdict = Outcome | JobStateError
