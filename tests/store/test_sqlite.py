"""SQLite's own: the file, its lock, its schema, a full disk, and the process that dies."""

from __future__ import annotations

import errno
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from importlib import resources
from pathlib import Path
from typing import IO, Any

import peewee
import pytest

import jobstate_server
from jobstate_server.domain.clock import ManualClock
from jobstate_server.domain.filters import EventFilter, JobFilter, Order
from jobstate_server.domain.job import Job
from jobstate_server.domain.statistics import Measure
from jobstate_server.store import migrate
from jobstate_server.store.base import (
    CannotOpen,
    ChangedJob,
    Changes,
    LogState,
    OutcomeUnknown,
    StoreError,
    StoreUnreachable,
    TransactionConflict,
)
from jobstate_server.store.models import TABLES
from jobstate_server.store.sqlite import SqliteStore, _raise_as_ours

from .support import (
    PATIENCE_S,
    UNBOUNDED,
    Contents,
    a_job,
    an_event,
    contents,
    keep,
    keep_events,
    keep_jobs,
    page_of,
    reading,
    stored_events,
    stored_job,
)


@contextmanager
def opened_at(path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(path, ManualClock())
    try:
        yield store
    finally:
        store.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    with opened_at(path) as store:
        yield store


@contextmanager
def at_work(program: str, path: Path) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """Another process that has the store at ``path`` as ``store``; killed with -9 at the latest in the end."""
    head = (
        "import sys\nfrom pathlib import Path\n"
        "from jobstate_server.domain.clock import ManualClock\n"
        "from jobstate_server.domain.job import Job\n"
        "from jobstate_server.store.base import ChangedJob, Changes, NewEvent\n"
        "from jobstate_server.store.sqlite import SqliteStore\n"
        "store = SqliteStore(Path(sys.argv[1]), ManualClock())\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(resources.files(jobstate_server).joinpath(".."))}
    process = subprocess.Popen(
        [sys.executable, "-c", head + program, str(path)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    with process, process.stdout:
        try:
            yield process, process.stdout
        finally:
            process.kill()
            process.wait(PATIENCE_S)


HOLD = """
print("open", flush=True)
__import__("threading").Event().wait()
"""

WRITE_FOR_EVER = """
number = 0
while True:
    number += 1
    ids = [f"{number}-{part}" for part in range(number % 4 + 1)]
    events = [NewEvent(number, id, "type", "", "", 1, b"x" * (number % 700)) for id in ids]
    jobs = [ChangedJob(Job(id=id, job_type="type", result_count=number), index) for index, id in enumerate(ids)]
    with store.transaction() as transaction:
        first = transaction.write(Changes(inserted=jobs, events=events))
        if number % 10 == 0:
            transaction.trim_events(number - 20, 2**62, 1000)
    print(number, first, len(ids), flush=True)
"""


def schema_of(database: sqlite3.Connection) -> dict[str, str]:
    """The text of every table and index, by name, without regard for quotes and blanks."""
    rows = database.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    return {name: re.sub(r'[\s"]+', " ", sql.replace("IF NOT EXISTS ", "")).strip() for name, sql in rows}


def test_the_migrated_schema_is_the_one_that_the_models_make(store: SqliteStore) -> None:
    fresh = peewee.SqliteDatabase(":memory:")
    with fresh.bind_ctx(TABLES):
        fresh.create_tables(TABLES)
        made = schema_of(fresh.connection())
    fresh.close()

    assert "job" in made
    assert schema_of(store._database.connection()) == made


def test_every_migration_can_be_used_by_a_program_that_knows_it() -> None:
    found = migrate.migrations("sqlite")

    assert [migration.version for migration in found] == list(range(1, len(found) + 1))
    assert all(1 <= migration.usable_from <= migration.version for migration in found)


def test_a_store_opened_again_is_not_migrated_again(path: Path) -> None:
    with opened_at(path) as store:
        assert migrate.bring_up_to_date(store._database, "sqlite") == []


def set_schema(path: Path, version: int, usable_from: int) -> None:
    with opened_at(path):
        pass
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE schema SET version = ?, usable_from = ?", (version, usable_from))


def test_a_database_that_needs_a_newer_program_is_refused_with_a_sentence(path: Path) -> None:
    set_schema(path, 900, 800)

    with pytest.raises(CannotOpen) as caught:
        SqliteStore(path, ManualClock())

    sentence = str(caught.value)
    assert all(part in sentence for part in ("schema 900", "knows schema 800", "upgrade jobstate-server"))


def test_a_newer_database_that_this_program_may_use_opens_and_stays_as_it_is(path: Path) -> None:
    set_schema(path, 900, 1)

    with opened_at(path) as store:
        assert keep_events(store, an_event()) == 1

    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT version, usable_from FROM schema").fetchall() == [(900, 1)]


def test_a_refused_open_leaves_the_file_to_others(path: Path) -> None:
    set_schema(path, 900, 800)
    with pytest.raises(CannotOpen):
        SqliteStore(path, ManualClock())

    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE schema SET version = 1, usable_from = 1")
    with opened_at(path) as store:
        assert keep_events(store, an_event()) == 1


def test_a_migration_that_fails_leaves_the_database_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened_at(path) as store:
        keep_events(store, an_event())
        before = schema_of(store._database.connection())
    broken = migrate.Migration(2, 1, ("CREATE TABLE half (id TEXT)", "no SQL"))
    known = [*migrate.migrations("sqlite"), broken]
    monkeypatch.setattr(migrate, "migrations", lambda dialect: known)

    with pytest.raises(CannotOpen):
        SqliteStore(path, ManualClock())

    monkeypatch.undo()
    with opened_at(path) as store:
        assert schema_of(store._database.connection()) == before
        assert keep_events(store, an_event()) == 2


def test_a_second_open_of_the_file_is_refused_and_says_why(store: SqliteStore, path: Path) -> None:
    with pytest.raises(CannotOpen, match="another jobstate-server is using"):
        SqliteStore(path, ManualClock())

    assert keep_events(store, an_event()) == 1


def test_a_closed_file_can_be_opened_again(path: Path) -> None:
    for number in (1, 2, 3):
        with opened_at(path) as store:
            assert keep_events(store, an_event()) == number


def test_a_file_that_another_process_has_is_refused_until_that_process_is_killed(path: Path) -> None:
    with at_work(HOLD, path) as (process, output):
        assert output.readline() == "open\n"
        with pytest.raises(CannotOpen, match="another jobstate-server is using"):
            SqliteStore(path, ManualClock())

        process.kill()
        process.wait(PATIENCE_S)

        with opened_at(path) as store:
            assert keep_events(store, an_event()) == 1


def test_a_directory_that_does_not_exist_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CannotOpen, match=re.escape(f"there is no directory {tmp_path / 'missing'}")):
        SqliteStore(tmp_path / "missing" / "jobs.db", ManualClock())


def test_a_path_under_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(CannotOpen, match="there is no directory"):
        SqliteStore(tmp_path / "file" / "jobs.db", ManualClock())


def test_a_directory_that_cannot_be_written_is_refused_with_the_reason(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may write everywhere, so the refusal of the system is played."""
    real_open = os.open

    def refusing_open(name: Any, *args: Any, **more: Any) -> int:
        if str(name).startswith(str(path)):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(name))
        return real_open(name, *args, **more)

    monkeypatch.setattr(os, "open", refusing_open)

    with pytest.raises(CannotOpen, match=r"must be writable \(Permission denied"):
        SqliteStore(path, ManualClock())


@pytest.mark.parametrize("content", [b"no database at all" * 100, b"SQLite format 3\0" + b"\xff" * 4096])
def test_a_file_that_is_no_database_is_refused_and_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)

    with pytest.raises(CannotOpen, match=re.escape(str(path))):
        SqliteStore(path, ManualClock())

    assert path.read_bytes() == content


def test_a_directory_in_place_of_the_file_is_refused(path: Path) -> None:
    path.mkdir()

    with pytest.raises(CannotOpen, match=re.escape(str(path))):
        SqliteStore(path, ManualClock())


def test_a_refused_file_is_not_kept_locked(path: Path) -> None:
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(CannotOpen):
        SqliteStore(path, ManualClock())
    path.unlink()

    with opened_at(path) as store:
        assert keep_events(store, an_event()) == 1


def test_commits_are_synced_and_readers_have_the_write_ahead_log(store: SqliteStore) -> None:
    with closing(store.open_reader()) as reader:
        for database in (store._database, reader._database):
            connection = database.connection()
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
            assert connection.execute("PRAGMA synchronous").fetchone() == (2,)


def test_a_reader_in_the_middle_of_a_read_does_not_hold_up_a_commit(store: SqliteStore) -> None:
    keep_jobs(store, a_job("a"), a_job("b"))
    with closing(store.open_reader()) as reader, reader._database.atomic():
        assert set(reader.jobs(["a", "b", "c"], None)) == {"a", "b"}

        keep_jobs(store, a_job("c"))

        assert set(reader.jobs(["a", "b", "c"], None)) == {"a", "b"}
    assert stored_job(store, "c") == a_job("c")


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
        (sqlite3.SQLITE_CORRUPT, StoreError),
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
        assert transaction.load(["1-0"], [], 0).jobs == {}
    assert keep(store, large(1)) == 2


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (sqlite3.SQLITE_IOERR_READ, StoreUnreachable),
        (sqlite3.SQLITE_BUSY_RECOVERY, TransactionConflict),
        (sqlite3.SQLITE_CORRUPT, StoreError),
    ],
)
def test_what_sqlite_says_is_told_apart_by_its_code(code: int, expected: type[StoreError]) -> None:
    with pytest.raises(StoreError, match="played") as caught:
        _raise_as_ours(failing("played", code))

    assert type(caught.value) is expected


@pytest.mark.parametrize(
    "read",
    [
        pytest.param(lambda reader: reader.log_state(), id="log_state"),
        pytest.param(lambda reader: reader.jobs(["job"], None), id="jobs"),
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


def test_a_foreign_writer_in_the_way_is_told_as_a_conflict_and_passes(store: SqliteStore, path: Path) -> None:
    store._database.connection().execute("PRAGMA busy_timeout = 0")
    with closing(sqlite3.connect(path, isolation_level=None)) as foreign:
        foreign.execute("BEGIN IMMEDIATE")
        with pytest.raises(TransactionConflict):
            keep_events(store, an_event())
        foreign.execute("ROLLBACK")

    assert keep_events(store, an_event()) == 1


@pytest.mark.parametrize("before_read", [True, False], ids=["before the events are read", "after they were"])
@pytest.mark.parametrize(
    "wanted", [EventFilter(), EventFilter(principal="owner"), EventFilter(job_ids=frozenset({"job"}))], ids=repr
)
def test_the_horizon_of_a_page_is_read_after_its_events(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, wanted: EventFilter, before_read: bool
) -> None:
    """The compaction edge, step by step: retention runs in the middle of one read of a page."""
    keep_events(store, *[an_event() for _ in range(10)])
    with closing(store.open_reader()) as reader:
        read_log_state = reader.log_state
        calls = 0

        def log_state() -> LogState:
            nonlocal calls
            calls += 1
            found = read_log_state() if before_read else None
            if calls == (1 if before_read else 2):
                with store.transaction() as transaction:
                    assert transaction.trim_events(100, 0, 6) == 6
            return found or read_log_state()

        monkeypatch.setattr(reader, "log_state", log_state)
        page = page_of(reader, 0, wanted)

    assert calls == 2
    assert page.horizon == 6
    assert [event.sequence for event in page.events] == list(range(7 if before_read else 1, 11))


@pytest.mark.parametrize("acknowledged", [1, 25, 120])
def test_after_kill_9_every_acknowledged_write_is_there_and_the_log_is_gapless(path: Path, acknowledged: int) -> None:
    with at_work(WRITE_FOR_EVER, path) as (process, output):
        told = [output.readline() for _ in range(acknowledged)]
        process.kill()
        told += [line for line in output if line.endswith("\n")]
        process.wait(PATIENCE_S)
    writes = [tuple(map(int, line.split())) for line in told]
    assert len(writes) >= acknowledged

    with opened_at(path) as store, reading(store) as reader:
        log = reader.log_state()
        for number, first, count in writes:
            jobs = reader.jobs([f"{number}-{part}" for part in range(count)], None)
            assert {(job.id, job.version) for job in jobs.values()} == {
                (f"{number}-{part}", first + part) for part in range(count)
            }
        found = contents(store)

    check_whole(found)
    _, first, count = writes[-1]
    # At most the one write that was under way came after the last that was acknowledged.
    assert first + count - 1 <= log.head <= first + count - 1 + 4


def check_whole(found: Contents) -> None:
    """No gap in the log, its bytes right, and each event beside its job and the reverse."""
    head, horizon, _, size = found.log
    assert [event.sequence for event in found.events] == list(range(horizon + 1, head + 1))
    assert size == sum(len(event.payload) for event in found.events)
    versions: dict[int, Job] = {job.version: job for job in found.jobs}
    assert set(versions) == set(range(1, head + 1))
    assert all(versions[event.sequence].id == event.job_id for event in found.events)
