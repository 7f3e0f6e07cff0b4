"""The job and its parts.

Times are microseconds since the epoch, spans are microseconds, money is whole nano-units of the user's currency, and
free JSON is an opaque encoded document that only ``wire`` can read.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Any, NamedTuple, Self

from jobstate_server.domain.values import plain_members, value

Document = bytes
"""Encoded free JSON. Empty means none."""

NANO = 1_000_000_000
"""Nano-units in one unit of money."""

_allocate = object.__new__
"""Makes an object without its fields."""

INT64_MAX = 2**63 - 1
"""The maximum of sums of tokens, cost and durations, which is what stores and the wire can hold."""


@plain_members
class JobState(IntEnum):
    """The state of a job. The numbers are stored and are those of ``jobstate.v1.JobState``."""

    QUEUED = 1
    PROCESSING = 2
    COMPLETED = 3
    FAILED = 4
    RETRYING = 5
    PERMANENTLY_FAILED = 6
    CANCELLED = 7

    @property
    def is_final(self) -> bool:
        """Whether no step leads out of this state."""
        return self in FINAL_STATES


FINAL_STATES = frozenset({JobState.COMPLETED, JobState.PERMANENTLY_FAILED, JobState.CANCELLED})


@plain_members
class AttemptOutcome(IntEnum):
    """How an attempt ended. The numbers are stored and are those of ``jobstate.v1.AttemptOutcome``."""

    COMPLETED = 1
    FAILED = 2
    CANCELLED = 3
    RELEASED = 4


@value
class JobError:
    """Why an attempt failed."""

    code: str
    message: str
    retryable: bool
    details: Document
    attempt: int
    time: int


@dataclass(frozen=True, slots=True)
class Usage:
    """The total usage of an attempt so far. None leaves a part as it was."""

    tokens: int | None = None
    cost_nano: int | None = None


@dataclass(kw_only=True)
class Job:
    """One job at one moment.

    Every change makes a new object. Only the rule that makes it sets fields of it, before anybody else has it; see
    ``rules.context.Draft``.
    """

    id: str
    job_type: str
    source_id: str = ""
    principal: str = ""
    state: JobState = JobState.QUEUED
    version: int = 0
    create_sequence: int = 0
    """The sequence of the event that reported its creation: the key of the job, which a later job with the same id does
    not share. Negative in jobs made before this was kept. 0 until the event has its sequence."""
    progress: int = 0
    progress_message: str = ""
    metadata: Document = b""
    result: Document = b""
    result_count: int = 0
    attempt: int = 0
    claimed: bool = False
    """Whether a worker has claimed the running attempt. False for an attempt that the server resumed."""
    worker: str = ""
    retry_count: int = 0
    max_retries: int = 0
    timeout: int | None = None
    last_error: JobError | None = None
    retry_delay: int | None = None
    """The delay given with the last failure, which takes precedence over the backoff. The next retry clears it."""
    estimated_tokens: int = 0
    estimated_cost_nano: int = 0
    attempt_tokens: int = 0
    attempt_cost_nano: int = 0
    create_time: int = 0
    update_time: int = 0
    start_time: int | None = None
    claim_time: int | None = None
    """When a worker claimed the attempt. Timeout, staleness and duration count from here. None while unclaimed."""
    complete_time: int | None = None
    next_retry_time: int | None = None
    attempt_deadline: int | None = None
    due_time: int | None = None
    """When the server must act: the end of a delay, of ``start_within``, of the wait for a retry, of the attempt or of
    its lease. Postponed after an outage. In a final job: since when its end must reach the jobs that need it."""
    heard_time: int = 0
    """When the claimed attempt last reported. The stale threshold counts from here."""
    duration: int = 0
    cancel_reason: str = ""
    level: int = 3
    """The priority, as in ``waiting.Priority``."""
    lane: str = ""
    """Jobs of one type and lane share one turn and the limits per lane."""
    held: bool = False
    """Whether something keeps a QUEUED job from being begun: its delay, or needs that are not met."""
    ready_time: int = 0
    """Since when the job can be handed out, or since when it could before its attempt was claimed. In the future while
    it is delayed. While a need is not met, the earliest time at which it could be."""
    start_within: int | None = None
    """How long the job may wait for its first attempt, from ``ready_time``."""
    lease: int | None = None
    """The silence that ends the attempt, if an Acquire claimed it."""
    unique_key: str | None = None
    unique_until: int = 0
    """As in ``waiting.UniqueUntil``. 0 without a key."""
    cancel_cause: int = 0
    """As in ``waiting.CancelCause``. 0 in every state but CANCELLED, and in jobs cancelled before this was kept."""
    cancel_cause_id: str | None = None
    """The needed job, or the group, that it was cancelled for."""
    needs_count: int = 0
    """How many jobs it needs."""
    open_needs: int = 0
    """How many of its needs are not met yet. Above 0 only in a job that is QUEUED, or that ended so."""
    needed: bool = False
    """Whether some job has needed it. Its end must then reach those jobs."""
    group_id: str | None = None
    """The group that it is a member of."""
    group_key: int | None = None
    """That group's ``create_sequence``. None until the event has its sequence, if both are made in one transaction."""
    awaited_group: str | None = None
    """The last group, in the order in which groups end, that it waits for through its needs: its path, as in
    ``wait_order.to_text``."""
    group_depth: int = 0
    """0 if the job is not a group. 1 for a group that is in none, and 1 more for each group around it."""
    tolerated_failures: int = 0
    on_excess: int = 0
    """How a group ends: see ``groups.GroupPolicy``. 0 in a job that is not a group."""
    recreated_from: str | None = None
    """The job with whose terms Recreate made it."""
    labels: str | None = None
    """What it is found by: see ``labels.to_text``. None if it has no labels."""

    terms_encoding = b""
    """Not a field: fields in ``TERMS``, encoded, or empty. All later versions of the job have it too."""

    unreported_encoding = b""
    """Not a field: the encoding of all fields except those in ``REPORTED``, or empty. It stays valid after a report,
    so that the event of a report need not encode the whole job."""

    def reported(self, **changes: Any) -> Self:
        """A copy with ``changes``, in which only fields in ``REPORTED`` differ. It keeps the encoding of the others."""
        new = _allocate(type(self))
        new.__dict__ = self.__dict__ | changes
        return new

    def moved(self) -> Self:
        """A copy in which any fields will be set, except those in ``TERMS``."""
        new = _allocate(type(self))
        new.__dict__ = values = self.__dict__.copy()
        values.pop("unreported_encoding", None)
        return new

    def cache(self, name: str, encoded: bytes) -> None:
        """Set ``terms_encoding`` or ``unreported_encoding`` in place."""
        self.__dict__[name] = encoded

    def numbered(self, version: int) -> Self:
        """Set the version, which is known only after the event is numbered. Returns this job.

        It is set in place, which saves a copy of every written job. Call it only for a job that was just made and that
        no other code holds yet.
        """
        self.__dict__["version"] = version
        return self

    def joined(self, group_key: int) -> Self:
        """Set ``group_key``, like the version in ``numbered``. Returns this job."""
        self.__dict__["group_key"] = group_key
        return self

    def awaits(self, group: str) -> Self:
        """Set ``awaited_group``, like the version in ``numbered``. Returns this job."""
        self.__dict__["awaited_group"] = group
        return self

    def created(self, sequence: int) -> Self:
        """Set ``create_sequence``, like the version in ``numbered``. Returns this job."""
        self.__dict__["create_sequence"] = sequence
        return self

    @classmethod
    def new(cls) -> Self:
        """A job whose fields have their defaults, to set any of them before anybody else has it.

        Its dictionary is half as large as one that the constructor fills, and copied in half the time.
        """
        return cls.from_fields(_NEW.copy())

    @classmethod
    def from_fields(cls, values: dict[str, Any]) -> Self:
        """The job with these fields. All fields are required. The job owns ``values`` from then on."""
        new = _allocate(cls)
        new.__dict__ = values
        return new


