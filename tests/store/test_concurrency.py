"""Readers beside a writer: they see whole commits, in order, and nobody waits for anybody."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from operator import methodcaller
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobstate_server.clock import ManualClock
from jobstate_server.domain.filters import EventFilter, Order
from jobstate_server.domain.job import JobState
from jobstate_server.domain.reach import Reach
from jobstate_server.domain.statistics import Measure
from jobstate_server.store.base import Reader, Store
from jobstate_server.store.records import ChangedJob, Changes

from ..support.reads import reads
from .support import (
    ANY_JOB,
    MODERATELY,
    PATIENCE_S,
    UNBOUNDED,
    Backend,
    Interruption,
    a_job,
    an_attempt,
    an_event,
    attempts_of,
    contents,
    interrupt,
    keep,
    keep_events,
    keep_jobs,
    opened,
    page_of,
    reading,
    remains,
    unversioned,
)

T = TypeVar("T")

COMMITS = 150
"""How many commits a free-running writer makes: enough for hundreds of reads to fall between them."""


@pytest.fixture(autouse=True, scope="module")
def frequent_switches() -> Iterator[None]:
    """More interleavings, and no reader that keeps the writer from running for 5 ms at a time."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.000_05)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as threads:
        yield threads


def in_time(future: Future[T]) -> T:
    """What a thread found; fails when it waits for something that does not come."""
    return future.result(PATIENCE_S)


def test_a_reader_sees_nothing_of_a_transaction_before_its_end_and_all_of_it_after(
    store: Store, threads: ThreadPoolExecutor
) -> None:
    keep(store, Changes(inserted=[ChangedJob(a_job("old"), 0)], events=[an_event("old")]))
    before = contents(store)

    with store.transaction() as transaction:
        transaction.write(
            Changes(
                deleted=[remains("old")],
                inserted=[ChangedJob(a_job("new"), 0)],
                events=[an_event("new")],
                attempts=[an_attempt("new")],
                tallies={("type", Measure.STORED, 1): 1},
            )
        )
        transaction.claim_task("task", 1, "token", "replica")
        during = in_time(threads.submit(contents, store))

    after = contents(store)
    assert during == before
    assert after.jobs == [a_job("new", version=2)]
    assert after.attempts == [an_attempt("new")]
    assert [event.sequence for event in after.events] == [1, 2]
    assert after.log[0] == 2
    assert after.tallies == {("type", Measure.STORED, 1): 1}
    assert set(after.tasks) == {"task"}


def test_a_reader_opened_before_a_commit_sees_it(store: Store, reader: Reader) -> None:
    assert reader.log_state().head == 0
    assert reader.jobs(["job"]) == {}

    keep(store, Changes(inserted=[ChangedJob(a_job(), 0)], events=[an_event()]))

    assert reader.log_state().head == 1
    assert reader.jobs(["job"]) == {"job": a_job(version=1)}


def test_no_read_waits_for_an_open_transaction(store: Store, threads: ThreadPoolExecutor) -> None:
    keep(
        store,
        Changes(
            inserted=unversioned([a_job(due_time=1, complete_time=1)]), events=[an_event()], attempts=[an_attempt()]
        ),
    )

    def read_everything() -> None:
        with reading(store) as reader:
            reader.jobs(["job"])
            attempts_of(reader, "job")
            reader.list_jobs(ANY_JOB, Order.NEWEST_FIRST, None, 10, UNBOUNDED)
            reader.log_state()
            reader.event(1)
            page_of(reader)
            page_of(reader, 0, EventFilter(job_ids=frozenset({"job"})))
            reader.tallies([])
            reader.oldest_queued("type")
            reader.oldest_unclaimed("type")
            reader.jobs_in_state("type", JobState.QUEUED, None, 10)
            reader.finished_jobs(10, None, 10)
            reader.overdue(10)
            reader.task_runs()

    with store.transaction() as transaction:
        transaction.load(reads(["job"], due=10))
        transaction.write(Changes(updated=[ChangedJob(a_job(worker="w"), 0)], events=[an_event()]))
        transaction.trim_events(100, 0, 1)

        in_time(threads.submit(read_everything))


def test_reads_and_transactions_take_turns_in_step(store: Store, threads: ThreadPoolExecutor) -> None:
    rounds = 30
    turn = threading.Barrier(2, timeout=PATIENCE_S)

    def write() -> None:
        for _ in range(rounds):
            with store.transaction() as transaction:
                transaction.write(Changes(events=[an_event(), an_event(), an_event()]))
                turn.wait()
                turn.wait()
            turn.wait()

    writing = threads.submit(write)
    with reading(store) as reader:
        for number in range(rounds):
            turn.wait()
            assert reader.log_state().head == 3 * number
            assert page_of(reader, 3 * number).events == []
            turn.wait()
            turn.wait()
            assert [event.sequence for event in page_of(reader, 3 * number).events] == [
                3 * number + 1,
                3 * number + 2,
                3 * number + 3,
            ]
    in_time(writing)


