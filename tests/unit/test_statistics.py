"""Tallies: whatever happens, they equal a recount; and a percentile is right to within one bucket."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from jobstate_server.domain import commands as c
from jobstate_server.domain.durations import DAY, HOUR
from jobstate_server.domain.errors import JobStateError
from jobstate_server.domain.events import Event, EventType
from jobstate_server.domain.job import FINAL_STATES, INT64_MAX, Job, JobState, Usage
from jobstate_server.domain.rules.decider import Decider
from jobstate_server.domain.statistics import (
    Measure,
    Statistics,
    TallyCounter,
    TallyKey,
    bucket_duration,
    duration_bucket,
    percentile,
    statistics,
)
from jobstate_server.domain.waiting import WaitReason, wait_reason

from .support import a_decider, finished

TYPES = ("clean_transcript", "manual")

ENDS = {
    EventType.COMPLETED: JobState.COMPLETED,
    EventType.PERMANENTLY_FAILED: JobState.PERMANENTLY_FAILED,
    EventType.CANCELLED: JobState.CANCELLED,
}

CLAIMS = (EventType.STARTED, EventType.CLAIMED)

job_ids = st.sampled_from(["a", "b", "c"])
usages = st.builds(Usage, tokens=st.none() | st.integers(0, 1_000), cost_nano=st.none() | st.integers(0, 1_000))

durations = st.integers(1, 30 * DAY)


REPORTS = ("progress", "complete", "fail", "give up", "release", "snooze")
"""What only a started job can do: it is created and started on the way, so that random histories get far."""


class Scene:
    """Jobs, the tallies of every decision about them, and a history to recount."""

    def __init__(self) -> None:
        self.decider: Decider = a_decider()
        self.now = 1_000
        self.jobs: dict[str, Job] = {}
        self.ever: dict[tuple[str, int], Job] = {}
        """Every job that ever was, as it was last, by id and creation."""
        self.history: list[Event] = []
        self.counter = TallyCounter()

    @property
    def tallies(self) -> dict[TallyKey, int]:
        """All tallies so far."""
        return self.counter.tallies()

    def do(self, step: tuple[str, str, Any]) -> None:
        what, job_id, detail = step
        if job_id not in self.jobs and what not in ("create", "delay"):
            self.do(("create", job_id, detail))
        if what in REPORTS and self.jobs[job_id].state is JobState.QUEUED:
            self.do(("start", job_id, detail))
        self.now += 1 + len(self.history) * 997 % 50_000
        job = self.jobs.get(job_id)
        if what == "delete":
            self.delete(job_id)
            return
        try:
            decision = self.decider.change(job, self.command(what, job_id, detail), self.now)
        except JobStateError:
            return
        if decision is None:
            return
        self.history += decision.events
        self.counter.add(decision)
        self.jobs[job_id] = self.ever[job_id, decision.after.create_time] = decision.after

    def delete(self, job_id: str) -> None:
        if self.jobs[job_id].state.is_final:
            self.counter.delete([finished(self.jobs.pop(job_id))])

    def command(self, what: str, job_id: str, detail: Any) -> c.JobCommand:
        job = self.jobs.get(job_id)
        attempt, due = (job.attempt, job.due_time or 0) if job else (0, 0)
        self.now = max(self.now, due) if what == "resume" else self.now
        commands: dict[str, Callable[[], c.JobCommand]] = {
            "create": lambda: c.Create(job_id=job_id, job_type=TYPES[detail.tokens is None]),
            "delay": lambda: c.Create(job_id=job_id, job_type=TYPES[0], delay=HOUR),
            "start": lambda: c.Start(job_id=job_id),
            "progress": lambda: c.UpdateProgress(job_id=job_id, attempt=attempt, usage=detail),
            "complete": lambda: c.Complete(job_id=job_id, attempt=attempt, usage=detail),
            "fail": lambda: c.Fail(job_id=job_id, attempt=attempt, usage=detail),
            "give up": lambda: c.Fail(job_id=job_id, attempt=attempt, usage=detail, retryable=False),
            "release": lambda: c.Release(job_id=job_id, attempt=attempt, usage=detail),
            "snooze": lambda: c.Release(job_id=job_id, attempt=attempt, usage=detail, delay=HOUR),
            "retry": lambda: c.Retry(job_id=job_id),
            "retry now": lambda: c.Retry(job_id=job_id, immediately=True),
            "resume": lambda: c.Resume(job_id=job_id, attempt=attempt, due_time=due),
            "cancel": lambda: c.Cancel(job_id=job_id),
        }
        return commands[what]()

    def recount(self, job_types: Iterable[str]) -> dict[str, Any]:
        """What the statistics must say, counted from the jobs and the events themselves."""
        wanted = set(job_types)
        events = [event for event in self.history if event.job.job_type in wanted]
        ever = [job for job in self.ever.values() if job.job_type in wanted]
        ended = Counter(ENDS[event.type] for event in events if event.type in ENDS)
        spans = [job.duration for job in ever if job.state is JobState.COMPLETED]
        now = [job for job in self.jobs.values() if job.job_type in wanted]
        stored = Counter(job.state for job in now)
        waiting = Counter(wait_reason(job) for job in now)
        judged = ended[JobState.COMPLETED] + ended[JobState.PERMANENTLY_FAILED]
        waits = [event.time - event.job.ready_time for event in events if event.type in CLAIMS and event.job.claimed]
        return {
            "stored": {state: stored[state] for state in JobState},
            "ended": {state: ended[state] for state in FINAL_STATES},
            "success_rate": ended[JobState.COMPLETED] / judged if judged else None,
            "duration_mean": sum(spans) // len(spans) if spans else None,
            "wait_mean": sum(waits) // len(waits) if waits else None,
            "wait_p99": percentile(Counter(map(duration_bucket, waits)), 0.99),
            "running": sum(job.state is JobState.PROCESSING and job.claimed for job in now),
            "waiting": {reason: waiting[reason] for reason in WaitReason},
            "released": sum(event.type is EventType.RELEASED for event in events),
            "retries": sum(event.type is EventType.RETRYING for event in events),
            "tokens": sum(job.estimated_tokens for job in ever),
            "cost_nano": sum(job.estimated_cost_nano for job in ever),
        }


WHAT = (
    *("create", "start", "progress", "complete", "fail", "give up"),
    *("retry", "retry now", "resume", "cancel", "delete", "delay", "release", "snooze"),
)
steps = st.lists(st.tuples(st.sampled_from(WHAT), job_ids, usages), max_size=60)


def told(found: Statistics, names: Iterable[str]) -> dict[str, Any]:
    return {name: getattr(found, name) for name in names}


@given(steps)
def test_the_tallies_of_any_history_equal_a_recount_of_each_type_and_of_all(
    history: list[tuple[str, str, Any]],
) -> None:
    scene = Scene()
    for step in history:
        scene.do(step)

    for name, types in (("clean_transcript", TYPES[:1]), ("manual", TYPES[1:]), ("", TYPES)):
        found = statistics(name, [(key, value) for key, value in scene.tallies.items() if key[0] in types])
        expected = scene.recount(types)
        assert told(found, expected) == expected
        assert found.job_type == name


@given(steps, job_ids)
def test_deleting_a_job_reduces_the_stored_and_nothing_else(history: list[tuple[str, str, Any]], job_id: str) -> None:
    scene = Scene()
    for step in [*history, ("create", job_id, Usage()), ("cancel", job_id, None)]:
        scene.do(step)
    before, stored = dict(scene.tallies), len(scene.jobs)

    scene.do(("delete", job_id, None))

    assert len(scene.jobs) == stored - 1
    assert {key for key in scene.tallies if scene.tallies[key] != before.get(key)} <= {
        key for key in before if key[1] is Measure.STORED
    }
    assert sum(value for key, value in scene.tallies.items() if key[1] is Measure.STORED) == stored - 1


@given(st.lists(durations, min_size=1, max_size=200), st.sampled_from([0.5, 0.95, 0.99]))
def test_a_percentile_is_within_five_percent_above_the_exact_one(spans: list[int], fraction: float) -> None:
    exact = sorted(spans)[max(1, math.ceil(len(spans) * fraction)) - 1]

    found = percentile(Counter(map(duration_bucket, spans)), fraction)

    assert found is not None
    assert exact <= found <= exact * 1.05 + 1  # Whole microseconds: half of one may be rounded up.


@given(durations)
def test_a_duration_lies_within_its_bucket(duration: int) -> None:
    bucket = duration_bucket(duration)

    assert duration <= bucket_duration(bucket)
    assert bucket == 0 or bucket_duration(bucket - 1) <= duration


@given(durations, durations)
def test_a_longer_duration_is_never_in_a_lower_bucket(one: int, other: int) -> None:
    assert duration_bucket(min(one, other)) <= duration_bucket(max(one, other))


def test_a_percentile_of_nothing_is_none() -> None:
    assert percentile({}, 0.5) is None
    assert percentile({3: 0}, 0.5) is None


def test_statistics_of_nothing_say_so() -> None:
    found = statistics("clean_transcript", [])

    assert (found.success_rate, found.duration_mean, found.duration_p50) == (None, None, None)
    assert (found.wait_mean, found.wait_p50, found.wait_p95, found.wait_p99) == (None, None, None, None)
    assert found.stored == dict.fromkeys(JobState, 0)
    assert found.ended == dict.fromkeys(FINAL_STATES, 0)
    assert (found.retries, found.tokens, found.cost_nano) == (0, 0, 0)


def test_a_cancelled_job_counts_for_neither_success_nor_failure() -> None:
    ended = [(JobState.COMPLETED, 3), (JobState.PERMANENTLY_FAILED, 1), (JobState.CANCELLED, 96)]

    found = statistics("t", [(("t", Measure.ENDED, state), count) for state, count in ended])

    assert found.success_rate == 0.75


def test_a_sum_of_tokens_over_types_stops_at_the_greatest_that_can_be_held() -> None:
    found = statistics("", [((name, Measure.TOKENS, 0), INT64_MAX) for name in TYPES])

    assert found.tokens == INT64_MAX
