"""Replicas at one store: they take turns at a job and at the log, and nobody sees anything out of order."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobstate_server.clock import FollowingClock, ManualClock
from jobstate_server.domain.durations import DAY, HOUR, SECOND
from jobstate_server.domain.filters import EventFilter
from jobstate_server.domain.job import JobState
from jobstate_server.domain.reach import Reach
from jobstate_server.domain.reads import Due, Finished, Reads
from jobstate_server.domain.statistics import Measure
from jobstate_server.store.base import Store
from jobstate_server.store.errors import TransactionConflict
from jobstate_server.store.postgres.store import PostgresStore
from jobstate_server.store.records import ChangedJob, Changes

from ...support.postgres import postgres_server
from ...support.reads import reads
from ..support import (
    MODERATELY,
    PATIENCE_S,
    UNBOUNDED,
    Interruption,
    a_job,
    a_request,
    an_event,
    contents,
    interrupt,
    keep,
    keep_jobs,
    page_of,
    reading,
    stored_events,
    stored_job,
    unversioned,
)
from .support import opened_at, rows, until_it_waits

T = TypeVar("T")


def in_time(future: Future[T]) -> T:
    """What a thread found; fails when it waits for something that does not come."""
    return future.result(PATIENCE_S)


def test_who_waits_for_a_job_that_another_replica_has_in_hand_gets_it_as_that_one_left_it(
    url: str, store: PostgresStore, other: PostgresStore
) -> None:
    keep_jobs(store, a_job())

    def load_worker() -> str:
        with other.transaction() as transaction:
            return transaction.load(reads(["job"])).jobs["job"].worker

    with ThreadPoolExecutor(1) as threads:
        with store.transaction() as transaction:
            transaction.load(reads(["job"]))
            loading = threads.submit(load_worker)
            until_it_waits(url, other.database.process)
            transaction.write(Changes(updated=[ChangedJob(a_job(worker="first"), 0)], events=[an_event()]))
        assert in_time(loading) == "first"


def test_who_waits_for_a_job_decides_at_a_later_time_than_who_had_it_before(
    url: str, store: PostgresStore, other: PostgresStore
) -> None:
    """However far apart the machines' clocks are, for both go by the database's."""
    del store, other
    slow = FollowingClock(ManualClock(start=1 * DAY))
    with opened_at(url) as maker:
        keep_jobs(maker, a_job())

    def load_time(store: PostgresStore) -> int:
        with store.transaction() as transaction:
            transaction.load(reads(["job"]))
            return transaction.now

    with (
        closing(PostgresStore(url, FollowingClock(ManualClock(start=50_000 * DAY)))) as one,
        closing(PostgresStore(url, slow)) as another,
        ThreadPoolExecutor(1) as threads,
    ):
        for _ in range(5):
            with one.transaction() as transaction:
                transaction.load(reads(["job"]))
                loading = threads.submit(load_time, another)
                until_it_waits(url, another.database.process)
                transaction.load(reads(["job"]))
                decided = transaction.now
            assert in_time(loading) > decided
            assert load_time(one) > decided


def test_finished_jobs_that_another_replica_has_in_hand_are_passed_over(
    store: PostgresStore, other: PostgresStore
) -> None:
    keep_jobs(store, *[a_job(f"{number}", complete_time=number, state=JobState.COMPLETED) for number in range(6)])
    selection = Finished(9, None, 2)

    with store.transaction() as one, other.transaction() as another:
        first = one.load(reads(finished=selection)).finished[selection]
        second = another.load(reads(finished=selection)).finished[selection]

    assert ([job.id for job in first], [job.id for job in second]) == (["0", "1"], ["2", "3"])


def test_due_jobs_that_another_replica_has_in_hand_are_passed_over(store: PostgresStore, other: PostgresStore) -> None:
    keep_jobs(store, *[a_job(f"{number:03}", due_time=number, state=JobState.RETRYING) for number in range(10)])

    with store.transaction() as one, other.transaction() as another:
        first = one.load(reads(due=4)).due[Due(4)]
        second = another.load(reads(due=4)).due[Due(4)]
        # It may have to be served after all, if the other dies.
        assert another.next_due() == 0
    with store.transaction() as one:
        again = one.load(reads(due=4)).due[Due(4)]

    assert (first, second) == (["000", "001", "002", "003"], ["004", "005", "006", "007"])
    assert again == first


def race(stores: list[PostgresStore], changes: Changes, keys: list[tuple[str, str]]) -> list[str]:
    """Have every store look, find nothing, and write the same at the same moment."""
    looked = threading.Barrier(len(stores), timeout=PATIENCE_S)

    def work(store: Store) -> str:
        try:
            with store.transaction() as transaction:
                found = transaction.load(reads(["new"], request_keys=keys))
                assert (found.jobs, found.requests) == ({}, {})
                looked.wait()
                transaction.finish(changes)
        except TransactionConflict:
            with store.transaction() as transaction:
                found = transaction.load(reads(["new"], request_keys=keys))
                return "found" if found.jobs or found.requests else "nothing"
        return "made"

    with ThreadPoolExecutor(len(stores)) as threads:
        return sorted(in_time(future) for future in [threads.submit(work, store) for store in stores])


def test_of_replicas_that_make_one_job_one_makes_it_and_the_others_find_it(url: str) -> None:
    changes = Changes(
        inserted=[ChangedJob(a_job("new"), 0)], events=[an_event("new")], tallies={("type", Measure.STORED, 1): 1}
    )
    with ExitStack() as stack:
        stores = [stack.enter_context(opened_at(url)) for _ in range(3)]
        assert race(stores, changes, []) == ["found", "found", "made"]
        stored = contents(stores[0])

    assert [job.id for job in stored.jobs] == ["new"]
    assert [event.sequence for event in stored.events] == [1]
    assert stored.tallies == {("type", Measure.STORED, 1): 1}


def test_of_replicas_that_use_one_request_id_one_uses_it_and_the_others_find_it(url: str) -> None:
    changes = Changes(requests=[a_request("new")], events=[an_event()])
    with ExitStack() as stack:
        stores = [stack.enter_context(opened_at(url)) for _ in range(3)]
        assert race(stores, changes, [("owner", "new")]) == ["found", "found", "made"]
        assert len(stored_events(stores[0])) == 1


def test_a_cleanup_of_two_replicas_at_once_removes_each_event_once(store: PostgresStore, other: PostgresStore) -> None:
    keep(store, Changes(events=[an_event() for _ in range(100)]))

    def trim(store: PostgresStore) -> int:
        removed = 0
        for _ in range(10):
            with store.transaction() as transaction:
                removed += transaction.trim_events(100, UNBOUNDED, 5)
        return removed

    with ThreadPoolExecutor(2) as threads:
        assert sum(in_time(future) for future in [threads.submit(trim, one) for one in (store, other)]) == 100
    with reading(store) as reader:
        state = reader.log_state()
    assert (state.head, state.horizon, state.bytes) == (100, 100, 0)


def test_replicas_that_add_to_one_tally_lose_nothing(url: str) -> None:
    def add(store: PostgresStore) -> None:
        for _ in range(30):
            keep(store, Changes(tallies={("type", Measure.TOKENS, 0): 1, ("type", Measure.RETRIES, 0): 2}))

    with ExitStack() as stack, ThreadPoolExecutor(3) as threads:
        stores = [stack.enter_context(opened_at(url)) for _ in range(3)]
        for future in [threads.submit(add, store) for store in stores]:
            in_time(future)
        assert contents(stores[0]).tallies == {("type", Measure.TOKENS, 0): 90, ("type", Measure.RETRIES, 0): 180}


class InOrder(set[str]):
    """A set that is read in the order of the names that it was made from."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(names)
        self._names = names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)


