"""The records that a store takes and returns, besides jobs and attempts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from jobstate_server.domain.bulk import BulkProgress
from jobstate_server.domain.commands import Request
from jobstate_server.domain.filters import Position
from jobstate_server.domain.groups import Group
from jobstate_server.domain.job import Attempt, FinishedJob, Job, JobState
from jobstate_server.domain.needs import OpenNeeds, ResolvedNeed
from jobstate_server.domain.plan import TypePause
from jobstate_server.domain.reads import Due, Finished, Named
from jobstate_server.domain.recurring import TakenInstant
from jobstate_server.domain.statistics import TallyKey
from jobstate_server.domain.turns import LaneState, TypeState
from jobstate_server.domain.wait_order import from_text, settled, to_text
from jobstate_server.domain.waiting import UniqueKey
from jobstate_server.store.relation_records import GroupChange, GroupGuard, NeedRow, NewGroup, NewMember, NewWait


class NewEvent(NamedTuple):
    """An event to append. ``payload`` is the encoded event without its sequence and what follows from the columns."""

    time: int
    job_id: str
    job_type: str
    source_id: str
    principal: str
    type: int
    payload: bytes


class StoredEvent(NamedTuple):
    """An event of the log."""

    sequence: int
    time: int
    job_id: str
    job_type: str
    source_id: str
    principal: str
    type: int
    payload: bytes


class ChangedJob(NamedTuple):
    """A job row to write. ``last_event`` is the index of the job's last event in ``Changes.events``.

    The store sets the job's version, in place, to the sequence of that event; with None the version stays.
    ``first_event`` is the index of a new job's creation event: its sequence becomes ``create_sequence``, the key.
    """

    job: Job
    last_event: int | None
    first_event: int | None = None
    before: Job | None = None
    """The job as it is stored, so that only what has changed is written. None writes everything."""


class StoredRequest(NamedTuple):
    """A used request id, and the job that its call was about."""

    request: Request
    job_id: str
    time: int
    attempt: int = 0
    """The attempt that the call started or claimed; 0 when it did neither."""
    create_sequence: int | None = None
    """The job's, which distinguishes it from a later job with the same id; None when it is not known."""
    created_event: int | None = None
    """The index of the job's first event in ``Changes.events``, if it is there. The store writes that event's sequence
    as ``create_sequence``."""
    acquired: tuple[tuple[str, int], ...] | None = None
    """The jobs and attempts that an Acquire claimed. None for other calls. ``job_id`` is then empty."""
    is_existing: bool = False
    """Whether a Create was answered with a job that was there before."""
    bulk: BulkProgress | None = None
    """How far the bulk run has come. None for other calls. ``job_id`` is then empty."""

    @property
    def job_ids(self) -> tuple[str, ...]:
        """All jobs that the call was about, except those of a bulk run."""
        if self.bulk is not None:
            return ()
        return (self.job_id,) if self.acquired is None else tuple(job_id for job_id, _ in self.acquired)


class MovedBulkRun(NamedTuple):
    """A stored bulk run that goes on."""

    request: Request
    before: BulkProgress
    after: BulkProgress
    time: int


class LaneChange(NamedTuple):
    """What is added to the row of a lane. The store creates the row if it is not there."""

    job_type: str
    lane: str
    ready: int
    returned: int
    running: int
    resting: int
    turn_time: int
    """The latest turn. 0 leaves what is stored."""
    advance: int
    """By how much hand-outs move ``next_even_time``, which is the time of the transaction if it was earlier."""
    tolerance: int
    """How far ahead that may be before the lane is closed. -1 without a rate."""
    held_until: int
    """0 leaves what is stored, and so does an earlier time."""
    hold_reason: str


class DispatchChange(NamedTuple):
    """What is added to the row of a job type. The store creates the row if it is not there."""

    job_type: str
    ready: int
    returned: int
    running: int
    resting: int
    turn_time: int
    advance: int


class TypeGuard(NamedTuple):
    """What a hand-out relies on about its type when it is written."""

    job_type: str
    running_max: int
    next_even_max: int


