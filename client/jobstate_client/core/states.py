"""The named values of the contract. Each is the text that protos and docs use, and is equal to it."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Self


class NamedValue(StrEnum):
    """A named value of the contract. Names may be in any case: ``State("queued")`` is ``State.QUEUED``.

    A value of a newer server is kept as it is, although it is no member; ``is_known`` is then False.
    """

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        return cls.__members__.get(value.upper()) if isinstance(value, str) else None

    @classmethod
    def parse(cls, value: object) -> Self:
        """The member of this name, from an argument.

        Raises:
            ValueError: there is none, or it is UNKNOWN, which only occurs in responses.
        """
        names = [name for name in cls.__members__ if name != "UNKNOWN"]
        if not isinstance(value, str) or value.upper() not in names:
            raise ValueError(f"{value!r} is not a {cls.__name__}; it must be one of {', '.join(names)}")
        return cls[value.upper()]

    @classmethod
    def unknown(cls, text: str) -> Self:
        """A value that this version does not know: its name in the contract, or ``UNKNOWN_`` and its number."""
        value = str.__new__(cls, text)
        value._name_ = value._value_ = text
        return value

    @property
    def is_known(self) -> bool:
        """Whether this version knows the value."""
        return self._value_ in type(self).__members__ and self._value_ != "UNKNOWN"

    def __reduce_ex__(self, _protocol: Any) -> Any:
        return _restored, (type(self), self._value_)


def _restored(kind: type[NamedValue], text: str) -> NamedValue:
    return kind(text) if text in kind.__members__ else kind.unknown(text)


class State(NamedValue):
    """Where a job is in its lifecycle (docs/lifecycle.md)."""

    UNKNOWN = "UNKNOWN"
    """The server sent none. A state that this version does not know is another value: see ``is_known``."""
    QUEUED = "QUEUED"
    PROCESSING = "PROCESSING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    RETRYING = "RETRYING"
    PERMANENTLY_FAILED = "PERMANENTLY_FAILED"
    CANCELLED = "CANCELLED"

    @property
    def is_final(self) -> bool:
        """Whether no other state follows. The job can still get late usage, and be deleted."""
        return self in _FINAL


_FINAL = frozenset({State.COMPLETED, State.PERMANENTLY_FAILED, State.CANCELLED})


class EventType(NamedValue):
    """What happened to the job."""

    UNKNOWN = "UNKNOWN"
    """The server sent none. A type that this version does not know is another value: see ``is_known``."""
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
    READY = "READY"
    RELEASED = "RELEASED"
    USAGE = "USAGE"
    WAITING = "WAITING"


class RetryDecision(NamedValue):
    """Whether a failure is retried, and why or why not."""

    UNKNOWN = "UNKNOWN"
    WILL_RETRY = "WILL_RETRY"
    NOT_RETRYABLE = "NOT_RETRYABLE"
    LIMIT_REACHED = "LIMIT_REACHED"
    AWAITING_RETRY_CALL = "AWAITING_RETRY_CALL"


class Priority(NamedValue):
    """How soon a job is handed out among those of its type that have waited as long."""

    UNKNOWN = "UNKNOWN"
    BACKGROUND = "BACKGROUND"
    LOW = "LOW"
    NORMAL = "NORMAL"
    HIGH = "HIGH"
    URGENT = "URGENT"


class UniqueUntil(NamedValue):
    """Until when a job has its unique key."""

    UNKNOWN = "UNKNOWN"
    FINAL = "FINAL"
    """Until the job is final: there are never two of them at a time. The default."""
    STARTED = "STARTED"
    """Until its first attempt begins: one that is created while it runs is a new job, so no change is missed."""


class WaitReason(NamedValue):
    """What a job waits for. UNKNOWN, the empty value: it does not wait."""

    UNKNOWN = "UNKNOWN"
    TURN = "TURN"
    """It is ready, and waits for a worker."""
    TIME = "TIME"
    """It is delayed."""
    NEEDS = "NEEDS"
    """For the jobs that it needs, and perhaps for the end of its delay as well."""


class CancelCause(NamedValue):
    """Who or what cancelled a job. UNKNOWN, the empty value: it is not cancelled, or was by an older server."""

    UNKNOWN = "UNKNOWN"
    CALLER = "CALLER"
    EXPIRED = "EXPIRED"
    """Nobody had begun it within the time it was to be begun in."""
    NEED = "NEED"
    """A job that it needs ended in a way that its condition rules out."""
    GROUP = "GROUP"
    """Its group was cancelled, or more of its members failed than it tolerates."""


class NeedCondition(NamedValue):
    """How a needed job must have ended."""

    UNKNOWN = "UNKNOWN"
    COMPLETED = "COMPLETED"
    FINAL = "FINAL"
    """In any final state."""
    NOT_COMPLETED = "NOT_COMPLETED"
    """PERMANENTLY_FAILED or CANCELLED: for work that cleans up after it."""


class OnExcess(NamedValue):
    """What happens to a group's other members once more have failed than it tolerates."""

    UNKNOWN = "UNKNOWN"
    FINISH = "FINISH"
    """They are worked on all the same."""
    CANCEL = "CANCEL"
    """They are cancelled."""


