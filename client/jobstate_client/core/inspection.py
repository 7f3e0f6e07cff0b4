"""Values that programs seldom ask for: ended attempts, policies, sums, what the duties did. Imported with the first."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from jobstate.v1 import job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate.v1 import maintenance_service_pb2 as upkeep_pb
from jobstate_client.core.decoding import STATES, EnumDecoder, job_error, span_in, time_in
from jobstate_client.core.documents import span_from
from jobstate_client.core.states import AttemptOutcome, HealthState, State
from jobstate_client.core.values import JobError

OUTCOMES = EnumDecoder(AttemptOutcome, job_pb2.AttemptOutcome, "ATTEMPT_OUTCOME_")
HEALTH = EnumDecoder(HealthState, upkeep_pb.HealthState, "HEALTH_STATE_")


@dataclass(frozen=True, slots=True)
class Attempt:
    """One ended attempt."""

    number: int
    start_time: datetime | None
    """When it began: the first by a start, a later one when its wait was over."""
    claim_time: datetime | None
    """When a worker took it; None when nobody had before the job was cancelled."""
    end_time: datetime | None
    outcome: AttemptOutcome
    error: JobError | None
    tokens: int
    cost: float
    worker: str


@dataclass(frozen=True, slots=True)
class JobType:
    """The policy of a job type."""

    name: str
    max_retries: int
    timeout: timedelta | None
    base_delay: timedelta
    max_delay: timedelta
    jitter: float
    stale_threshold: timedelta
    auto_retry: bool

    def backoff_delay(self, retry_count: int) -> timedelta:
        """The wait before a retry that ``retry_count`` retries came before, jitter left out."""
        # Beyond this any base delay is at its maximum, and a timedelta would overflow.
        return min(self.max_delay, self.base_delay * int(2 ** min(retry_count, 32)))


@dataclass(frozen=True, slots=True)
class JobTypes:
    """The policies in force."""

    types: tuple[JobType, ...]
    strict: bool
    """Whether a type that is not listed is refused. If not, it follows the one named ``default``."""


@dataclass(frozen=True, slots=True)
class TypeStats:
    """The jobs of one type, or of all: those stored now, and all since the store began."""

    job_type: str
    """Empty in the total."""
    stored: dict[State, int]
    oldest_queued_time: datetime | None
    completed: int
    permanently_failed: int
    cancelled: int
    success_rate: float | None
    duration_mean: timedelta | None
    duration_p50: timedelta | None
    duration_p95: timedelta | None
    duration_p99: timedelta | None
    wait_mean: timedelta | None
    """Of this and the percentiles below: how long attempts waited for the worker that took them. None before any."""
    wait_p50: timedelta | None
    wait_p95: timedelta | None
    wait_p99: timedelta | None
    retries: int
    tokens: int
    cost: float


@dataclass(frozen=True, slots=True)
class Stats:
    """The jobs, by type and in total."""

    job_types: dict[str, TypeStats]
    total: TypeStats


@dataclass(frozen=True, slots=True)
class TaskResult:
    """Which jobs a duty moved, or would have moved in a dry run."""

    job_ids: tuple[str, ...]
    """The first 100."""
    count: int


@dataclass(frozen=True, slots=True)
class CleanupResult:
    """How much was deleted, or would have been in a dry run."""

    jobs: int
    events: int


@dataclass(frozen=True, slots=True)
class Health:
    """How the jobs are doing."""

    state: HealthState
    problems: tuple[str, ...]
    oldest_queued_age: timedelta | None
    oldest_unclaimed_age: timedelta | None
    """How long the oldest retry has been waiting for a worker."""
    queued: int
    processing: int
    failed: int
    overdue: int
    failure_rate: float
    backlog: int
    commit_latency_p99: timedelta | None
    commits: int
    commands: int


@dataclass(frozen=True, slots=True)
class Task:
    """A periodic duty of the server."""

    name: str
    schedule: str
    last_run: datetime | None
    last_outcome: str
    last_duration: timedelta | None
    next_run: datetime | None


def attempt(message: job_pb2.Attempt) -> Attempt:
    """An ended attempt."""
    return Attempt(
        number=message.number,
        start_time=time_in(message, "start_time"),
        claim_time=time_in(message, "claim_time"),
        end_time=time_in(message, "end_time"),
        outcome=OUTCOMES[message.outcome],
        error=job_error(message.error) if message.HasField("error") else None,
        tokens=message.usage.tokens,
        cost=message.usage.cost,
        worker=message.worker,
    )


def job_type(message: job_pb2.JobType) -> JobType:
    """A policy."""
    return JobType(
        name=message.name,
        max_retries=message.max_retries,
        timeout=span_in(message, "timeout"),
        base_delay=span_from(message.base_delay),
        max_delay=span_from(message.max_delay),
        jitter=message.jitter,
        stale_threshold=span_from(message.stale_threshold),
        auto_retry=message.auto_retry,
    )


def job_types(message: pb.ListJobTypesResponse) -> JobTypes:
    """The policies in force."""
    return JobTypes(tuple(job_type(each) for each in message.job_types), message.strict_job_types)


def stats(message: pb.GetStatsResponse) -> Stats:
    """The jobs summed up."""
    return Stats({each.job_type: _type_stats(each) for each in message.job_types}, _type_stats(message.total))


def _type_stats(message: pb.JobTypeStats) -> TypeStats:
    return TypeStats(
        job_type=message.job_type,
        stored={STATES[each.state]: each.count for each in message.stored},
        oldest_queued_time=time_in(message, "oldest_queued_time"),
        completed=message.completed,
        permanently_failed=message.permanently_failed,
        cancelled=message.cancelled,
        success_rate=message.success_rate if message.HasField("success_rate") else None,
        duration_mean=span_in(message, "duration_mean"),
        duration_p50=span_in(message, "duration_p50"),
        duration_p95=span_in(message, "duration_p95"),
        duration_p99=span_in(message, "duration_p99"),
        wait_mean=span_in(message, "wait_mean"),
        wait_p50=span_in(message, "wait_p50"),
        wait_p95=span_in(message, "wait_p95"),
        wait_p99=span_in(message, "wait_p99"),
        retries=message.retries,
        tokens=message.tokens,
        cost=message.cost,
    )


def health(message: upkeep_pb.CheckHealthResponse) -> Health:
    """How the jobs are doing."""
    return Health(
        state=HEALTH[message.state],
        problems=tuple(message.problems),
        oldest_queued_age=span_in(message, "oldest_queued_age"),
        oldest_unclaimed_age=span_in(message, "oldest_unclaimed_age"),
        queued=message.queued,
        processing=message.processing,
        failed=message.failed,
        overdue=message.overdue,
        failure_rate=message.failure_rate,
        backlog=message.backlog,
        commit_latency_p99=span_in(message, "commit_latency_p99"),
        commits=message.commits,
        commands=message.commands,
    )


def task(message: upkeep_pb.Task) -> Task:
    """A periodic duty."""
    return Task(
        name=message.name,
        schedule=message.schedule,
        last_run=time_in(message, "last_run"),
        last_outcome=message.last_outcome,
        last_duration=span_in(message, "last_duration"),
        next_run=time_in(message, "next_run"),
    )


def attempts(response: pb.GetResponse) -> tuple[Attempt, ...]:
    """Ended attempts, oldest first."""
    return tuple(attempt(each) for each in response.attempts)


def duty(response: upkeep_pb.CheckStaleResponse | upkeep_pb.RetryFailedResponse) -> TaskResult:
    """What a duty did."""
    return TaskResult(tuple(response.job_ids), response.count)


def cleanup(response: upkeep_pb.CleanupResponse) -> CleanupResult:
    """What cleanup deleted."""
    return CleanupResult(response.jobs, response.events)


def tasks(response: upkeep_pb.ListTasksResponse) -> tuple[Task, ...]:
    """Every periodic duty."""
    return tuple(task(each) for each in response.tasks)
