"""The operations of MaintenanceService, like those of operations.py. The server also runs its tasks by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from jobstate.v1 import maintenance_service_pb2 as pb
from jobstate_client.core import validation
from jobstate_client.core.calls import Call, decode_with
from jobstate_client.core.documents import duration
from jobstate_client.core.values import Span

if TYPE_CHECKING:
    from jobstate_client.core.erasure import ErasureResult
    from jobstate_client.core.inspection import CleanupResult, Health, Task, TaskResult

TASK_TIMEOUT_S = 600.0
"""A task may have to look at a million jobs."""


def check_stale(*, dry_run: bool = False, timeout: Span | None = TASK_TIMEOUT_S) -> Call[TaskResult]:
    """Fail the attempts that have not reported for longer than their job type allows."""
    return Call("CheckStale", pb.CheckStaleRequest(dry_run=dry_run), decode_with("task_result"), timeout)


def retry_failed(*, dry_run: bool = False, timeout: Span | None = TASK_TIMEOUT_S) -> Call[TaskResult]:
    """Retry the jobs that stay in FAILED although their type retries automatically, and do what is overdue."""
    return Call("RetryFailed", pb.RetryFailedRequest(dry_run=dry_run), decode_with("task_result"), timeout)


def cleanup(
    *,
    older_than: Span | None = None,
    dry_run: bool = False,
    force: bool = False,
    timeout: Span | None = TASK_TIMEOUT_S,
) -> Call[CleanupResult]:
    """Delete jobs and events that are past their retention.

    ``older_than`` says for how long a job must have been final: at least an hour, unless ``force`` is set. None takes
    the server's setting.
    """
    span = None if older_than is None else duration(older_than)
    request = pb.CleanupRequest(older_than=span, dry_run=dry_run, force=force)
    return Call("Cleanup", request, decode_with("cleanup_result"), timeout)


def erase(
    *,
    job_id: str = "",
    source_id: str = "",
    labels: Mapping[str, str] | None = None,
    timeout: Span | None = TASK_TIMEOUT_S,
) -> Call[ErasureResult]:
    """Delete one final job, or all final jobs of a source or with some labels, with every text that came with them.

    Give one of ``job_id``, ``source_id`` and ``labels``. The job of an id must be final. Of the others, what is not
    final yet is counted as ``unfinished``: repeat the call when it has ended. Jobs must have all of the ``labels``.
    """
    request = pb.EraseRequest(id=job_id, source_id=source_id, labels=validation.labels(labels))
    return Call("Erase", request, decode_with("erasure_result", "erasure"), timeout)


def check_health(*, timeout: Span | None = None) -> Call[Health]:
    """How the jobs are doing. The standard gRPC health service says whether the server serves."""
    return Call("CheckHealth", pb.CheckHealthRequest(), decode_with("health"), timeout)


def tasks(*, timeout: Span | None = None) -> Call[tuple[Task, ...]]:
    """The periodic tasks of the server: when each runs next, when it last ran, and the outcome."""
    return Call("ListTasks", pb.ListTasksRequest(), decode_with("tasks"), timeout)
