"""What ``jobstate top`` knows: counts as the server sums them up, and of the jobs only those that it may show."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from jobstate_client.core.states import EventType, State
from jobstate_client.core.values import Event, Job, SnapshotJob, SnapshotStarted, Synced, WatchItem
from jobstate_client.views.phase import Phase
from jobstate_client.views.rows import EventRow, JobRow
from jobstate_client.views.text import safe

if TYPE_CHECKING:
    from jobstate_client.core.inspection import Stats

JOBS_KEPT_MAX = 1_000
"""Running jobs, and retries to come or due, that are kept of each: more than any screen has lines. The counts beside
them are the server's and know of all."""

EVENTS_KEPT_MAX = 300
"""Recent events that are kept: more than any screen has lines."""

JOB_TYPES_KEPT_MAX = 200
"""Job types whose counts are kept: more than any screen has lines. A server may have a thousand."""

RATE_OVER = timedelta(seconds=10)
"""Over how long the rate of events is taken: long enough to be calm."""

_EPOCH = datetime.min.replace(tzinfo=UTC)


def _by_start(job: JobRow) -> tuple[Any, ...]:
    """The longest at work first: lines then stay in place while jobs come and go."""
    return (job.claim_time or _EPOCH, job.id)


def _by_retry(job: JobRow) -> tuple[Any, ...]:
    """Those that wait for a worker first, the longest first, and then those that fall due next."""
    is_due = job.phase is Phase.WAITING
    return (not is_due, (job.start_time if is_due else job.next_retry_time) or _EPOCH, job.id)


@dataclass(frozen=True, slots=True)
class JobTypeRow:
    """The jobs of one type that are stored now."""

    name: str
    queued: int
    processing: int
    retrying: int
    failed: int
    permanently_failed: int
    success_rate: float | None
    wait_p95: timedelta | None


class JobList:
    """At most JOBS_KEPT_MAX jobs, the first in some order."""

    def __init__(self, order: Callable[[JobRow], tuple[Any, ...]]) -> None:
        self._order = order
        self._jobs: dict[str, JobRow] = {}
        self._sorted: list[JobRow] | None = []

    def put(self, job: JobRow) -> None:
        """Keep this one. Of too many the last is let go: it would be the last to be shown."""
        self._jobs[job.id] = job
        self._sorted = None
        if len(self._jobs) > JOBS_KEPT_MAX:
            del self._jobs[self.all()[-1].id]
            self._sorted = None

    def discard(self, job_id: str) -> None:
        """Keep it no longer."""
        if self._jobs.pop(job_id, None) is not None:
            self._sorted = None

    def version(self, job_id: str) -> int:
        """The version of the job that is kept; 0 when none is."""
        job = self._jobs.get(job_id)
        return 0 if job is None else job.version

    def clear(self) -> None:
        """Keep none."""
        self._jobs.clear()
        self._sorted = None

    def all(self) -> list[JobRow]:
        """Those kept, in order."""
        if self._sorted is None:
            self._sorted = sorted(self._jobs.values(), key=self._order)
        return self._sorted


@dataclass(slots=True)
class Overview:
    """The state of the view. Not safe for threads: who shares it holds a lock."""

    server: str
    counts: dict[State, int] = field(default_factory=dict)
    job_types: list[JobTypeRow] = field(default_factory=list)
    job_types_left_out: int = 0
    counted: datetime | None = None
    """When the counts were told last."""
    running: JobList = field(default_factory=lambda: JobList(_by_start))
    retrying: JobList = field(default_factory=lambda: JobList(_by_retry))
    events: deque[EventRow] = field(default_factory=lambda: deque(maxlen=EVENTS_KEPT_MAX))
    """The newest last; without progress, which the bars show."""
    away_since: datetime | None = None
    away_for: str = ""
    """Why the server is away."""
    is_live: bool = False
    """Whether the snapshot is complete."""
    was_there: bool = False
    """Whether the server has ever answered."""
    _seconds: deque[tuple[int, int]] = field(default_factory=deque)
    """How many events came in each of the last seconds."""

    def take(self, item: WatchItem, now: datetime) -> None:
        """An item of the watch."""
        match item:
            case Event():
                self._event(item, now)
            case SnapshotJob(job):
                self._job(job)
            case SnapshotStarted():
                self.running.clear()
                self.retrying.clear()
                self.is_live = False
            case Synced():
                self.is_live = True

    def _event(self, event: Event, now: datetime) -> None:
        self._job(event.job)
        second = int(now.timestamp())
        if not self._seconds or self._seconds[-1][0] != second:
            self._seconds.append((second, 0))
            self._trim(second)
        self._seconds[-1] = (second, self._seconds[-1][1] + 1)
        if event.type is not EventType.PROGRESS:
            self.events.append(EventRow.of(event))

    def _job(self, job: Job) -> None:
        """Keep the job where it belongs, unless what is known of it is newer: pages and events overlap."""
        if job.version < max(self.running.version(job.id), self.retrying.version(job.id)):
            return
        row = JobRow.of(job)
        # Of those that wait, only retries: that a first attempt waits is what QUEUED counts.
        is_retry = row.phase is Phase.RETRYING or (row.phase is Phase.WAITING and row.attempt > 0)
        for kept, belongs in ((self.running, row.phase is Phase.RUNNING), (self.retrying, is_retry)):
            if belongs:
                kept.put(row)
            else:
                kept.discard(job.id)

    def count(self, stats: Stats, now: datetime) -> None:
        """What GetStats told."""
        self.counted = now
        self.counts = dict(stats.total.stored)
        busiest = sorted(stats.job_types.values(), key=lambda each: (-sum(each.stored.values()), each.job_type))
        self.job_types = [
            JobTypeRow(
                name=safe(each.job_type),
                queued=each.stored.get(State.QUEUED, 0),
                processing=each.stored.get(State.PROCESSING, 0),
                retrying=each.stored.get(State.RETRYING, 0),
                failed=each.stored.get(State.FAILED, 0),
                permanently_failed=each.stored.get(State.PERMANENTLY_FAILED, 0),
                success_rate=each.success_rate,
                wait_p95=each.wait_p95,
            )
            for each in busiest[:JOB_TYPES_KEPT_MAX]
        ]
        self.job_types_left_out = len(busiest) - len(self.job_types)

    def broken(self, why: str, now: datetime) -> None:
        """The connection is lost."""
        if self.away_since is None:
            self.away_since = now
        self.away_for = safe(why)

    def answered(self) -> None:
        """The server is there."""
        self.away_since, self.away_for, self.was_there = None, "", True

    def rate(self, now: datetime) -> float:
        """Events a second, lately."""
        self._trim(int(now.timestamp()))
        return sum(number for _, number in self._seconds) / RATE_OVER.total_seconds()

    def _trim(self, second: int) -> None:
        while self._seconds and self._seconds[0][0] <= second - RATE_OVER.total_seconds():
            self._seconds.popleft()
