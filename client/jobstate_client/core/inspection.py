"""Values that few programs ask for: ended attempts, policies, statistics, health, tasks. Imported on first use."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from jobstate_client.core.states import (
    AttemptOutcome,
    HealthState,
    HoldReason,
    LaneFrom,
    LaneHolds,
    SkipReason,
    State,
    WaitReason,
)
from jobstate_client.core.values import JobError


@dataclass(frozen=True, slots=True)
class Attempt:
    """One ended attempt."""

    number: int
    start_time: datetime | None
    """When it began: the first attempt with its start, a later one when its wait was over."""
    claim_time: datetime | None
    """When a worker claimed it; None if none had when the job was cancelled."""
    end_time: datetime | None
    outcome: AttemptOutcome
    error: JobError | None
    tokens: int
    cost: float
    worker: str


@dataclass(frozen=True, slots=True)
class Rate:
    """How many jobs are handed out in a time: at most ``count + burst - 1`` in any period."""

    count: int
    period: timedelta
    burst: int
    """How many may be handed out at once after a time without any."""


@dataclass(frozen=True, slots=True)
class JobType:
    """The policy of a job type."""

    name: str
    max_retries: int
    timeout: timedelta | None
    base_delay: timedelta
    max_delay: timedelta
    jitter: float
    stale_threshold: timedelta
    auto_retry: bool
    lease: timedelta | None = None
    """How long a worker that acquired an attempt may be silent. None from a server that does not hand out jobs."""
    priority_step: timedelta | None = None
    """What one step of priority is worth in waiting."""
    concurrency: int = 0
    """How many attempts may be claimed at a time, at all servers together; 0 is without limit."""
    rate: Rate | None = None
    """How fast jobs are handed out, at all servers together; None is without limit."""
    lane_from: LaneFrom = LaneFrom.UNKNOWN
    """The lane of jobs that are created without one."""
    lane_concurrency: int = 0
    """``concurrency`` for the jobs of one lane."""
    lane_rate: Rate | None = None
    """``rate`` for the jobs of one lane."""
    lane_holds: LaneHolds = LaneHolds.UNKNOWN
    """What counts towards ``lane_concurrency``."""

    def backoff_delay(self, retry_count: int) -> timedelta:
        """The wait before a retry, after ``retry_count`` earlier retries, without jitter."""
        # With a greater exponent every base delay is at its maximum, and a timedelta would overflow.
        return min(self.max_delay, self.base_delay * int(2 ** min(retry_count, 32)))


@dataclass(frozen=True, slots=True)
class JobTypes:
    """The policies in force."""

    types: tuple[JobType, ...]
    strict: bool
    """Whether a job type that is not listed is refused. If not, it follows the policy named ``default``."""


@dataclass(frozen=True, slots=True)
class TypeStats:
    """Statistics of the jobs of one type, or of all: those stored now, and all since the store was created."""

    job_type: str
    """Empty in the total."""
    stored: dict[State, int]
    oldest_queued_time: datetime | None
    completed: int
    permanently_failed: int
    cancelled: int
    success_rate: float | None
    duration_mean: timedelta | None
    duration_p50: timedelta | None
    duration_p95: timedelta | None
    duration_p99: timedelta | None
    wait_mean: timedelta | None
    """How long attempts waited for the worker that claimed them. This and the percentiles are None until one has."""
    wait_p50: timedelta | None
    wait_p95: timedelta | None
    wait_p99: timedelta | None
    retries: int
    tokens: int
    cost: float
    waiting: dict[WaitReason, int] = field(default_factory=dict)
    """Jobs stored now, by what they wait for."""
    oldest_ready_time: datetime | None = None
    """Since when the job that has waited longest for its turn has been ready."""
    running: int = 0
    """Attempts claimed now."""
    released: int = 0
    """Attempts that were given back."""
    expired: int = 0
    """Jobs that nobody began within their ``start_within``."""


@dataclass(frozen=True, slots=True)
class Stats:
    """Statistics by job type and in total."""

    job_types: dict[str, TypeStats]
    total: TypeStats


@dataclass(frozen=True, slots=True)
class LimitUse:
    """A limit, and how much of it is in use."""

    used: int
    limit: int


@dataclass(frozen=True, slots=True)
class Hold:
    """One thing that holds a job back."""

    reason: HoldReason
    end_time: datetime | None
    """When it ends by itself, if that is known."""
    text: str
    """The same for people."""
    subject: str = ""
    """The lane, if the reason is one of its lane."""
    limit: LimitUse | None = None
    """How much of the limit is in use, if the reason is a limit of concurrency."""


@dataclass(frozen=True, slots=True)
class Paused:
    """What ``pause`` has stopped."""

    ready: int
    """Jobs that are ready and wait behind it."""
    running: int
    """Attempts that are still claimed."""
    head: int
    """The sequence of the last event before the pause."""


@dataclass(frozen=True, slots=True)
class Unpaused:
    """What goes on after ``unpause``."""

    ready: int
    """Jobs that are ready and wait behind it."""
    head: int
    """The sequence of the last event before the pause ended."""


@dataclass(frozen=True, slots=True)
class Lane:
    """The jobs of one type that share a turn."""

    lane: str
    ready: int
    """Jobs that are ready."""
    running: int
    """Attempts that are claimed; with ``lane_holds`` JOB, jobs that have begun and are not final."""
    turn_time: datetime | None
    """When it last had a turn."""
    held_until_time: datetime | None
    """Until when nothing of it is handed out, because of its rate or of a release."""
    paused: bool
    oldest_wait: timedelta | None
    """How long its oldest ready job has waited."""
    pause_reason: str = ""
    """The reason that was given to ``pause``."""


@dataclass(frozen=True, slots=True)
class TypeStatus:
    """What holds back all jobs of a type, but for its ``concurrency``."""

    paused: bool
    pause_reason: str
    """The reason that was given to ``pause``."""
    held_until_time: datetime | None
    """Until when nothing of it is handed out because of its rate."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why nobody works on a job."""

    holds: tuple[Hold, ...]
    """All that holds it back now. Empty if it is claimed or final."""
    ahead_in_lane: int | None
    """Ready jobs of its lane that come before it, at most 10,000; None if it is not ready itself."""
    waiting_acquires: int
    """Calls of ``acquire`` for its type that wait at the server that answered."""
    expected_start_time: datetime | None
    """When it is expected to begin, at the pace of the latest minute; None if that is not known."""
    lanes_ahead: int | None = None
    """Lanes of its type that have a turn before its own, at most 10,000; None if it is not ready itself."""


