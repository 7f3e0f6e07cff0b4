"""Reads of jobs other than lists: by id, by state, by the time they ended."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobstate_server.clock import ManualClock
from jobstate_server.domain.filters import Position
from jobstate_server.domain.job import Job, JobState
from jobstate_server.domain.reach import Reach
from jobstate_server.store.base import Reader, Store
from jobstate_server.store.records import Changes, JobSummary

from .support import (
    ALL_STATES,
    MODERATELY,
    Backend,
    a_job,
    at,
    keep,
    keep_jobs,
    opened,
    reading,
    remains,
    summary_of,
    unversioned,
)


def test_those_of_the_named_jobs_that_exist_are_found(store: Store, reader: Reader) -> None:
    keep_jobs(store, a_job("a"), a_job("b"), a_job("c"))

    assert reader.jobs(["a", "missing", "c"]) == {"a": a_job("a"), "c": a_job("c")}
    assert reader.jobs(["a", "a"]) == {"a": a_job("a")}
    assert reader.jobs([]) == {}


def test_a_thousand_jobs_are_found_with_one_call(store: Store, reader: Reader) -> None:
    jobs = {f"{number}": a_job(f"{number}") for number in range(1_000)}
    keep_jobs(store, *jobs.values())

    assert reader.jobs(list(jobs)) == jobs


def test_jobs_out_of_reach_are_not_found(store: Store, reader: Reader) -> None:
    keep_jobs(store, a_job("a", source_id="one"), a_job("b", source_id="two"), a_job("c", job_type="other"))

    assert set(reader.jobs(["a", "b", "c"], Reach(source_ids=("one",)))) == {"a"}
    assert set(reader.jobs(["a", "b", "c"], Reach(("type",), ("t*", "one")))) == {"a", "b"}
    assert set(reader.jobs(["a", "b", "c"], Reach(("other",)))) == {"c"}
    assert set(reader.jobs(["a", "b", "c"])) == {"a", "b", "c"}


def test_ids_are_told_apart_by_case_and_by_every_byte(store: Store, reader: Reader) -> None:
    ids = ["a", "A", "a ", "ä", "a\u0308", "%", "_", "𝔘"]
    keep_jobs(store, *[a_job(job_id) for job_id in ids])

    for job_id in ids:
        assert reader.jobs([job_id]) == {job_id: a_job(job_id)}


def test_the_oldest_queued_job_of_a_type_is_told_by_its_create_time(store: Store, reader: Reader) -> None:
    keep_jobs(
        store,
        a_job("a", create_time=30),
        a_job("b", create_time=20),
        a_job("c", create_time=10, state=JobState.PROCESSING),
        a_job("d", create_time=5, job_type="other"),
    )

    assert reader.oldest_queued("type") == 20
    assert reader.oldest_queued("other") == 5
    assert reader.oldest_queued("missing") is None


def test_no_job_is_queued_once_all_have_started(store: Store, reader: Reader) -> None:
    keep_jobs(store, a_job(create_time=0))
    assert reader.oldest_queued("type") == 0

    keep(store, Changes(updated=unversioned([a_job(state=JobState.PROCESSING)])))
    assert reader.oldest_queued("type") is None


def test_the_oldest_unclaimed_attempt_of_a_type_is_told_by_its_start_time(store: Store, reader: Reader) -> None:
    resumed = {"state": JobState.PROCESSING, "attempt": 2}
    keep_jobs(
        store,
        a_job("a", start_time=30, **resumed),
        a_job("b", start_time=20, **resumed),
        a_job("c", start_time=10, claimed=True, **resumed),
        a_job("d", start_time=5, job_type="other", **resumed),
        a_job("e", start_time=1, state=JobState.CANCELLED),
    )

    assert reader.oldest_unclaimed("type") == 20
    assert reader.oldest_unclaimed("other") == 5
    assert reader.oldest_unclaimed("missing") is None


def test_jobs_overdue_are_those_due_before_a_time(store: Store, reader: Reader) -> None:
    keep_jobs(store, a_job("a", due_time=1), a_job("b", due_time=2), a_job("c", due_time=3), a_job("d"))

    assert [reader.overdue(before) for before in (0, 1, 2, 3, 4, 2**62)] == [0, 0, 1, 2, 3, 3]


def test_jobs_overdue_are_counted_up_to_ten_thousand(store: Store, reader: Reader) -> None:
    keep_jobs(store, *[a_job(f"{number}", due_time=1) for number in range(10_001)])

    assert reader.overdue(2) == 10_000


@pytest.mark.parametrize(
    "read",
    [
        pytest.param(lambda reader: reader.finished_jobs(2, None, 100), id="finished_jobs"),
        pytest.param(lambda reader: reader.jobs_in_state("type", JobState.COMPLETED, None, 100), id="jobs_in_state"),
    ],
)
def test_what_maintenance_reads_of_jobs_has_no_documents(
    store: Store, reader: Reader, read: Callable[[Reader], list[JobSummary]]
) -> None:
    ended = {"state": JobState.COMPLETED, "complete_time": 1, "result": bytes(60_000), "metadata": bytes(60_000)}
    keep_jobs(store, *[a_job(f"{number}", **ended) for number in range(40)])
    read(reader)
    tracemalloc.start()
    try:
        found = read(reader)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert len(found) == 40
    assert peak < 60_000


def test_a_job_without_an_end_is_not_finished(store: Store, reader: Reader) -> None:
    keep_jobs(store, a_job("a"), a_job("b", state=JobState.COMPLETED, complete_time=0))

    assert [job.id for job in reader.finished_jobs(1, None, 10)] == ["b"]


def test_finished_jobs_are_those_that_ended_before_a_time(store: Store, reader: Reader) -> None:
    keep_jobs(store, *[a_job(f"{time}", state=JobState.CANCELLED, complete_time=time) for time in (3, 1, 2)])

    assert [job.id for job in reader.finished_jobs(3, None, 10)] == ["1", "2"]
    assert reader.finished_jobs(1, None, 10) == []


jobs_of_few_kinds = st.lists(
    st.builds(
        a_job,
        st.text("ab𝔘", min_size=1, max_size=4),
        job_type=st.sampled_from(["one", "two"]),
        state=st.sampled_from(JobState),
        create_time=st.integers(0, 3),
        complete_time=st.none() | st.integers(0, 3),
    ),
    max_size=20,
    unique_by=lambda job: job.create_sequence,
)


@MODERATELY
@given(jobs=jobs_of_few_kinds, limit=st.integers(1, 4))
def test_paging_through_a_state_yields_its_jobs_once_and_oldest_first(
    backend: Backend, jobs: list[Job], limit: int
) -> None:
    with opened(backend.new_home(), ManualClock()) as store, reading(store) as reader:
        keep_jobs(store, *jobs)
        for job_type in ("one", "two"):
            for state in ALL_STATES:
                found: list[JobSummary] = []
                while page := reader.jobs_in_state(
                    job_type,
                    state,
                    Position(found[-1].create_time, found[-1].create_sequence) if found else None,
                    limit,
                ):
                    assert len(page) <= limit
                    found += page

                wanted = [job for job in jobs if job.job_type == job_type and job.state is state]
                assert found == [
                    summary_of(job) for job in sorted(wanted, key=lambda job: (job.create_time, job.create_sequence))
                ]


@MODERATELY
@given(jobs=jobs_of_few_kinds, limit=st.integers(1, 4), before=st.integers(0, 4))
def test_paging_through_finished_jobs_yields_each_once_in_the_order_they_ended(
    backend: Backend, jobs: list[Job], limit: int, before: int
) -> None:
    with opened(backend.new_home(), ManualClock()) as store, reading(store) as reader:
        keep_jobs(store, *jobs)
        found: list[JobSummary] = []
        after: Position | None = None

        while page := reader.finished_jobs(before, after, limit):
            assert len(page) <= limit
            found += page
            assert page[-1].complete_time is not None
            after = Position(page[-1].complete_time, page[-1].create_sequence)

        ended = [(job.complete_time, job.create_sequence, job) for job in jobs if job.complete_time is not None]
        assert found == [summary_of(job) for time, _, job in sorted(ended, key=lambda each: each[:2]) if time < before]


def test_paging_goes_on_although_the_jobs_of_the_page_before_are_gone(store: Store, reader: Reader) -> None:
    keep_jobs(store, *[a_job(f"{time}", state=JobState.COMPLETED, complete_time=time) for time in range(5)])
    first = reader.finished_jobs(10, None, 2)
    keep(store, Changes(deleted=[remains(job.id) for job in first]))

    second = reader.finished_jobs(10, at(1, "1"), 2)

    assert [job.id for job in first + second] == ["0", "1", "2", "3"]


def test_jobs_that_ended_lately_are_counted_by_type_and_state(store: Store, reader: Reader) -> None:
    ended = [("a", JobState.COMPLETED, 11), ("a", JobState.COMPLETED, 14), ("a", JobState.PERMANENTLY_FAILED, 12)]
    ended += [("b", JobState.CANCELLED, 13), ("b", JobState.COMPLETED, 10)]
    keep_jobs(
        store,
        a_job("running", state=JobState.PROCESSING),
        *[
            a_job(f"{number}", job_type=job_type, state=state, complete_time=time)
            for number, (job_type, state, time) in enumerate(ended)
        ],
    )

    assert reader.ended_since(10, 10) == [
        ("a", JobState.COMPLETED, 2, 14),
        ("a", JobState.PERMANENTLY_FAILED, 1, 12),
        ("b", JobState.CANCELLED, 1, 13),
    ]
    assert reader.ended_since(10, 2) == [("a", JobState.COMPLETED, 1, 14), ("b", JobState.CANCELLED, 1, 13)]
    assert reader.ended_since(14, 10) == []


def test_whether_a_worker_has_a_job_of_a_type_is_told(store: Store, reader: Reader) -> None:
    keep_jobs(
        store,
        a_job("1", job_type="waits", state=JobState.PROCESSING, claimed=False),
        a_job("2", job_type="works", state=JobState.PROCESSING, claimed=False),
        a_job("3", job_type="works", state=JobState.PROCESSING, claimed=True),
        a_job("4", job_type="worked", state=JobState.COMPLETED, claimed=True),
    )

    assert [reader.has_claimed(job_type) for job_type in ("waits", "works", "worked", "other")] == [
        False,
        True,
        False,
        False,
    ]
