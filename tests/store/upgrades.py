"""Stores as older programs left them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

from peewee import Database, SqliteDatabase

from jobstate_server.domain.job import Attempt, Job
from jobstate_server.store import migrate
from jobstate_server.store.postgres.connection import Postgres
from jobstate_server.store.records import NewEvent, StoredRequest
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

from .support import Home, PostgresHome, SqliteHome, an_event

WRITTEN = 1_700_000_000_000_009

EVENTS_AS_THEN = [
    an_event(
        time=WRITTEN,
        payload=bytes.fromhex(
            "10011a1570726f63657373696e672d6a6f622e7175657565642a08736f6d65626f647922090880e2cfaa0610a8463a430a036a6f62"
            "1204747970651a06736f7572636562090880e2cfaa0610a846580520019a01006a090880e2cfaa0610a846ca01100a0e0a01611209"
            "11000000000000f03f"
        ),
    ),
    an_event(
        time=1_700_000_001_000_000,
        type=4,
        payload=bytes.fromhex(
            "10041a1770726f63657373696e672d6a6f622e70726f6772657373300222060881e2cfaa063a5a0a036a6f621204747970651a0673"
            "6f7572636562090880e2cfaa0610a846580520023801d801014a0177720c0880e2cfaa061080cab5ee01ea020c0880e2cfaa061080"
            "cab5ee019a01006a060881e2cfaa062832320468616c66"
        ),
    ),
]
"""What programs that knew up to 9 migrations wrote to the log when a job was created, and when it was half done at a
whole second: payloads that repeat what the columns have."""


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

    def append(self, event: NewEvent) -> None:
        """Append an event to the log."""
        text = f"UPDATE log SET head = head + 1, bytes = bytes + {len(event.payload)} RETURNING head"  # noqa: S608
        ((head,),) = self._database.execute_sql(text).fetchall()
        self.insert("event", sequence=head, **event._asdict())


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