class LaneGuard(NamedTuple):
    """What a hand-out relies on about its lane when it is written."""

    job_type: str
    lane: str
    under_way_max: int
    holds_jobs: bool
    next_even_max: int


@dataclass(slots=True)
class Changes:
    """Everything that one transaction writes. Deletions come first, then updates, then insertions, then the rest."""

    deleted: list[FinishedJob] = field(default_factory=list)
    inserted: list[ChangedJob] = field(default_factory=list)
    updated: list[ChangedJob] = field(default_factory=list)
    progressed: list[ChangedJob] = field(default_factory=list)
    """Jobs in which only progress, message, metadata, usage, update time and heard time changed."""
    events: list[NewEvent] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    """Attempts that ended. Their jobs are stored, or inserted here."""
    amended: list[Attempt] = field(default_factory=list)
    """Stored attempts whose usage changes to the usage given here."""
    requests: list[StoredRequest] = field(default_factory=list)
    moved_bulk_runs: dict[tuple[str, str], MovedBulkRun] = field(default_factory=dict)
    """By the keys of their requests. Where several servers share a store, what they were before is checked."""
    tallies: dict[TallyKey, int] = field(default_factory=dict)
    lanes: list[LaneChange] = field(default_factory=list)
    dispatch: list[DispatchChange] = field(default_factory=list)
    pauses: list[TypePause] = field(default_factory=list)
    type_guards: list[TypeGuard] = field(default_factory=list)
    """Types of which jobs are handed out. Where several servers share a store, they are checked when it is written."""
    lane_guards: list[LaneGuard] = field(default_factory=list)
    new_needs: list[NeedRow] = field(default_factory=list)
    resolved_needs: list[ResolvedNeed] = field(default_factory=list)
    """The outcomes of stored needs."""
    ended_children: list[int] = field(default_factory=list)
    """The keys of stored jobs that have needs and ended: what they need is no longer kept for them."""
    new_groups: list[NewGroup] = field(default_factory=list)
    """In this order, a group comes before those in it. Jobs and groups are inserted before groups are changed."""
    new_members: list[NewMember] = field(default_factory=list)
    new_waits: list[NewWait] = field(default_factory=list)
    groups: list[GroupChange] = field(default_factory=list)
    """At most one of each group."""
    group_guards: list[GroupGuard] = field(default_factory=list)
    instants: list[TakenInstant] = field(default_factory=list)
    """Instants of recurring entries whose jobs are inserted here."""
    now: int = 0
    """The time of the transaction."""
    ready_types: list[str] = field(default_factory=list)
    """The job types of which a job became ready and was not handed out, as far as other replicas must know."""

    def place_in_groups(self, first: int) -> None:
        """Set in new jobs the keys of groups that are inserted too. Stores call it before they make rows of jobs.

        Args:
            first: the sequence of the first event.
        """
        for member, group_event in self.new_members:
            member.joined(first + group_event)
        for job, group_events in self.new_waits:
            assert job.awaited_group is not None
            path = settled(from_text(job.awaited_group), [first + event for event in group_events])
            job.awaits(to_text(path))

    @property
    def has_relations(self) -> bool:
        """Whether anything changes about needs or groups."""
        needs = self.new_needs or self.resolved_needs or self.ended_children
        return bool(needs or self.new_groups or self.groups)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a transaction read for a decision."""

    jobs: dict[str, Job]
    """The jobs that were named or selected, by id."""
    requests: dict[tuple[str, str], StoredRequest]
    due: dict[Due, list[str]] = field(default_factory=dict)
    """The ids of the jobs that each selection found, in its order."""
    finished: dict[Finished | Named, list[FinishedJob]] = field(default_factory=dict)
    attempts: dict[tuple[str, int], Attempt] = field(default_factory=dict)
    """The requested ended attempts, by job and number."""
    unique: dict[UniqueKey, str] = field(default_factory=dict)
    """The ids of the jobs that have the requested unique keys."""
    due_groups: dict[Due, list[str]] = field(default_factory=dict)
    """The ids of the groups that each selection found, in its order. Their jobs are among ``jobs``."""
    open_needs: dict[str, OpenNeeds] = field(default_factory=dict)
    """For the due jobs that are final, by id. The jobs that have the needs are among ``jobs``, and locked."""
    unfinished_members: dict[str, list[str]] = field(default_factory=dict)
    """The ids of members of the due groups that are stopping, by the group's id. They are among ``jobs``, locked."""
    instants: dict[str, int] = field(default_factory=dict)
    """The latest instants of the recurring entries, locked. Without those that another replica has locked."""


