"""The jobs that wait for a worker, as a worker learns of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from jobstate_client import Client, Job, State
from jobstate_client.core import waiting_jobs
from jobstate_client.core.waiting_jobs import WaitingJobs


@pytest.fixture
def told(client: Client) -> Callable[[str], Job]:
    """A job that is free, and its id."""
    return lambda job_id: client.create("work", id=job_id)


def test_waiting_jobs_are_held_until_they_are_claimed(client: Client, told: Callable[[str], Job]) -> None:
    held = WaitingJobs()
    jobs = [told("a"), told("b")]
    for job in (*jobs, *jobs):
        held.update(job)
    held.update(client.start("a"))

    assert len(held) == 1
    assert (held.pop(), held.pop()) == ("b", None)
    assert not held.needs_listing


def test_the_jobs_are_listed_again_when_there_were_too_many_and_all_are_used_up(
    told: Callable[[str], Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting_jobs, "WAITING_JOBS_MAX", 1)
    held = WaitingJobs()

    assert [held.update(told(job_id)) for job_id in "ab"] == [True, False]
    assert not held.needs_listing
    assert held.pop() == "a"
    assert held.needs_listing
    held.listing_started()
    assert not held.needs_listing
    held.listing_failed()
    assert held.needs_listing


def test_waiting_jobs_are_tried_in_the_order_in_which_they_became_ready_then_by_id(told: Callable[[str], Job]) -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    ready = {"a": 30, "b": 10, "c": 20, "retry": 15, "tie-2": 40, "tie-1": 40}
    jobs = [replace(told(job_id), create_time=at + timedelta(seconds=ready[job_id])) for job_id in ready]
    # Created before all others, due for its retry in the middle of them, and told last.
    retry: dict[str, Any] = {"create_time": at, "start_time": at + timedelta(seconds=15)}
    jobs.append(replace(told("due"), state=State.PROCESSING, attempt=2, **retry))
    held = WaitingJobs()
    for job in jobs:
        held.update(job)

    assert [held.pop() for _ in range(8)] == ["b", "due", "retry", "c", "a", "tie-1", "tie-2", None]


def test_a_retry_of_a_job_that_is_held_stands_where_its_wait_was_over(told: Callable[[str], Job]) -> None:
    held = WaitingJobs()
    first, second = told("first"), told("second")
    assert second.create_time is not None
    for job in (first, second):
        held.update(job)
    later = second.create_time + timedelta(seconds=1)
    held.update(replace(first, state=State.PROCESSING, attempt=2, start_time=later))

    assert [held.pop() for _ in range(3)] == ["second", "first", None]


def test_the_choice_is_among_more_jobs_while_other_workers_are_faster(
    told: Callable[[str], Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting_jobs, "RANDOM_CHOICE_MAX", 2)
    jobs = [told(job_id) for job_id in "abc"]
    held = WaitingJobs()

    def choices() -> set[str | None]:
        found = set()
        for _ in range(50):
            for job in jobs:
                held.update(job)
            found.add(held.pop())
        return found

    assert choices() == {"a"}
    for _ in range(9):
        held.start_tried(won=False)
    assert choices() == {"a", "b"}
    held.start_tried(won=True)
    assert choices() == {"a"}


def test_jobs_that_others_take_leave_nothing_behind(
    told: Callable[[str], Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting_jobs, "STALE_ENTRIES_MAX", 10)
    held, kept, other = WaitingJobs(), told("kept"), told("other")
    held.update(kept)
    for _ in range(100):
        held.update(other)
        held.update(replace(other, state=State.CANCELLED))

    assert (len(held), len(held._heap) <= 12) == (1, True)
    assert (held.pop(), held.pop()) == ("kept", None)