def test_replicas_that_change_the_same_jobs_in_different_order_do_not_stand_in_each_other_s_way(url: str) -> None:
    """Rows are locked in the order of their ids, whatever the order they are asked for in."""
    names = [f"job-{number:02}" for number in range(20)]

    def work(store: PostgresStore, order: list[str]) -> None:
        for _ in range(15):
            with store.transaction() as transaction:
                found = transaction.load(Reads(job_ids=InOrder(order))).jobs
                changed = [replace(found[name], result_count=found[name].result_count + 1) for name in order]
                transaction.finish(Changes(updated=unversioned(changed), events=[an_event()]))

    with ExitStack() as stack, ThreadPoolExecutor(3) as threads:
        stores = [stack.enter_context(opened_at(url)) for _ in range(3)]
        keep_jobs(stores[0], *map(a_job, names))
        orders = [names, names[::-1], names[10:] + names[:10]]
        for future in [threads.submit(work, store, order) for store, order in zip(stores, orders, strict=True)]:
            in_time(future)
        assert {job.result_count for job in contents(stores[0]).jobs} == {45}


def write_all(store: PostgresStore, sizes: list[tuple[int, bool]]) -> list[int]:
    """Commit so many events each time, or take them back. Returns the sequences that were kept."""
    kept: list[int] = []
    for size, is_kept in sizes:
        changes = Changes(events=[an_event() for _ in range(size)])
        if is_kept:
            first = keep(store, changes)
            kept += range(first, first + size)
        else:
            with pytest.raises(Interruption):
                interrupt(store, lambda transaction, changes=changes: transaction.write(changes))  # type: ignore[misc]
    return kept


