"""Migrations make the schema of the models, once, however many replicas begin at the same moment."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from jobstate_server.clock import ManualClock
from jobstate_server.store import migrate
from jobstate_server.store.errors import CannotOpen
from jobstate_server.store.models import TABLES
from jobstate_server.store.postgres.connection import Postgres
from jobstate_server.store.postgres.store import PostgresStore
from jobstate_server.store.rows import PROGRESS_COLUMNS

from ...support.postgres import postgres_server
from ..support import PATIENCE_S, an_event, keep_events
from .support import foreign, opened_at, rows

COLUMNS = (
    "SELECT table_name::text, column_name::text, data_type::text, is_nullable::text, column_default::text"
    " FROM information_schema.columns WHERE table_schema = current_schema() ORDER BY 1, 2"
)
COLLATIONS = (
    "SELECT table_name::text, column_name::text, collation_name::text FROM information_schema.columns"
    " WHERE table_schema = current_schema() AND data_type = 'text' ORDER BY 1, 2"
)
INDEXES = (
    "SELECT relname::text, pg_get_indexdef(indexrelid, 0, true), indisprimary FROM pg_index"
    " JOIN pg_class ON pg_class.oid = indexrelid"
    " WHERE relnamespace = current_schema()::regnamespace ORDER BY 1"
)


@pytest.fixture
def url() -> str:
    """The URL of a store that does not exist yet."""
    return postgres_server().new_store()


def made_by_the_models(url: str) -> None:
    """Have peewee make the tables of the models at this URL."""
    database = Postgres(url, {})
    with database.connection_context(), database.bind_ctx(TABLES["postgres"]):
        for model in TABLES["postgres"]:
            schema = model._schema  # type: ignore[attr-defined]
            text, _ = schema._create_table(safe=False).query()
            # What follows the columns are options of SQLite.
            database.raw_connection.execute(text[: text.rindex(")") + 1])
            schema.create_indexes(safe=False)


def schema_of(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """Columns with their types, and indexes without the name of the schema they are in."""
    ((schema,),) = rows(url, "SELECT current_schema()::text")
    indexes = [
        (name, definition.replace(f"{schema}.", ""), primary) for name, definition, primary in rows(url, INDEXES)
    ]
    return {"columns": rows(url, COLUMNS), "indexes": indexes}


def test_the_migrated_schema_is_the_one_that_the_models_make(url: str, store: PostgresStore) -> None:
    fresh = postgres_server().new_store()
    made_by_the_models(fresh)

    migrated, made = schema_of(url), schema_of(fresh)

    assert len(migrated["columns"]) == sum(len(model._meta.sorted_field_names) for model in TABLES["postgres"])
    assert migrated["columns"] == made["columns"]
    assert migrated["indexes"] == made["indexes"]


def test_every_text_is_compared_by_its_bytes(url: str, store: PostgresStore) -> None:
    """Pages are merged in Python, in the order of code points; no locale may order them otherwise."""
    collations = rows(url, COLLATIONS)

    assert ("job", "id", "C") in collations
    assert {collation for _, _, collation in collations} == {"C"}


def test_a_progress_report_touches_no_index(url: str, store: PostgresStore) -> None:
    """So that its new row version stays in the page of the old one, which has room for it."""
    indexed = rows(
        url,
        "SELECT DISTINCT attname::text FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = ANY(indkey)"
        " WHERE indrelid = 'job'::regclass",
    )

    assert ("create_time",) in indexed
    assert not {name for (name,) in indexed} & set(PROGRESS_COLUMNS)
    assert rows(url, "SELECT reloptions FROM pg_class WHERE oid = 'job'::regclass") == [(["fillfactor=70"],)]


def test_replicas_that_begin_at_the_same_moment_on_nothing_all_begin_on_one_log(url: str) -> None:
    together = threading.Barrier(6, timeout=PATIENCE_S)

    def begin() -> str:
        together.wait()
        with opened_at(url) as store:
            return store.log_id

    with ThreadPoolExecutor(6) as threads:
        names = {future.result(PATIENCE_S) for future in [threads.submit(begin) for _ in range(6)]}

    assert len(names) == 1
    assert rows(url, "SELECT count(*), min(id) FROM log") == [(1, *names)]
    assert rows(url, "SELECT count(*) FROM horizon") == [(1,)]


def test_both_dialects_have_the_same_migrations() -> None:
    both = [
        [(migration.version, migration.usable_from) for migration in migrate.migrations(dialect)]
        for dialect in ("postgres", "sqlite")
    ]

    assert both[0] == both[1]
    assert [version for version, _ in both[0]] == list(range(1, len(both[0]) + 1))


def test_a_store_opened_again_is_not_migrated_again(url: str, store: PostgresStore) -> None:
    assert migrate.bring_up_to_date(store.database, "postgres") == []


def set_schema(url: str, version: int, usable_from: int) -> None:
    with opened_at(url):
        pass
    with foreign(url) as connection:
        connection.execute("UPDATE schema SET version = %s, usable_from = %s", (version, usable_from))


def test_a_database_that_needs_a_newer_program_is_refused_with_a_sentence(url: str) -> None:
    set_schema(url, 900, 800)

    with pytest.raises(CannotOpen) as caught:
        PostgresStore(url, ManualClock())

    sentence = str(caught.value)
    assert all(part in sentence for part in ("schema 900", "knows schema 800", "upgrade jobstate-server"))


def test_a_newer_database_that_this_program_may_use_opens_and_stays_as_it_is(url: str) -> None:
    """A rolling upgrade: the new program has migrated, and the old one goes on beside it."""
    set_schema(url, 900, 1)

    with opened_at(url) as store:
        assert keep_events(store, an_event()) == 1

    assert rows(url, "SELECT version, usable_from FROM schema") == [(900, 1)]


def test_a_migration_that_fails_leaves_the_database_as_it_was(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened_at(url) as store:
        keep_events(store, an_event())
    before = schema_of(url)
    broken = migrate.Migration(99, 1, ("CREATE TABLE half (id TEXT)", "no SQL"))
    known = [*migrate.migrations("postgres"), broken]
    monkeypatch.setattr(migrate, "migrations", lambda dialect: known)

    with pytest.raises(CannotOpen):
        PostgresStore(url, ManualClock())

    monkeypatch.undo()
    assert schema_of(url) == before
    with opened_at(url) as store:
        assert keep_events(store, an_event()) == 2
