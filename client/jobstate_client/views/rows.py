"""Jobs and events as rows: the few values that a line shows, whatever the job carries."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from jobstate_client.core.states import EventType
from jobstate_client.core.values import Event, Job
from jobstate_client.views.phase import Phase, phase_of
from jobstate_client.views.summaries import event_name, event_summary, members_note, was_released
from jobstate_client.views.text import safe, short_span

NOTE_CHARACTERS_MAX = 200
"""Characters kept of a message or an error: one line of a wide terminal. A message may have 4 KiB, an error more."""

UNCHANGED_AFTER = timedelta(minutes=1)
"""Time without an event after which a running job is marked. Its worker may still send heartbeats."""

DEADLINE_NEAR = timedelta(seconds=10)
"""Time before its timeout from which a running job is marked."""


def short_note(text: str) -> str:
    """The beginning of a text, safe for a terminal."""
    return safe(text[:NOTE_CHARACTERS_MAX])


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job on one line. Its texts are safe for a terminal."""

    id: str
    job_type: str
    phase: Phase
    version: int
    progress: int
    message: str
    is_group: bool
    """Whether the server runs it, until its members have ended."""
    attempt: int
    start_time: datetime | None
    claim_time: datetime | None
    update_time: datetime | None
    deadline: datetime | None
    next_retry_time: datetime | None
    retry_count: int
    max_retries: int
    released: bool
    """Whether it waits because its latest attempt was given back, and did not fail."""
    error: str

    @classmethod
    def of(cls, job: Job) -> JobRow:
        """The row of this job."""
        error = job.last_error
        return cls(
            id=safe(job.id),
            job_type=safe(job.job_type),
            phase=phase_of(job.state, claimed=job.claimed),
            version=job.version,
            progress=job.progress,
            message=short_note(job.progress_message if job.members is None else members_note(job.members)),
            is_group=job.members is not None,
            attempt=job.attempt,
            start_time=job.start_time,
            claim_time=job.claim_time,
            update_time=job.update_time,
            deadline=job.attempt_deadline,
            next_retry_time=job.next_retry_time,
            retry_count=job.retry_count,
            max_retries=job.max_retries,
            released=was_released(job),
            error="" if error is None else short_note(error.code or error.message),
        )

    def running_time(self, now: datetime) -> str:
        """How long its worker has had the attempt."""
        return "" if self.claim_time is None else _since(self.claim_time, now)

    def running_note(self, now: datetime) -> str:
        """What matters about a running job."""
        notes = []
        if self.deadline is not None and now < self.deadline <= now + DEADLINE_NEAR:
            notes.append(f"times out in {_since(now, self.deadline)}")
        if not self.is_group and self.update_time is not None and now - self.update_time >= UNCHANGED_AFTER:
            notes.append(f"unchanged for {_since(self.update_time, now)}")
        if self.attempt > 1:
            notes.append(f"attempt {self.attempt}")
        if self.message:
            notes.append(self.message)
        return ", ".join(notes)

    def retry_due(self, now: datetime) -> str:
        """When the retry of the job is due."""
        wait = 0.0 if self.next_retry_time is None else (self.next_retry_time - now).total_seconds()
        # Rounded up, so that "0s" is never shown.
        return f"in {short_span(wait + 0.999)}" if wait > 0 else "due"

    @property
    def next_attempt(self) -> str:
        """What its next attempt is: which of its retries, or that the latest attempt was given back."""
        return "given back" if self.released else f"retry {self.retry_count} of {self.max_retries}"

    def retry_note(self, now: datetime) -> str:
        """What matters about a job that waits for its next attempt."""
        # After a release, the error is that of an earlier attempt.
        error = "" if self.released else self.error
        if self.phase is not Phase.WAITING:
            return error
        waited = "" if self.start_time is None else f"{_since(self.start_time, now)} "
        return f"waits {waited}for a worker" + (f", {error}" if error else "")


def _since(start: datetime, end: datetime) -> str:
    return short_span((end - start).total_seconds())


@dataclass(frozen=True, slots=True)
class EventRow:
    """An event on one line. Its texts are safe for a terminal."""

    time: datetime
    type: EventType
    name: str
    job_id: str
    job_type: str
    summary: str

    @classmethod
    def of(cls, event: Event) -> EventRow:
        """The row of this event."""
        return cls(
            time=event.time,
            type=event.type,
            name=safe(event_name(event)),
            job_id=safe(event.job.id),
            job_type=safe(event.job.job_type),
            summary=short_note(event_summary(event)),
        )
