"""A replica reads what it wrote itself only if somebody else has changed it since, and always notices that."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobstate_server.domain.job import Job, JobState
from jobstate_server.store.base import Transaction
from jobstate_server.store.errors import TransactionConflict
from jobstate_server.store.postgres.known_jobs import KnownJobs
from jobstate_server.store.postgres.store import PostgresStore
from jobstate_server.store.records import ChangedJob, Changes

from ...support.postgres import postgres_server
from ...support.reads import reads
from ..support import (
    MODERATELY,
    PATIENCE_S,
    Interruption,
    a_job,
    an_error,
    an_event,
    interrupt,
    keep,
    keep_jobs,
    remains,
    stored_job,
)
from .support import end_connection, foreign, opened_at, until_it_waits


def loaded(store: PostgresStore, job_id: str = "job") -> Job | None:
    """The job as the next transaction of this replica sees it."""
    with store.transaction() as transaction:
        return transaction.load(reads([job_id])).jobs.get(job_id)


def change(store: PostgresStore, job: Job) -> Job:
    """Write a job with an event, and return it with its version."""
    keep(store, Changes(updated=[ChangedJob(job, 0)], events=[an_event(job.id)]))
    return job


def known(store: PostgresStore, *jobs: Job) -> tuple[Job, ...]:
    """Have this replica write these jobs, so that it knows them."""
    keep_jobs(store, *jobs)
    return jobs


def test_a_job_that_nobody_else_has_changed_is_not_read_again(store: PostgresStore) -> None:
    (job,) = known(store, a_job())
    changed = change(store, replace(job, worker="one"))

    assert loaded(store) is changed


def test_what_is_known_is_what_a_reader_finds(store: PostgresStore) -> None:
    details = {"metadata": b"metadata", "result": b"result", "last_error": an_error(), "due_time": 5, "claimed": True}
    known(store, *[a_job(f"{state.name} {number}", state=state) for state in JobState for number in range(2)])
    for state in JobState:
        change(store, a_job(f"{state.name} 0", state=state, **details))

    for state in JobState:
        for number in range(2):
            job_id = f"{state.name} {number}"
            assert loaded(store, job_id) == stored_job(store, job_id)


def test_what_another_replica_has_changed_is_read(store: PostgresStore, other: PostgresStore) -> None:
    (job,) = known(store, a_job())
    for worker in ("one", "two", "three"):
        change(other, a_job(worker=worker))
        found = loaded(store)
        assert found is not job
        assert found is not None
        assert found.worker == worker


def test_a_change_that_leaves_the_version_is_noticed(store: PostgresStore, other: PostgresStore) -> None:
    known(store, a_job())
    keep(other, Changes(progressed=[ChangedJob(a_job(heard_time=7), None)]))

    found = loaded(store)

    assert found is not None
    assert found.heard_time == 7


def test_a_postponed_limit_is_noticed_by_every_replica(store: PostgresStore, other: PostgresStore) -> None:
    known(store, a_job(state=JobState.PROCESSING, due_time=3))
    with store.transaction() as transaction:
        assert transaction.postpone_timeouts(9) == 1

    for replica in (store, other):
        found = loaded(replica)
        assert found is not None
        assert found.due_time == 9


def test_a_job_that_another_replica_has_deleted_is_gone(store: PostgresStore, other: PostgresStore) -> None:
    known(store, a_job(), a_job("kept"))
    keep(other, Changes(deleted=[remains("job")]))

    with store.transaction() as transaction:
        assert [*transaction.load(reads(["job", "kept", "never"])).jobs] == ["kept"]


def test_a_job_made_anew_is_another_job(store: PostgresStore, other: PostgresStore) -> None:
    known(store, a_job())
    keep(other, Changes(deleted=[remains("job")]))
    keep_jobs(other, a_job(worker="anew"))

    found = loaded(store)

    assert found is not None
    assert found.worker == "anew"


def test_what_a_foreign_program_has_written_is_read(url: str, store: PostgresStore) -> None:
    known(store, a_job())
    with foreign(url) as operator:
        operator.execute("UPDATE job SET worker = 'by hand'")

    found = loaded(store)

    assert found is not None
    assert found.worker == "by hand"


def test_what_was_rolled_back_is_not_known(store: PostgresStore) -> None:
    (job,) = known(store, a_job())

    def write(transaction: Transaction) -> None:
        transaction.write(Changes(updated=[ChangedJob(a_job(worker="never"), None)]))

    with pytest.raises(Interruption):
        interrupt(store, write)

    assert loaded(store) is job


def loaded_while_another_writes(url: str, store: PostgresStore, other: PostgresStore, changes: Changes) -> Job | None:
    """The job as ``other`` gets it, which waits for its lock until ``store`` has written these changes."""
    with ThreadPoolExecutor(1) as threads:
        with store.transaction() as transaction:
            transaction.load(reads(["job"]))
            loading = threads.submit(loaded, other)
            until_it_waits(url, other.database.process)
            transaction.write(changes)
        return loading.result(PATIENCE_S)


def test_who_waits_for_a_job_it_knows_gets_it_as_the_other_replica_left_it(
    url: str, store: PostgresStore, other: PostgresStore
) -> None:
    known(other, a_job())
    changes = Changes(updated=[ChangedJob(a_job(worker="first"), 0)], events=[an_event()])

    found = loaded_while_another_writes(url, store, other, changes)

    assert found is not None
    assert found.worker == "first"


def test_who_waits_for_a_job_it_knows_finds_it_gone_if_the_other_replica_deletes_it(
    url: str, store: PostgresStore, other: PostgresStore
) -> None:
    known(other, a_job())

    assert loaded_while_another_writes(url, store, other, Changes(deleted=[remains("job")])) is None


def test_replicas_that_know_the_same_jobs_never_wait_for_each_other_in_a_circle(
    store: PostgresStore, other: PostgresStore
) -> None:
    names = [f"{number:03}" for number in range(200)]
    known(store, *map(a_job, names))
    start = threading.Barrier(2, timeout=PATIENCE_S)

    def work(replica: PostgresStore, mine: list[str]) -> None:
        for _ in range(20):
            start.wait()
            with replica.transaction() as transaction:
                jobs = transaction.load(reads(mine)).jobs
                changed = [ChangedJob(replace(job, worker=""), number) for number, job in enumerate(jobs.values())]
                transaction.finish(Changes(updated=changed, events=[an_event(name) for name in jobs]))

    with ThreadPoolExecutor(2) as threads:
        works = [threads.submit(work, store, names), threads.submit(work, other, names[::-1])]
        for each in works:
            each.result(PATIENCE_S)


def test_nothing_is_known_over_a_new_connection(url: str, store: PostgresStore) -> None:
    """The database may be another one that lacks the last commits, and has since given their numbers to others."""
    (job,) = known(store, a_job())
    end_connection(url, store.database.process)

    found = loaded(store)

    assert found == job
    assert found is not job


def test_jobs_beyond_the_limit_are_read(url: str) -> None:
    first, second = a_job("first"), a_job("second")
    jobs = KnownJobs(2_000)
    jobs.keep_written([first], 7)
    jobs.keep_written([second, a_job("done", state=JobState.COMPLETED)], 8)

    assert jobs.found(["first", "second", "done"]) == {"second": second}
    assert jobs.transactions(["first", "second", "done"]) == [None, 8, None]
    jobs.clear()
    assert jobs.transactions(["second"]) == [None]


@MODERATELY
@given(
    steps=st.lists(
        st.tuples(
            st.integers(0, 2),
            st.sampled_from(["create", "update", "heartbeat", "delete", "conflict"]),
            st.sampled_from("abc"),
        ),
        max_size=20,
    )
)
def test_whatever_replicas_do_each_sees_what_is_stored(steps: list[tuple[int, str, str]]) -> None:
    url = postgres_server().new_store()
    with opened_at(url) as one, opened_at(url) as two, opened_at(url) as three:
        for number, (replica, step, name) in enumerate(steps):
            store = (one, two, three)[replica]
            try:
                with store.transaction() as transaction:
                    job = transaction.load(reads([name])).jobs.get(name)
                    assert job == stored_job(store, name)
                    _take(transaction, step, name, job, number)
            except TransactionConflict:
                assert step == "conflict"


def _take(transaction: Transaction, step: str, name: str, job: Job | None, number: int) -> None:
    if job is None:
        new = a_job(name, worker=f"{number}")
        transaction.finish(Changes(inserted=[ChangedJob(new, 0, 0)], events=[an_event(name)]))
    elif step == "heartbeat":
        transaction.finish(Changes(progressed=[ChangedJob(job.reported(heard_time=number), None)]))
    elif step == "delete":
        transaction.finish(Changes(deleted=[remains(job=job)], events=[an_event(name)]))
    else:
        changed = ChangedJob(replace(job, worker=f"{number}"), 0)
        transaction.write(Changes(updated=[changed], events=[an_event(name)]))
        if step == "conflict":
            raise TransactionConflict
