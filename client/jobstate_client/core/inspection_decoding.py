"""How the values of inspection.py are decoded. Imported on first use."""

from __future__ import annotations

from collections.abc import Callable

from google.protobuf.message import Message

from jobstate.v1 import dispatch_service_pb2 as dispatch_pb
from jobstate.v1 import job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate.v1 import maintenance_service_pb2 as maintenance_pb
from jobstate_client.core.calls import Page
from jobstate_client.core.decoding import SKIP_REASONS, STATES, WAIT_REASONS, decode, decoders
from jobstate_client.core.documents import time_from
from jobstate_client.core.inspection import (
    Attempt,
    BulkProgress,
    CleanupResult,
    Explanation,
    Health,
    Hold,
    JobType,
    JobTypes,
    Lane,
    LimitUse,
    Paused,
    Rate,
    Stats,
    Task,
    TaskResult,
    TypeStats,
    TypeStatus,
    Unpaused,
)

_ATTEMPT = decoders(
    Attempt,
    job_pb2.Attempt.DESCRIPTOR,
    tokens=lambda message: message.usage.tokens,
    cost=lambda message: message.usage.cost,
)
_RATE = decoders(Rate, job_pb2.Rate.DESCRIPTOR)


def _rate(name: str) -> Callable[[job_pb2.JobType], Rate | None]:
    return lambda message: decode(Rate, _RATE, getattr(message, name)) if message.HasField(name) else None  # type: ignore[arg-type]


_JOB_TYPE = decoders(JobType, job_pb2.JobType.DESCRIPTOR, rate=_rate("rate"), lane_rate=_rate("lane_rate"))
_TYPE_STATS = decoders(
    TypeStats,
    pb.JobTypeStats.DESCRIPTOR,
    stored=lambda message: {STATES[each.state]: each.count for each in message.stored},
    waiting=lambda message: {WAIT_REASONS[each.reason]: each.count for each in message.waiting},
)
_LIMIT_USE = decoders(LimitUse, dispatch_pb.LimitUse.DESCRIPTOR)
_HOLD = decoders(
    Hold,
    dispatch_pb.Hold.DESCRIPTOR,
    limit=lambda message: decode(LimitUse, _LIMIT_USE, message.limit) if message.HasField("limit") else None,
)
_PAUSED = decoders(Paused, dispatch_pb.PauseResponse.DESCRIPTOR)
_UNPAUSED = decoders(Unpaused, dispatch_pb.UnpauseResponse.DESCRIPTOR)
_LANE = decoders(Lane, dispatch_pb.Lane.DESCRIPTOR)
_TYPE_STATUS = decoders(
    TypeStatus,
    dispatch_pb.ListLanesResponse.DESCRIPTOR,
    paused=lambda message: message.type_paused,
    pause_reason=lambda message: message.type_pause_reason,
    held_until_time=lambda message: (
        time_from(message.type_held_until_time) if message.HasField("type_held_until_time") else None
    ),
)
_EXPLANATION = decoders(
    Explanation,
    dispatch_pb.ExplainResponse.DESCRIPTOR,
    holds=lambda message: tuple(decode(Hold, _HOLD, each) for each in message.holds),
)
_BULK_PROGRESS = decoders(
    BulkProgress,
    pb.BulkProgress.DESCRIPTOR,
    skipped=lambda message: {SKIP_REASONS[each.reason]: each.count for each in message.skipped},
    request_id=lambda _message: "",
)
_TASK_RESULT = decoders(TaskResult, maintenance_pb.CheckStaleResponse.DESCRIPTOR)
_CLEANUP_RESULT = decoders(CleanupResult, maintenance_pb.CleanupResponse.DESCRIPTOR)
_HEALTH = decoders(Health, maintenance_pb.CheckHealthResponse.DESCRIPTOR)
_TASK = decoders(Task, maintenance_pb.Task.DESCRIPTOR)


def attempts(response: pb.GetResponse) -> tuple[Attempt, ...]:
    """Ended attempts, oldest first."""
    return tuple(decode(Attempt, _ATTEMPT, each) for each in response.attempts)


def job_types(response: pb.ListJobTypesResponse) -> JobTypes:
    """The policies in force."""
    return JobTypes(tuple(decode(JobType, _JOB_TYPE, each) for each in response.job_types), response.strict_job_types)


def stats(response: pb.GetStatsResponse) -> Stats:
    """Statistics by job type and in total."""
    of_types = {each.job_type: decode(TypeStats, _TYPE_STATS, each) for each in response.job_types}
    return Stats(of_types, decode(TypeStats, _TYPE_STATS, response.total))


def explanation(response: dispatch_pb.ExplainResponse) -> Explanation:
    """Why nobody works on a job."""
    return decode(Explanation, _EXPLANATION, response)


def paused(response: dispatch_pb.PauseResponse) -> Paused:
    """What was stopped."""
    return decode(Paused, _PAUSED, response)


def unpaused(response: dispatch_pb.UnpauseResponse) -> Unpaused:
    """What goes on."""
    return decode(Unpaused, _UNPAUSED, response)


def lanes(response: dispatch_pb.ListLanesResponse) -> Page[Lane]:
    """A page of lanes."""
    return Page(tuple(decode(Lane, _LANE, each) for each in response.lanes), response.next_page_token)


def type_status(response: dispatch_pb.ListLanesResponse) -> TypeStatus:
    """What holds back all jobs of a type."""
    return decode(TypeStatus, _TYPE_STATUS, response)


def bulk_progress(
    response: pb.RecreateManyResponse | pb.RetryManyResponse | pb.CancelManyResponse,
) -> BulkProgress:
    """What a call that changes many jobs has done: their responses have the same fields."""
    return decode(BulkProgress, _BULK_PROGRESS, response.progress)


def task_result(response: Message) -> TaskResult:
    """What check-stale or retry-failed did: their responses have the same fields."""
    return decode(TaskResult, _TASK_RESULT, response)


def cleanup_result(response: maintenance_pb.CleanupResponse) -> CleanupResult:
    """What cleanup deleted."""
    return decode(CleanupResult, _CLEANUP_RESULT, response)


def health(response: maintenance_pb.CheckHealthResponse) -> Health:
    """How the jobs are doing."""
    return decode(Health, _HEALTH, response)


def tasks(response: maintenance_pb.ListTasksResponse) -> tuple[Task, ...]:
    """Every periodic task."""
    return tuple(decode(Task, _TASK, each) for each in response.tasks)