@dataclass(frozen=True, slots=True)
class TaskResult:
    """The jobs that a maintenance task changed, or would have changed in a dry run."""

    job_ids: tuple[str, ...]
    """The first 100."""
    count: int


@dataclass(frozen=True, slots=True)
class BulkProgress:
    """What ``recreate_many``, ``retry_many`` or ``cancel_many`` has done, or would do in a dry run."""

    matched: int
    done: int
    """How many jobs were changed."""
    skipped: dict[SkipReason, int]
    """How many were left as they are."""
    more: bool
    """In a dry run: whether there may be more than were counted. False otherwise."""
    limit_reached: bool
    """Whether as many were changed as ``limit`` allows. More may match."""
    job_ids: tuple[str, ...]
    """The first jobs that were changed since the call began, at most 100."""
    request_id: str = ""
    """Names the work, to go on with it. Empty in a dry run."""

    def after(self, earlier: BulkProgress) -> BulkProgress:
        """The same, with the jobs of an earlier call before its own."""
        return replace(self, job_ids=(earlier.job_ids + self.job_ids)[:_IDS_KEPT])


_IDS_KEPT = 100
"""As many as the server names in one answer."""


@dataclass(frozen=True, slots=True)
class CleanupResult:
    """How much was deleted, or would have been in a dry run."""

    jobs: int
    events: int


@dataclass(frozen=True, slots=True)
class Health:
    """How the jobs are doing."""

    state: HealthState
    problems: tuple[str, ...]
    oldest_queued_age: timedelta | None
    oldest_unclaimed_age: timedelta | None
    """How long the oldest due retry has been waiting for a worker."""
    queued: int
    processing: int
    failed: int
    overdue: int
    failure_rate: float
    backlog: int
    commit_latency_p99: timedelta | None
    commits: int
    commands: int


@dataclass(frozen=True, slots=True)
class Task:
    """A periodic task of the server, or a recurring job of its settings, which has a ``job_type``."""

    name: str
    schedule: str
    last_run: datetime | None
    last_outcome: str
    last_duration: timedelta | None
    next_run: datetime | None
    time_zone: str
    job_type: str
    last_job_id: str
    last_error: str
