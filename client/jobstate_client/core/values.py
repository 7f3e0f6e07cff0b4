"""The values of the service: immutable, typed, with times in UTC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol

from jobstate_client.core.lazy import Lazy
from jobstate_client.core.states import (
    CancelCause,
    EventType,
    NeedCondition,
    OnExcess,
    Priority,
    RetryDecision,
    State,
    UniqueUntil,
    WaitReason,
)

Span = timedelta | float
"""A span of time: a timedelta, or seconds."""


@dataclass(frozen=True, slots=True)
class JobError:
    """The failure of one attempt."""

    code: str
    """For programs. The server's own codes are ATTEMPT_TIMEOUT and STALE."""
    message: str
    retryable: bool
    details: dict[str, Any] | None
    attempt: int
    time: datetime


class HasId(Protocol):
    """A ``Job``, a ``CreatedJob`` or a ``Group``: whatever has the id of a job."""

    @property
    def id(self) -> str:
        """The job's id."""


@dataclass(frozen=True, slots=True)
class Need:
    """A job that must have ended before another may begin."""

    job: str | HasId
    condition: NeedCondition | str = NeedCondition.COMPLETED
    """How it must have ended. When it ends otherwise, the job that needs it is cancelled."""


@dataclass(frozen=True, slots=True)
class NeedStatus:
    """A need of a job, and what has become of it."""

    job_id: str
    condition: NeedCondition
    met: bool
    state: State | None
    """How the needed job ended. None while it is not final, and when the job that needs it ended before."""


@dataclass(frozen=True, slots=True)
class GroupPolicy:
    """Makes a job a group: the server runs it, and it ends when its members have."""

    tolerated_failures: int = 0
    """How many members may end otherwise than COMPLETED with the group still ending COMPLETED; -1 is any number."""
    on_excess: OnExcess | str = OnExcess.FINISH
    """What happens to the other members once more have failed than that."""


@dataclass(frozen=True, slots=True)
class GroupMembers:
    """The members of a group, counted. Members that were deleted after they ended still count."""

    total: int
    completed: int
    permanently_failed: int
    cancelled: int
    tokens: int
    """Of the members, and of the members of groups among them."""
    cost: float
    closed: bool
    """Whether the group ends once all its members have."""
    stopping: bool
    """Whether no member is handed out any more."""

    @property
    def ended(self) -> int:
        """How many are final."""
        return self.completed + self.permanently_failed + self.cancelled


