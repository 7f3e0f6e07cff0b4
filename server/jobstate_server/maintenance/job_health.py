"""What is wrong with the jobs, judged from the store's recent past, so that every replica finds the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from jobstate_server.domain.durations import HOUR, MINUTE, SECOND
from jobstate_server.domain.job import JobState
from jobstate_server.store.records import Ended

RECENT = 1 * HOUR
"""How far back jobs count. Finished jobs are stored for at least this long."""

RECENT_JOBS_MAX = 10_000
"""At most this many of the jobs that ended recently are read, the latest: some tenths of a second of a reader."""

TYPES_NAMED_MAX = 10
"""Job types that problems of one kind name, the worst first. The rest are counted."""

SLOW_COMMITS_MIN = 3
"""Fewer slow commits than this are no sign of a problem: a backup, or another process on the disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthLimits:
    """The limits beyond which there is a problem. Spans are microseconds. Each is a setting, named ``health_…``."""

    failure_rate_max: float = 0.5
    failures_judged_min: int = 10
    unworked_max: int = 15 * MINUTE
    overdue_max: int = 1 * MINUTE
    commit_latency_max: int = 1 * SECOND


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Jobs of one type that wait for a worker."""

    job_type: str
    oldest: int
    """Since when the oldest of them has been waiting."""
    is_retry: bool
    is_worked: bool
    """Whether a worker works on jobs of this type."""
    ready_time: int | None
    """Since when a worker could have begun one of them; None when all of them are delayed."""


def failure_rate(ended: Iterable[Ended]) -> tuple[float, int]:
    """The share that failed permanently, and of how many jobs. Cancelled jobs do not count."""
    counts = {JobState.PERMANENTLY_FAILED: 0, JobState.COMPLETED: 0}
    for some in ended:
        if some.state in counts:
            counts[some.state] += some.jobs
    judged = sum(counts.values())
    return (counts[JobState.PERMANENTLY_FAILED] / judged if judged else 0.0), judged


def failing(ended: Sequence[Ended], limits: HealthLimits) -> list[str]:
    """A problem for each type with too many permanently failed jobs."""
    by_type: dict[str, list[Ended]] = {}
    for some in ended:
        by_type.setdefault(some.job_type, []).append(some)
    found = []
    for job_type, of_type in by_type.items():
        rate, judged = failure_rate(of_type)
        if judged >= limits.failures_judged_min and rate > limits.failure_rate_max:
            text = (
                f"{rate:.0%} of the {judged:,} jobs of type {job_type} that ended within an hour failed for good;"
                f" the limit is {limits.failure_rate_max:.0%}"
            )
            found.append((-rate * judged, text))
    return _worst(found, "fail too often")


def unworked(waiting: Iterable[Waiting], now: int, limits: HealthLimits) -> list[str]:
    """A problem for each type whose jobs wait while no worker works on them. A backlog with workers is no problem."""
    found = []
    for jobs in waiting:
        if jobs.ready_time is None or jobs.is_worked:
            continue
        age = now - jobs.ready_time
        if age > limits.unworked_max:
            what = "a retry" if jobs.is_retry else "a job"
            text = (
                f"nobody works on jobs of type {jobs.job_type}: {what} has waited for {_seconds(age)};"
                f" the limit is {_seconds(limits.unworked_max)}"
            )
            found.append((-age, text))
    return _worst(found, "wait for a worker")


def overdue(count: int, limits: HealthLimits) -> list[str]:
    """A problem when the servers are late with retries and timeouts."""
    if not count:
        return []
    are = "retry or timeout is" if count == 1 else "retries or timeouts are"
    return [f"{count:,} {are} overdue by more than {_seconds(limits.overdue_max)}, which is the limit"]


def slow_commits(seconds: Sequence[float], limits: HealthLimits) -> list[str]:
    """A problem when more than one in a hundred of this server's latest commits took too long."""
    limit = limits.commit_latency_max / SECOND
    slow = [took for took in seconds if took > limit]
    if len(slow) < max(SLOW_COMMITS_MIN, len(seconds) / 100):
        return []
    return [
        f"{len(slow):,} of the latest {len(seconds):,} commits took longer than {limit:g} s, the limit for all but 1 %;"
        f" the slowest took {max(slow):.1f} s"
    ]


def _worst(found: Iterable[tuple[float, str]], what: str) -> list[str]:
    texts = [text for _, text in sorted(found)]
    more = len(texts) - TYPES_NAMED_MAX
    return texts if more <= 0 else [*texts[:TYPES_NAMED_MAX], f"jobs of {more:,} more types {what}"]


def _seconds(span: int) -> str:
    return f"{span / SECOND:g} s" if span < 10 * SECOND else f"{span // SECOND:,} s"


def latest_ends(ended: Iterable[Ended]) -> Mapping[str, int]:
    """When, for each type, the latest job ended that a worker had claimed."""
    latest: dict[str, int] = {}
    for some in ended:
        if some.state is not JobState.CANCELLED:
            latest[some.job_type] = max(latest.get(some.job_type, 0), some.latest)
    return latest
