"""What a worker could start, as it learns of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from jobstate_client import Client, Job
from jobstate_client.core import backlog
from jobstate_client.core.backlog import Backlog


@pytest.fixture
def told(client: Client) -> Callable[[str], Job]:
    """A job that is free, and its id."""
    return lambda job_id: client.create("work", id=job_id)


def test_the_backlog_holds_free_jobs_until_they_are_taken(client: Client, told: Callable[[str], Job]) -> None:
    held = Backlog()
    jobs = [told("a"), told("b")]
    for job in (*jobs, *jobs):
        held.take_in(job)
    held.take_in(client.start("a"))

    assert len(held) == 1
    assert (held.choose(), held.choose()) == ("b", None)
    assert not held.needs_listing


def test_the_backlog_is_listed_again_when_it_overflowed_and_is_used_up(
    told: Callable[[str], Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "CANDIDATES_MAX", 1)
    held = Backlog()

    assert [held.take_in(told(job_id)) for job_id in "ab"] == [True, False]
    assert not held.needs_listing
    assert held.choose() == "a"
    assert held.needs_listing
    held.listing()
    assert not held.needs_listing
    held.listing_failed()
    assert held.needs_listing


def test_the_backlog_chooses_at_random_among_the_oldest(
    told: Callable[[str], Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "CHOICE", 2)
    jobs = [told(job_id) for job_id in "abc"]
    chosen = set()
    for _ in range(50):
        held = Backlog()
        for job in jobs:
            held.take_in(job)
        chosen.add(held.choose())

    assert chosen == {"a", "b"}