class HoldReason(NamedValue):
    """What holds a job back."""

    UNKNOWN = "UNKNOWN"
    TIME = "TIME"
    """It is delayed, or waits for its retry."""
    NEED = "NEED"
    """It waits for a job that it needs: at most 10 are named."""
    TYPE_PAUSED = "TYPE_PAUSED"
    LANE_PAUSED = "LANE_PAUSED"
    LANE_HELD = "LANE_HELD"
    """A release has asked that nothing of its lane is handed out for a time."""
    TYPE_CONCURRENCY = "TYPE_CONCURRENCY"
    """As many attempts of its type are claimed as there may be."""
    LANE_CONCURRENCY = "LANE_CONCURRENCY"
    TYPE_RATE = "TYPE_RATE"
    """As many jobs of its type were handed out as there may be in the time."""
    LANE_RATE = "LANE_RATE"
    TURN = "TURN"
    """Others come before it."""
    NO_WORKER = "NO_WORKER"
    """Nobody asks the server that answers for jobs of its type."""
    GROUP = "GROUP"
    """Its group is stopping: it will be cancelled."""
    AWAITS_RETRY_CALL = "AWAITS_RETRY_CALL"
    """It rests in FAILED until a retry or cancel."""


class LaneFrom(NamedValue):
    """The lane of a job that is created without one. UNKNOWN: from an older server, which has no lanes."""

    UNKNOWN = "UNKNOWN"
    NONE = "NONE"
    """The empty lane."""
    SOURCE_ID = "SOURCE_ID"
    """Its ``source_id``."""


class LaneHolds(NamedValue):
    """What counts towards the concurrency of a lane. UNKNOWN: from an older server, which has no lanes."""

    UNKNOWN = "UNKNOWN"
    ATTEMPT = "ATTEMPT"
    """An attempt that is claimed."""
    JOB = "JOB"
    """A job from its first claim until it is final, also while it waits for a retry."""


class AttemptOutcome(NamedValue):
    """How an attempt ended."""

    UNKNOWN = "UNKNOWN"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    RELEASED = "RELEASED"


class HealthState(NamedValue):
    """The result of a health check of the jobs."""

    UNKNOWN = "UNKNOWN"
    HEALTHY = "HEALTHY"
    DEGRADED = "DEGRADED"


class SkipReason(NamedValue):
    """Why a job that matched was left as it is. UNKNOWN: for a reason that is in the server's log."""

    UNKNOWN = "UNKNOWN"
    STATE = "STATE"
    """Its state does not allow the change."""
    GROUP = "GROUP"
    RETRIES = "RETRIES"
    """It may not be retried."""
    UNIQUE_KEY = "UNIQUE_KEY"
    """Another job has its unique key."""
    JOB_TYPE = "JOB_TYPE"
    """The server takes no jobs of its type any more."""
