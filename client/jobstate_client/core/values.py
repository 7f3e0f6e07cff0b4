"""What the service tells, as plain values: immutable, typed, times in UTC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from jobstate_client.core.states import EventType, RetryDecision, State

Span = timedelta | float
"""A span of time: a timedelta, or seconds."""


@dataclass(frozen=True, slots=True)
class JobError:
    """The failure of one attempt."""

    code: str
    """For programs. The server's own are ATTEMPT_TIMEOUT and STALE."""
    message: str
    retryable: bool
    details: dict[str, Any] | None
    attempt: int
    time: datetime


@dataclass(frozen=True, slots=True)
class Job:
    """One job and everything the service knows of it."""

    id: str
    job_type: str
    source_id: str
    state: State
    progress: int
    """Percent, 0 to 100."""
    progress_message: str
    attempt: int
    """0 before the first start. Methods that take a job hand this back to the server: it is the fence."""
    version: int
    """Of two copies of a job, the one with the greater version is the newer."""
    worker: str
    claimed: bool
    """False while an attempt that the server resumed waits for a worker, and before the first attempt. However long it
    waits, it neither times out nor goes stale."""
    retry_count: int
    max_retries: int
    create_time: datetime | None
    """This and ``update_time`` are None only in the job of a ``.deleted`` event."""
    update_time: datetime | None
    start_time: datetime | None
    """When the current attempt, or the last, began: the first by a start, a later one when its wait was over."""
    claim_time: datetime | None
    """When a worker took that attempt. Timeout, staleness and duration count from here. None while it is unclaimed."""
    complete_time: datetime | None
    next_retry_time: datetime | None
    attempt_deadline: datetime | None
    timeout: timedelta | None
    """How long one attempt may take; None means without limit."""
    duration: timedelta
    """Time from claim to end, summed over ended attempts. Waiting for a worker is not in it."""
    last_error: JobError | None
    estimated_tokens: int
    estimated_cost: float
    result_count: int
    cancel_reason: str
    metadata: dict[str, Any]
    """Empty in events, and in answers to progress, that do not set it."""
    result: dict[str, Any] | None

    @property
    def is_final(self) -> bool:
        """Whether the job has ended, well or not."""
        return self.state.is_final

    @property
    def waiting_since(self) -> datetime | None:
        """Since when the job has been waiting for a worker to take it; None when it is not.

        That is since its creation, or since the wait for its retry was over.
        """
        if self.state is State.QUEUED:
            return self.create_time
        return self.start_time if self.state is State.PROCESSING and not self.claimed else None

    @property
    def waited(self) -> timedelta | None:
        """How long the current attempt, or the last, waited for the worker that took it; None if none has."""
        ready = self.create_time if self.attempt <= 1 else self.start_time
        return None if self.claim_time is None or ready is None else self.claim_time - ready


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to be created."""

    job_type: str
    id: str = ""
    """Empty lets the server make one."""
    source_id: str = ""
    metadata: Mapping[str, Any] | None = None
    max_retries: int | None = None
    """None takes the job type's."""
    attempt_timeout: Span | None = None
    """How long one attempt may take. None takes the job type's, 0 means without limit."""
    request_id: str = ""
    """Makes repeating safe. Empty makes one for the call; give your own to repeat the call yourself."""


@dataclass(frozen=True, slots=True)
class CreatedJob:
    """What is told of each job of a batch."""

    id: str
    version: int


@dataclass(frozen=True, slots=True)
class Detail:
    """What an event tells beyond its job. Which fields are set depends on the event's type."""

    resumed: bool = False
    """STARTED: the server resumed the job, and the attempt waits for a worker."""
    worker: str = ""
    """CLAIMED: who claimed the attempt. Empty when a report did."""
    error: JobError | None = None
    """FAILED: the failure."""
    decision: RetryDecision | None = None
    """FAILED, PERMANENTLY_FAILED: whether it is retried, and why or why not."""
    next_retry_time: datetime | None = None
    """FAILED, RETRYING: when."""
    delay: timedelta | None = None
    """RETRYING: how long the job waits."""
    reason: str = ""
    """CANCELLED: the reason given."""
    heard_time: datetime | None = None
    """STALE_DETECTED: when something was last heard of the attempt."""
    stale_threshold: timedelta | None = None
    """STALE_DETECTED: the silence that was allowed."""
    waited: timedelta | None = None
    """STARTED, CLAIMED: how long the attempt had waited for the worker that took it. None when resumed."""
    attempt: int = 0
    """USAGE: the attempt whose usage was told."""
    tokens: int = 0
    """USAGE: what that attempt has used in total."""
    cost: float = 0.0
    """USAGE: likewise."""


@dataclass(frozen=True, slots=True)
class Event:
    """One change of one job."""

    sequence: int
    type: EventType
    name: str
    """Such as ``processing-job.started``."""
    time: datetime
    actor: str
    previous_state: State | None
    """None for QUEUED."""
    job: Job
    """As it was right after the event; without metadata and result unless this change set them."""
    detail: Detail
    sets_metadata: bool
    """Whether ``job.metadata`` is the job's metadata; if not, leave that of your copy as it is."""
    sets_result: bool
    """Whether ``job.result`` is the job's result."""


@dataclass(frozen=True, slots=True)
class SnapshotStarted:
    """In a watch with snapshot: the jobs follow. Forget those you hold, because a snapshot may begin again."""


@dataclass(frozen=True, slots=True)
class SnapshotJob:
    """In a watch with snapshot: one job as it is."""

    job: Job


@dataclass(frozen=True, slots=True)
class Synced:
    """In a watch with snapshot: you have everything up to here; what happens from now on follows."""

    cursor: str


WatchItem = SnapshotStarted | SnapshotJob | Synced | Event
