"""Decisions that the table of triggers and fields does not show: what is told on the way, and what changes nothing."""

from __future__ import annotations

from jobstate_server.domain import commands as c

from .rule_cases import FAILED, FAILURE, GIVEN_UP, NAMES, PROCESSING, RETRYING
from .support import NOW, a_job, decide
from .test_rules import changed


def test_the_failed_event_of_a_job_given_up_shows_it_in_failed_and_not_complete_yet() -> None:
    first, second = decide(a_job(PROCESSING), c.Fail(**FAILURE, retryable=False)).events

    assert (first.job.state, first.job.complete_time) == (FAILED, None)
    assert (second.job.state, second.job.complete_time) == (GIVEN_UP, NOW)


def test_a_sign_of_life_moves_the_heard_time_and_nothing_else_and_makes_no_event() -> None:
    decision = decide(a_job(PROCESSING), c.UpdateProgress(**NAMES, attempt=2))

    assert changed(a_job(PROCESSING), decision.after) == {"heard_time": NOW}
    assert (list(decision.events), decision.ended) == ([], None)


def test_a_retry_of_a_job_that_is_retrying_already_changes_and_tells_nothing() -> None:
    job = a_job(RETRYING, retry_count=3)

    decision = decide(job, c.Retry(**NAMES))

    assert decision.after == job
    assert (list(decision.events), decision.ended) == ([], None)