def follow(store: PostgresStore, done: threading.Event, wanted: EventFilter, limit: int) -> list[int]:
    """Read on until the writers are done, holding every page to what was read before."""
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


SIZES = st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=3, max_size=12)


@settings(MODERATELY, max_examples=12)
@given(
    writers=st.lists(SIZES, min_size=3, max_size=3),
    wanted=st.sampled_from(
        [EventFilter(), EventFilter(reach=Reach(source_ids=("s*",))), EventFilter(job_ids=frozenset({"job"}))]
    ),
    limit=st.integers(1, 7),
)
def test_who_has_read_up_to_a_sequence_never_finds_something_new_at_or_below_it_whoever_writes(
    writers: list[list[tuple[int, bool]]], wanted: EventFilter, limit: int
) -> None:
    """Sequences of three replicas are gapless, and their order is the order in which they are seen."""
    url = postgres_server().new_store()
    done = threading.Event()
    with ExitStack() as stack, ThreadPoolExecutor(5) as threads:
        stores = [stack.enter_context(opened_at(url)) for _ in writers]
        readers = [threads.submit(follow, store, done, wanted, limit) for store in stores[:2]]
        try:
            writing = [threads.submit(write_all, store, sizes) for store, sizes in zip(stores, writers, strict=True)]
            kept = sorted(sequence for future in writing for sequence in in_time(future))
        finally:
            done.set()
        assert kept == list(range(1, len(kept) + 1))
        assert [in_time(reading) for reading in readers] == [kept, kept]


def test_what_one_replica_has_committed_every_other_reads_at_once(store: PostgresStore, other: PostgresStore) -> None:
    with reading(other) as reader:
        for number in range(1, 51):
            keep(store, Changes(inserted=[ChangedJob(a_job(f"{number}"), 0)], events=[an_event()]))
            assert reader.log_state().head == number
            assert f"{number}" in reader.jobs([f"{number}"])


def test_a_postponed_timeout_of_a_job_that_another_replica_ends_meanwhile_ends_with_it(
    url: str, store: PostgresStore, other: PostgresStore
) -> None:
    keep_jobs(store, a_job(state=JobState.PROCESSING, due_time=5))

    def postpone() -> int:
        with other.transaction() as transaction:
            return transaction.postpone_timeouts(HOUR)

    with ThreadPoolExecutor(1) as threads:
        with store.transaction() as transaction:
            transaction.load(reads(["job"]))
            postponing = threads.submit(postpone)
            until_it_waits(url, other.database.process)
            ended = a_job(state=JobState.COMPLETED, due_time=None, complete_time=SECOND)
            transaction.write(Changes(updated=[ChangedJob(ended, 0)], events=[an_event()]))
        assert in_time(postponing) == 0

    assert stored_job(store) == replace(ended, version=1)
    assert rows(url, "SELECT due_time FROM job") == [(None,)]
