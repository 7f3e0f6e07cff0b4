"""Events: what happened to a job, with the names that watchers see."""

from __future__ import annotations

from enum import IntEnum

from jobstate_server.domain.groups import Group
from jobstate_server.domain.job import Job, JobError, JobState
from jobstate_server.domain.values import plain_members, value
from jobstate_server.domain.waiting import CancelCause


@plain_members
class EventType(IntEnum):
    """What kind of thing happened. The numbers are stored and are those of ``jobstate.v1.EventType``."""

    QUEUED = 1
    STARTED = 2
    CLAIMED = 3
    PROGRESS = 4
    COMPLETED = 5
    FAILED = 6
    RETRYING = 7
    PERMANENTLY_FAILED = 8
    CANCELLED = 9
    STALE_DETECTED = 10
    DELETED = 11
    READY = 12
    RELEASED = 13
    USAGE = 14
    WAITING = 15


EVENT_NAMES = {
    EventType.QUEUED: "processing-job.queued",
    EventType.STARTED: "processing-job.started",
    EventType.CLAIMED: "processing-job.claimed",
    EventType.PROGRESS: "processing-job.progress",
    EventType.COMPLETED: "processing-job.completed",
    EventType.FAILED: "processing-job.failed",
    EventType.RETRYING: "processing-job.retrying",
    EventType.PERMANENTLY_FAILED: "processing-job.permanently-failed",
    EventType.CANCELLED: "processing-job.cancelled",
    EventType.STALE_DETECTED: "processing-job.stale.detected",
    EventType.DELETED: "processing-job.deleted",
    EventType.READY: "processing-job.ready",
    EventType.RELEASED: "processing-job.released",
    EventType.USAGE: "processing-job.usage",
    EventType.WAITING: "processing-job.waiting",
}


@plain_members
class RetryDecision(IntEnum):
    """Whether a failed job is retried, or why not. The numbers are those of ``jobstate.v1.RetryDecision``."""

    WILL_RETRY = 1
    NOT_RETRYABLE = 2
    LIMIT_REACHED = 3
    AWAITING_RETRY_CALL = 4


@value
class Started:
    """An attempt began."""

    resumed: bool
    """The server started it after a wait, and no worker has claimed it yet."""
    waited: int | None = None
    """How long the job waited for the worker that started it. None when resumed."""


@value
class Claimed:
    """A worker took an attempt that the server had resumed, by Start or by its first report."""

    worker: str
    waited: int
    """How long the attempt waited for that worker."""


@value
class Failed:
    """The error, and whether the job is retried."""

    error: JobError
    decision: RetryDecision
    next_retry_time: int | None


@value
class Retrying:
    """The wait before the next attempt."""

    delay: int
    next_retry_time: int


@value
class PermanentlyFailed:
    """Why the job is not retried."""

    decision: RetryDecision


@value
class Cancelled:
    """The caller's reason, possibly empty, and who or what cancelled the job."""

    reason: str
    cause: CancelCause
    cause_id: str | None = None
    """The needed job, or the group, that it was cancelled for."""


@value
class StaleDetected:
    """When the attempt last reported, and how long it was allowed to be silent."""

    heard_time: int
    stale_threshold: int


@value
class Released:
    """The worker gave the attempt back."""

    attempt: int
    reason: str
    delay: int
    next_retry_time: int
    hold_lane: int = 0


@value
class Used:
    """The total usage of an attempt, reported by ReportUsage."""

    attempt: int
    tokens: int
    cost_nano: int


_TYPE_TAG = b"\x10"


def is_whole(payload: bytes) -> bool:
    """Whether the stored payload of an event has what the columns beside it have, too.

    Earlier programs wrote it so. Theirs begin with the type, which others do not have.
    """
    return payload.startswith(_TYPE_TAG)


ERASED_TAG = b"\x40"
"""How the stored payload of an erased event begins."""
_CHECK_BYTES = 4


def is_erased(payload: bytes) -> bool:
    """Whether the stored payload of an event is all that Erase has left of it."""
    return payload.startswith(ERASED_TAG)


def erased_check(payload: bytes) -> int:
    """The check that an erased event had when it was written. It stands behind the field ``erased``."""
    return int.from_bytes(payload[2 : 2 + _CHECK_BYTES], "little")


def with_erased_check(payload: bytes, check: int) -> bytes:
    """The payload of an erased event with its check."""
    return payload[:2] + check.to_bytes(_CHECK_BYTES, "little") + payload[2:]


def without_erased_check(payload: bytes) -> bytes:
    """The payload of an erased event as it is sent."""
    return payload[:2] + payload[2 + _CHECK_BYTES :]


Detail = Started | Claimed | Failed | Retrying | PermanentlyFailed | Cancelled | StaleDetected | Released | Used


@value
class Event:
    """One fact about one job. It has no sequence yet: the log numbers it when it is written."""

    type: EventType
    time: int
    actor: str
    previous_state: JobState | None
    """The state before. None for a job that was just created."""
    job: Job
    """The job right after this event."""
    detail: Detail | None = None
    with_metadata: bool = False
    """Whether this change set metadata, so that the event carries it."""
    with_result: bool = False
    members: Group | None = None
    """The counts of the group that the job is."""
