"""Stores as older programs left them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

from peewee import Database, SqliteDatabase

from jobstate_server.domain.job import Attempt, Job
from jobstate_server.store import migrate
from jobstate_server.store.postgres.connection import Postgres
from jobstate_server.store.records import StoredRequest
from jobstate_server.store.rows import (
    ATTEMPT_COLUMNS,
    DOCUMENTS,
    JOB_COLUMNS,
    REQUEST_COLUMNS,
    attempt_values,
    documents_of,
    job_values,
    request_values,
)

from .support import Home, PostgresHome, SqliteHome


def job_as_then(job: Job) -> dict[str, object]:
    """A job with its documents in its row."""
    documents = documents_of(job)
    details = documents[2] if job.last_error is not None else None
    return dict(zip((*JOB_COLUMNS, *DOCUMENTS), (*job_values(job), *documents[:2], details), strict=True))


def attempt_as_then(attempt: Attempt) -> dict[str, object]:
    """An attempt that names its job by the id."""
    return dict(zip(("job_id", *ATTEMPT_COLUMNS), attempt_values(attempt), strict=True))


def request_as_then(stored: StoredRequest) -> dict[str, object]:
    """A used request id."""
    return dict(zip(REQUEST_COLUMNS, request_values(stored), strict=True))


class OldStore:
    """A database of schema ``version`` that is written to as a program of that time would."""

    def __init__(self, database: Database, dialect: str, version: int, clock_offset: int) -> None:
        self._database = database
        for migration in migrate.migrations(dialect)[:version]:
            for statement in migration.statements:
                database.execute_sql(statement)
        self.insert("log", id="log", head=0, bytes=0, clock_offset=clock_offset)
        self.insert("horizon", id="log", sequence=0, event_check=0, bytes=0)
        self.insert("schema", id="schema", version=version, usable_from=version)

    def insert(self, table: str, **values: object) -> None:
        """Insert a row of today into a table of then: what that did not have yet is left out."""
        # Names come from our models and migrations.
        had = self._database.execute_sql(f'SELECT * FROM "{table}" LIMIT 0').description  # noqa: S608
        names = [name for name, *_ in had if name in values]
        marks = ", ".join([self._database.param] * len(names))
        columns = ", ".join(f'"{name}"' for name in names)
        text = f'INSERT INTO "{table}" ({columns}) VALUES ({marks})'  # noqa: S608
        self._database.execute_sql(text, [values[name] for name in names])


@contextmanager
def old_store(home: Home, version: int, clock_offset: int = 0) -> Iterator[OldStore]:
    """Make a store as a program that knew ``version`` migrations did.

    Args:
        clock_offset: how far its time was ahead of the database's clock at the beginning of the epoch.
    """
    if isinstance(home, SqliteHome):
        database: Database = SqliteDatabase(str(home.path), pragmas={"journal_mode": "wal"})
        dialect = "sqlite"
    else:
        assert isinstance(home, PostgresHome)
        database, dialect = Postgres(home.url, {}), "postgres"
    database.connect()
    with closing(database), database.atomic():
        store = OldStore(database, dialect, version, clock_offset)
        yield store
