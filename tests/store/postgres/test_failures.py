"""Connections that break, locks that are not got, rows that do not fit: each is told as what it is, and all goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import Any

import psycopg
import pytest

from jobstate_server.domain.filters import Order
from jobstate_server.domain.statistics import Measure
from jobstate_server.store.base import Reader
from jobstate_server.store.errors import (
    ConnectionLost,
    OutcomeUnknown,
    StoreError,
    StoreUnreachable,
    TransactionConflict,
)
from jobstate_server.store.postgres.connection import READER_SETTINGS, Postgres, raise_store_error
from jobstate_server.store.postgres.reader import PostgresReader
from jobstate_server.store.postgres.store import PostgresStore
from jobstate_server.store.reading.reader import SqlReader
from jobstate_server.store.records import ChangedJob, Changes, Loaded

from ...support.postgres import OLDER, own_server
from ...support.reads import reads
from ..support import (
    ANY_JOB,
    PATIENCE_S,
    UNBOUNDED,
    a_job,
    a_request,
    an_attempt,
    an_event,
    contents,
    keep,
    keep_events,
    keep_jobs,
    page_of,
    stored_job,
)
from .support import end_connection, ended_by, foreign, opened_at, rows

ENDS = {"write, then commit": "write", "write and commit at once": "finish"}


def end(store: PostgresStore) -> None:
    """End the connection of the store's writer."""
    end_connection(store._url, store.database.process)


def load(store: PostgresStore, *job_ids: str) -> Loaded:
    """Load in a transaction of its own."""
    with store.transaction() as transaction:
        return transaction.load(reads(job_ids))


def test_of_two_replicas_in_each_other_s_way_one_is_told_of_a_conflict_and_the_other_goes_on(url: str) -> None:
    """A real deadlock: rows loaded one after the other, in opposite order."""
    hasty = url + "%20-cdeadlock_timeout%3D10ms"
    first_loaded = threading.Barrier(2, timeout=PATIENCE_S)

    def work(store: PostgresStore, *job_ids: str) -> str:
        try:
            with store.transaction() as transaction:
                transaction.load(reads(job_ids[:1]))
                first_loaded.wait()
                transaction.load(reads(job_ids[1:]))
                transaction.write(Changes(events=[an_event()]))
        except ConnectionLost:
            return "lost"
        except TransactionConflict:
            return "conflict"
        return "kept"

    with opened_at(hasty) as one, opened_at(hasty) as other, ThreadPoolExecutor(2) as threads:
        keep_jobs(one, a_job("a"), a_job("b"))
        futures = [threads.submit(work, one, "a", "b"), threads.submit(work, other, "b", "a")]
        outcomes = sorted(future.result(PATIENCE_S) for future in futures)
        assert outcomes == ["conflict", "kept"]
        assert keep_events(one, an_event()) == 2
        assert keep_events(other, an_event()) == 3


@pytest.mark.parametrize("locked", ["SELECT 1 FROM job FOR UPDATE", "SELECT 1 FROM log FOR UPDATE"])
def test_a_lock_that_is_not_got_in_time_is_a_conflict(url: str, store: PostgresStore, locked: str) -> None:
    keep_jobs(store, a_job())
    store.database.raw_connection.execute("SET lock_timeout = '20ms'")
    with foreign(url) as connection, connection.transaction():
        connection.execute(locked.encode())
        with ended_by(TransactionConflict, store) as transaction:
            transaction.load(reads(["job"]))
            transaction.finish(Changes(updated=[ChangedJob(a_job(worker="w"), 0)], events=[an_event()]))

    assert stored_job(store) == a_job()
    assert keep_events(store, an_event()) == 1


FROZEN = {
    "idle": ("idle_in_transaction_session_timeout", lambda transaction: transaction.next_due()),
    "in a pipeline": ("transaction_timeout", lambda transaction: transaction.load(reads(["job"]))),
}


@pytest.mark.parametrize(("limit", "work"), FROZEN.values(), ids=FROZEN)
def test_a_replica_frozen_in_a_transaction_holds_up_the_others_only_so_long(
    store: PostgresStore, other: PostgresStore, limit: str, work: Callable[[Any], object]
) -> None:
    """PostgreSQL ends its connection, and what it has begun is undone."""
    keep_jobs(store, a_job())
    assert store.database.raw_connection.execute(f"SHOW {limit}".encode()).fetchone() in {("5s",), ("10s",)}
    store.database.raw_connection.execute(f"SET {limit} = '300ms'".encode())

    with ended_by(ConnectionLost, store) as transaction:
        transaction.write(Changes(updated=[ChangedJob(a_job(worker="frozen"), 0)], events=[an_event()]))
        work(transaction)
        # It waits for the frozen one: when it has the log, PostgreSQL has acted.
        keep(other, Changes(updated=[ChangedJob(a_job(worker="other"), 0)], events=[an_event()]))
        transaction.next_due()

    assert stored_job(store) == a_job(worker="other", version=1)
    assert load(store, "job").jobs == {"job": a_job(worker="other", version=1)}


