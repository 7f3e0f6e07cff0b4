"""Checks a store file: every page is readable, and the rows are those of a whole store."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from peewee import PeeweeException, SqliteDatabase

from jobstate_server.store.checking import AnyMiscount, Apart, Checked, check_rows, check_schema, corrections, miscounts
from jobstate_server.store.errors import StoreError
from jobstate_server.store.lane_checks import lane_corrections, lane_miscounts
from jobstate_server.store.models import ErrorDetailsRow, MetadataRow, ResultRow, SchemaRow
from jobstate_server.store.relation_checks import relation_miscounts
from jobstate_server.store.rows import tally_values
from jobstate_server.store.sqlite.file import StoreFile
from jobstate_server.store.sqlite.lanes import write_lanes
from jobstate_server.store.sqlite.path_checks import refuse_misplaced
from jobstate_server.store.sqlite.relations import correct_relations
from jobstate_server.store.sqlite.statements import Statements

DAMAGE_TOLD_MAX = 10
"""Damaged places reported per file. Nobody repairs a file with more by hand."""

_BUSY_TIMEOUT_S = 5.0
"""A reader waits for a lock only while the WAL of a crashed server is recovered."""

_READ_ONLY: dict[str, str | int] = {"query_only": 1}
_DURABLE: dict[str, str | int] = {"synchronous": "full"}

_DOCUMENTS: Apart = {
    MetadataRow: "documents of metadata",
    ResultRow: "results",
    ErrorDetailsRow: "details of errors",
}


def check_file(path: Path) -> Checked:
    """Check a store, which may be in use. Reads everything in one transaction, and writes nothing.

    Takes about as long as reading the file twice.
    """
    checked = Checked()
    if not path.is_file():
        checked.problems.append("there is no such file")
        return checked
    try:
        refuse_misplaced(path)
        with _opened(path.resolve(), _READ_ONLY) as database:
            database.begin()
            _check(database, checked)
    except (PeeweeException, sqlite3.Error, StoreError) as error:
        checked.problems.append(f"it cannot be read as a store: {error}")
    return checked


def correct_counts(path: Path) -> list[AnyMiscount]:
    """Correct the counts of a store that no server uses. Returns those that were wrong.

    Raises:
        CannotOpen: a server uses the file.
        StoreError: it cannot be written.
    """
    try:
        # The lock keeps servers away: a running one has the file to itself.
        with closing(StoreFile(path, make=False)) as file, _opened(file.path, _DURABLE) as database:
            with database.atomic("IMMEDIATE"):

                def rows(query: Any) -> list[tuple[Any, ...]]:
                    found: list[tuple[Any, ...]] = database.execute(query).fetchall()
                    return found

                relations = relation_miscounts(rows)
                # First: how many jobs wait for needs follows from it.
                correct_relations(database.connection(), relations)
                wrong, lanes = miscounts(rows), lane_miscounts(rows)
                Statements.add_tallies.run(database.connection(), tally_values(corrections(wrong)))
                write_lanes(database.connection(), lane_corrections(lanes))
            return [*wrong, *lanes, *relations]
    except (PeeweeException, sqlite3.Error) as error:
        raise StoreError(f"{path}: {error}") from error


@contextmanager
def _opened(path: Path, pragmas: dict[str, str | int]) -> Iterator[SqliteDatabase]:
    """The file on its own connection. ``mode=rw`` never creates a file, and lets SQLite read the WAL."""
    name = f"file:{quote(str(path))}?mode=rw"
    database = SqliteDatabase(name, uri=True, pragmas=pragmas, timeout=_BUSY_TIMEOUT_S, thread_safe=False)
    try:
        database.connect()
        yield database
    finally:
        database.close()


def _check(database: SqliteDatabase, checked: Checked) -> None:
    damage = [text for (text,) in database.execute_sql(f"PRAGMA integrity_check({DAMAGE_TOLD_MAX})") if text != "ok"]
    checked.problems += [f"it is damaged: {text}" for text in damage]
    if not database.table_exists(SchemaRow._meta.table_name):
        checked.problems.append("it is not a store: it is empty, an unfinished copy, or something else")
        return

    def rows(query: Any) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = database.execute(query).fetchall()
        return found

    if check_schema(rows, "sqlite", checked):
        check_rows(rows, checked, _DOCUMENTS)
