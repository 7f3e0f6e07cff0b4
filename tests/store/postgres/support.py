"""The store at a URL, and a foreign hand in its database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg
import pytest

from jobstate_server.clock import ManualClock
from jobstate_server.store.postgres.store import PostgresStore
from jobstate_server.store.postgres.transaction import PostgresTransaction


@contextmanager
def opened_at(url: str) -> Iterator[PostgresStore]:
    """The store at this URL, closed afterwards."""
    with closing(PostgresStore(url, ManualClock())) as store:
        yield store


@contextmanager
def foreign(url: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection to the same tables that is none of ours; each statement commits."""
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


def rows(url: str, statement: str, *values: object) -> list[tuple[Any, ...]]:
    """What a foreign program reads."""
    with foreign(url) as connection:
        return connection.execute(statement.encode(), values).fetchall()


def end_connection(url: str, process: int | None) -> None:
    """End the connection of this process of PostgreSQL, as an operator does, and wait until it is gone."""
    assert process is not None
    with foreign(url) as operator:
        assert operator.execute("SELECT pg_terminate_backend(%s)", (process,)).fetchone() == (True,)
        while operator.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", (process,)).fetchone():
            pass


def until_it_waits(url: str, process: int | None) -> None:
    """Return when this process of PostgreSQL waits for a lock."""
    waits = "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = %s"
    with foreign(url) as connection:
        while connection.execute(waits, (process,)).fetchone() != (True,):
            pass


@contextmanager
def ended_by(error: type[Exception], store: PostgresStore) -> Iterator[PostgresTransaction]:
    """A transaction that must end with this very error."""
    with pytest.raises(error) as caught, store.transaction() as transaction:
        yield transaction
    assert type(caught.value) is error


class Recorder:
    """Stands before psycopg's connection, and notes what passes."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.statements: list[tuple[bytes, Any]] = []
        self.round_trips = 0
        self._connection = connection
        self._is_in_pipeline = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, query: bytes, params: Any = None, **options: Any) -> psycopg.Cursor[Any]:
        """Execute, noted. Outside a pipeline each statement is waited for."""
        self.statements.append((query, params))
        self.round_trips += not self._is_in_pipeline
        return self._connection.execute(query, params, **options)

    @contextmanager
    def pipeline(self) -> Iterator[Any]:
        """A pipeline, however many statements it has, is waited for once."""
        self.round_trips += 1
        self._is_in_pipeline = True
        try:
            with self._connection.pipeline() as pipeline:
                yield pipeline
        finally:
            self._is_in_pipeline = False


@contextmanager
def recorded(store: PostgresStore) -> Iterator[Recorder]:
    """Everything that the writer sends meanwhile."""
    connection = store.database.raw_connection
    recorder = Recorder(connection)
    store.database._raw = recorder  # type: ignore[assignment]
    try:
        yield recorder
    finally:
        store.database._raw = connection
