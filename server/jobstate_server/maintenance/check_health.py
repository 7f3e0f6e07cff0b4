"""check-health: looks at the jobs as an operator would, and says what is wrong with them.

It judges the jobs, not the service: whether this process can commit and read is told by its gRPC health, which failing
jobs must not take down.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from jobstate_server.domain.clock import MINUTE, SECOND, Clock
from jobstate_server.domain.job import JobState
from jobstate_server.domain.statistics import Measure, Tallies
from jobstate_server.engine.committer import Committer
from jobstate_server.engine.readers import Readers
from jobstate_server.engine.timekeeper import told_ahead
from jobstate_server.maintenance.duty import StillOurs
from jobstate_server.store.base import Reader

log = logging.getLogger(__name__)

OVERDUE_AFTER = 1 * MINUTE
"""A retry or timeout this late was not merely waiting its turn."""

QUEUED_AGE_MAX = 15 * MINUTE
"""A job queued longer than this has probably no worker."""

FAILURE_RATE_MAX = 0.5
FAILURES_JUDGED_MIN = 10
"""Fewer ended jobs than this say nothing about a rate."""

COMMIT_LATENCY_MAX_S = 1.0
"""A commit slower than this, at the 99th percentile, means a disk in trouble."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthReport:
    """How the jobs are."""

    problems: tuple[str, ...]
    oldest_queued_age: int | None
    oldest_unclaimed_age: int | None
    """How long the oldest attempt that nobody has claimed has been waiting."""
    stored: Mapping[JobState, int]
    overdue: int
    failure_rate: float
    """Permanently failed of all that completed or failed so since the previous scheduled check."""
    backlog: int
    commit_latency_p99: int
    commits: int
    commands: int


class CheckHealth:
    """Reports, logs what is wrong, and tells ``on_report``."""

    name = "check-health"

    def __init__(
        self,
        schedule: str,
        committer: Committer,
        readers: Readers,
        clock: Clock,
        on_report: Callable[[HealthReport], None],
    ) -> None:
        self.schedule = schedule
        self._committer = committer
        self._readers = readers
        self._clock = clock
        self._on_report = on_report
        self._ended_before: Mapping[JobState, int] = {}

    async def run_scheduled(self, still_ours: StillOurs) -> str:
        del still_ours
        report, ended = await self._look()
        self._ended_before = ended
        for problem in report.problems:
            log.warning("the jobs are not well", extra={"problem": problem})
        return "; ".join(report.problems) or "healthy"

    async def run_once(self) -> HealthReport:
        """Look now, without beginning a new period for the failure rate."""
        report, _ = await self._look()
        return report

    async def _look(self) -> tuple[HealthReport, Mapping[JobState, int]]:
        now = self._clock.now()
        tallies, oldest, unclaimed, overdue = await self._readers.run(lambda reader: _read(reader, now - OVERDUE_AFTER))
        ended = {state: _sum(tallies, Measure.ENDED, state) for state in JobState if state.is_final}
        since = {state: count - self._ended_before.get(state, 0) for state, count in ended.items()}
        failed, completed = since[JobState.PERMANENTLY_FAILED], since[JobState.COMPLETED]
        judged = failed + completed
        latencies = sorted(self._committer.commit_seconds)
        latency = latencies[int(len(latencies) * 0.99)] if latencies else 0.0
        age = None if oldest is None else now - oldest
        unclaimed_age = None if unclaimed is None else now - unclaimed
        rate = failed / judged if judged else 0.0
        ahead = told_ahead(self._clock)
        problems = [
            (age is not None and age > QUEUED_AGE_MAX, f"a job has been queued for {(age or 0) // SECOND} s"),
            (
                unclaimed_age is not None and unclaimed_age > QUEUED_AGE_MAX,
                f"a retry has waited for a worker for {(unclaimed_age or 0) // SECOND} s",
            ),
            (overdue > 0, f"{overdue} retries or timeouts are overdue"),
            (judged >= FAILURES_JUDGED_MIN and rate > FAILURE_RATE_MAX, f"{rate:.0%} of the last {judged} jobs failed"),
            (latency > COMMIT_LATENCY_MAX_S, f"1 % of commits take {latency:.1f} s or longer"),
            (not self._committer.store_reachable, f"the store cannot be written: {self._committer.store_problem}"),
            (
                ahead > 0,
                f"the wall clock (with PostgreSQL the database's) is {ahead / SECOND:.0f} s behind the store's time",
            ),
        ]
        report = HealthReport(
            problems=tuple(problem for is_one, problem in problems if is_one),
            oldest_queued_age=age,
            oldest_unclaimed_age=unclaimed_age,
            stored={state: _sum(tallies, Measure.STORED, state) for state in JobState},
            overdue=overdue,
            failure_rate=rate,
            backlog=self._committer.backlog,
            commit_latency_p99=round(latency * SECOND),
            commits=self._committer.counters.commits,
            commands=self._committer.counters.commands,
        )
        self._on_report(report)
        return report, ended


def _read(reader: Reader, overdue_before: int) -> tuple[Tallies, int | None, int | None, int]:
    tallies = reader.tallies(())
    queued = map(reader.oldest_queued, _types_with(tallies, JobState.QUEUED))
    unclaimed = map(reader.oldest_unclaimed, _types_with(tallies, JobState.PROCESSING))
    oldest_queued = min((time for time in queued if time is not None), default=None)
    oldest_unclaimed = min((time for time in unclaimed if time is not None), default=None)
    return tallies, oldest_queued, oldest_unclaimed, reader.overdue(overdue_before)


def _types_with(tallies: Tallies, state: JobState) -> list[str]:
    return [key[0] for key, count in tallies.items() if key[1] is Measure.STORED and key[2] == state and count]


def _sum(tallies: Tallies, measure: Measure, bucket: int) -> int:
    return sum(value for key, value in tallies.items() if key[1] is measure and key[2] == bucket)
