"""PostgreSQL as one side of a copy. ``copy.py`` describes a copy."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from typing import Any, LiteralString

import psycopg
from peewee import Model, ModelSelect
from psycopg import errors, sql

from jobstate_server.clock import SystemClock
from jobstate_server.domain.durations import SECOND
from jobstate_server.store.base import REPLICA_LEASE
from jobstate_server.store.copying.copy import BATCH_ROWS, COPIED, CannotCopy, View, columns_of
from jobstate_server.store.errors import OutcomeUnknown, StoreError
from jobstate_server.store.factory import open_store
from jobstate_server.store.models import SchemaRow
from jobstate_server.store.postgres.clock import NOW, Reading
from jobstate_server.store.postgres.connection import NO_TRANSACTION_TIMEOUT, Postgres, is_connection_lost
from jobstate_server.store.postgres.statements import LAST_RENEWED
from jobstate_server.store.urls import redacted

_SCHEMA = SchemaRow._meta.table_name

_SETTINGS = {
    # A table that stays locked for longer is in use by another program, and an operator must decide.
    "lock_timeout": "3s",
    # Reading and counting the other side may take long, and tables may be large. No server waits for the locks of this
    # transaction.
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
}


class PostgresView:
    """A database, or one of its schemas, in one transaction."""

    def __init__(self, url: str, database: Postgres, connection: psycopg.Connection[Any]) -> None:
        self._url = url
        self._database = database
        self._connection = connection

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Raise StoreError with the name of this side for an error of PostgreSQL."""
        try:
            yield
        except psycopg.Error as error:
            raise StoreError(f"{redacted(self._url)}: {' '.join(str(error).split())}") from error

    def batches(self, query: ModelSelect[Any]) -> Generator[list[tuple[Any, ...]], None, None]:
        text, values = self._database.get_sql_context().sql(query).query()
        # A named cursor stays on the server, which sends only the rows that are fetched.
        with self.explained(), self._connection.cursor("batches") as cursor:
            cursor.execute(text.encode(), values)
            while rows := cursor.fetchmany(BATCH_ROWS):
                yield rows

    def rows_of(self, model: type[Model]) -> Generator[list[tuple[Any, ...]], None, None]:
        return self.batches(model.select(*(getattr(model, name) for name in columns_of(model))))

    def has_table(self, name: str) -> bool:
        with self.explained():
            row = self._connection.execute("SELECT to_regclass(%s) IS NOT NULL", (name,)).fetchone()
        return row is not None and bool(row[0])

    def insert(self, model: type[Model], rows: Iterable[tuple[Any, ...]]) -> None:
        table = sql.Identifier(model._meta.table_name)
        names = sql.SQL(", ").join(map(sql.Identifier, columns_of(model)))
        with self.explained(), self._connection.cursor() as cursor:
            with cursor.copy(sql.SQL("COPY {} ({}) FROM STDIN").format(table, names)) as copy:
                for row in rows:
                    copy.write_row(row)
            # Otherwise the first queries would be planned for an empty table.
            cursor.execute(sql.SQL("ANALYZE {}").format(table))

    def empty(self, model: type[Model]) -> None:
        with self.explained():
            self._connection.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(model._meta.table_name)))

    def check_is_free(self) -> None:
        """Raise CannotCopy if another program has locked the schema, as a copy does."""
        if self.has_table(_SCHEMA):
            self._lock("ACCESS SHARE", _SCHEMA)

    def keep_servers_away(self) -> None:
        """Lock the tables until the end of the transaction. Raises CannotCopy while anybody uses them."""
        # A server reads the schema before anything else, and waits for it. One that was frozen for so long that nobody
        # hears it any more cannot write.
        self._lock("ACCESS EXCLUSIVE", _SCHEMA)
        self._lock("SHARE ROW EXCLUSIVE", *(model._meta.table_name for model in COPIED))
        with self.explained():
            (renewed,) = self._connection.execute(LAST_RENEWED, {"besides": ""}).fetchone() or (None,)
            now = Reading(*(self._connection.execute(NOW).fetchone() or (0, 0, 0))).time
        if renewed is not None and now - renewed < REPLICA_LEASE:
            seconds = max(0, now - renewed) / SECOND
            raise CannotCopy(
                f"{redacted(self._url)} is served (a server renewed its lease {seconds:.1f} s ago): stop every"
                f" jobstate-server on it; after one was killed wait {REPLICA_LEASE // SECOND} s"
            )

    def _lock(self, mode: LiteralString, *tables: str) -> None:
        names = sql.SQL(", ").join(map(sql.Identifier, tables))
        try:
            with self.explained():
                self._connection.execute(sql.SQL("LOCK TABLE {} IN " + mode + " MODE").format(names))
        except StoreError as error:
            if not isinstance(error.__cause__, errors.LockNotAvailable):
                raise
            raise CannotCopy(
                f"{redacted(self._url)} is in use by another program, a backup or another copy: let that end"
            ) from error

    def commit(self) -> None:
        """End the transaction."""
        try:
            with self.explained():
                self._connection.execute("COMMIT")
        except StoreError as error:
            if is_connection_lost(error.__cause__ if isinstance(error.__cause__, psycopg.Error) else error):
                raise OutcomeUnknown(
                    f"{error}: lost while committing, so that the destination has everything or nothing; copy again,"
                    " which is refused when it has everything"
                ) from error
            raise


@contextmanager
def postgres_source(url: str, check: Callable[[View], None]) -> Iterator[View]:
    """One transaction that no server can disturb: none serves, and none can start until it ends.

    Args:
        check: raises CannotCopy when the tables are not those of this release.

    Raises:
        CannotCopy: a server serves the store, or another program is at work on its tables.
    """
    with _transaction(url) as view:
        check(view)
        view.keep_servers_away()
        yield view


@contextmanager
def postgres_destination(url: str, check: Callable[[View], None]) -> Iterator[View]:
    """The same, with the tables made before and all that was written committed in the end.

    Raises:
        OutcomeUnknown: raised by the commit alone.
    """
    with _transaction(url) as view:
        # Opening waits for as long as it takes, and the source may be this very store by another URL.
        view.check_is_free()
    open_store(url, SystemClock()).close()
    with _transaction(url) as view:
        check(view)
        view.keep_servers_away()
        yield view
        view.commit()


@contextmanager
def _transaction(url: str) -> Iterator[PostgresView]:
    """A transaction that ends with its connection."""
    with closing(Postgres(url, _SETTINGS)) as database:
        connection = database.raw_connection
        # The whole copy is one transaction.
        connection.execute(NO_TRANSACTION_TIMEOUT)
        # What is committed before the locks are held is seen by every statement after; nothing is committed then.
        connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
        yield PostgresView(url, database, connection)