@dataclass(frozen=True, slots=True)
class Job(Lazy):
    """One job, with everything that the service knows about it."""

    id: str
    job_type: str
    source_id: str
    state: State
    progress: int
    """Percent, 0 to 100."""
    progress_message: str
    attempt: int
    """0 before the first start. Methods that take a job send it along: the server refuses reports of older attempts."""
    version: int
    """Of two copies of a job, the one with the greater version is newer."""
    worker: str
    claimed: bool
    """False before the first attempt, and while an attempt that the server resumed waits for a worker. Such an attempt
    neither times out nor goes stale, however long it waits."""
    retry_count: int
    max_retries: int
    create_time: datetime | None
    """This and ``update_time`` are None only in the job of a ``.deleted`` event."""
    update_time: datetime | None
    start_time: datetime | None
    """When the current or last attempt began: the first attempt with its start, a later one when its wait was over."""
    claim_time: datetime | None
    """When a worker claimed that attempt; None before. Timeout, staleness and duration count from here."""
    complete_time: datetime | None
    next_retry_time: datetime | None
    attempt_deadline: datetime | None
    timeout: timedelta | None
    """How long one attempt may take; None is no limit."""
    duration: timedelta
    """Time from claim to end, summed over the ended attempts. Time spent waiting for a worker is not included."""
    last_error: JobError | None
    estimated_tokens: int
    estimated_cost: float
    result_count: int
    cancel_reason: str
    metadata: dict[str, Any]
    """Empty in an event, or a response to progress, that does not set it."""
    result: dict[str, Any] | None
    priority: Priority = Priority.UNKNOWN
    """UNKNOWN from a server that does not know priorities."""
    wait_reason: WaitReason = WaitReason.UNKNOWN
    """What the job waits for."""
    ready_time: datetime | None = None
    """Since when, or from when, it can be handed out."""
    lease: timedelta | None = None
    """How long the worker may be silent before the attempt fails, if it was handed out with a lease."""
    start_within: timedelta | None = None
    """The job is cancelled if nobody begins it within this time of becoming ready."""
    unique_key: str = ""
    cancel_cause: CancelCause = CancelCause.UNKNOWN
    lane: str = ""
    """Whose turn the job takes beside others of its type. The empty lane is a lane like any other."""
    group_id: str = ""
    """The group that the job is a member of. Empty if it is in none."""
    group: GroupPolicy | None = None
    """How the group ends that this job is. None if it is none."""
    members: GroupMembers | None = None
    """The members of the group that this job is: exact in answers, up to a second old in events."""
    cancel_cause_id: str = ""
    """The need or group that the job was cancelled for."""
    recreated_from: str = ""
    """The id of the ended job that this one was made from by ``recreate``. Empty if it was not."""
    labels: dict[str, str] = field(default_factory=dict)
    """What ``list`` and ``watch`` find the job by."""
    existing: bool = field(default=False, compare=False)
    """Whether ``create`` or ``recreate`` made no job, and returned this one, which has the unique key. False everywhere
    else."""

    @property
    def is_final(self) -> bool:
        """Whether the job has ended, well or not."""
        return self.state.is_final

    @property
    def waiting_since(self) -> datetime | None:
        """Since when the job has been waiting for a worker: its creation, or the end of its delay or wait for a retry.

        None if it is not waiting, is delayed, or waits for what it needs.
        """
        if self.wait_reason in {WaitReason.TIME, WaitReason.NEEDS}:
            return None
        if self.state is State.QUEUED:
            return self.ready_time or self.create_time
        if self.state is State.PROCESSING and not self.claimed:
            return self.ready_time or self.start_time
        return None

    @property
    def waited(self) -> timedelta | None:
        """How long the current or last attempt waited for the worker that claimed it; None if none has."""
        ready = self.ready_time or (self.create_time if self.attempt <= 1 else self.start_time)
        return None if self.claim_time is None or ready is None else self.claim_time - ready


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to create."""

    job_type: str
    id: str = ""
    """Empty lets the server choose one."""
    source_id: str = ""
    metadata: Mapping[str, Any] | None = None
    max_retries: int | None = None
    """None takes the job type's."""
    attempt_timeout: Span | None = None
    """How long one attempt may take. None takes the job type's timeout, 0 is no limit."""
    request_id: str = ""
    """Makes a repeat safe. Empty generates one for the call; pass your own to repeat the call yourself."""
    priority: Priority | str | None = None
    """How soon the job is handed out beside others of its type. None is NORMAL."""
    delay: Span | None = None
    """How long the job is held back, at most 366 days."""
    not_before_time: datetime | None = None
    """The same as a point in time. A time that has passed is now."""
    start_within: Span | None = None
    """The server cancels the job if nobody begins it within this time of becoming ready. None is for ever."""
    unique_key: str = ""
    """What only one job of this type may have at a time, at most 256 bytes. Empty is none."""
    unique_until: UniqueUntil | str | None = None
    """Until when the job has its unique key. None is FINAL."""
    lane: str | None = None
    """Whose turn the job takes, such as a tenant, at most 128 bytes. None is as the job type's ``lane_from`` says."""
    needs: Sequence[str | HasId | Need] = ()
    """Jobs that must have completed, or ended as a ``Need`` says, before this one may begin: at most 100."""
    group_id: str | HasId = ""
    """The group that the job becomes a member of."""
    group: GroupPolicy | None = None
    """Makes the job a group."""
    labels: Mapping[str, str] | None = None
    """What ``list`` and ``watch`` find the job by: at most 8 pairs. A key is 1 to 64 letters, digits or ``. _ : / -``,
    and begins with a letter or digit; a value has at most 64 bytes."""
    by: Job | None = None
    """The attempt that creates the job: one that is over creates nothing. A running member may so add to its own group
    after that is closed."""


