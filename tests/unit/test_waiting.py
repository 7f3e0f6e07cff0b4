"""How jobs wait: leases, releases, delays, expiry, and unique keys."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobstate_server.domain import commands as c
from jobstate_server.domain.caller import SERVER, Caller
from jobstate_server.domain.durations import DAY, MINUTE, SECOND
from jobstate_server.domain.errors import (
    InvalidField,
    ReleaseLimitReached,
    TransitionNotAllowed,
)
from jobstate_server.domain.job import Job, JobError, JobState
from jobstate_server.domain.limits import RELEASES_MAX
from jobstate_server.domain.waiting import CancelCause, UniqueUntil, WaitReason, is_ready, wait_reason
from jobstate_server.engine.batch import Batch
from jobstate_server.engine.outcomes import DueOutcome, Outcome, Verdict
from jobstate_server.store.records import Loaded

from .support import NOW, a_decider, a_delayed_job, a_job, a_leased_job, decide, is_dropped, refused
from .test_dispatch import a_batch, acquired, ready_job

# Leases.


def test_a_lease_that_a_report_has_renewed_is_looked_at_again_when_it_would_end() -> None:
    job = a_leased_job(heard_time=NOW - 4 * SECOND)

    change = decide(job, c.TimeOut(job_id="job", attempt=2, due_time=NOW - SECOND))

    assert change.events == ()
    assert change.after == replace(job, due_time=NOW + 6 * SECOND)


def test_a_renewed_lease_is_looked_at_no_later_than_the_timeout() -> None:
    job = a_leased_job(heard_time=NOW - SECOND, attempt_deadline=NOW + 2 * SECOND)

    change = decide(job, c.TimeOut(job_id="job", attempt=2, due_time=NOW - SECOND))

    assert change.after is not None
    assert change.after.due_time == NOW + 2 * SECOND


def test_the_end_of_a_lease_costs_a_retry() -> None:
    change = decide(a_leased_job(), c.TimeOut(job_id="job", attempt=2, due_time=NOW - SECOND))

    assert change.after is not None
    assert (change.after.retry_count, change.after.state) == (2, JobState.RETRYING)
    assert change.after.last_error is not None
    assert change.after.last_error.code == "STALE"


# Release.


def test_a_job_is_released_as_often_as_it_may_be_and_then_no_more() -> None:
    last = a_leased_job(attempt=RELEASES_MAX + 1, retry_count=1)
    over = a_leased_job(attempt=RELEASES_MAX + 2, retry_count=1)

    assert decide(last, c.Release(job_id="job", attempt=last.attempt)).after is not None
    refusal = refused(ReleaseLimitReached, over, c.Release(job_id="job", attempt=over.attempt))
    assert refusal.facts == {"job_id": "job", "attempt": str(over.attempt)}
    assert is_dropped(over, c.ReturnUndelivered(job_id="job", attempt=over.attempt))


def test_a_released_job_is_next_in_line_and_a_failed_one_goes_to_the_end() -> None:
    held = [ready_job("released", NOW - 9), ready_job("failed", NOW - 8, max_retries=3), ready_job("waits", NOW - 5)]
    batch = a_batch(*held)
    acquired(batch, 2)
    batch.decide_one(c.Release(job_id="released", attempt=1))
    batch.decide_one(c.Fail(job_id="failed", attempt=1))
    batch.decide_one(c.Retry(job_id="failed", immediately=True))

    assert acquired(batch, 3) == ["released", "waits", "failed"]


@given(st.lists(st.sampled_from(["release", "fail"]), max_size=12))
def test_releases_never_count_as_retries(ends: list[str]) -> None:
    batch = a_batch(ready_job("job", max_retries=100))
    for number, end in enumerate(ends, 1):
        assert acquired(batch) == ["job"]
        command = c.Release if end == "release" else c.Fail
        assert isinstance(batch.decide_one(command(job_id="job", attempt=number)), Outcome)
        if end == "fail":
            batch.decide_one(c.Retry(job_id="job", immediately=True))

    job = batch.jobs["job"]
    assert job.retry_count == ends.count("fail")
    assert job.attempt - 1 - job.retry_count == ends.count("release") - (1 if not ends else 0)


def test_what_was_not_delivered_is_left_alone_once_the_attempt_has_ended() -> None:
    assert is_dropped(a_leased_job(), c.ReturnUndelivered(job_id="job", attempt=1))
    assert is_dropped(a_job(JobState.COMPLETED), c.ReturnUndelivered(job_id="job", attempt=2))


# Delays and expiry.


def created(**fields: Any) -> Job:
    change = decide(None, c.Create(job_id="job", job_type="default", **fields))
    assert change.after is not None
    return change.after


def test_a_delayed_job_is_held_until_its_time() -> None:
    delayed, later = created(delay=5 * SECOND, start_within=SECOND), created(not_before_time=NOW + 7)

    assert (delayed.held, delayed.ready_time, delayed.due_time) == (True, NOW + 5 * SECOND, NOW + 5 * SECOND)
    assert (later.held, later.ready_time, later.due_time) == (True, NOW + 7, NOW + 7)
    assert wait_reason(delayed) is WaitReason.TIME
    assert not is_ready(delayed)


def test_a_time_that_has_passed_is_now() -> None:
    job = created(not_before_time=NOW - 1, start_within=SECOND)

    assert (job.held, job.ready_time, job.due_time) == (False, NOW, NOW + SECOND)


def test_a_time_beyond_a_year_is_refused() -> None:
    far = c.Create(job_id="job", job_type="default", not_before_time=NOW + 367 * DAY)

    assert refused(InvalidField, None, far).field == "not_before_time"


def test_a_delayed_job_is_not_started_by_hand() -> None:
    refusal = refused(TransitionNotAllowed, a_delayed_job(), c.Start(job_id="job"))

    assert refusal.facts["why"] == "held back"
    assert refusal.facts["allowed"] == "expedite,cancel"


def test_the_end_of_a_delay_is_dropped_when_it_was_overtaken_or_comes_too_early() -> None:
    early = a_delayed_job(ready_time=NOW + 1, due_time=NOW + 1)

    assert is_dropped(early, c.MakeReady(job_id="job", attempt=0, due_time=NOW + 1))
    assert is_dropped(a_delayed_job(), c.MakeReady(job_id="job", attempt=0, due_time=NOW))
    assert is_dropped(a_leased_job(), c.MakeReady(job_id="job", attempt=0, due_time=NOW - SECOND))


def test_expiry_is_dropped_when_it_was_overtaken_or_comes_too_early() -> None:
    job = a_job(JobState.QUEUED, due_time=NOW + 1)

    assert is_dropped(job, c.Expire(job_id="job", attempt=0, due_time=NOW + 1))
    assert is_dropped(job, c.Expire(job_id="job", attempt=0, due_time=NOW))
    assert is_dropped(a_job(JobState.PROCESSING), c.Expire(job_id="job", attempt=0, due_time=NOW - SECOND))


@pytest.mark.parametrize("is_acquired_first", [True, False])
def test_of_hand_out_and_expiry_in_one_batch_the_first_decides(is_acquired_first: bool) -> None:
    job = ready_job("job", NOW - MINUTE, start_within=SECOND, due_time=NOW - MINUTE + SECOND)
    batch = a_batch(job, other=(job,))
    taken = acquired(batch) if is_acquired_first else []
    due = batch.decide_one(c.ServeDue(limit=10, caller=SERVER))
    taken = taken or acquired(batch)

    assert isinstance(due, DueOutcome)
    assert taken == (["job"] if is_acquired_first else [])
    assert batch.jobs["job"].state is (JobState.PROCESSING if is_acquired_first else JobState.CANCELLED)
    assert batch.jobs["job"].cancel_cause == (0 if is_acquired_first else CancelCause.EXPIRED)


def test_due_jobs_of_every_kind_are_served_by_what_they_are_due_for() -> None:
    plain: dict[str, Any] = {"metadata": b"", "last_error": None}
    error = JobError("BROKEN", "", True, b"", 1, NOW)
    due = (
        a_delayed_job(id="delayed", **plain),
        a_job(JobState.QUEUED, id="expired", **plain),
        a_job(JobState.RETRYING, id="retrying", **plain | {"last_error": error}),
        a_leased_job(id="silent", **plain),
        a_leased_job(id="alive", heard_time=NOW - SECOND, **plain),
    )
    batch = a_batch(other=due)

    batch.decide_one(c.ServeDue(limit=10, caller=SERVER))

    assert {job.id: (job.state.name, job.attempt) for job in batch.jobs.values()} == {
        "delayed": ("QUEUED", 0),
        "expired": ("CANCELLED", 0),
        "retrying": ("PROCESSING", 3),
        "silent": ("RETRYING", 2),
        "alive": ("PROCESSING", 2),
    }
    assert is_ready(batch.jobs["delayed"])
    assert batch.jobs["alive"].due_time == NOW + 9 * SECOND


# Unique keys.


def create(job_id: str, key: str = "key", until: int = UniqueUntil.FINAL, **fields: Any) -> c.Create:
    return c.Create(job_id=job_id, job_type="default", unique_key=key, unique_until=until, **fields)


def existing(verdict: Verdict) -> tuple[str, bool]:
    """The job that a Create returned, and whether it was there before."""
    assert isinstance(verdict, Outcome), verdict
    return verdict.jobs[0].id, any(verdict.existing)


def test_while_a_job_has_the_key_create_returns_it() -> None:
    batch = a_batch()

    assert existing(batch.decide_one(create("first"))) == ("first", False)
    assert existing(batch.decide_one(create("second"))) == ("first", True)
    assert "second" not in batch.jobs


@pytest.mark.parametrize("other", [{"key": "other"}, {"caller": Caller("somebody")}])
def test_another_key_or_caller_makes_another_job(other: dict[str, Any]) -> None:
    batch = a_batch()
    batch.decide_one(create("first"))

    assert existing(batch.decide_one(create("second", **other))) == ("second", False)


@pytest.mark.parametrize(
    ("state", "has_key"),
    [
        (JobState.QUEUED, True),
        (JobState.PROCESSING, True),
        (JobState.FAILED, True),
        (JobState.RETRYING, True),
        (JobState.COMPLETED, False),
        (JobState.PERMANENTLY_FAILED, False),
        (JobState.CANCELLED, False),
    ],
)
def test_a_job_has_its_key_until_it_is_final(state: JobState, has_key: bool) -> None:
    holder = a_job(state, job_type="default", principal="", unique_key="key", metadata=b"", last_error=None)
    loaded = Loaded({"job": holder}, {}, unique={("", "default", "key"): "job"})
    batch = Batch(a_decider(), NOW, loaded, 10)

    assert existing(batch.decide_one(create("new"))) == (("job", True) if has_key else ("new", False))


def test_a_job_that_is_unique_until_it_starts_lets_the_next_one_wait_while_it_runs() -> None:
    batch = a_batch()
    batch.decide_one(create("first", until=UniqueUntil.STARTED))
    assert existing(batch.decide_one(create("second", until=UniqueUntil.STARTED))) == ("first", True)
    batch.decide_one(c.Start(job_id="first"))

    assert existing(batch.decide_one(create("second", until=UniqueUntil.STARTED))) == ("second", False)
    assert existing(batch.decide_one(create("third", until=UniqueUntil.STARTED))) == ("second", True)


def test_a_batch_of_creates_returns_what_an_earlier_part_of_it_makes() -> None:
    batch = a_batch()

    verdict = batch.decide_one(c.BatchCreate(creates=(create("a"), create("b", key=""), create("c"))))

    assert isinstance(verdict, Outcome)
    assert [job.id for job in verdict.jobs] == ["a", "b", "a"]
    assert verdict.existing == (False, False, True)


def test_the_key_is_looked_at_before_the_id() -> None:
    batch = a_batch()
    batch.decide_one(create("first"))

    assert existing(batch.decide_one(create("first"))) == ("first", True)


def test_a_repeat_of_a_create_that_returned_another_job_says_so_again() -> None:
    batch = a_batch()
    batch.decide_one(create("first"))
    repeated = create("second", request=c.Request("", "request-1", "Create", b"same"))

    assert existing(batch.decide_one(repeated)) == ("first", True)
    assert existing(batch.decide_one(repeated)) == ("first", True)
