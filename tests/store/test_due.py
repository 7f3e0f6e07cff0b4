"""What is due: the jobs a transaction finds by their due time, and how that time is moved."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jobstate_server.clock import ManualClock
from jobstate_server.domain.job import JobState
from jobstate_server.domain.reads import Due
from jobstate_server.store.base import Store
from jobstate_server.store.records import Changes

from ..support.reads import reads
from .support import a_job, keep, keep_jobs, stored_job, unversioned


def due_ids(store: Store, limit: int = 1_000) -> list[str]:
    """The jobs that a new transaction finds due, in its order."""
    with store.transaction() as transaction:
        return transaction.load(reads(due=limit)).due.get(Due(limit), [])


def next_due(store: Store) -> int | None:
    with store.transaction() as transaction:
        return transaction.next_due()


def now_of(store: Store) -> int:
    with store.transaction() as transaction:
        return transaction.now


def test_a_job_is_due_from_its_due_time_on(store: Store, clock: ManualClock) -> None:
    now = now_of(store)
    far = 3_600_000_000
    keep_jobs(store, a_job("past", due_time=now - far), a_job("future", due_time=now + far), a_job("never"))

    assert due_ids(store) == ["past"]


def test_due_jobs_come_earliest_first_and_by_id_at_equal_times(store: Store) -> None:
    keep_jobs(store, a_job("d", due_time=3), a_job("c", due_time=2), a_job("b", due_time=2), a_job("a", due_time=9))

    assert due_ids(store) == ["b", "c", "d", "a"]


def test_at_most_the_limit_of_due_jobs_is_taken(store: Store) -> None:
    keep_jobs(store, *[a_job(f"{number}", due_time=number) for number in range(5)])

    assert due_ids(store, 2) == ["0", "1"]
    assert due_ids(store, 0) == []


@pytest.mark.parametrize("state", JobState)
def test_a_job_of_any_state_is_due_by_its_due_time_alone(store: Store, state: JobState) -> None:
    keep_jobs(store, a_job(state=state, due_time=1))

    assert due_ids(store) == ["job"]


def test_due_jobs_are_loaded_whole_and_beside_the_named_ones(store: Store) -> None:
    keep_jobs(store, a_job("a", due_time=1, metadata=b"m"), a_job("b"))

    with store.transaction() as transaction:
        loaded = transaction.load(reads(["a", "b"], due=10))

    assert loaded.due == {Due(10): ["a"]}
    assert loaded.jobs == {"a": a_job("a", due_time=1, metadata=b"m"), "b": a_job("b")}


def test_the_next_due_time_is_the_earliest_of_all_whether_it_has_come_or_not(store: Store) -> None:
    assert next_due(store) is None

    keep_jobs(store, a_job("a"))
    assert next_due(store) is None

    keep_jobs(store, a_job("b", due_time=2**62))
    assert next_due(store) == 2**62

    keep_jobs(store, a_job("c", due_time=0))
    assert next_due(store) == 0


def test_the_next_due_time_counts_what_this_transaction_wrote(store: Store) -> None:
    keep_jobs(store, a_job("a", due_time=5))

    with store.transaction() as transaction:
        transaction.write(Changes(updated=unversioned([a_job("a")]), inserted=unversioned([a_job("b", due_time=7)])))
        assert transaction.next_due() == 7


def test_a_job_whose_due_time_is_cleared_is_no_longer_due(store: Store) -> None:
    keep_jobs(store, a_job(due_time=1))

    keep(store, Changes(updated=unversioned([a_job()])))

    assert (due_ids(store), next_due(store)) == ([], None)


def test_postponing_moves_earlier_timeouts_of_running_attempts_and_counts_them(store: Store) -> None:
    running = [a_job(f"{time}", state=JobState.PROCESSING, due_time=time) for time in (1, 9, 10, 11)]
    keep_jobs(store, *running, a_job("none", state=JobState.PROCESSING))

    with store.transaction() as transaction:
        assert transaction.postpone_timeouts(10) == 2

    assert [getattr(stored_job(store, job.id), "due_time", None) for job in running] == [10, 10, 10, 11]
    assert stored_job(store, "none") == a_job("none", state=JobState.PROCESSING)


def test_postponing_changes_nothing_but_the_due_time(store: Store) -> None:
    job = a_job(state=JobState.PROCESSING, due_time=1, attempt_deadline=1, version=3, update_time=2)
    keep_jobs(store, job)

    with store.transaction() as transaction:
        transaction.postpone_timeouts(10)

    assert stored_job(store) == replace(job, due_time=10)


def test_postponing_moves_what_this_transaction_wrote(store: Store) -> None:
    job = a_job(state=JobState.PROCESSING, due_time=1)
    keep_jobs(store, job)

    with store.transaction() as transaction:
        transaction.write(Changes(updated=unversioned([replace(job, worker="w")])))
        assert transaction.postpone_timeouts(10) == 1

    with store.transaction() as transaction:
        assert transaction.load(reads(["job"])).jobs == {"job": replace(job, worker="w", due_time=10)}
    assert stored_job(store) == replace(job, worker="w", due_time=10)


def test_postponing_moves_the_time_in_which_a_job_must_be_begun_and_no_delay(store: Store) -> None:
    keep_jobs(store, a_job("ready", due_time=1), a_job("delayed", due_time=1, held=True))

    with store.transaction() as transaction:
        assert transaction.postpone_timeouts(10) == 1

    assert stored_job(store, "ready") == a_job("ready", due_time=10)
    assert stored_job(store, "delayed") == a_job("delayed", due_time=1, held=True)


@pytest.mark.parametrize("state", sorted(set(JobState) - {JobState.QUEUED, JobState.PROCESSING}))
def test_postponing_leaves_jobs_that_do_not_run_alone(store: Store, state: JobState) -> None:
    keep_jobs(store, a_job(state=state, due_time=1))

    with store.transaction() as transaction:
        assert transaction.postpone_timeouts(10) == 0

    assert stored_job(store) == a_job(state=state, due_time=1)