@dataclass(frozen=True, slots=True)
class CreatedJob:
    """A job that was created in a batch."""

    id: str
    version: int
    existing: bool = False
    """Whether the job was there before, with the same unique key: nothing was created."""


@dataclass(frozen=True, slots=True)
class Updated:
    """What an update of ``Client.updates`` has made of its job. Pass it on instead of the job."""

    id: str
    version: int
    attempt: int
    """After the update. Reports that are given this value name that attempt."""
    state: State
    existing: bool = False
    """Whether a create made no job, because this one has the same unique key."""


@dataclass(frozen=True, slots=True)
class Detail:
    """The details of an event. Which fields are set depends on its type."""

    resumed: bool = False
    """STARTED: the server resumed the job, and the attempt waits for a worker."""
    worker: str = ""
    """CLAIMED: the worker that claimed the attempt. Empty if a report claimed it."""
    error: JobError | None = None
    """FAILED: the failure."""
    decision: RetryDecision | None = None
    """FAILED, PERMANENTLY_FAILED: whether the job is retried, and why or why not."""
    next_retry_time: datetime | None = None
    """FAILED, RETRYING, RELEASED: the time of the retry."""
    delay: timedelta | None = None
    """RETRYING, RELEASED: how long the job waits."""
    hold_lane: timedelta | None = None
    """RELEASED: how long nothing of the job's lane is handed out."""
    reason: str = ""
    """CANCELLED, RELEASED: the reason given."""
    heard_time: datetime | None = None
    """STALE_DETECTED: when the attempt last reported."""
    stale_threshold: timedelta | None = None
    """STALE_DETECTED: how long an attempt may go without a report."""
    waited: timedelta | None = None
    """STARTED, CLAIMED: how long the attempt had waited for the worker that claimed it. None if resumed."""
    attempt: int = 0
    """USAGE: the attempt whose usage was reported. RELEASED: the attempt that ended."""
    tokens: int = 0
    """USAGE: what that attempt has used in total."""
    cost: float = 0.0
    """USAGE: what that attempt has cost in total."""
    cause: CancelCause | None = None
    """CANCELLED: who or what cancelled the job."""
    cause_id: str = ""
    """CANCELLED: the need or group that it was cancelled for."""


@dataclass(frozen=True, slots=True)
class Event(Lazy):
    """One change of one job."""

    sequence: int
    type: EventType
    name: str
    """Such as ``processing-job.started``."""
    time: datetime
    actor: str
    previous_state: State | None
    """None if type is QUEUED."""
    job: Job
    """The job as it was right after the event; without metadata and result unless this change set them."""
    detail: Detail
    sets_metadata: bool
    """Whether ``job.metadata`` is the job's metadata. If not, keep the metadata of your own copy."""
    sets_result: bool
    """Whether ``job.result`` is the job's result."""
    erased: bool
    """Whether the job was erased. Then ``detail`` is empty, and the job has its id, type and state only."""


@dataclass(frozen=True, slots=True)
class SnapshotStarted:
    """In a watch with snapshot: the jobs follow. Discard those that you hold, because a snapshot may begin again."""


@dataclass(frozen=True, slots=True)
class SnapshotJob:
    """In a watch with snapshot: one job as it is now."""

    job: Job


@dataclass(frozen=True, slots=True)
class Synced:
    """In a watch with snapshot: you have everything up to here, and the events from here on follow."""

    cursor: str


WatchItem = SnapshotStarted | SnapshotJob | Synced | Event