class ReadyFound(NamedTuple):
    """The ready jobs that a transaction found and locked."""

    jobs: list[Job]
    is_complete: bool = True
    """False if another replica has locked some of the next ones."""


class TypeRecord(NamedTuple):
    """What is stored of the hand-out of a job type."""

    state: TypeState
    pause_reason: str


class LaneRecord(NamedTuple):
    """What is stored of a lane."""

    state: LaneState
    hold_reason: str = ""
    pause_reason: str = ""
    closed_until: int = 0


@dataclass(frozen=True, slots=True)
class StatesFound:
    """What the hand-out of some types goes by."""

    states: dict[str, TypeState]
    """Those of the types that have limits, lanes or pauses, and whose jobs this transaction may hand out."""
    turns: frozenset[str]
    """The types whose jobs this transaction may hand out. No other transaction does until it ends."""


class EventPage(NamedTuple):
    """Events read from the log, in order. All of it is from one moment."""

    events: list[StoredEvent]
    scanned: int
    """Every event up to this sequence has been looked at, so a reader goes on after it."""
    check: int
    """The check of the event at ``scanned``."""
    horizon: int
    """The newest sequence that has been removed. A page that begins below it may have a gap and must not be sent."""
    horizon_check: int
    """The check of the event at the horizon."""


class LogState(NamedTuple):
    """The state of the log."""

    head: int
    """The newest sequence; 0 when nothing was ever written."""
    horizon: int
    """The newest sequence that retention has removed; 0 when it has removed none."""
    horizon_check: int
    """The check of the event at the horizon."""
    bytes: int
    """Payload bytes of the stored events."""
    erasures: int = 0
    """How often events were erased. What is in memory of the log is out of date if this has changed."""


class JobPage(NamedTuple):
    """One page of a list of jobs, in the list's order."""

    jobs: list[Job]
    resume: Position | None
    """Where the next page begins. None if this is the last."""
    groups: Mapping[str, Group] = {}
    """The counts of those of the jobs that are groups, by id."""

    @property
    def has_more(self) -> bool:
        """Whether the list goes on after these."""
        return self.resume is not None


class JobSummary(NamedTuple):
    """What maintenance needs to know of a job. Its documents and texts are not read."""

    id: str
    job_type: str
    attempt: int
    claimed: bool
    retry_count: int
    max_retries: int
    error_retryable: bool | None
    """Whether the last error allows a retry, None when there was no error."""
    create_time: int
    create_sequence: int
    heard_time: int
    complete_time: int | None
    group_depth: int = 0
    is_kept: bool = False
    """As in ``FinishedJob``. False for jobs that are not final."""


class TaskRun(NamedTuple):
    """The last run of a maintenance task."""

    name: str
    last_due: int
    """The last scheduled instant that was claimed."""
    token: str
    start_time: int
    end_time: int | None
    outcome: str
    replica: str
    """The replica that runs it, or ran it."""
    definition: str = ""
    """Of a recurring entry: its schedule and time zone. Empty once no server has the entry any more."""
    job_id: str = ""
    """Of a recurring entry: the job of its last instant. Empty before the first."""


class Ended(NamedTuple):
    """How many jobs of one type ended in one state."""

    job_type: str
    state: JobState
    jobs: int
    latest: int
    """When the last of them ended."""


class Notification(NamedTuple):
    """Something was committed."""

    head: int
    """The log has events up to this sequence, or further."""
    next_due: int | None
    """The earliest due time that was written; None when none was."""
    ready_types: frozenset[str] = frozenset()
    """The job types of which jobs became ready that were not handed out. ``ANY_TYPE`` if they are not known."""
    has_erased: bool = False
    """Whether events were erased."""


ANY_TYPE = frozenset({"*"})
"""In place of job types: all of them. It is not the name of a type."""