@MODERATELY
@given(
    sizes=st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=5, max_size=25),
    wanted=st.sampled_from(
        [EventFilter(), EventFilter(reach=Reach(source_ids=("s*",))), EventFilter(job_ids=frozenset({"job"}))]
    ),
    limit=st.integers(1, 7),
)
def test_who_has_read_up_to_a_sequence_never_finds_something_new_at_or_below_it(
    backend: Backend, sizes: list[tuple[int, bool]], wanted: EventFilter, limit: int
) -> None:
    done = threading.Event()

    def write(store: Store) -> None:
        try:
            for size, kept in sizes:
                changes = Changes(events=[an_event() for _ in range(size)])
                if kept:
                    keep(store, changes)
                else:
                    with pytest.raises(Interruption):
                        interrupt(store, methodcaller("write", changes))
        finally:
            done.set()

    def follow(store: Store) -> list[int]:
        seen: list[int] = []
        after = 0
        with reading(store) as reader:
            while True:
                last_round = done.is_set()
                page = reader.events(after, wanted, limit, UNBOUNDED)
                seen += [event.sequence for event in page.events]
                assert page.scanned == len(seen)
                assert [event.sequence for event in page_of(reader, 0, wanted).events][: len(seen)] == seen
                if last_round and page.scanned == after:
                    return seen
                after = page.scanned

    with opened(backend.new_home(), ManualClock()) as store, ThreadPoolExecutor(3) as threads:
        readers = [threads.submit(follow, store) for _ in range(2)]
        in_time(threads.submit(write, store))
        expected = list(range(1, sum(size for size, kept in sizes if kept) + 1))
        assert [in_time(reading) for reading in readers] == [expected, expected]


def test_a_list_a_tally_and_a_job_with_its_event_never_show_half_a_commit(
    store: Store, threads: ThreadPoolExecutor
) -> None:
    """Each commit moves the mark of both jobs, so that they always agree, and deletes and makes a third."""
    done = threading.Event()
    keep_jobs(store, a_job("a", create_time=0), a_job("b", create_time=0))

    def write() -> None:
        try:
            for number in range(1, COMMITS + 1):
                keep(
                    store,
                    Changes(
                        deleted=[remains(f"c{number - 1}")],
                        inserted=unversioned([a_job(f"c{number}", create_time=1)]),
                        updated=[
                            ChangedJob(a_job("a", result_count=number), 0),
                            ChangedJob(a_job("b", result_count=number), 1),
                        ],
                        events=[an_event("a"), an_event("b")],
                        tallies={("type", Measure.TOKENS, 0): 1, ("type", Measure.RETRIES, 0): 1},
                    ),
                )
        finally:
            done.set()

    def read() -> int:
        seen = 0
        with reading(store) as reader:
            while seen < COMMITS:
                assert not done.is_set() or reader.jobs(["a"])["a"].result_count == COMMITS
                jobs = reader.list_jobs(ANY_JOB, Order.OLDEST_FIRST, None, 10, UNBOUNDED).jobs
                assert [job.id for job in jobs] == ["a", "b", *([f"c{jobs[0].result_count}"] if len(jobs) > 2 else [])]
                assert len({job.result_count for job in jobs[:2]}) == 1
                assert len(set(reader.tallies([]).values())) <= 1
                assert jobs[0].result_count >= seen
                seen = jobs[0].result_count
                # The job was there, so its event is; the event is there, so its job is.
                assert reader.event(2 * seen) is not None or seen == 0
                head = reader.log_state().head
                assert reader.jobs(["b"])["b"].version >= head
        return seen

    readers = [threads.submit(read) for _ in range(2)]
    in_time(threads.submit(write))

    assert [in_time(found) for found in readers] == [COMMITS, COMMITS]


def test_a_page_that_begins_above_the_horizon_it_tells_has_no_gap(store: Store, threads: ThreadPoolExecutor) -> None:
    """The compaction edge: events are removed while they are read."""
    done = threading.Event()
    keep_events(store, *[an_event() for _ in range(20)])

    def write() -> None:
        try:
            for _ in range(COMMITS):
                with store.transaction() as transaction:
                    transaction.write(Changes(events=[an_event() for _ in range(3)]))
                    transaction.trim_events(100, 0, 3)
        finally:
            done.set()

    def read() -> None:
        after = 0
        with reading(store) as reader:
            while not done.is_set():
                page = page_of(reader, after, limit=10)
                if page.horizon <= after:
                    assert [event.sequence for event in page.events] == list(range(after + 1, page.scanned + 1))
                else:
                    after = page.horizon

    readers = [threads.submit(read) for _ in range(2)]
    in_time(threads.submit(write))

    for found in readers:
        in_time(found)


def test_many_readers_may_be_open_at_once(store: Store, threads: ThreadPoolExecutor) -> None:
    keep_jobs(store, a_job())
    all_open = threading.Barrier(4, timeout=PATIENCE_S)

    def read() -> int:
        with reading(store) as reader:
            all_open.wait()
            return len(reader.jobs(["job"]))

    assert [in_time(future) for future in [threads.submit(read) for _ in range(4)]] == [1] * 4
