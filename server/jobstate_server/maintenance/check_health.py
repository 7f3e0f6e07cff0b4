"""check-health: checks the jobs as an operator would, and reports the problems.

It checks the jobs, not the service. gRPC health reports whether this process can commit and read, and failing jobs must
not change that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from jobstate_server.clock import Clock
from jobstate_server.domain.durations import SECOND
from jobstate_server.domain.job import JobState
from jobstate_server.domain.statistics import Measure, Tallies
from jobstate_server.engine.committer import Committer
from jobstate_server.engine.readers import Readers
from jobstate_server.engine.timekeeper import ahead_of_wall_clock
from jobstate_server.maintenance import job_health
from jobstate_server.maintenance.job_health import RECENT, RECENT_JOBS_MAX, HealthLimits, Waiting
from jobstate_server.maintenance.task import StillClaimed
from jobstate_server.store.base import Reader
from jobstate_server.store.records import Ended

log = logging.getLogger(__name__)

HEALTHY = "healthy"
"""The outcome of a run that found nothing wrong. ListTasks shows it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthReport:
    """The health of the jobs."""

    problems: tuple[str, ...]
    oldest_queued_age: int | None
    oldest_unclaimed_age: int | None
    """How long the oldest unclaimed attempt has been waiting."""
    stored: Mapping[JobState, int]
    overdue: int
    failure_rate: float
    """The share of permanently failed jobs among those that completed or failed permanently within ``RECENT``."""
    backlog: int
    commit_latency_p99: int
    commits: int
    commands: int


@dataclass(frozen=True, slots=True)
class _StoreFacts:
    """What is read from the store."""

    tallies: Tallies
    waiting: Sequence[Waiting]
    overdue: int
    ended: Sequence[Ended]

    def oldest(self, *, is_retry: bool) -> int | None:
        return min((jobs.oldest for jobs in self.waiting if jobs.is_retry is is_retry), default=None)


class CheckHealth:
    """Reports the health of the jobs, and logs the problems."""

    name = "check-health"

    def __init__(
        self,
        schedule: str,
        committer: Committer,
        readers: Readers,
        clock: Clock,
        on_outcome: Callable[[bool], None],
        limits: HealthLimits | None = None,
    ) -> None:
        """``on_outcome`` is called after each scheduled run, with whether it found nothing wrong."""
        self.schedule = schedule
        self._committer = committer
        self._readers = readers
        self._clock = clock
        self._on_outcome = on_outcome
        self.log_problem: Callable[[], str | None] = lambda: None
        """Says why the log of this process is not written, None when it is."""
        self._limits = HealthLimits() if limits is None else limits
        self._shared_run: asyncio.Task[HealthReport] | None = None

    async def run_scheduled(self, still_claimed: StillClaimed) -> str:
        del still_claimed
        report = await self.run_once()
        for problem in report.problems:
            log.warning("the jobs are not healthy", extra={"problem": problem})
        self._on_outcome(not report.problems)
        return "; ".join(report.problems) or HEALTHY

    async def run_shared(self) -> HealthReport:
        """The report of one run, shared by all callers who ask while it runs."""
        if self._shared_run is None:
            self._shared_run = asyncio.create_task(self.run_once())
            self._shared_run.add_done_callback(self._shared_run_ended)
        return await asyncio.shield(self._shared_run)

    def _shared_run_ended(self, _run: asyncio.Task[HealthReport]) -> None:
        self._shared_run = None

    async def run_once(self) -> HealthReport:
        """Check the jobs now."""
        now, limits = self._clock.now(), self._limits
        facts = await self._readers.run(lambda reader: _read(reader, now, limits))
        latencies = sorted(self._committer.commit_seconds)
        return HealthReport(
            problems=tuple(self._problems(facts, latencies, now)),
            oldest_queued_age=_age(now, facts.oldest(is_retry=False)),
            oldest_unclaimed_age=_age(now, facts.oldest(is_retry=True)),
            stored={state: _sum(facts.tallies, Measure.STORED, state) for state in JobState},
            overdue=facts.overdue,
            failure_rate=job_health.failure_rate(facts.ended)[0],
            backlog=self._committer.backlog,
            commit_latency_p99=round(latencies[int(len(latencies) * 0.99)] * SECOND) if latencies else 0,
            commits=self._committer.counters.commits,
            commands=self._committer.counters.commands,
        )

    def _problems(self, facts: _StoreFacts, latencies: Sequence[float], now: int) -> Iterator[str]:
        limits = self._limits
        yield from job_health.unworked(facts.waiting, now, limits)
        yield from job_health.overdue(facts.overdue, limits)
        yield from job_health.failing(facts.ended, limits)
        yield from job_health.slow_commits(latencies, limits)
        if not self._committer.store_state.is_writable:
            yield f"the store cannot be written: {self._committer.store_state.problem}"
        log_problem = self.log_problem()
        if log_problem is not None:
            yield log_problem
        ahead = ahead_of_wall_clock(self._clock)
        if ahead > 0:
            yield f"the wall clock (with PostgreSQL the database's) is {ahead / SECOND:.0f} s behind the store's time"


def _read(reader: Reader, now: int, limits: HealthLimits) -> _StoreFacts:
    tallies = reader.tallies(())
    ended = reader.ended_since(now - RECENT, RECENT_JOBS_MAX)
    worked = {job_type for job_type, end in job_health.latest_ends(ended).items() if end > now - limits.unworked_max}
    waiting = []
    for is_retry, state, oldest_of in (
        (False, JobState.QUEUED, reader.oldest_queued),
        (True, JobState.PROCESSING, reader.oldest_unclaimed),
    ):
        for job_type in _types_with(tallies, state):
            oldest = oldest_of(job_type)
            if oldest is None:
                continue
            # Only asked where it matters.
            is_old = oldest < now - limits.unworked_max
            ready_time = oldest if is_retry or not is_old else reader.oldest_ready(job_type)
            is_worked = not is_old or job_type in worked or reader.has_claimed(job_type)
            waiting.append(
                Waiting(
                    job_type=job_type,
                    oldest=oldest,
                    is_retry=is_retry,
                    is_worked=is_worked,
                    ready_time=None if ready_time is None else max(oldest, ready_time),
                )
            )
    return _StoreFacts(tallies, waiting, reader.overdue(now - limits.overdue_max), ended)


def _age(now: int, since: int | None) -> int | None:
    return None if since is None else now - since


def _types_with(tallies: Tallies, state: JobState) -> list[str]:
    return [key[0] for key, count in tallies.items() if key[1] is Measure.STORED and key[2] == state and count]


def _sum(tallies: Tallies, measure: Measure, bucket: int) -> int:
    return sum(value for key, value in tallies.items() if key[1] is measure and key[2] == bucket)
