"""What the live views keep of a job and an event: the little that a line shows, whatever the job carries."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from jobstate_client.core.states import EventType
from jobstate_client.core.values import Event, Job
from jobstate_client.views.phase import Phase, phase_of
from jobstate_client.views.summaries import event_summary, kind
from jobstate_client.views.text import safe

NOTE_CHARACTERS_MAX = 200
"""Of a message or error, what is kept: a line of a wide terminal. A message may have 4 KiB, an error more."""


def _short(text: str) -> str:
    return safe(text[:NOTE_CHARACTERS_MAX])


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job on a line. Its texts are safe for a terminal."""

    id: str
    job_type: str
    phase: Phase
    version: int
    progress: int
    message: str
    attempt: int
    start_time: datetime | None
    claim_time: datetime | None
    update_time: datetime | None
    deadline: datetime | None
    next_retry_time: datetime | None
    retry_count: int
    max_retries: int
    error: str

    @classmethod
    def of(cls, job: Job) -> JobRow:
        """What is kept of this job."""
        error = job.last_error
        return cls(
            id=safe(job.id),
            job_type=safe(job.job_type),
            phase=phase_of(job.state, claimed=job.claimed),
            version=job.version,
            progress=job.progress,
            message=_short(job.progress_message),
            attempt=job.attempt,
            start_time=job.start_time,
            claim_time=job.claim_time,
            update_time=job.update_time,
            deadline=job.attempt_deadline,
            next_retry_time=job.next_retry_time,
            retry_count=job.retry_count,
            max_retries=job.max_retries,
            error="" if error is None else _short(error.code or error.message),
        )


@dataclass(frozen=True, slots=True)
class EventRow:
    """An event on a line. Its texts are safe for a terminal."""

    time: datetime
    type: EventType
    kind: str
    job_id: str
    job_type: str
    told: str

    @classmethod
    def of(cls, event: Event) -> EventRow:
        """What is kept of this event."""
        return cls(
            time=event.time,
            type=event.type,
            kind=safe(kind(event)),
            job_id=safe(event.job.id),
            job_type=safe(event.job.job_type),
            told=_short(event_summary(event)),
        )
