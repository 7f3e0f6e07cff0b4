"""Migrations make the schema of the models, whole or not at all, and a schema too new is refused."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import peewee
import pytest

from jobstate_server.clock import ManualClock
from jobstate_server.domain.job import JobState
from jobstate_server.store import migrate
from jobstate_server.store.errors import CannotOpen
from jobstate_server.store.models import TABLES
from jobstate_server.store.sqlite.store import SqliteStore

from ...support.reads import reads
from ..support import SqliteHome, a_job, an_attempt, an_event, keep_events
from ..upgrades import attempt_as_then, job_as_then, old_store
from .support import opened_at


def schema_of(database: sqlite3.Connection) -> dict[str, str]:
    """The text of every table and index, by name, without regard for quotes and blanks."""
    rows = database.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    return {name: re.sub(r'[\s"]+', " ", sql.replace("IF NOT EXISTS ", "")).strip() for name, sql in rows}


def test_the_migrated_schema_is_the_one_that_the_models_make(store: SqliteStore) -> None:
    fresh = peewee.SqliteDatabase(":memory:")
    with fresh.bind_ctx(TABLES["sqlite"]):
        fresh.create_tables(TABLES["sqlite"])
        made = schema_of(fresh.connection())
    fresh.close()

    assert "job" in made
    assert schema_of(store._database.connection()) == made


def test_every_migration_can_be_used_by_a_program_that_knows_it() -> None:
    found = migrate.migrations("sqlite")

    assert [migration.version for migration in found] == list(range(1, len(found) + 1))
    assert all(1 <= migration.usable_from <= migration.version for migration in found)
    # What one migration demands of a program, a later one cannot take back.
    assert [migration.usable_from for migration in found] == sorted(migration.usable_from for migration in found)


@pytest.mark.parametrize(
    ("dialect", "types"),
    [
        ("sqlite", ("TEXT", "INTEGER", "BLOB", "INTEGER", "INTEGER", "INTEGER")),
        ("postgres", ('TEXT COLLATE "C"', "BIGINT", "BYTEA", "BOOLEAN", "INTEGER", "SMALLINT")),
    ],
)
def test_one_file_is_a_migration_of_every_dialect(dialect: str, types: tuple[str, ...]) -> None:
    names = ("text", "bigint", "bytes", "boolean", "integer", "smallint")
    text = "-- A new column.\n" + "".join(f'ALTER TABLE "job" ADD COLUMN "{name}" {{{name}}};\n' for name in names)

    assert migrate.statements_of(text, dialect) == tuple(
        f'ALTER TABLE "job" ADD COLUMN "{name}" {type_}' for name, type_ in zip(names, types, strict=True)
    )


def test_a_store_opened_again_is_not_migrated_again(path: Path) -> None:
    with opened_at(path) as store:
        assert migrate.bring_up_to_date(store._database, "sqlite") == []


def test_temporary_data_of_a_migration_is_in_files_and_later_in_memory(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places: list[int] = []
    bring_up_to_date = migrate.bring_up_to_date

    def noted(database: peewee.Database, dialect: str) -> list[int]:
        places.append(database.execute_sql("PRAGMA temp_store").fetchone()[0])
        return bring_up_to_date(database, dialect)

    monkeypatch.setattr(migrate, "bring_up_to_date", noted)
    with opened_at(path) as store:
        places.append(store._database.execute_sql("PRAGMA temp_store").fetchone()[0])

    in_files, in_memory = 1, 2
    assert places == [in_files, in_memory]


def test_attempts_claimed_before_claims_had_a_time_are_taken_to_be_claimed_when_they_began(path: Path) -> None:
    resumed = a_job(state=JobState.PROCESSING, attempt=2, start_time=7)
    with old_store(SqliteHome(path), 3) as old:
        for job in (replace(resumed, claimed=True), replace(resumed, id="waits")):
            old.insert("job", **job_as_then(job))
        old.insert("attempt", **attempt_as_then(an_attempt(start_time=3, claim_time=None)))

    with opened_at(path) as store, closing(store.open_reader()) as reader:
        jobs = reader.jobs(["job", "waits"])
        assert (jobs["job"].claim_time, jobs["waits"].claim_time) == (7, None)
        assert [attempt.claim_time for attempt in reader.attempts("job", 1, 10, 1_000)] == [3]
        assert reader.oldest_unclaimed("type") == 7


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

    newest = migrate.migrations("sqlite")[-1]
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE schema SET version = ?, usable_from = ?", (newest.version, newest.usable_from))
    with opened_at(path) as store:
        assert keep_events(store, an_event()) == 1


def test_a_migration_that_fails_leaves_the_database_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened_at(path) as store:
        keep_events(store, an_event())
        before = schema_of(store._database.connection())
    broken = migrate.Migration(99, 1, ("CREATE TABLE half (id TEXT)", "no SQL"))
    known = [*migrate.migrations("sqlite"), broken]
    monkeypatch.setattr(migrate, "migrations", lambda dialect: known)

    with pytest.raises(CannotOpen):
        SqliteStore(path, ManualClock())

    monkeypatch.undo()
    with opened_at(path) as store:
        assert schema_of(store._database.connection()) == before
        assert keep_events(store, an_event()) == 2


def test_the_request_ids_that_are_there_are_counted_when_the_store_is_migrated(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        for migration in migrate.migrations("sqlite")[:4]:
            for statement in migration.statements:
                database.execute(statement)
        database.execute("INSERT INTO schema (id, version, usable_from) VALUES ('schema', 4, 4)")
        database.execute("INSERT INTO log (id, head, bytes) VALUES ('log', 0, 0)")
        database.execute("INSERT INTO horizon (id, sequence, event_check, bytes) VALUES ('log', 0, 0, 0)")
        for request_id in ("one", "two"):
            values = ("owner", request_id, "Start", b"digest", "job", 1)
            database.execute(
                "INSERT INTO request (principal, request_id, rpc, digest, job_ids, time) VALUES (?, ?, ?, ?, ?, ?)",
                values,
            )

    with opened_at(path) as store:
        assert store.requests_stored == 2
        with store.transaction() as transaction:
            found = transaction.load(reads(request_keys=[("owner", "one")])).requests["owner", "one"]
        assert (found.attempt, found.create_sequence) == (1, None)
