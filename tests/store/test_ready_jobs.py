"""What a store finds of ready jobs and unique keys. The order is that of the hand-out, on every backend."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from jobstate_server.domain.job import JobState
from jobstate_server.domain.reads import Reads, Ready
from jobstate_server.domain.waiting import Priority, UniqueUntil, has_unique_key, is_ready
from jobstate_server.store.base import Reader, Store
from jobstate_server.store.errors import StoreError, TransactionConflict
from jobstate_server.store.records import Changes

from .support import a_job, a_request, keep, keep_jobs, unversioned

STEP = 10
ONE_TYPE = (("type", STEP),)


def found(store: Store, limit: int = 100, steps: tuple[tuple[str, int], ...] = ONE_TYPE) -> list[str]:
    """The ids of the ready jobs that a transaction finds."""
    with store.transaction() as transaction:
        transaction.load(Reads())
        return [job.id for job in transaction.ready_jobs([Ready(steps, limit)]).jobs]


def test_ready_jobs_are_found_by_ready_time_less_priority_then_by_creation(store: Store) -> None:
    keep_jobs(
        store,
        a_job("normal", ready_time=100, create_sequence=3),
        a_job("earlier", ready_time=100, create_sequence=2),
        a_job("high", ready_time=105, level=Priority.HIGH, create_sequence=9),
        a_job("urgent, late", ready_time=121, level=Priority.URGENT, create_sequence=1),
        a_job("background", ready_time=1, level=Priority.BACKGROUND, create_sequence=8),
    )

    assert found(store) == ["background", "high", "earlier", "normal", "urgent, late"]
    assert found(store, limit=2) == ["background", "high"]
    assert found(store, steps=(("type", 0),)) == ["background", "earlier", "normal", "high", "urgent, late"]


def test_jobs_of_several_types_are_merged_with_the_step_of_each(store: Store) -> None:
    keep_jobs(
        store,
        a_job("a", job_type="a", ready_time=100, level=Priority.HIGH),
        a_job("b", job_type="b", ready_time=90, level=Priority.HIGH),
        a_job("other", job_type="c"),
    )

    assert found(store, steps=(("a", 20), ("b", 0))) == ["a", "b"]
    assert found(store, steps=(("a", 0), ("b", 0))) == ["b", "a"]
    assert found(store, limit=1, steps=(("a", 20), ("b", 0))) == ["a"]


FIELDS: dict[str, list[Any]] = {
    "state": list(JobState),
    "held": [False, True],
    "claimed": [False, True],
    "attempt": [0, 1],
    "unique_until": [0, *UniqueUntil],
}

JOBS = [
    a_job(f"{number:03}", ready_time=number, **dict(zip(FIELDS, values, strict=True)))
    for number, values in enumerate(product(*FIELDS.values()))
]
"""A job with each combination of the fields that matter."""


def test_exactly_the_ready_jobs_are_found(store: Store) -> None:
    keep_jobs(store, *JOBS)

    assert found(store, limit=1_000) == [job.id for job in JOBS if is_ready(job)]


def test_a_job_is_found_by_its_unique_key_exactly_while_it_has_it(store: Store) -> None:
    jobs = {("owner", "type", job.id): replace(job, unique_key=job.id) for job in JOBS}
    keep_jobs(store, *jobs.values())
    with store.transaction() as transaction:
        loaded = transaction.load(Reads(unique_keys={*jobs, ("owner", "type", "other"), ("", "type", "000")}))

    holders = {key: job.id for key, job in jobs.items() if has_unique_key(job)}
    assert loaded.unique == holders
    assert set(loaded.jobs) == set(holders.values())


def test_a_second_job_with_the_same_unique_key_is_refused(store: Store) -> None:
    keep_jobs(store, a_job("first", unique_key="key"), a_job("another caller's", unique_key="key", principal="other"))

    with pytest.raises((StoreError, TransactionConflict)):
        keep_jobs(store, a_job("second", unique_key="key"))


def test_found_jobs_are_whole_and_as_they_were_written_last(store: Store) -> None:
    job = a_job(metadata=b"{metadata}", ready_time=5)
    keep_jobs(store, job)
    changed = replace(job, worker="w")
    keep(store, Changes(updated=unversioned([changed])))

    with store.transaction() as transaction:
        transaction.load(Reads())
        assert transaction.ready_jobs([Ready(ONE_TYPE, 1)]).jobs == [changed]


def test_more_ready_jobs_than_are_read_at_once_are_all_found(store: Store) -> None:
    levels = list(Priority)
    jobs = [a_job(f"{n:03}", ready_time=n, level=levels[n % 5], create_sequence=n + 1) for n in range(330)]
    keep_jobs(store, *jobs)
    ordered = sorted(jobs, key=lambda job: (job.ready_time - job.level * STEP, job.create_sequence))

    assert found(store, limit=200) == [job.id for job in ordered[:200]]
    assert found(store, limit=1_000) == [job.id for job in ordered]


def test_the_oldest_ready_job_and_those_before_another_are_counted(store: Store, reader: Reader) -> None:
    jobs = [
        a_job("first", ready_time=50, create_sequence=1),
        a_job("second", ready_time=55, level=Priority.HIGH, create_sequence=2),
        a_job("third", ready_time=50, create_sequence=3),
        a_job("held", ready_time=1, held=True),
        a_job("other", job_type="other", ready_time=1),
    ]
    keep_jobs(store, *jobs)

    assert reader.oldest_ready("type") == 50
    assert reader.oldest_ready("nothing") is None
    assert [reader.ready_before(job, STEP, 100) for job in jobs[:3]] == [1, 0, 2]
    assert [reader.ready_before(job, 0, 100) for job in jobs[:3]] == [0, 2, 1]
    assert reader.ready_before(jobs[2], STEP, 1) == 1


def test_whether_anything_is_ready_or_repeated_is_told_without_a_transaction(store: Store, reader: Reader) -> None:
    keep_jobs(store, a_job("held", held=True), a_job("urgent", job_type="other", level=Priority.URGENT))
    keep_jobs(store, a_job("in a lane", job_type="in a lane", lane="lane"))
    keep(store, Changes(requests=[a_request("known")]))
    principal = a_request("known").request.key[0]

    assert not reader.has_ready([], [])
    assert not reader.has_ready(["type", "nothing"], [(principal, "unknown")])
    assert reader.has_ready(["nothing", "other"], [])
    assert reader.has_ready(["in a lane"], [])
    assert reader.has_ready(["type"], [(principal, "unknown"), (principal, "known")])


def test_the_request_id_of_an_acquire_is_stored_with_all_its_jobs(store: Store) -> None:
    acquired = (("job:with:colons", 1), ("job", 12))
    stored = a_request("request-1")._replace(job_id="", acquired=acquired)
    existing = a_request("request-2")._replace(is_existing=True)
    keep(store, Changes(requests=[stored, existing]))

    with store.transaction() as transaction:
        loaded = transaction.load(Reads(request_keys={stored.request.key, existing.request.key})).requests

    assert loaded[stored.request.key].acquired == acquired
    assert loaded[stored.request.key].job_ids == ("job:with:colons", "job")
    assert loaded[existing.request.key].acquired is None
    assert loaded[existing.request.key].is_existing
