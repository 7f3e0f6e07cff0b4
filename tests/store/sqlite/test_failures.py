"""A full disk, a failed commit or a failed read is told as what it is, and the store works on."""

from __future__ import annotations

import resource
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import peewee
import pytest

from jobstate_server.domain.filters import JobFilter, Order
from jobstate_server.domain.statistics import Measure
from jobstate_server.store.errors import OutcomeUnknown, StoreError, StoreUnreachable, TransactionConflict
from jobstate_server.store.records import ChangedJob, Changes
from jobstate_server.store.sqlite.connection import raise_store_error
from jobstate_server.store.sqlite.store import SqliteStore

from ...support.reads import reads
from ..support import UNBOUNDED, a_job, an_event, contents, keep, keep_events, page_of, stored_events
from .support import opened_at


def large(number: int) -> Changes:
    """About a quarter of a megabyte."""
    jobs = [a_job(f"{number}-{part}", metadata=b"x" * 60_000) for part in range(4)]
    return Changes(
        inserted=[ChangedJob(job, index) for index, job in enumerate(jobs)],
        events=[an_event(job.id) for job in jobs],
        tallies={("type", Measure.STORED, 1): len(jobs)},
    )


@contextmanager
def full_disk(store: SqliteStore) -> Iterator[None]:
    """No more pages may be added to the file than it has."""
    connection = store._database.connection()
    (unlimited,) = connection.execute("PRAGMA max_page_count").fetchone()
    (used,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {used}")
    yield
    connection.execute(f"PRAGMA max_page_count = {unlimited}")


def test_a_full_disk_is_told_as_a_store_out_of_reach_and_nothing_is_kept(store: SqliteStore) -> None:
    keep(store, large(1))
    before = contents(store)

    with full_disk(store):
        for _ in range(3):
            with pytest.raises(StoreUnreachable) as caught:
                keep(store, large(2))
            assert type(caught.value) is StoreUnreachable
            assert contents(store) == before

    assert contents(store) == before


def test_a_store_works_again_once_the_disk_has_room(store: SqliteStore) -> None:
    keep(store, large(1))
    with full_disk(store), pytest.raises(StoreUnreachable):
        keep(store, large(2))

    assert keep(store, large(2)) == 5
    assert [event.sequence for event in stored_events(store)] == list(range(1, 9))


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """No file may grow beyond this size."""
    unlimited, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (unlimited, hard))


def half_checkpoint(store: SqliteStore) -> bytes:
    """Copy a part of the WAL into the file, and stop where the disk is full. Returns the file as it was before."""
    for number in range(4):
        keep(store, large(number))
    store._database.execute_sql("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    # In the WAL there is room: it is used from the beginning again.
    keep(store, large(4))
    before = store.path.read_bytes()
    with files_limited_to(len(before)), pytest.raises(peewee.OperationalError):
        store._database.execute_sql("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    assert store.path.read_bytes() != before
    return before


def test_a_checkpoint_that_a_full_disk_has_ended_harms_nothing(path: Path) -> None:
    with opened_at(path) as store:
        half_checkpoint(store)
        with files_limited_to(path.stat().st_size):
            keep_events(store, an_event("small"))
            with pytest.raises(peewee.OperationalError):
                store._database.execute_sql("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            keep_events(store, an_event("small"))
        keep(store, large(5))
        before = contents(store)

    assert not list(path.parent.glob("*.aside*"))
    with opened_at(path) as store:
        assert contents(store) == before
        assert len(stored_events(store)) == 6 * 4 + 2


def test_a_file_that_is_overwritten_after_such_a_checkpoint_is_noticed(store: SqliteStore) -> None:
    before = half_checkpoint(store)
    keep_events(store, an_event("small"))
    store.path.write_bytes(before)

    with pytest.raises(OutcomeUnknown, match="overwritten by another program"):
        keep_events(store, an_event("small"))


def failing(error: str, code: int) -> peewee.DatabaseError:
    """What peewee raises for an SQLite result code."""
    cause = sqlite3.OperationalError(error)
    cause.sqlite_errorcode = code
    return peewee.OperationalError(cause, *cause.args)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (sqlite3.SQLITE_FULL, StoreUnreachable),
        (sqlite3.SQLITE_IOERR_FSYNC, OutcomeUnknown),
        (sqlite3.SQLITE_BUSY, TransactionConflict),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, TransactionConflict),
        (sqlite3.SQLITE_CORRUPT, StoreUnreachable),
        (sqlite3.SQLITE_CONSTRAINT, StoreError),
    ],
)
def test_a_commit_that_fails_keeps_nothing_and_leaves_the_store_usable(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, code: int, expected: type[StoreError]
) -> None:
    keep_events(store, an_event())
    before = contents(store)

    def commit() -> None:
        raise failing("played", code)

    with monkeypatch.context() as patch:
        patch.setattr(store._database, "commit", commit)
        with pytest.raises(StoreError, match="played") as caught:
            keep(store, large(1))

    assert type(caught.value) is expected
    assert contents(store) == before
    with store.transaction() as transaction:
        assert transaction.load(reads(["1-0"])).jobs == {}
    assert keep(store, large(1)) == 2


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (sqlite3.SQLITE_IOERR_READ, StoreUnreachable),
        (sqlite3.SQLITE_BUSY_RECOVERY, TransactionConflict),
        (sqlite3.SQLITE_CORRUPT, StoreUnreachable),
        (sqlite3.SQLITE_CONSTRAINT, StoreError),
    ],
)
def test_what_sqlite_says_is_told_apart_by_its_code(code: int, expected: type[StoreError]) -> None:
    with pytest.raises(StoreError, match="played") as caught:
        raise_store_error(failing("played", code))

    assert type(caught.value) is expected


@pytest.mark.parametrize(
    "read",
    [
        pytest.param(lambda reader: reader.log_state(), id="log_state"),
        pytest.param(lambda reader: reader.jobs(["job"]), id="jobs"),
        pytest.param(page_of, id="events"),
        pytest.param(
            lambda reader: reader.list_jobs(JobFilter(), Order.NEWEST_FIRST, None, 10, UNBOUNDED), id="list_jobs"
        ),
    ],
)
def test_a_read_that_fails_raises_a_store_error_and_the_next_one_works(
    store: SqliteStore, read: Callable[[Any], object]
) -> None:
    keep(store, large(1))
    with closing(store.open_reader()) as reader:
        connection = reader._database.connection()
        # SQLite asks this at every step, and breaks off with an error of its own.
        connection.set_progress_handler(lambda: 1, 1)
        with pytest.raises(StoreError, match="interrupted"):
            read(reader)

        connection.set_progress_handler(None, 1)
        read(reader)
