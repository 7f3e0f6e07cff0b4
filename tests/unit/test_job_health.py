"""What check-health takes for wrong, at the borders of its limits."""

from __future__ import annotations

from jobstate_server.domain.durations import MINUTE
from jobstate_server.domain.job import JobState
from jobstate_server.maintenance.job_health import (
    TYPES_NAMED_MAX,
    HealthLimits,
    Waiting,
    failing,
    failure_rate,
    overdue,
    slow_commits,
    unworked,
)
from jobstate_server.store.records import Ended

LIMITS = HealthLimits()
FAILED, COMPLETED, CANCELLED = JobState.PERMANENTLY_FAILED, JobState.COMPLETED, JobState.CANCELLED


def test_cancelled_jobs_say_nothing_about_a_rate() -> None:
    ended = [Ended("a", FAILED, 1, 0), Ended("b", COMPLETED, 3, 0), Ended("a", CANCELLED, 100, 0)]

    assert failure_rate(ended) == (0.25, 4)
    assert failure_rate([Ended("a", CANCELLED, 100, 0)]) == (0.0, 0)


def test_a_rate_is_judged_by_type_above_the_limit_and_not_of_a_few() -> None:
    at_limit = [Ended("a", FAILED, 5, 0), Ended("a", COMPLETED, 5, 0)]
    of_few = [Ended("b", FAILED, 9, 0)]
    hidden_by_others = [Ended("c", FAILED, 10, 0), Ended("d", COMPLETED, 1_000, 0)]

    assert failing(at_limit + of_few, LIMITS) == []
    (finding,) = failing(at_limit + of_few + hidden_by_others, LIMITS)
    assert finding == "100% of the 10 jobs of type c that ended within an hour failed for good; the limit is 50%"


def waiting(job_type: str, oldest: int, *, is_worked: bool = False) -> Waiting:
    """Jobs that wait since then."""
    return Waiting(job_type=job_type, oldest=oldest, is_retry=False, is_worked=is_worked, ready_time=oldest)


def test_who_waits_is_told_beyond_the_limit_unless_the_type_is_worked_on() -> None:
    now = 100 * MINUTE
    assert unworked([waiting("a", 85 * MINUTE), waiting("b", 0, is_worked=True)], now, LIMITS) == []
    assert len(unworked([waiting("a", 85 * MINUTE - 1)], now, LIMITS)) == 1


def test_of_many_types_the_worst_are_told_and_the_others_counted() -> None:
    many = [waiting(f"type-{number:02}", number * MINUTE) for number in range(30)]

    found = unworked(many, 1_000 * MINUTE, LIMITS)

    assert len(found) == TYPES_NAMED_MAX + 1
    assert "type-00:" in found[0]
    assert found[-1] == "jobs of 20 more types wait for a worker"


def test_two_slow_commits_are_chance_and_one_in_a_hundred_is_not() -> None:
    assert slow_commits([0.1, 9.0, 9.0], LIMITS) == []
    assert slow_commits([1.0] * 100, LIMITS) == []
    assert len(slow_commits([9.0] * 3, LIMITS)) == 1
    assert slow_commits([0.1] * 991 + [9.0] * 9, LIMITS) == []
    assert slow_commits([0.1] * 990 + [1.5] * 10, LIMITS) == [
        "10 of the latest 1,000 commits took longer than 1 s, the limit for all but 1 %; the slowest took 1.5 s"
    ]


def test_what_is_overdue_is_counted() -> None:
    assert overdue(0, LIMITS) == []
    assert overdue(2, LIMITS) == ["2 retries or timeouts are overdue by more than 60 s, which is the limit"]
