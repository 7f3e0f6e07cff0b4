"""The shared store: one PostgreSQL database, any number of servers.

PostgreSQL provides the order, the storage and the notifications; there is no leader. A transaction locks the job rows
that it decides on, so only one replica at a time changes a job. It locks the row of the log from the numbering of its
events until the commit, so sequences have no gaps and follow the order of commits.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import Any, NoReturn

import psycopg
from peewee import PeeweeException
from psycopg.pq import TransactionStatus

from jobstate_server.clock import Clock
from jobstate_server.store import migrate
from jobstate_server.store.cache_sizes import CACHE_BYTES, cache_sizes_of
from jobstate_server.store.erasing import Clearing
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
from jobstate_server.store.postgres.known_jobs import KnownJobs
from jobstate_server.store.postgres.notifier import PostgresNotifier, channel_of
from jobstate_server.store.postgres.reader import PostgresReader
from jobstate_server.store.postgres.ready_jobs import Marks
from jobstate_server.store.postgres.replicas import refuse_beside_others
from jobstate_server.store.postgres.transaction import PostgresTransaction
from jobstate_server.store.reading.reader import SqlReader


class PostgresStore:
    """A ``Store`` in a PostgreSQL database."""

    def __init__(self, url: str, clock: Clock, cache_bytes: int = CACHE_BYTES) -> None:
        """Connect, and update the tables.

        Args:
            url: ``postgresql://…`` as libpq understands it.
            clock: a ``FollowingClock`` is set to the database's time, which all replicas share.

        Raises:
            CannotOpen: the database does not exist, it cannot keep the store's promises, a newer program has changed it
                so that this one cannot use it, or an older one that uses it cannot work beside this one.
        """
        self._url = url
        self._known = KnownJobs(cache_sizes_of(cache_bytes).jobs)
        self._known_through: psycopg.Connection[Any] | None = None
        """The connection over which the known jobs were written."""
        self._time = DatabaseTime(clock)
        self.database = Postgres(url, WRITER_SETTINGS)
        try:
            # Without timeouts: a migration may take long, and other replicas wait for it.
            with closing(Postgres(url, {})) as migrator:
                check_server(migrator.raw_connection)
                execute = migrator.raw_connection.execute
                migrate.bring_up_to_date(migrator, "postgres", partial(refuse_beside_others, execute))
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
        self._marks = Marks()

    @contextmanager
    def transaction(self) -> Iterator[PostgresTransaction]:
        connection = self.database.live_connection()
        if connection is not self._known_through:
            self._known.clear()
            self._known_through = connection
        transaction = PostgresTransaction(
            self.database, connection, self._known, self._time, self.channel, log_id=self.log_id, marks=self._marks
        )
        try:
            yield transaction
        except BaseException as error:
            self._roll_back(connection)
            _explain(error)
        if not transaction.is_committed:
            self._commit(connection)
        transaction.update_known()
        if transaction.requests_stored is not None:
            self.requests_stored = transaction.requests_stored

    def _commit(self, connection: psycopg.Connection[Any]) -> None:
        # The connection of the transaction: a newer one would have nothing to commit, and report success.
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
        """Leave the connection clean, or closed."""
        try:
            connection.rollback()
        except psycopg.Error:
            self.database.close()

    def open_reader(self) -> SqlReader:
        return PostgresReader(Postgres(self._url, READER_SETTINGS))

    def open_notifier(self) -> PostgresNotifier:
        return PostgresNotifier(self._url, self.channel, lambda: self.database.process)

    def clear_unused(self, page: int, limit: int) -> Clearing:
        # What VACUUM FULL does needs the tables for itself.
        del page, limit
        return Clearing(None)

    def stop_clearing(self) -> None:
        pass

    def disconnect(self) -> None:
        self.database.disconnect()

    def close(self) -> None:
        self.database.close()


def _explain(error: BaseException) -> NoReturn:
    """Raise the store error for an error of the driver, and any other error as it is."""
    if isinstance(error, (psycopg.Error, PeeweeException)):
        raise_store_error(error)
    if isinstance(error, (struct.error, UnicodeEncodeError)):
        # The value cannot be encoded.
        raise StoreError(str(error)) from error
    raise error
