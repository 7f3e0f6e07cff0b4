"""The Python client of jobstate: ``Client`` for threads, ``AsyncClient`` for asyncio. docs/clients.md shows how."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jobstate_client.aio.client import AsyncClient
    from jobstate_client.aio.watch import AsyncWatch
    from jobstate_client.aio.worker import AsyncWorker
    from jobstate_client.core.channel import TLS
    from jobstate_client.core.failures import JobFailure, NonRetryable
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
        ClientClosed,
        ClientForked,
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
    "ClientClosed",
    "ClientForked",
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
    "TLS": "core.channel",
    "AsyncClient": "aio.client",
    "AsyncWatch": "aio.watch",
    "AsyncWorker": "aio.worker",
    "Attempt": "core.reports",
    "AttemptOutcome": "core.states",
    "AttemptRequired": "errors",
    "AttemptSuperseded": "errors",
    "CleanupReport": "core.reports",
    "Client": "sync.client",
    "ClientClosed": "errors",
    "ClientForked": "errors",
    "CreatedJob": "core.values",
    "CursorExpired": "errors",
    "CursorUnknown": "errors",
    "DeadlineExceeded": "errors",
    "Detail": "core.values",
    "Draining": "errors",
    "DutyReport": "core.reports",
    "Event": "core.values",
    "EventType": "core.states",
    "Health": "core.reports",
    "HealthState": "core.states",
    "InternalError": "errors",
    "InvalidField": "errors",
    "Job": "core.values",
    "JobCancelled": "errors",
    "JobError": "core.values",
    "JobExists": "errors",
    "JobFailure": "core.failures",
    "JobNotFound": "errors",
    "JobStateError": "errors",
    "JobType": "core.reports",
    "JobTypes": "core.reports",
    "MessageTooLarge": "errors",
    "NewJob": "core.values",
    "NonRetryable": "core.failures",
    "Overloaded": "errors",
    "Refused": "errors",
    "RequestIdReused": "errors",
    "RetryDecision": "core.states",
    "RetryNotAllowed": "errors",
    "Run": "core.running",
    "SnapshotJob": "core.values",
    "SnapshotStarted": "core.values",
    "State": "core.states",
    "Stats": "core.reports",
    "StoreUnavailable": "errors",
    "Synced": "core.values",
    "Task": "core.reports",
    "TransitionNotAllowed": "errors",
    "TransportError": "errors",
    "TryLater": "errors",
    "TypeStats": "core.reports",
    "UnknownJobType": "errors",
    "Unreachable": "errors",
    "Watch": "sync.watch",
    "WatchItem": "core.values",
    "Worker": "sync.worker",
}
"""Where each name is. What is imported, is when it is asked for: help and completion need no gRPC."""


def __getattr__(name: str) -> Any:
    """Import what was left for later."""
    if name == "__version__":
        # The installed package has it. Where the sources are used as they are, there is none.
        metadata = import_module("importlib.metadata")
        try:
            return metadata.version("jobstate-grpc")
        except metadata.PackageNotFoundError:
            return "0+unknown"
    if name in _LATER:
        return getattr(import_module(f"jobstate_client.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
