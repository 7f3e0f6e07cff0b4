"""The operations of MaintenanceService, like those of operations.py. The server does all of this by itself too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobstate.v1 import maintenance_service_pb2 as pb
from jobstate_client.core.calls import Call, report
from jobstate_client.core.documents import duration
from jobstate_client.core.values import Span

if TYPE_CHECKING:
    from jobstate_client.core.inspection import CleanupResult, Health, Task, TaskResult

TASK_TIMEOUT_S = 600.0
"""A duty may have a million jobs to look at."""


def check_stale(*, dry_run: bool = False, timeout: Span | None = TASK_TIMEOUT_S) -> Call[TaskResult]:
    """Fail the attempts of which nothing was heard for too long."""
    return Call("CheckStale", pb.CheckStaleRequest(dry_run=dry_run), report("duty"), timeout)


def retry_failed(*, dry_run: bool = False, timeout: Span | None = TASK_TIMEOUT_S) -> Call[TaskResult]:
    """Retry the jobs that rest in FAILED although their type retries by itself, and see to what is overdue."""
    return Call("RetryFailed", pb.RetryFailedRequest(dry_run=dry_run), report("duty"), timeout)


def cleanup(
    *,
    older_than: Span | None = None,
    dry_run: bool = False,
    force: bool = False,
    timeout: Span | None = TASK_TIMEOUT_S,
) -> Call[CleanupResult]:
    """Delete jobs that have been final for long, and events beyond their retention.

    ``older_than`` is at least an hour, unless ``force``; None takes the server's setting.
    """
    span = None if older_than is None else duration(older_than)
    request = pb.CleanupRequest(older_than=span, dry_run=dry_run, force=force)
    return Call("Cleanup", request, report("cleanup"), timeout)


def check_health(*, timeout: Span | None = None) -> Call[Health]:
    """How the jobs are doing. Whether the server serves is for the standard gRPC health service to say."""
    return Call("CheckHealth", pb.CheckHealthRequest(), report("health"), timeout)


def tasks(*, timeout: Span | None = None) -> Call[tuple[Task, ...]]:
    """What the server does by itself: when each duty runs, when it last ran and what came of it."""
    return Call("ListTasks", pb.ListTasksRequest(), report("tasks"), timeout)