def test_so_does_one_frozen_in_a_pipeline_on_a_release_that_forgets_its_limit_there() -> None:
    with own_server(OLDER) as server:
        url = server.new_store()
        with opened_at(url) as frozen, opened_at(url) as other:
            keep_jobs(frozen, a_job())
            frozen.database.raw_connection.execute("SET idle_in_transaction_session_timeout = '300ms'")

            with ended_by(ConnectionLost, frozen) as transaction:
                transaction.load(reads(["job"]))
                keep(other, Changes(updated=[ChangedJob(a_job(worker="other"), 0)], events=[an_event()]))
                transaction.next_due()

            assert stored_job(frozen) == a_job(worker="other", version=1)


def test_a_connection_that_broke_while_nobody_used_it_is_made_anew_unnoticed(store: PostgresStore) -> None:
    keep_jobs(store, a_job())
    for sequence in range(1, 4):
        end(store)
        assert keep_events(store, an_event()) == sequence


@pytest.mark.parametrize("work", ["load", "write", "finish", "next_due", "last_renewed", "trim_events"])
def test_a_connection_that_breaks_before_the_commit_keeps_nothing(store: PostgresStore, work: str) -> None:
    keep_jobs(store, a_job())
    before = contents(store)
    works: dict[str, Callable[[Any], object]] = {
        "load": lambda transaction: transaction.load(reads(["job"], due=10)),
        "write": lambda transaction: transaction.write(Changes(events=[an_event()])),
        "finish": lambda transaction: transaction.finish(Changes(events=[an_event()])),
        "next_due": lambda transaction: transaction.next_due(),
        "last_renewed": lambda transaction: transaction.last_renewed(),
        "trim_events": lambda transaction: transaction.trim_events(9, 0, 9),
    }

    # Who asks for the commit in the same breath cannot know how far that came.
    error = OutcomeUnknown if work == "finish" else ConnectionLost
    with ended_by(error, store) as transaction:
        transaction.claim_task("task", 1, "token", "replica")
        end(store)
        works[work](transaction)

    assert contents(store) == before
    assert keep_events(store, an_event()) == 1


def test_a_connection_that_breaks_before_the_commit_is_asked_for_keeps_nothing_and_says_that_it_may_have(
    store: PostgresStore,
) -> None:
    with ended_by(OutcomeUnknown, store) as transaction:
        transaction.write(Changes(events=[an_event()]))
        end(store)

    assert keep_events(store, an_event()) == 1


@pytest.mark.parametrize("end_with", ENDS.values(), ids=ENDS)
def test_a_commit_whose_answer_is_lost_is_of_unknown_outcome_and_may_have_been_made(
    url: str, store: PostgresStore, monkeypatch: pytest.MonkeyPatch, end_with: str
) -> None:
    connection = store.database.raw_connection
    execute, pipeline = connection.execute, connection.pipeline

    def lose_the_answer(query: Any, *values: Any, **options: Any) -> Any:
        answer = execute(query, *values, **options)
        if query == b"COMMIT":
            if end_with == "finish":
                pipeline().__enter__().sync()
            raise psycopg.OperationalError("server closed the connection unexpectedly")
        return answer

    monkeypatch.setattr(connection, "execute", lose_the_answer)
    with ended_by(OutcomeUnknown, store) as transaction:
        getattr(transaction, end_with)(Changes(inserted=[ChangedJob(a_job(), 0)], events=[an_event()]))
    monkeypatch.undo()

    assert rows(url, "SELECT head FROM log") == [(1,)]
    assert stored_job(store) == a_job(version=1)


def test_a_block_that_swallows_a_broken_connection_is_not_reported_as_committed(store: PostgresStore) -> None:
    """A new connection knows of no transaction, and would call its commit done."""
    with ended_by(OutcomeUnknown, store) as transaction:
        transaction.write(Changes(events=[an_event()]))
        end(store)
        with suppress(psycopg.Error):
            transaction.next_due()

    assert keep_events(store, an_event()) == 1


def crowded(**changes: Any) -> Changes:
    """A row in every table, so that many statements follow whichever fails."""
    plain: dict[str, Any] = {
        "inserted": [ChangedJob(a_job("new"), 0)],
        "events": [an_event("new"), an_event("new")],
        "attempts": [an_attempt("new")],
        "requests": [a_request("new")],
        "tallies": {("type", Measure.STORED, 1): 1},
    }
    return Changes(**(plain | changes))


