"""What is passed to a store and what it returns, beside jobs and attempts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from jobstate_server.domain.commands import Request
from jobstate_server.domain.job import Attempt, Job, JobState
from jobstate_server.domain.statistics import TallyKey


class NewEvent(NamedTuple):
    """An event to append. ``payload`` is the encoded event without its sequence and the job's version."""

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
    """A job row to write. ``last_event`` is the index in ``Changes.events`` of its last event there.

    The job's version becomes that event's sequence, in place; with None it stays as it is. ``first_event`` is the
    index of the event that told of its creation, for a job that is inserted: its sequence becomes create_sequence.
    """

    job: Job
    last_event: int | None
    first_event: int | None = None


class StoredRequest(NamedTuple):
    """A request id that was used, and the jobs that its call concerned."""

    request: Request
    job_ids: tuple[str, ...]
    time: int
    attempt: int = 0
    """The attempt that the call made or claimed, 0 when it did neither."""
    create_sequence: int | None = None
    """That of the job, which tells it from a later one of the same id; None when it is not known."""
    created_event: int | None = None
    """The index in ``Changes.events`` of the job's first event, when it is there: its sequence is written as
    ``create_sequence``."""


@dataclass(slots=True)
class Changes:
    """Everything one transaction writes. Order of effect: deleted, inserted, then the rest."""

    deleted: list[str] = field(default_factory=list)
    inserted: list[ChangedJob] = field(default_factory=list)
    updated: list[ChangedJob] = field(default_factory=list)
    progressed: list[ChangedJob] = field(default_factory=list)
    """Jobs of which nothing changed but progress, message, metadata, usage, update time and heard time."""
    events: list[NewEvent] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    amended: list[Attempt] = field(default_factory=list)
    """Attempts of which a record is kept already: its usage becomes that of these."""
    requests: list[StoredRequest] = field(default_factory=list)
    tallies: dict[TallyKey, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a transaction read before deciding."""

    jobs: dict[str, Job]
    requests: dict[tuple[str, str], StoredRequest]
    due: list[Job]
    attempts: dict[tuple[str, int], Attempt] = field(default_factory=dict)
    """The ended attempts that were asked for, by job and number."""


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
    """The log as it stands."""

    head: int
    """The newest sequence, 0 when nothing was ever written."""
    horizon: int
    """The newest sequence that retention has removed, 0 when none was."""
    horizon_check: int
    """The check of the event at the horizon."""
    bytes: int
    """Payload bytes of the events kept."""


class JobPage(NamedTuple):
    """One page of a list of jobs, in the list's order."""

    jobs: list[Job]
    has_more: bool
    """Whether the list goes on after these."""


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
    heard_time: int
    complete_time: int | None


class TaskRun(NamedTuple):
    """The last run of a maintenance task."""

    name: str
    last_due: int
    """The scheduled instant that was claimed last."""
    token: str
    start_time: int
    end_time: int | None
    outcome: str
    replica: str
    """Who runs it, or ran it."""


class Ended(NamedTuple):
    """Jobs of one type that ended in one state."""

    job_type: str
    state: JobState
    jobs: int
    latest: int
    """When the latest of them ended."""


class Notification(NamedTuple):
    """What a bell tells: something was committed."""

    head: int
    """The log has events up to this sequence, or beyond."""
    next_due: int | None
    """The earliest due time that was written, None when none was."""
