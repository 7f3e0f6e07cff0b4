"""Which job is handed out next, to whom, and under what rules: the decisions of dispatch without store and server."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobstate_server.domain import commands as c
from jobstate_server.domain.caller import Caller
from jobstate_server.domain.dispatch_order import ReadyJobs, score
from jobstate_server.domain.durations import HOUR, MINUTE, SECOND
from jobstate_server.domain.errors import (
    InvalidField,
    JobStateError,
    RequestIdReused,
    UnknownJobType,
)
from jobstate_server.domain.events import EventType
from jobstate_server.domain.job import Job, JobState
from jobstate_server.domain.job_types import JobTypes
from jobstate_server.domain.reach import Reach
from jobstate_server.domain.reads import Due
from jobstate_server.domain.waiting import Priority, is_ready
from jobstate_server.engine.batch import Batch
from jobstate_server.engine.outcomes import Outcome
from jobstate_server.store.records import Loaded

from .support import JOB_TYPES, NOW, a_decider

STEP = next(some.priority_step for some in JOB_TYPES if some.name == "default")


def ready_job(job_id: str, ready_time: int = NOW, level: int = Priority.NORMAL, **changes: Any) -> Job:
    """A job that waits for its turn."""
    fields: dict[str, Any] = {"create_time": ready_time, "update_time": ready_time, "create_sequence": 1} | changes
    return replace(Job(id=job_id, job_type="default", ready_time=ready_time, level=level), **fields)


def a_batch(*ready: Job, other: tuple[Job, ...] = (), strict: bool = False, room: int = 10) -> Batch:
    """A batch that may hand out these jobs, and knows the others."""
    loaded = Loaded({job.id: job for job in (*ready, *other)}, {}, {Due(10): [job.id for job in other]})
    batch = Batch(a_decider(strict=strict), NOW, loaded, room, {"default", "manual"})
    for job in ready:
        batch.offer(job)
    return batch


def acquired(batch: Batch, max_jobs: int = 1, **fields: Any) -> list[str]:
    """The ids of the jobs that an Acquire gets."""
    asked: dict[str, Any] = {"job_types": ("default",), "max_jobs": max_jobs}
    verdict = batch.decide_one(c.Acquire(**asked | fields))
    assert isinstance(verdict, Outcome), verdict
    return [job.id for job in verdict.jobs]


def request(request_id: str = "request-1", digest: bytes = b"same") -> c.Request:
    return c.Request("", request_id, "Acquire", digest)


# The order.


def test_jobs_of_one_priority_are_handed_out_in_the_order_in_which_they_became_ready() -> None:
    batch = a_batch(ready_job("third", NOW - 1), ready_job("first", NOW - 9), ready_job("second", NOW - 5))

    assert acquired(batch, 3) == ["first", "second", "third"]


def test_jobs_that_became_ready_together_are_handed_out_in_the_order_of_their_creation() -> None:
    batch = a_batch(ready_job("a", create_sequence=9), ready_job("z", create_sequence=3))

    assert acquired(batch, 2) == ["z", "a"]


def test_a_priority_is_worth_a_step_of_waiting_and_no_more() -> None:
    batch = a_batch(
        ready_job("older", NOW - STEP - 1),
        ready_job("high", NOW, Priority.HIGH),
        ready_job("younger", NOW - STEP + 1),
    )

    assert acquired(batch, 3) == ["older", "high", "younger"]


def test_a_step_of_zero_switches_priorities_off() -> None:
    assert score(NOW, Priority.URGENT, 0) == score(NOW, Priority.BACKGROUND, 0)


def test_of_several_types_the_job_that_has_waited_longest_comes_first() -> None:
    batch = a_batch(ready_job("default", NOW - 1), ready_job("manual", NOW - 2, job_type="manual"))

    assert acquired(batch, 2, job_types=("default", "manual")) == ["manual", "default"]


def test_a_job_created_in_the_same_commit_is_handed_out_by_it_after_older_ones() -> None:
    batch = a_batch(ready_job("older", NOW - 1))
    batch.decide_one(c.Create(job_id="new", job_type="default"))

    assert acquired(batch, 9) == ["older", "new"]
    assert [event.type for event in batch._changes.events if event.job_id == "new"] == [
        EventType.QUEUED,
        EventType.STARTED,
    ]


def test_two_callers_never_get_the_same_attempt() -> None:
    batch = a_batch(ready_job("only"))

    assert acquired(batch) == ["only"]
    assert acquired(batch) == []


def test_a_job_that_a_command_before_began_or_cancelled_is_not_handed_out() -> None:
    batch = a_batch(ready_job("begun"), ready_job("cancelled"), ready_job("left"))
    batch.decide_one(c.Start(job_id="begun"))
    batch.decide_one(c.Cancel(job_id="cancelled"))

    assert acquired(batch, 9) == ["left"]


jobs = st.lists(st.tuples(st.integers(0, 40), st.sampled_from(list(Priority))), max_size=30)


@given(jobs, st.integers(0, 10))
def test_the_order_is_by_ready_time_less_priority_however_jobs_came(drawn: list[tuple[int, int]], step: int) -> None:
    policy = replace(next(some for some in JOB_TYPES if some.name == "default"), priority_step=step)
    ready = ReadyJobs(JobTypes([policy]))
    made = {f"{n}": ready_job(f"{n}", time, level, create_sequence=n + 1) for n, (time, level) in enumerate(drawn)}
    for job in made.values():
        ready.add(job)

    handed = list(ready.in_order(["default"], made, NOW))

    keys = [(job.ready_time - job.level * step, job.create_sequence) for job in handed]
    assert keys == sorted(keys)
    assert {job.id for job in handed} == set(made)


@given(jobs, st.integers(1, 10))
def test_a_job_is_overtaken_only_by_jobs_ready_less_than_the_difference_of_levels_later(
    drawn: list[tuple[int, int]], step: int
) -> None:
    policy = replace(next(some for some in JOB_TYPES if some.name == "default"), priority_step=step)
    ready = ReadyJobs(JobTypes([policy]))
    made = {f"{n}": ready_job(f"{n}", time, level, create_sequence=n + 1) for n, (time, level) in enumerate(drawn)}
    for job in made.values():
        ready.add(job)

    handed = list(ready.in_order(["default"], made, NOW))

    for index, job in enumerate(handed):
        for before in handed[:index]:
            assert before.ready_time <= job.ready_time + (before.level - job.level) * step


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["take", "add"])), max_size=40))
def test_what_is_no_longer_ready_is_passed_over_whenever_it_stopped_being_so(steps: list[tuple[int, str]]) -> None:
    ready, now = ReadyJobs(JobTypes(JOB_TYPES)), {}
    for number, (time, step) in enumerate(steps):
        if step == "add":
            now[str(number)] = job = ready_job(str(number), time, create_sequence=number + 1)
            ready.add(job)
            continue
        first = next(iter(ready.in_order(["default"], now, NOW)), None)
        waiting = [job for job in now.values() if is_ready(job)]
        expected = min(waiting, key=lambda job: (job.ready_time, job.create_sequence), default=None)
        assert first is expected
        if first is not None:
            now[first.id] = replace(first, state=JobState.CANCELLED)


# What an Acquire gets.


def test_an_acquire_leases_the_attempt_for_as_long_as_it_says_or_else_as_the_type_does() -> None:
    batch = a_batch(ready_job("asked", NOW - 1), ready_job("default"))
    acquired(batch, lease=20 * SECOND, worker="me")
    acquired(batch)

    asked, default = batch.jobs["asked"], batch.jobs["default"]
    assert (asked.lease, asked.due_time, asked.worker) == (20 * SECOND, NOW + 20 * SECOND, "me")
    assert (default.lease, default.due_time) == (MINUTE, NOW + MINUTE)
    assert asked.state is JobState.PROCESSING
    assert asked.claimed


def test_a_timeout_before_the_end_of_the_lease_is_when_the_attempt_is_looked_at() -> None:
    batch = a_batch(ready_job("job", timeout=5 * SECOND))
    acquired(batch, lease=HOUR)

    assert batch.jobs["job"].due_time == NOW + 5 * SECOND


def test_an_attempt_that_the_server_resumed_is_claimed_and_keeps_its_number() -> None:
    resumed = ready_job("job", state=JobState.PROCESSING, attempt=2, start_time=NOW - SECOND)
    batch = a_batch(resumed)

    assert acquired(batch) == ["job"]
    assert (batch.jobs["job"].attempt, batch.jobs["job"].claimed) == (2, True)


def test_an_answer_ends_before_it_is_too_large_and_what_is_left_is_not_taken() -> None:
    batch = a_batch(*(ready_job(f"{n}", NOW + n, source_id="x" * 100) for n in range(4)))

    assert acquired(batch, 9, bytes_max=3_000) == ["0", "1"]
    assert acquired(batch, 9, bytes_max=1) == ["2"]
    assert is_ready(batch.jobs["3"])


def test_an_unknown_type_is_refused_by_a_strict_server_and_waited_for_by_another() -> None:
    refusal = a_batch(strict=True).decide_one(c.Acquire(job_types=("default", "typo")))

    assert isinstance(refusal, UnknownJobType)
    assert refusal.facts == {"field": "job_types[1]", "job_type": "typo"}
    assert acquired(a_batch(), job_types=("typo",)) == []


@pytest.mark.parametrize(
    ("reach", "field"),
    [(Reach(job_types=("clean_*",)), "job_types[0]"), (Reach(source_ids=("mine",)), "job_types")],
)
def test_a_caller_gets_no_job_beyond_reach(reach: Reach, field: str) -> None:
    refusal = a_batch(ready_job("job")).decide_one(c.Acquire(job_types=("default",), caller=Caller(reach=reach)))

    assert isinstance(refusal, InvalidField)
    assert refusal.field == field


# Repeats.


def test_a_repeat_returns_the_jobs_still_claimed_and_takes_no_others() -> None:
    batch = a_batch(*(ready_job(f"{n}", NOW - 9 + n) for n in range(4)))
    assert acquired(batch, 3, request=request()) == ["0", "1", "2"]
    batch.decide_one(c.Complete(job_id="0", attempt=1))
    batch.decide_one(c.Release(job_id="1", attempt=1))

    assert acquired(batch, 3, request=request()) == ["2"]
    assert is_ready(batch.jobs["3"])


def test_a_repeat_of_an_acquire_that_got_nothing_asks_again() -> None:
    batch = a_batch()
    assert acquired(batch, request=request()) == []
    batch.decide_one(c.Create(job_id="new", job_type="default"))

    assert acquired(batch, request=request()) == ["new"]


def test_a_request_id_of_another_call_is_refused() -> None:
    batch = a_batch(ready_job("job"))
    acquired(batch, request=request())

    for other in (request(digest=b"other"), c.Request("", "request-1", "Start", b"same")):
        assert isinstance(batch.decide_one(c.Acquire(job_types=("default",), request=other)), RequestIdReused)


def test_without_room_for_its_request_id_an_acquire_takes_nothing() -> None:
    batch = a_batch(ready_job("job"), room=0)

    assert isinstance(batch.decide_one(c.Acquire(job_types=("default",), request=request())), JobStateError)
    assert is_ready(batch.jobs["job"])