@pytest.mark.parametrize("end_with", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(crowded(events=[an_event(type=2**31)]), id="an event with a number too large for its column"),
        pytest.param(crowded(events=[an_event(time=2**63)]), id="an event with a number too large to be sent"),
        pytest.param(crowded(inserted=[ChangedJob(a_job("new", progress=2**31), 0)]), id="a job too large"),
        pytest.param(crowded(inserted=[ChangedJob(a_job("new", worker="nul\0"), 0)]), id="a text with NUL"),
        pytest.param(crowded(inserted=[ChangedJob(a_job("new", worker="half\ud800"), 0)]), id="half a character"),
        pytest.param(crowded(attempts=[an_attempt("new", number=-(2**40))]), id="an attempt too small"),
        pytest.param(crowded(requests=[a_request("new", time=2**64)]), id="a request too late"),
        pytest.param(crowded(tallies={("type", Measure.STORED, 2**40): 1}), id="a tally too large"),
    ],
)
def test_a_row_that_does_not_fit_is_the_row_s_fault_whatever_follows_it(
    store: PostgresStore, changes: Changes, end_with: str
) -> None:
    """Not the connection's, or the batch would be tried again and again and its culprit never be found."""
    before = contents(store)

    with ended_by(StoreError, store) as transaction:
        transaction.load(reads(["new"], request_keys=[("owner", "new")], due=10))
        getattr(transaction, end_with)(changes)

    assert contents(store) == before
    assert keep(store, crowded()) == 1


@pytest.mark.parametrize("end_with", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(Changes(inserted=[ChangedJob(a_job("new"), None)]), id="job"),
        pytest.param(Changes(requests=[a_request("new")]), id="request id"),
    ],
)
def test_a_row_that_another_replica_made_since_the_load_is_a_conflict(
    store: PostgresStore, other: PostgresStore, changes: Changes, end_with: str
) -> None:
    with ended_by(TransactionConflict, store) as transaction:
        found = transaction.load(reads(["new"], request_keys=[("owner", "new")]))
        assert (found.jobs, found.requests) == ({}, {})
        keep(other, crowded())
        getattr(transaction, end_with)(changes)


def test_a_row_that_is_there_is_the_writer_s_fault_where_it_never_looked(store: PostgresStore) -> None:
    keep(store, crowded())

    with pytest.raises(StoreError) as caught:
        keep(store, Changes(inserted=[ChangedJob(a_job("new"), None)]))

    assert type(caught.value) is StoreError


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("40P01", TransactionConflict),
        ("40001", TransactionConflict),
        ("55P03", TransactionConflict),
        ("08006", ConnectionLost),
        ("57P01", ConnectionLost),
        ("57P02", ConnectionLost),
        ("57P03", ConnectionLost),
        ("25P03", ConnectionLost),
        ("25P04", ConnectionLost),
        ("53100", StoreUnreachable),
        ("53300", StoreUnreachable),
        ("57014", StoreUnreachable),
        ("25006", StoreUnreachable),
        ("58030", StoreUnreachable),
        ("XX001", StoreUnreachable),
        ("22003", StoreError),
        ("22021", StoreError),
        ("23502", StoreError),
        ("23505", StoreError),
        ("42P01", StoreError),
    ],
)
def test_what_postgresql_says_is_told_apart_by_its_state(state: str, expected: type[StoreError]) -> None:
    with pytest.raises(StoreError, match="played") as caught:
        raise_store_error(psycopg.errors.lookup(state)("played"))

    assert type(caught.value) is expected


def _postgres_of(reader: SqlReader) -> Postgres:
    """The reader's connection."""
    assert isinstance(reader, PostgresReader)
    return reader._postgres


READS = [
    pytest.param(lambda reader: reader.log_state(), id="log_state"),
    pytest.param(lambda reader: reader.jobs(["job"]), id="jobs"),
    pytest.param(page_of, id="events"),
    pytest.param(lambda reader: reader.list_jobs(ANY_JOB, Order.NEWEST_FIRST, None, 10, UNBOUNDED), id="list_jobs"),
]


@pytest.mark.parametrize("read", READS)
def test_a_reader_whose_connection_broke_reads_on_a_new_one_the_next_time(
    url: str, store: PostgresStore, read: Callable[[Reader], object]
) -> None:
    keep(store, crowded())
    with closing(store.open_reader()) as reader:
        before = read(reader)
        for _ in range(2):
            end_connection(url, _postgres_of(reader).process)
            with pytest.raises(ConnectionLost):
                read(reader)

            assert read(reader) == before


def test_a_list_whose_connection_breaks_half_way_can_be_read_again(
    url: str, store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_jobs(store, a_job())
    with closing(store.open_reader()) as reader:

        def lose_it(*_: object) -> Any:
            monkeypatch.undo()
            end_connection(url, _postgres_of(reader).process)
            return reader.jobs(["job"])

        monkeypatch.setattr(reader, "_load_until", lose_it)
        with pytest.raises(ConnectionLost):
            reader.list_jobs(ANY_JOB, Order.NEWEST_FIRST, None, 10, UNBOUNDED)

        assert reader.list_jobs(ANY_JOB, Order.NEWEST_FIRST, None, 10, UNBOUNDED).jobs == [a_job()]


def test_a_reader_of_a_database_out_of_reach_says_so_at_each_read() -> None:
    """And not when it is made, which is where its thread begins and would end."""
    with closing(PostgresReader(Postgres("postgresql://nobody@127.0.0.1:1/db", READER_SETTINGS))) as reader:
        for _ in range(2):
            with pytest.raises(StoreUnreachable, match="cannot connect"):
                reader.log_state()