JOB_FIELDS = tuple(field.name for field in fields(Job))

_NEW = {field.name: field.default for field in fields(Job)} | {"id": "", "job_type": ""}

TERMS = frozenset(
    {
        "id",
        "job_type",
        "source_id",
        "max_retries",
        "timeout",
        "create_time",
        "level",
        "lane",
        "start_within",
        "unique_key",
        "needs_count",
        "group_id",
        "group_key",
        "awaited_group",
        "group_depth",
        "tolerated_failures",
        "on_excess",
        "recreated_from",
        "labels",
    }
)
"""The fields that are set when a job is created and never change."""

REPORTED = frozenset(
    {
        "progress",
        "progress_message",
        "metadata",
        "estimated_tokens",
        "estimated_cost_nano",
        "attempt_tokens",
        "attempt_cost_nano",
        "update_time",
        "heard_time",
    }
)
"""The fields, besides the version, that a progress report can change."""


@value
class Attempt:
    """One ended attempt of a job."""

    job_id: str
    number: int
    start_time: int
    claim_time: int | None
    end_time: int
    outcome: AttemptOutcome
    worker: str
    tokens: int
    cost_nano: int
    error: JobError | None


class FinishedJob(NamedTuple):
    """What remains of a finished job once it is deleted, and what its deletion needs to know of it.

    Where jobs are selected by their ids, one may be unfinished.
    """

    id: str
    create_sequence: int
    job_type: str
    source_id: str
    principal: str
    state: JobState
    complete_time: int | None
    needs_count: int = 0
    group_depth: int = 0
    create_time: int = 0
    labels: str | None = None
    is_kept: bool = False
    """Whether it must not be deleted yet: an unfinished job needs it, it is a member of an unfinished group, or it is a
    group with unfinished members."""


def cost_to_nano(cost: float) -> int:
    """Money in whole nano-units, rounded once, half to even. ``cost`` is finite and within 0 … 10⁹."""
    return round(cost * NANO)


def saturating_add(total: int, amount: int) -> int:
    """``total + amount``, limited to 0 … 2⁶³-1."""
    return max(0, min(INT64_MAX, total + amount))
