"""The model of ``jobstate top``: the server's counts, the jobs that may be shown, recent events, the connection."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from jobstate_client.core.states import EventType, State
from jobstate_client.core.values import Event, Job, SnapshotJob, SnapshotStarted, Synced, WatchItem
from jobstate_client.views.job_list import JOBS_KEPT_MAX, JobList, longest_running_first, next_retry_first
from jobstate_client.views.phase import Phase
from jobstate_client.views.rows import EventRow, JobRow, short_note
from jobstate_client.views.text import clock, count, safe, short_span
from jobstate_client.views.work import Work, work_of

if TYPE_CHECKING:
    from jobstate_client.core.inspection import Stats, TypeStats

EVENTS_KEPT_MAX = 300
"""Recent events that are kept: more than any screen has lines."""

JOB_TYPES_KEPT_MAX = 200
"""Job types whose counts are kept: more than any screen has lines. A server may have a thousand."""

RATE_PERIOD = timedelta(seconds=10)
"""The period of the event rate: long enough for a steady number."""

COUNTS_OLD_AFTER = timedelta(seconds=10)
"""Age from which counts are marked as old: several refreshes have failed by then."""


@dataclass(frozen=True, slots=True)
class JobTypeRow:
    """The stored jobs of one type, on one line."""

    name: str
    queued: int
    delayed: int | None
    """How many of the queued jobs are delayed; None if the server does not say."""
    processing: int
    retrying: int
    failed: int
    permanently_failed: int
    success_rate: float | None
    wait_p95: timedelta | None

    @classmethod
    def of(cls, stats: TypeStats) -> JobTypeRow:
        """The row of these statistics."""
        work = work_of(stats)
        return cls(
            name=safe(stats.job_type),
            queued=stats.stored.get(State.QUEUED, 0),
            delayed=None if work is None else work.delayed,
            processing=stats.stored.get(State.PROCESSING, 0),
            retrying=stats.stored.get(State.RETRYING, 0),
            failed=stats.stored.get(State.FAILED, 0),
            permanently_failed=stats.stored.get(State.PERMANENTLY_FAILED, 0),
            success_rate=stats.success_rate,
            wait_p95=stats.wait_p95,
        )


@dataclass(slots=True)
class Overview:
    """The state of the view. Not safe for threads: its owner holds a lock."""

    server: str
    counts: dict[State, int] = field(default_factory=dict)
    work: Work | None = None
    """What waits and runs; None if the server does not say."""
    job_types: list[JobTypeRow] = field(default_factory=list)
    job_types_omitted: int = 0
    counted: datetime | None = None
    """When the counts last came."""
    held: dict[str, str] = field(default_factory=dict)
    """By job type, what holds back its jobs that wait, besides that no worker is free. Safe for a terminal."""
    running: JobList = field(default_factory=lambda: JobList(longest_running_first))
    retrying: JobList = field(default_factory=lambda: JobList(next_retry_first))
    """The jobs that wait for their next attempt, after a failure or a release."""
    events: deque[EventRow] = field(default_factory=lambda: deque(maxlen=EVENTS_KEPT_MAX))
    """The newest last; without progress, which the bars show."""
    away_since: datetime | None = None
    away_reason: str = ""
    """Why the server is away."""
    is_live: bool = False
    """Whether the snapshot is complete."""
    was_connected: bool = False
    """Whether the server has ever answered."""
    _events_per_second: deque[tuple[int, int]] = field(default_factory=deque)
    """How many events came in each of the last seconds."""

    def update(self, item: WatchItem, now: datetime) -> None:
        """Add an item of the watch."""
        match item:
            case Event():
                self._add_event(item, now)
            case SnapshotJob(job):
                self._add_job(job)
            case SnapshotStarted():
                self.running.clear()
                self.retrying.clear()
                self.is_live = False
            case Synced():
                self.is_live = True

    def _add_event(self, event: Event, now: datetime) -> None:
        self._add_job(event.job)
        second = int(now.timestamp())
        if not self._events_per_second or self._events_per_second[-1][0] != second:
            self._events_per_second.append((second, 0))
            self._drop_old_seconds(second)
        self._events_per_second[-1] = (second, self._events_per_second[-1][1] + 1)
        if event.type is not EventType.PROGRESS:
            self.events.append(EventRow.of(event))

    def _add_job(self, job: Job) -> None:
        """Put the job into the list that it belongs to, unless a newer version is known: pages and events overlap."""
        if job.version < max(self.running.version(job.id), self.retrying.version(job.id)):
            return
        row = JobRow.of(job)
        # Jobs that wait for their first attempt are only counted.
        is_to_go_on = row.phase is Phase.RETRYING or (row.phase is Phase.WAITING and row.attempt > 0)
        for jobs, belongs in ((self.running, row.phase is Phase.RUNNING), (self.retrying, is_to_go_on)):
            if belongs:
                jobs.put(row)
            else:
                jobs.discard(job.id)

    def set_counts(self, stats: Stats, now: datetime) -> None:
        """Take the counts from the statistics."""
        self.counted = now
        self.counts = dict(stats.total.stored)
        self.work = work_of(stats.total)
        busiest = sorted(stats.job_types.values(), key=lambda each: (-sum(each.stored.values()), each.job_type))
        self.job_types = [JobTypeRow.of(each) for each in busiest[:JOB_TYPES_KEPT_MAX]]
        self.job_types_omitted = len(busiest) - len(self.job_types)

    def set_held(self, held: Mapping[str, str]) -> None:
        """Take what holds back the jobs of some types."""
        self.held = {safe(job_type): short_note(text) for job_type, text in held.items()}

    def counts_are_old(self, now: datetime) -> bool:
        """Whether the counts have not been refreshed for too long."""
        return self.counted is not None and now - self.counted > COUNTS_OLD_AFTER

    def connection_lost(self, reason: str, now: datetime) -> None:
        """The server is away."""
        if self.away_since is None:
            self.away_since = now
        self.away_reason = safe(reason)

    def connected(self) -> None:
        """The server has answered."""
        self.away_since, self.away_reason, self.was_connected = None, "", True

    def connection_texts(self, now: datetime) -> Sequence[str]:
        """The state of the connection, from the longest text to the shortest."""
        if self.away_since is not None:
            verb = "reconnecting" if self.was_connected else "connecting"
            since = f"{verb} since {clock(self.away_since)}"
            return f"{since} ({short_span((now - self.away_since).total_seconds())})", since
        if not self.is_live:
            return ("reading the jobs …",)
        return f"live, {self.event_rate(now):,.1f} events/s", "live"

    def event_rate(self, now: datetime) -> float:
        """Events per second, recently."""
        self._drop_old_seconds(int(now.timestamp()))
        return sum(number for _, number in self._events_per_second) / RATE_PERIOD.total_seconds()

    def _drop_old_seconds(self, second: int) -> None:
        while self._events_per_second and self._events_per_second[0][0] <= second - RATE_PERIOD.total_seconds():
            self._events_per_second.popleft()

    @property
    def waiting_attempts(self) -> int:
        """How many next attempts are due and wait for a worker. The state of their jobs is already PROCESSING."""
        return sum(job.phase is Phase.WAITING for job in self.retrying.all())

    def running_title(self, shown: int) -> str:
        """How many of the running jobs are shown."""
        counted = self.counts.get(State.PROCESSING, 0) - self.waiting_attempts
        return _shown_of(shown, len(self.running.all()), counted)

    def next_attempts_title(self, shown: int) -> str:
        """How many of the next attempts are shown, and how many wait for a worker."""
        waiting = self.waiting_attempts
        title = _shown_of(shown, len(self.retrying.all()), self.counts.get(State.RETRYING, 0) + waiting)
        return title + (f", {count(waiting)} waiting for a worker" if waiting else "")

    def job_types_title(self, shown: int) -> str:
        """How many of the job types are shown."""
        number = len(self.job_types) + self.job_types_omitted
        return shown_of(shown, number)


def _shown_of(shown: int, kept: int, counted: int) -> str:
    """How many of how many. Only the server's count includes jobs beyond those that are kept."""
    return shown_of(shown, max(kept, counted) if kept >= JOBS_KEPT_MAX else kept)


def shown_of(shown: int, number: int) -> str:
    """How many of how many are shown: "5 of 20", or "5" if these are all."""
    return f"{count(shown)} of {count(number)}" if number > shown else count(number)
