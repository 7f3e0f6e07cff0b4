"""What a job waits for, and what only one job may have: facts that follow from the fields of a job."""

from __future__ import annotations

from enum import IntEnum

from jobstate_server.domain.job import Job, JobState
from jobstate_server.domain.values import plain_members


@plain_members
class Priority(IntEnum):
    """How soon a job is handed out. The numbers are stored as ``level`` and are those of ``jobstate.v1.Priority``."""

    BACKGROUND = 1
    LOW = 2
    NORMAL = 3
    HIGH = 4
    URGENT = 5


@plain_members
class WaitReason(IntEnum):
    """What a job waits for. The numbers are those of ``jobstate.v1.WaitReason``."""

    TURN = 1
    TIME = 2
    NEEDS = 3


@plain_members
class CancelCause(IntEnum):
    """Who or what cancelled a job. The numbers are stored and are those of ``jobstate.v1.CancelCause``."""

    CALLER = 1
    EXPIRED = 2
    NEED = 3
    GROUP = 4


@plain_members
class UniqueUntil(IntEnum):
    """Until when a job has its unique key. The numbers are stored and are those of ``jobstate.v1.UniqueUntil``."""

    FINAL = 1
    STARTED = 2


UniqueKey = tuple[str, str, str]
"""Principal, job type and the key given to Create."""


def is_ready(job: Job) -> bool:
    """Whether the job can be handed out. The index ``job_ready`` has exactly these jobs."""
    return not (job.held or job.claimed) and job.state in _HANDED_OUT_FROM


_HANDED_OUT_FROM = frozenset({JobState.QUEUED, JobState.PROCESSING})


def wait_reason(job: Job) -> WaitReason | None:
    """What the job waits for before a worker can have it. None if it is claimed, final or rests in FAILED."""
    state = job.state
    if job.held:
        return WaitReason.NEEDS if job.open_needs else WaitReason.TIME
    if state is JobState.RETRYING:
        return WaitReason.TIME
    return WaitReason.TURN if state in _HANDED_OUT_FROM and not job.claimed else None


def is_running(job: Job) -> bool:
    """Whether a worker has claimed the running attempt. The server itself runs groups."""
    return job.claimed and job.state is JobState.PROCESSING and not job.group_depth


def is_unclaimed(job: Job) -> bool:
    """Whether the running attempt waits for a worker: the server has resumed it."""
    return job.state is JobState.PROCESSING and not job.claimed


def has_unique_key(job: Job) -> bool:
    """Whether no other job may get this job's unique key. The index ``job_unique`` has exactly these jobs."""
    if job.unique_key is None or job.state in _WITHOUT_KEY:
        return False
    return job.attempt == 0 or job.unique_until != UniqueUntil.STARTED


_WITHOUT_KEY = frozenset({JobState.COMPLETED, JobState.PERMANENTLY_FAILED, JobState.CANCELLED})


def releases(job: Job) -> int:
    """How often an attempt of the job has been given back. Every other new attempt is a retry."""
    return max(0, job.attempt - 1 - job.retry_count)
