"""Jobs that have lived, and a decider to ask about them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

import pytest

from jobstate.v1 import event_pb2
from jobstate_server.domain import commands as c
from jobstate_server.domain.durations import MINUTE, SECOND
from jobstate_server.domain.errors import InvalidField, JobStateError
from jobstate_server.domain.events import Event
from jobstate_server.domain.job import FinishedJob, Job, JobError, JobState
from jobstate_server.domain.job_types import SHIPPED_JOB_TYPES, JobType, JobTypes
from jobstate_server.domain.plan import Change
from jobstate_server.domain.rules.decider import Decider
from jobstate_server.domain.waiting import CancelCause, Priority, UniqueUntil
from jobstate_server.wire.events import complete_event, encode_event

NOW = 5_000 * SECOND
TIMEOUT = 60 * SECOND
MOVED = NOW - SECOND
"""The due time of the running attempt: not its deadline, because an outage of ours has moved it."""

MANUAL = JobType(
    name="manual",
    max_retries=3,
    timeout=None,
    base_delay=SECOND,
    max_delay=30 * SECOND,
    stale_threshold=5 * MINUTE,
    auto_retry=False,
)
"""A type that rests in FAILED."""

SPREAD = replace(MANUAL, name="spread", jitter=0.5, auto_retry=True)
"""A type with jitter."""

JOB_TYPES = (*SHIPPED_JOB_TYPES, MANUAL, SPREAD)

TOO_LARGE = b"too large"

_LAST_ERROR = JobError("E_OLD", "an old failure", True, b"old details", 1, NOW - 30 * SECOND)

_STATE_FIELDS: dict[JobState, dict[str, Any]] = {
    JobState.QUEUED: {
        "attempt": 0,
        "claimed": False,
        "start_time": None,
        "claim_time": None,
        "retry_count": 0,
        "last_error": None,
        "ready_time": NOW - 90 * SECOND,
        "due_time": NOW - 40 * SECOND,
    },
    JobState.PROCESSING: {"attempt_deadline": NOW + 50 * SECOND, "due_time": MOVED},
    JobState.COMPLETED: {"complete_time": NOW - SECOND},
    JobState.FAILED: {"retry_delay": 7 * SECOND},
    JobState.RETRYING: {"next_retry_time": NOW - SECOND, "due_time": NOW - SECOND},
    JobState.PERMANENTLY_FAILED: {"complete_time": NOW - SECOND},
    JobState.CANCELLED: {
        "complete_time": NOW - SECOND,
        "cancel_reason": "an old reason",
        "cancel_cause": CancelCause.CALLER,
    },
}

_Refusal = TypeVar("_Refusal", bound=JobStateError)


def merge(base: bytes, patch: bytes) -> bytes:
    """Documents are opaque to the rules, so any merge will do."""
    if patch == TOO_LARGE:
        raise InvalidField("metadata", "is too large")
    return base + patch


def a_decider(*, strict: bool = False, random: float = 0.0, unnamed_types_max: int = 1_000) -> Decider:
    """A decider that always draws ``random``."""
    return Decider(JobTypes(JOB_TYPES, strict=strict), merge, lambda: random, unnamed_types_max=unnamed_types_max)


def a_job(state: JobState, **changes: Any) -> Job:
    """A job in ``state`` that has lived: nearly every field differs from its default, so that a reset is seen."""
    lived = Job(
        id="job",
        job_type="clean_transcript",
        source_id="source",
        principal="principal",
        state=state,
        version=40,
        progress=57,
        progress_message="half way",
        metadata=b"{metadata}",
        attempt=2,
        claimed=True,
        worker="old worker",
        retry_count=1,
        max_retries=3,
        timeout=TIMEOUT,
        last_error=_LAST_ERROR,
        estimated_tokens=1_000,
        estimated_cost_nano=2_000,
        attempt_tokens=100,
        attempt_cost_nano=200,
        create_time=NOW - 90 * SECOND,
        update_time=NOW - 10 * SECOND,
        start_time=NOW - 20 * SECOND,
        claim_time=NOW - 15 * SECOND,
        heard_time=NOW - 10 * SECOND,
        duration=5 * SECOND,
        level=Priority.HIGH,
        ready_time=NOW - 20 * SECOND,
        start_within=50 * SECOND,
        unique_key="unique",
        unique_until=UniqueUntil.FINAL,
    )
    return replace(lived, **{**_STATE_FIELDS[state], **changes})


def finished(job: Job) -> FinishedJob:
    """What a deletion reads of a job that has ended."""
    assert job.complete_time is not None
    return FinishedJob(
        job.id,
        job.create_sequence,
        job.job_type,
        job.source_id,
        job.principal,
        job.state,
        job.complete_time,
        create_time=job.create_time,
        labels=job.labels,
    )


def an_unclaimed_job() -> Job:
    """A job whose attempt the server has resumed, and nobody has taken."""
    return a_job(JobState.PROCESSING, claimed=False, claim_time=None, worker="", attempt_deadline=None, due_time=None)


def a_leased_job(**changes: Any) -> Job:
    """A job whose attempt an Acquire has claimed. Its lease ended a second ago, if nothing was reported since."""
    return a_job(PROCESSING, **{"lease": 10 * SECOND, "heard_time": NOW - 11 * SECOND} | changes)


def a_delayed_job(**changes: Any) -> Job:
    """A job that is delayed. Its time came a second ago."""
    ready = {"held": True, "ready_time": NOW - SECOND, "due_time": NOW - SECOND}
    return a_job(JobState.QUEUED, **ready | changes)


PROCESSING = JobState.PROCESSING


def decide(job: Job | None, command: c.JobCommand, *, now: int = NOW, decider: Decider | None = None) -> Change:
    """The decision, after making sure that the job it was made from is left as it was."""
    before = dict(vars(job)) if job is not None else None

    decision = (decider or a_decider()).change(job, command, now)

    assert (dict(vars(job)) if job is not None else None) == before
    assert decision is not None
    assert decision.before is job
    return decision


def refused(
    error: type[_Refusal], job: Job | None, command: c.JobCommand, *, decider: Decider | None = None
) -> _Refusal:
    """The refusal, after making sure that it left the job as it was."""
    before = dict(vars(job)) if job is not None else None

    with pytest.raises(error) as refusal:
        (decider or a_decider()).change(job, command, NOW)

    assert type(refusal.value) is error
    assert (dict(vars(job)) if job is not None else None) == before
    return refusal.value


def is_dropped(job: Job | None, command: c.ServerCommand, *, now: int = NOW) -> bool:
    """Whether this decision of the server counts as overtaken, after making sure that it left the job as it was."""
    before = dict(vars(job)) if job is not None else None

    decision = a_decider().change(job, command, now)

    assert (dict(vars(job)) if job is not None else None) == before
    return decision is None


def as_sent(event: Event, sequence: int = 5) -> event_pb2.Event:
    """The event as a watcher parses it, once it has come from the columns of the log."""
    job, payload = event.job, encode_event(event).payload
    return event_pb2.Event.FromString(
        complete_event(sequence, event.time, job.id, job.job_type, job.source_id, int(event.type), payload)
    )
