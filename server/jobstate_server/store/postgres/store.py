"""The shared store: one PostgreSQL database, any number of servers.

PostgreSQL orders, stores and wakes; nothing here elects, votes or leads. Job rows are locked while they are decided on,
so that replicas take turns at one job. The row of the log is locked from when events are numbered until the commit, so
that they take turns at the log: that makes sequences gapless, and their order the order of commits.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, NoReturn

import psycopg
from peewee import PeeweeException
from psycopg.pq import TransactionStatus

from jobstate_server.clock import Clock
from jobstate_server.store import migrate
from jobstate_server.store.errors import CannotOpen, OutcomeUnknown, StoreError
from jobstate_server.store.models import LogRow
from jobstate_server.store.postgres.clock import DatabaseTime
from jobstate_server.store.postgres.connection import (
    READER_SETTINGS,
    WRITER_SETTINGS,
    Postgres,
    check_committed,
    check_server,
    is_connection_lost,
    raise_store_error,
)
from jobstate_server.store.postgres.notifier import PostgresNotifier, channel_of
from jobstate_server.store.postgres.reader import PostgresReader
from jobstate_server.store.postgres.transaction import PostgresTransaction
from jobstate_server.store.reading.reader import SqlReader


class PostgresStore:
    """A ``Store`` in a PostgreSQL database."""

    def __init__(self, url: str, clock: Clock) -> None:
        """Connect, and bring the tables up to date.

        Args:
            url: ``postgresql://…`` as libpq understands it.
            clock: a ``FollowingClock`` is told the database's time, which then is that of all replicas.

        Raises:
            CannotOpen: there is no such database, it would not keep the store's promises, or a newer program has
                changed it beyond what this one may use.
        """
        self._url = url
        self._time = DatabaseTime(clock)
        self.database = Postgres(url, WRITER_SETTINGS)
        try:
            # Tables may take longer to change than a batch may take to write, and who comes second waits for that.
            with closing(Postgres(url, {})) as unhurried:
                check_server(unhurried.raw_connection)
                migrate.bring_up_to_date(unhurried, "postgres")
            connection = self.database.raw_connection
            with connection.transaction():
                self._time.begin(lambda text, **values: connection.execute(text, values))
            migrate.note_create_time(self.database, self._time.now())
            log_row = self.database.rows(LogRow.select(LogRow.id, LogRow.requests))[0]
            self.log_id: str = log_row[0]
            self.requests_stored: int = log_row[1]
        except (PeeweeException, psycopg.Error, StoreError) as error:
            self.database.close()
            if isinstance(error, CannotOpen):
                raise
            raise CannotOpen(f"cannot use PostgreSQL as a store: {' '.join(str(error).split())}") from error
        self.channel = channel_of(self.log_id)

    @contextmanager
    def transaction(self) -> Iterator[PostgresTransaction]:
        connection = self.database.live_connection()
        transaction = PostgresTransaction(self.database, connection, self._time, self.channel)
        try:
            yield transaction
        except BaseException as error:
            self._roll_back(connection)
            _explain(error)
        if not transaction.is_committed:
            self._commit(connection)
        if transaction.requests_stored is not None:
            self.requests_stored = transaction.requests_stored

    def _commit(self, connection: psycopg.Connection[Any]) -> None:
        # The one that the transaction has begun on: a newer one would know of nothing to commit, and call that done.
        if connection.info.transaction_status is TransactionStatus.IDLE:
            return
        try:
            committed = connection.execute(b"COMMIT")
        except psycopg.Error as error:
            self._roll_back(connection)
            if is_connection_lost(error):
                raise OutcomeUnknown(str(error)) from error
            raise_store_error(error)
        check_committed(committed)

    def _roll_back(self, connection: psycopg.Connection[Any]) -> None:
        """Leave the connection as good as new, or closed."""
        try:
            connection.rollback()
        except psycopg.Error:
            self.database.close()

    def open_reader(self) -> SqlReader:
        return PostgresReader(Postgres(self._url, READER_SETTINGS))

    def open_notifier(self) -> PostgresNotifier:
        return PostgresNotifier(self._url, self.channel, lambda: self.database.process)

    def disconnect(self) -> None:
        self.database.disconnect()

    def close(self) -> None:
        self.database.close()


def _explain(error: BaseException) -> NoReturn:
    """Raise the store's own error for one of the driver's; any other as it is."""
    if isinstance(error, (psycopg.Error, PeeweeException)):
        raise_store_error(error)
    if isinstance(error, (struct.error, UnicodeEncodeError)):
        # It could not even be sent.
        raise StoreError(str(error)) from error
    raise error
