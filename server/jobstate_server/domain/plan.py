"""What a command changes, as the rules decide it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from jobstate_server.domain.bulk import BulkStep
from jobstate_server.domain.commands import Command, Request
from jobstate_server.domain.events import Event
from jobstate_server.domain.job import Attempt, FinishedJob, Job
from jobstate_server.domain.needs import NewNeed, ResolvedNeed
from jobstate_server.domain.recurring import TakenInstant


class LaneHold(NamedTuple):
    """Nothing of a lane is handed out for a time."""

    until: int
    reason: str


class TypePause(NamedTuple):
    """A job type, or one of its lanes, is paused or goes on."""

    job_type: str
    lane: str | None
    """None for the whole type."""
    paused: bool
    reason: str


@dataclass(slots=True)
class Change:
    """The change of one job. Tallies, events, rows and the counts of groups are derived from it."""

    before: Job | None
    """None when the job is created."""
    after: Job
    """The same object as ``before`` when nothing changed."""
    events: Sequence[Event] = ()
    ended: Attempt | None = None
    """The attempt that this change ended, if any."""
    is_report: bool = False
    """Whether only fields in ``REPORTED`` changed."""
    amended: Attempt | None = None
    """An attempt that ended before, with the usage that is reported now."""
    request: Request | None = None
    """The request id to store with the job."""
    is_existing: bool = False
    """Whether a Create is answered with a job that was there before, because it has the unique key."""
    hold: LaneHold | None = None
    """How the lane of the job is held from now on."""


class Deletion(NamedTuple):
    """Jobs to delete, each with an event of its own."""

    jobs: Sequence[FinishedJob]
    time: int
    actor: str
    found: int = 0
    """How many were selected, with those that are kept."""
    last: FinishedJob | None = None
    """The last one that was selected."""
    left: Sequence[FinishedJob] = ()
    """Those that were selected and are not deleted."""
    erases: bool = False
    """Whether the events tell nothing of the jobs but their ids, types and states."""


class ServedGroup(NamedTuple):
    """The server has looked at a due group."""

    group: Job
    progress: int | None
    """The progress that its job has from now on. None if it is not reported now."""
    look_again: int | None = None
    """When to look again, if that is not to follow from its counts: others have its members in hand, or its progress
    was reported a moment ago."""


class Plan(NamedTuple):
    """All changes of a command that is not about one job. They are applied together or not at all."""

    changes: tuple[Change, ...]
    answered: int = 1
    """How many of the changes, from the first, are in the response. The others follow from them."""
    commands: tuple[Command, ...] | None = None
    """Commands to decide next, independently of each other. None for a command that does not serve a selection; its
    outcome does not say when the next job is due."""
    deletion: Deletion | None = None
    request: Request | None = None
    """The request id to store with all jobs that are answered."""
    pause: TypePause | None = None
    needs: Sequence[NewNeed] = ()
    """The needs of jobs that are created."""
    resolved: Sequence[ResolvedNeed] = ()
    closed_group: Job | None = None
    """A group that is closed from now on."""
    served_group: ServedGroup | None = None
    has_stopped: bool = False
    """Whether ready jobs were found that are members of stopping groups. They took the places of others."""
    bulk: BulkStep | None = None
    """How a bulk run begins or goes on. Nothing else is then in the plan."""
    instant: TakenInstant | None = None
    """The instant that has its job from now on."""
    has_more: bool = False
    """Whether the same command would have more to do at once, in a transaction of its own."""
