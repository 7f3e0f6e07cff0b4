"""Statistics: what each change adds to the tallies, and the figures that are computed from them.

A tally is a sum by (job type, measure, bucket). ``STORED`` counts the jobs that are stored now. All other tallies are
cumulative and never decrease, not even when cleanup deletes the job.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum

from jobstate_server.domain.job import FINAL_STATES, AttemptOutcome, FinishedJob, Job, JobState, saturating_add
from jobstate_server.domain.plan import Change
from jobstate_server.domain.values import plain_members
from jobstate_server.domain.waiting import CancelCause, WaitReason, is_unclaimed


@plain_members
class Measure(IntEnum):
    """What a tally sums. The numbers are stored."""

    STORED = 1
    """Jobs stored now, bucketed by state."""
    ENDED = 2
    """Jobs that ever reached a final state, bucketed by that state."""
    RETRIES = 3
    TOKENS = 4
    COST_NANO = 5
    DURATION = 6
    """Microseconds from claim to end, summed over the attempts of completed jobs."""
    DURATION_HISTOGRAM = 7
    """Completed jobs, bucketed by the logarithm of their duration."""
    WAIT = 8
    """Microseconds that attempts waited for the worker that claimed them."""
    WAIT_HISTOGRAM = 9
    """Claims, bucketed by the logarithm of that wait."""
    HELD = 10
    """QUEUED jobs stored now that cannot be begun yet, bucketed by what they wait for."""
    UNCLAIMED = 11
    """Attempts that no worker has claimed now. The others in PROCESSING run. Most attempts are claimed when they begin,
    so few commits change this."""
    RELEASED = 12
    """Attempts that were given back."""
    EXPIRED = 13
    """Jobs that nobody began within their ``start_within``."""
    GROUPS = 14
    """Groups in PROCESSING now, which the server runs."""


TallyKey = tuple[str, Measure, int]
"""Job type, measure, bucket (0 where the measure has none)."""

Tallies = Mapping[TallyKey, int]

_GROWTH = 1.05
"""Each histogram bucket is 5 % wider than the one below, which is the error of a percentile."""

_LOG_GROWTH = math.log(_GROWTH)


def duration_bucket(duration: int) -> int:
    """The histogram bucket of a duration in microseconds."""
    return 0 if duration <= 1 else math.ceil(math.log(duration) / _LOG_GROWTH)


def bucket_duration(bucket: int) -> int:
    """The upper end of a histogram bucket, in microseconds."""
    return round(_GROWTH**bucket)


class TallyCounter:
    """Adds up what the changes of one transaction add to the tallies."""

    __slots__ = ("_durations", "_moves", "_sums", "_waits")

    def __init__(self) -> None:
        self._sums: dict[TallyKey, int] = {}
        self._moves: dict[tuple[str, JobState | None, JobState | None], int] = defaultdict(int)
        """How many jobs of a type moved from one state to another. They come from None when they are created, and go to
        None when they are deleted."""
        self._waits: dict[str, list[int]] = defaultdict(list)
        self._durations: dict[str, list[int]] = defaultdict(list)
        """How long attempts waited for the worker that claimed them, and how long completed jobs took, by type."""

    def add(self, change: Change) -> None:
        """A job was created or changed."""
        before, after = change.before, change.after
        state = after.state
        if before is None:
            self._moves[after.job_type, None, state] += 1
            if after.held:
                self._add_held(after, 1)
            if after.group_depth:
                self._add((after.job_type, Measure.GROUPS, 0), 1)
            return
        if after.estimated_tokens != before.estimated_tokens:
            self._add((after.job_type, Measure.TOKENS, 0), after.estimated_tokens - before.estimated_tokens)
        if after.estimated_cost_nano != before.estimated_cost_nano:
            self._add((after.job_type, Measure.COST_NANO, 0), after.estimated_cost_nano - before.estimated_cost_nano)
        if change.is_report:
            return
        self._add_dispatch(before, after)
        if not before.claimed and (claim_time := _claim_time(change)) is not None:
            self._waits[after.job_type].append(max(0, claim_time - before.ready_time))
        if after.retry_count != before.retry_count:
            self._add((after.job_type, Measure.RETRIES, 0), after.retry_count - before.retry_count)
        if state is not before.state or change.ended is not None:
            if change.ended is not None and change.ended.outcome is AttemptOutcome.RELEASED:
                self._add((after.job_type, Measure.RELEASED, 0), 1)
            self._moves[after.job_type, before.state, state] += 1
            if state is JobState.COMPLETED:
                self._durations[after.job_type].append(after.duration)

    def _add_dispatch(self, before: Job, after: Job) -> None:
        """What a change adds about delays, claims and expiry."""
        if unclaimed := is_unclaimed(after) - is_unclaimed(before):
            self._add((after.job_type, Measure.UNCLAIMED, 0), unclaimed)
        if before.held:
            self._add_held(before, -1)
            if after.held:
                self._add_held(after, 1)
        if after.group_depth and after.state.is_final and not before.state.is_final:
            self._add((after.job_type, Measure.GROUPS, 0), -1)
        if after.cancel_cause == CancelCause.EXPIRED != before.cancel_cause:
            self._add((after.job_type, Measure.EXPIRED, 0), 1)

    def _add_held(self, job: Job, count: int) -> None:
        self._add((job.job_type, Measure.HELD, WaitReason.NEEDS if job.open_needs else WaitReason.TIME), count)

    def delete(self, jobs: Iterable[FinishedJob]) -> None:
        """Jobs were deleted."""
        for job in jobs:
            self._moves[job.job_type, job.state, None] += 1

    def tallies(self) -> dict[TallyKey, int]:
        """What all of them add together."""
        for (job_type, source, target), count in self._moves.items():
            if source is not None:
                self._add((job_type, Measure.STORED, source), -count)
            if target is not None:
                self._add((job_type, Measure.STORED, target), count)
            if target in FINAL_STATES:
                self._add((job_type, Measure.ENDED, target), count)
        self._add_spans(Measure.WAIT, Measure.WAIT_HISTOGRAM, self._waits)
        self._add_spans(Measure.DURATION, Measure.DURATION_HISTOGRAM, self._durations)
        self._moves.clear()
        return self._sums

    def _add_spans(self, total: Measure, histogram: Measure, by_type: dict[str, list[int]]) -> None:
        for job_type, spans in by_type.items():
            self._add((job_type, total, 0), sum(spans))
            for bucket, count in Counter(map(duration_bucket, spans)).items():
                self._add((job_type, histogram, bucket), count)
        by_type.clear()

    def _add(self, key: TallyKey, delta: int) -> None:
        self._sums[key] = self._sums.get(key, 0) + delta


def _claim_time(change: Change) -> int | None:
    """When a worker claimed the attempt that was not claimed before, None if it still is not.

    The report that claims an attempt may end it, and the next one may have begun.
    """
    if change.ended is not None:
        return change.ended.claim_time
    return change.after.claim_time if change.after.claimed else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """The figures of one job type, or of all types together."""

    job_type: str
    stored: Mapping[JobState, int]
    ended: Mapping[JobState, int]
    success_rate: float | None
    """The share of completed jobs among those that completed or failed permanently. None before the first one."""
    duration_mean: int | None
    duration_p50: int | None
    duration_p95: int | None
    duration_p99: int | None
    wait_mean: int | None
    wait_p50: int | None
    wait_p95: int | None
    wait_p99: int | None
    retries: int
    tokens: int
    cost_nano: int
    waiting: Mapping[WaitReason, int]
    running: int
    released: int
    expired: int


def statistics(job_type: str, tallies: Iterable[tuple[TallyKey, int]]) -> Statistics:
    """Sum up these tallies under the name ``job_type``."""
    sums: dict[Measure, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for (_, measure, bucket), value in tallies:
        sums[measure][bucket] = saturating_add(sums[measure][bucket], value)
    ended = {state: sums[Measure.ENDED][state] for state in sorted(FINAL_STATES)}
    completed = ended[JobState.COMPLETED]
    judged = completed + ended[JobState.PERMANENTLY_FAILED]
    histogram, waits = sums[Measure.DURATION_HISTOGRAM], sums[Measure.WAIT_HISTOGRAM]
    claims = sum(waits.values())
    return Statistics(
        job_type=job_type,
        stored={state: sums[Measure.STORED][state] for state in JobState},
        ended=ended,
        success_rate=completed / judged if judged else None,
        duration_mean=sums[Measure.DURATION][0] // completed if completed else None,
        duration_p50=percentile(histogram, 0.50),
        duration_p95=percentile(histogram, 0.95),
        duration_p99=percentile(histogram, 0.99),
        wait_mean=sums[Measure.WAIT][0] // claims if claims else None,
        wait_p50=percentile(waits, 0.50),
        wait_p95=percentile(waits, 0.95),
        wait_p99=percentile(waits, 0.99),
        retries=sums[Measure.RETRIES][0],
        tokens=sums[Measure.TOKENS][0],
        cost_nano=sums[Measure.COST_NANO][0],
        waiting=_waiting(sums),
        running=sums[Measure.STORED][JobState.PROCESSING] - sums[Measure.UNCLAIMED][0] - sums[Measure.GROUPS][0],
        released=sums[Measure.RELEASED][0],
        expired=sums[Measure.EXPIRED][0],
    )


def _waiting(sums: Mapping[Measure, Mapping[int, int]]) -> dict[WaitReason, int]:
    """How many jobs wait for what. Every QUEUED job does, every RETRYING one, and every attempt nobody has claimed."""
    stored, held = sums[Measure.STORED], sums[Measure.HELD]
    ready = stored[JobState.QUEUED] - sum(held.values()) + sums[Measure.UNCLAIMED][0]
    return {
        WaitReason.TURN: ready,
        WaitReason.TIME: held[WaitReason.TIME] + stored[JobState.RETRYING],
        WaitReason.NEEDS: held[WaitReason.NEEDS],
    }


def percentile(histogram: Mapping[int, int], fraction: float) -> int | None:
    """The duration that ``fraction`` of the counted ones do not exceed, to within one bucket. None without any."""
    total = sum(histogram.values())
    if total <= 0:
        return None
    rank = max(1, math.ceil(total * fraction))
    seen = 0
    for bucket in sorted(histogram):
        seen += histogram[bucket]
        if seen >= rank:
            return bucket_duration(bucket)
    return bucket_duration(max(histogram))
