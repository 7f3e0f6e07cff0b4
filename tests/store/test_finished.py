"""What cleanup deletes: the jobs that a transaction finds by the time at which they ended."""

from __future__ import annotations

from jobstate_server.domain.filters import Position
from jobstate_server.domain.job import FinishedJob, JobState
from jobstate_server.domain.reads import Finished
from jobstate_server.store.base import Store

from ..support.reads import reads
from .support import a_job, keep_jobs, key_of


def found(store: Store, before: int, after: Position | None = None, limit: int = 1_000) -> list[FinishedJob]:
    """The jobs that a new transaction finds, in its order."""
    selection = Finished(before, after, limit)
    with store.transaction() as transaction:
        loaded = transaction.load(reads(finished=selection))
    assert (loaded.jobs, loaded.due) == ({}, {})
    return loaded.finished[selection]


def ids(jobs: list[FinishedJob]) -> list[str]:
    return [job.id for job in jobs]


def test_jobs_that_ended_before_a_time_are_found_with_what_remains_of_them(store: Store) -> None:
    keep_jobs(
        store,
        a_job("old", state=JobState.CANCELLED, complete_time=6, metadata=b"m", result=b"r"),
        a_job("at the limit", state=JobState.COMPLETED, complete_time=7),
        a_job("running", state=JobState.PROCESSING),
    )

    assert found(store, 7) == [FinishedJob("old", key_of("old"), "type", "source", "owner", JobState.CANCELLED, 6)]


def test_they_come_in_the_order_in_which_they_ended_and_by_key_at_equal_times(store: Store) -> None:
    ended = {"d": 3, "c": 2, "b": 2, "a": 9}
    keep_jobs(store, *[a_job(name, state=JobState.COMPLETED, complete_time=time) for name, time in ended.items()])

    assert ids(found(store, 10)) == ["b", "c", "d", "a"]


def test_selections_one_after_another_find_every_job_once(store: Store) -> None:
    jobs = [a_job(f"{number}", state=JobState.COMPLETED, complete_time=number // 3) for number in range(10)]
    keep_jobs(store, *jobs)

    seen: list[str] = []
    after = None
    while page := found(store, 10, after, limit=4):
        seen += ids(page)
        after = Position(page[-1].complete_time or 0, page[-1].create_sequence)

    assert seen == [f"{number}" for number in range(10)]
    assert found(store, 10, limit=0) == []
