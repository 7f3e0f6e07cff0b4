"""Who may not do what: the fence of attempts, the refusals of every state, and what the server drops in silence."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from jobstate_server.domain import commands as c
from jobstate_server.domain.durations import DAY, SECOND
from jobstate_server.domain.errors import (
    AttemptRequired,
    AttemptSuperseded,
    InvalidField,
    JobNotFound,
    RetryNotAllowed,
    TransitionNotAllowed,
)
from jobstate_server.domain.events import Failed, Retrying
from jobstate_server.domain.job import FINAL_STATES, INT64_MAX, Job, JobError, JobState, Usage
from jobstate_server.domain.job_types import JobTypes
from jobstate_server.domain.plan import Change
from jobstate_server.domain.rules.decider import Decider

from .support import (
    JOB_TYPES,
    MOVED,
    NOW,
    TOO_LARGE,
    a_decider,
    a_job,
    an_unclaimed_job,
    decide,
    is_dropped,
    merge,
    refused,
)

REPORTS: list[tuple[type[c.AttemptCommand], str]] = [
    (c.UpdateProgress, "progress"),
    (c.Complete, "complete"),
    (c.Fail, "fail"),
    (c.Release, "release"),
]
"""The calls of a worker, and the trigger of each."""

every_report = pytest.mark.parametrize(("report", "trigger"), REPORTS, ids=[trigger for _, trigger in REPORTS])
every_final_state = pytest.mark.parametrize("state", sorted(FINAL_STATES), ids=lambda state: state.name)


def facts_of_fence(attempt: int, current: int, state: str) -> dict[str, str]:
    return {"job_id": "job", "attempt": str(attempt), "current_attempt": str(current), "state": state}


@pytest.mark.parametrize(
    "command",
    [
        c.Start(job_id="gone"),
        c.UpdateProgress(job_id="gone"),
        c.Complete(job_id="gone"),
        c.Fail(job_id="gone"),
        c.Release(job_id="gone"),
        c.Retry(job_id="gone"),
        c.Cancel(job_id="gone"),
    ],
    ids=lambda command: type(command).__name__,
)
def test_a_call_for_a_job_that_is_not_there_is_refused(command: c.JobCommand) -> None:
    assert refused(JobNotFound, None, command).facts == {"job_id": "gone"}


@every_report
@pytest.mark.parametrize("attempt", [0, 1, 3])
def test_a_report_of_another_attempt_is_superseded(report: type[c.AttemptCommand], trigger: str, attempt: int) -> None:
    refusal = refused(AttemptSuperseded, a_job(JobState.PROCESSING), report(job_id="job", attempt=attempt))

    assert refusal.facts == facts_of_fence(attempt, 2, "PROCESSING")


@every_report
@pytest.mark.parametrize("state", [JobState.FAILED, JobState.RETRYING], ids=lambda state: state.name)
def test_a_report_of_an_attempt_that_has_ended_is_superseded(
    report: type[c.AttemptCommand], trigger: str, state: JobState
) -> None:
    refusal = refused(AttemptSuperseded, a_job(state), report(job_id="job", attempt=2))

    assert refusal.facts == facts_of_fence(2, 2, state.name)


@every_report
def test_a_report_of_an_attempt_before_the_first_start_is_superseded(
    report: type[c.AttemptCommand], trigger: str
) -> None:
    refusal = refused(AttemptSuperseded, a_job(JobState.QUEUED), report(job_id="job", attempt=1))

    assert refusal.facts == facts_of_fence(1, 0, "QUEUED")


@every_report
@pytest.mark.parametrize("state", [JobState.PROCESSING, JobState.FAILED, JobState.RETRYING], ids=lambda s: s.name)
def test_a_report_must_name_its_attempt_once_there_was_more_than_one(
    report: type[c.AttemptCommand], trigger: str, state: JobState
) -> None:
    refusal = refused(AttemptRequired, a_job(state), report(job_id="job"))

    assert refusal.facts == facts_of_fence(0, 2, state.name)


@every_report
def test_a_report_need_not_name_its_attempt_while_it_is_the_first(report: type[c.AttemptCommand], trigger: str) -> None:
    first = a_job(JobState.PROCESSING, attempt=1)

    assert decide(first, report(job_id="job")) == decide(first, report(job_id="job", attempt=1))


@every_report
@pytest.mark.parametrize(
    ("state", "attempt", "allowed"),
    [
        (JobState.QUEUED, 0, "start,cancel"),
        (JobState.FAILED, 1, "retry,cancel"),
        (JobState.RETRYING, 1, "expedite,cancel"),
    ],
)
def test_a_report_without_attempt_is_refused_by_the_lifecycle_when_none_is_running(
    report: type[c.AttemptCommand], trigger: str, state: JobState, attempt: int, allowed: str
) -> None:
    refusal = refused(TransitionNotAllowed, a_job(state, attempt=attempt), report(job_id="job"))

    assert refusal.facts == {"job_id": "job", "state": state.name, "trigger": trigger, "allowed": allowed}


@every_report
@every_final_state
@pytest.mark.parametrize("attempt", [None, 1, 2, 3])
def test_a_report_to_a_final_job_is_refused_by_the_lifecycle_whatever_attempt_it_names(
    report: type[c.AttemptCommand], trigger: str, state: JobState, attempt: int | None
) -> None:
    refusal = refused(TransitionNotAllowed, a_job(state), report(job_id="job", attempt=attempt))

    assert refusal.facts == {"job_id": "job", "state": state.name, "trigger": trigger, "allowed": ""}


@pytest.mark.parametrize(
    ("command", "trigger", "states"),
    [
        (c.Start(job_id="job"), "start", {*FINAL_STATES, JobState.PROCESSING, JobState.FAILED, JobState.RETRYING}),
        (c.Cancel(job_id="job"), "cancel", FINAL_STATES),
        (
            c.Retry(job_id="job"),
            "retry",
            {JobState.QUEUED, JobState.PROCESSING, JobState.COMPLETED, JobState.CANCELLED},
        ),
        (
            c.Retry(job_id="job", immediately=True),
            "retry",
            {JobState.QUEUED, JobState.PROCESSING, JobState.COMPLETED, JobState.CANCELLED},
        ),
    ],
    ids=["start", "cancel", "retry", "retry_immediately"],
)
def test_a_call_that_the_state_does_not_allow_is_refused_and_named(
    command: c.JobCommand, trigger: str, states: set[JobState]
) -> None:
    for state in states:
        facts = refused(TransitionNotAllowed, a_job(state), command).facts

        assert (facts["state"], facts["trigger"]) == (state.name, trigger)


def test_a_start_that_lost_the_race_learns_that_the_attempt_has_a_worker() -> None:
    won = decide(an_unclaimed_job(), c.Start(job_id="job", worker="first")).after

    refusal = refused(TransitionNotAllowed, won, c.Start(job_id="job", worker="second"))

    assert "its attempt has a worker" in refusal.message
    assert refusal.facts["allowed"] == "progress,complete,fail,release,cancel"


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (JobError("E", "", True, b"", 2, 0), "limit reached"),
        (JobError("E", "", False, b"", 2, 0), "not retryable"),
    ],
    ids=["limit", "fatal"],
)
@pytest.mark.parametrize("immediately", [True, False])
def test_a_retry_of_a_job_given_up_is_refused_with_the_reason(error: JobError, why: str, immediately: bool) -> None:
    job = a_job(JobState.PERMANENTLY_FAILED, last_error=error, retry_count=3)

    refusal = refused(RetryNotAllowed, job, c.Retry(job_id="job", immediately=immediately))

    assert refusal.facts == {"job_id": "job", "why": why, "retry_count": "3", "max_retries": "3"}


def test_metadata_that_cannot_be_merged_refuses_the_report() -> None:
    command = c.UpdateProgress(job_id="job", attempt=2, progress=99, metadata=TOO_LARGE)

    assert refused(InvalidField, a_job(JobState.PROCESSING), command).field == "metadata"


@pytest.mark.parametrize("how", ["repeated", "lower", "late and lower in one part"])
def test_a_usage_that_is_not_more_than_what_was_reported_adds_nothing(how: str) -> None:
    usage = {
        "repeated": Usage(tokens=100, cost_nano=200),
        "lower": Usage(tokens=99, cost_nano=0),
        "late and lower in one part": Usage(tokens=1),
    }[how]
    job = a_job(JobState.PROCESSING)

    after = decide(job, c.UpdateProgress(job_id="job", attempt=2, usage=usage)).after

    assert after == replace(job, update_time=NOW, heard_time=NOW)


def test_usage_is_summed_over_attempts_and_counted_once_within_each() -> None:
    job: Job | None = a_job(JobState.PROCESSING, attempt=1, estimated_tokens=0, attempt_tokens=0, retry_count=0)
    steps: list[tuple[int, c.JobCommand]] = [
        (10, c.UpdateProgress(job_id="job", attempt=1, usage=Usage(tokens=10))),
        (30, c.UpdateProgress(job_id="job", attempt=1, usage=Usage(tokens=30))),
        (30, c.UpdateProgress(job_id="job", attempt=1, usage=Usage(tokens=20))),
        (35, c.Fail(job_id="job", attempt=1, usage=Usage(tokens=35))),
        (35, c.Retry(job_id="job", immediately=True)),
        (40, c.UpdateProgress(job_id="job", attempt=2, usage=Usage(tokens=5))),
        (43, c.Complete(job_id="job", attempt=2, usage=Usage(tokens=8))),
    ]
    for total, command in steps:
        job = decide(job, command).after

        assert job is not None
        assert job.estimated_tokens == total


@pytest.mark.parametrize("part", ["tokens", "cost_nano"])
def test_sums_of_usage_stop_at_the_greatest_that_can_be_held(part: str) -> None:
    job = a_job(JobState.PROCESSING, **{f"estimated_{part}": INT64_MAX - 5})

    after = decide(job, c.Complete(job_id="job", attempt=2, usage=Usage(**{part: 1_000_000}))).after

    assert after is not None
    assert getattr(after, f"estimated_{part}") == INT64_MAX
    assert getattr(after, f"attempt_{part}") == 1_000_000


def test_a_duration_stops_at_the_greatest_that_can_be_held() -> None:
    after = decide(a_job(JobState.PROCESSING, duration=INT64_MAX - 5), c.Cancel(job_id="job")).after

    assert after is not None
    assert after.duration == INT64_MAX


def waits(decision: Change) -> list[int]:
    """Every wait that the events of a decision tell."""
    found = []
    for event in decision.events:
        match event.detail:
            case Failed(next_retry_time=int(time)):
                found.append(time - NOW)
            case Retrying(delay, time):
                found += [delay, time - NOW]
    return found


def test_failure_and_retry_tell_the_same_wait_though_jitter_is_drawn() -> None:
    draws = iter([0.5, 0.9])
    decider = Decider(JobTypes(JOB_TYPES), merge, lambda: next(draws))
    job = a_job(JobState.PROCESSING, job_type="spread")

    decision = decide(job, c.Fail(job_id="job", attempt=2), decider=decider)

    assert waits(decision) == [2_500_000] * 3


def test_a_delay_given_with_the_failure_is_neither_capped_nor_spread_and_serves_one_retry_only() -> None:
    decider = a_decider(random=0.9)
    job = a_job(JobState.PROCESSING, job_type="spread", retry_count=0)

    given = decide(job, c.Fail(job_id="job", attempt=2, retry_delay=1_000 * SECOND), decider=decider)
    assert waits(given) == [1_000 * SECOND] * 3

    assert given.after is not None
    again = replace(given.after, state=JobState.PROCESSING, next_retry_time=None)
    assert waits(decide(again, c.Fail(job_id="job", attempt=2), decider=decider)) == [2_900_000] * 3


def test_a_delay_of_zero_given_with_the_failure_is_a_delay_and_not_an_absence() -> None:
    assert waits(decide(a_job(JobState.PROCESSING), c.Fail(job_id="job", attempt=2, retry_delay=0))) == [0, 0, 0]


SEEN: list[tuple[Job, c.ServerCommand]] = [
    (a_job(JobState.RETRYING), c.Resume(job_id="job", attempt=2, due_time=NOW - SECOND)),
    (a_job(JobState.PROCESSING), c.TimeOut(job_id="job", attempt=2, due_time=MOVED)),
    (a_job(JobState.PROCESSING), c.MarkStale(job_id="job", attempt=2, heard_time=NOW - 10 * SECOND)),
    (a_job(JobState.FAILED), c.RetryResting(job_id="job", attempt=2)),
]
"""Each decision of the server, with the job it was made about."""

every_server_command = pytest.mark.parametrize(
    ("job", "command"), SEEN, ids=[type(command).__name__ for _, command in SEEN]
)


@every_server_command
def test_a_decision_of_the_server_holds_while_nothing_has_changed(job: Job, command: c.ServerCommand) -> None:
    assert not is_dropped(job, command)


@every_server_command
def test_a_decision_of_the_server_is_dropped_once_the_job_is_gone(job: Job, command: c.ServerCommand) -> None:
    assert is_dropped(None, command)


@every_server_command
@pytest.mark.parametrize("change", [{"attempt": 3}, {"attempt": 1}], ids=["later", "earlier"])
def test_a_decision_of_the_server_is_dropped_when_it_is_about_another_attempt(
    job: Job, command: c.ServerCommand, change: dict[str, Any]
) -> None:
    assert is_dropped(replace(job, **change), command)


@every_server_command
def test_a_decision_of_the_server_is_dropped_in_every_other_state(job: Job, command: c.ServerCommand) -> None:
    for state in set(JobState) - {job.state}:
        assert is_dropped(replace(job, state=state), command)


@pytest.mark.parametrize("index", [0, 1], ids=["Resume", "TimeOut"])
def test_a_decision_about_a_due_time_is_dropped_when_it_was_moved_or_has_not_come(index: int) -> None:
    job, command = SEEN[index]

    assert is_dropped(replace(job, due_time=(job.due_time or 0) + 1), command)
    assert is_dropped(replace(job, due_time=None), command)
    assert is_dropped(job, command, now=NOW - SECOND - 1)
    assert not is_dropped(job, command, now=NOW - SECOND)


def test_a_resume_is_dropped_when_the_wait_was_made_longer() -> None:
    job, command = SEEN[0]

    assert is_dropped(replace(job, next_retry_time=NOW + 1), command)


def test_silence_is_broken_by_a_sign_of_life_and_by_a_claim() -> None:
    alive = decide(a_job(JobState.PROCESSING), c.UpdateProgress(job_id="job", attempt=2)).after
    claimed = decide(an_unclaimed_job(), c.Start(job_id="job")).after

    assert is_dropped(alive, SEEN[2][1])
    assert is_dropped(claimed, SEEN[2][1])
    assert not is_dropped(a_job(JobState.PROCESSING), SEEN[2][1])


def test_an_attempt_that_nobody_has_claimed_is_never_stale_however_long_it_waits() -> None:
    assert is_dropped(an_unclaimed_job(), SEEN[2][1], now=NOW + 365 * DAY)


def test_the_server_lets_a_job_rest_whose_type_does_not_retry_by_itself_or_that_may_not_be_retried() -> None:
    job, command = SEEN[3]

    assert is_dropped(replace(job, job_type="manual"), command)
    assert is_dropped(replace(job, retry_count=3), command)
