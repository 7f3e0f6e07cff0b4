"""The named values of the contract. Each is the text that protos and docs use, and compares equal to it."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Where a job is in its lifecycle (docs/lifecycle.md)."""

    UNKNOWN = "UNKNOWN"
    """A state that this version of the library does not name."""
    QUEUED = "QUEUED"
    PROCESSING = "PROCESSING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    RETRYING = "RETRYING"
    PERMANENTLY_FAILED = "PERMANENTLY_FAILED"
    CANCELLED = "CANCELLED"

    @property
    def is_final(self) -> bool:
        """Whether nothing follows but deletion."""
        return self in _FINAL


_FINAL = frozenset({State.COMPLETED, State.PERMANENTLY_FAILED, State.CANCELLED})


class EventType(StrEnum):
    """What an event tells."""

    UNKNOWN = "UNKNOWN"
    """A type that this version of the library does not name; ``Event.name`` has it as text."""
    QUEUED = "QUEUED"
    STARTED = "STARTED"
    CLAIMED = "CLAIMED"
    PROGRESS = "PROGRESS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    RETRYING = "RETRYING"
    PERMANENTLY_FAILED = "PERMANENTLY_FAILED"
    CANCELLED = "CANCELLED"
    STALE_DETECTED = "STALE_DETECTED"
    DELETED = "DELETED"


class RetryDecision(StrEnum):
    """Whether a failure is retried, and why or why not."""

    UNKNOWN = "UNKNOWN"
    WILL_RETRY = "WILL_RETRY"
    NOT_RETRYABLE = "NOT_RETRYABLE"
    LIMIT_REACHED = "LIMIT_REACHED"
    AWAITING_RETRY_CALL = "AWAITING_RETRY_CALL"


class AttemptOutcome(StrEnum):
    """How an attempt ended."""

    UNKNOWN = "UNKNOWN"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class HealthState(StrEnum):
    """The verdict of a health check of the jobs."""

    UNKNOWN = "UNKNOWN"
    HEALTHY = "HEALTHY"
    DEGRADED = "DEGRADED"
