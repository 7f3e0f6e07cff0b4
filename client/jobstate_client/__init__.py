"""The Python client of jobstate: ``Client`` for threads, ``AsyncClient`` for asyncio. docs/clients.md shows how."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from jobstate_client.core.channel import TLS
from jobstate_client.core.failures import JobFailure, NonRetryable
from jobstate_client.core.running import Run
from jobstate_client.core.states import AttemptOutcome, EventType, HealthState, RetryDecision, State
from jobstate_client.core.values import (
    CreatedJob,
    Detail,
    Event,
    Job,
    JobError,
    NewJob,
    SnapshotJob,
    SnapshotStarted,
    Synced,
    WatchItem,
)
from jobstate_client.errors import (
    AttemptRequired,
    AttemptSuperseded,
    CursorExpired,
    CursorUnknown,
    DeadlineExceeded,
    Draining,
    InternalError,
    InvalidField,
    JobCancelled,
    JobExists,
    JobNotFound,
    JobStateError,
    MessageTooLarge,
    Overloaded,
    Refused,
    RequestIdReused,
    RetryNotAllowed,
    StoreUnavailable,
    TransitionNotAllowed,
    TransportError,
    TryLater,
    UnknownJobType,
    Unreachable,
)
from jobstate_client.sync.client import Client
from jobstate_client.sync.watch import Watch
from jobstate_client.sync.worker import Worker

if TYPE_CHECKING:
    from jobstate_client.aio.client import AsyncClient
    from jobstate_client.aio.watch import AsyncWatch
    from jobstate_client.aio.worker import AsyncWorker
    from jobstate_client.core.reports import (
        Attempt,
        CleanupReport,
        DutyReport,
        Health,
        JobType,
        JobTypes,
        Stats,
        Task,
        TypeStats,
    )

__all__ = [
    "TLS",
    "AsyncClient",
    "AsyncWatch",
    "AsyncWorker",
    "Attempt",
    "AttemptOutcome",
    "AttemptRequired",
    "AttemptSuperseded",
    "CleanupReport",
    "Client",
    "CreatedJob",
    "CursorExpired",
    "CursorUnknown",
    "DeadlineExceeded",
    "Detail",
    "Draining",
    "DutyReport",
    "Event",
    "EventType",
    "Health",
    "HealthState",
    "InternalError",
    "InvalidField",
    "Job",
    "JobCancelled",
    "JobError",
    "JobExists",
    "JobFailure",
    "JobNotFound",
    "JobStateError",
    "JobType",
    "JobTypes",
    "MessageTooLarge",
    "NewJob",
    "NonRetryable",
    "Overloaded",
    "Refused",
    "RequestIdReused",
    "RetryDecision",
    "RetryNotAllowed",
    "Run",
    "SnapshotJob",
    "SnapshotStarted",
    "State",
    "Stats",
    "StoreUnavailable",
    "Synced",
    "Task",
    "TransitionNotAllowed",
    "TransportError",
    "TryLater",
    "TypeStats",
    "UnknownJobType",
    "Unreachable",
    "Watch",
    "WatchItem",
    "Worker",
]

_LATER = {
    "AsyncClient": "aio.client",
    "AsyncWatch": "aio.watch",
    "AsyncWorker": "aio.worker",
    "Attempt": "core.reports",
    "CleanupReport": "core.reports",
    "DutyReport": "core.reports",
    "Health": "core.reports",
    "JobType": "core.reports",
    "JobTypes": "core.reports",
    "Stats": "core.reports",
    "Task": "core.reports",
    "TypeStats": "core.reports",
}
"""What is imported when it is asked for, and where it is: most programs use neither asyncio nor reports."""


def __getattr__(name: str) -> Any:
    """Import what was left for later."""
    if name in _LATER:
        return getattr(import_module(f"jobstate_client.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
