"""Checks a store in PostgreSQL, which servers may be using, and corrects its counts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg
from peewee import PeeweeException

from jobstate_server.store.checking import AnyMiscount, Checked, check_rows, check_schema, corrections, miscounts
from jobstate_server.store.errors import StoreError
from jobstate_server.store.lane_checks import lane_corrections, lane_miscounts
from jobstate_server.store.postgres import statements as sql
from jobstate_server.store.postgres.connection import NO_TRANSACTION_TIMEOUT, Postgres, check_committed, one_row
from jobstate_server.store.postgres.lanes import write_lanes
from jobstate_server.store.postgres.relations import correct_open_needs, correct_relations
from jobstate_server.store.relation_checks import open_needs_miscounts, relation_miscounts
from jobstate_server.store.rows import tally_values

_SETTINGS = {
    # Reading all rows may take long. Nobody waits for it meanwhile.
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    # The row of the log is held by each commit for milliseconds.
    "lock_timeout": "30s",
}

_SNAPSHOT = b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_BEGIN = b"BEGIN ISOLATION LEVEL READ COMMITTED"
_ALONE = 0x6A6F_6273_636F_756E
"""Key of the lock of whoever corrects counts: "jobscoun" as a number. Two would correct the same count twice."""


def check_database(url: str) -> Checked:
    """Check a store, which may be in use. Reads everything in one snapshot, and writes nothing."""
    checked = Checked()
    try:
        with closing(Postgres(url, _SETTINGS)) as database, _transaction(database, _SNAPSHOT) as connection:
            (is_store,) = one_row(connection.execute("SELECT to_regclass('schema') IS NOT NULL"))
            if not is_store:
                checked.problems.append("it is not a store: it has no tables of one")
            elif check_schema(database.rows, "postgres", checked):
                check_rows(database.rows, checked, {})
    except (psycopg.Error, PeeweeException, StoreError) as error:
        checked.problems.append(f"it cannot be read as a store: {' '.join(str(error).split())}")
    return checked


def correct_counts(url: str) -> list[AnyMiscount]:
    """Correct the counts of a store, also while servers use it. Returns those that were wrong.

    One statement sees jobs and counts at one moment. What is committed after it changes both alike, so the difference
    that it found is added. The servers wait only while that is written.

    Raises:
        StoreError: it cannot be read or written.
    """
    try:
        with closing(Postgres(url, _SETTINGS)) as database, _transaction(database, _BEGIN) as connection:
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (_ALONE,))
            # First: jobs are locked before the log, and how many jobs wait for needs follows from it.
            waiting = correct_open_needs(connection, open_needs_miscounts(database.rows))
            wrong, lanes = miscounts(database.rows), lane_miscounts(database.rows)
            relations = relation_miscounts(database.rows)
            if wrong or lanes or relations:
                # All counts are written after the row of the log, so this cannot deadlock with a commit.
                connection.execute(sql.LOCK_LOG)
            if wrong:
                sql.add_tallies.run(connection, tally_values(corrections(wrong)))
            write_lanes(connection, connection.execute, lane_corrections(lanes))
            correct_relations(connection, relations)
            return [*wrong, *lanes, *waiting, *relations]
    except (psycopg.Error, PeeweeException) as error:
        raise StoreError(" ".join(str(error).split())) from error


@contextmanager
def _transaction(database: Postgres, begin: bytes) -> Iterator[psycopg.Connection[Any]]:
    """A transaction, committed at the end of the block. An exception closes the connection, which ends it."""
    connection = database.raw_connection
    connection.execute(NO_TRANSACTION_TIMEOUT)
    connection.execute(begin)
    yield connection
    check_committed(connection.execute(b"COMMIT"))
