"""The embedded store: one SQLite file for one server.

WAL mode lets readers work without waiting for the writer, and with ``synchronous=FULL`` a commit survives a power loss.
After every commit the store checks its file (``file_monitor.py``). A file that was removed, replaced or changed by
another program is an outage, and no commit to it is answered as done.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from peewee import DatabaseError, PeeweeException, SqliteDatabase

from jobstate_server.clock import Clock
from jobstate_server.store import migrate
from jobstate_server.store.base import Notifier
from jobstate_server.store.cache_sizes import CACHE_BYTES, cache_sizes_of
from jobstate_server.store.erasing import Clearing
from jobstate_server.store.errors import CannotOpen, OutcomeUnknown, StoreError, StoreUnreachable
from jobstate_server.store.job_cache import JobCache
from jobstate_server.store.models import LogRow
from jobstate_server.store.reading.reader import SqlReader
from jobstate_server.store.sqlite.backup import PARTIAL_SUFFIX
from jobstate_server.store.sqlite.clearing import FileClearing
from jobstate_server.store.sqlite.connection import (
    BUSY_TIMEOUT_S,
    CHECKPOINT_AT,
    SqliteReader,
    connect,
    explained,
    raise_store_error,
)
from jobstate_server.store.sqlite.file import FileLost, StoreFile
from jobstate_server.store.sqlite.file_monitor import FileMonitor
from jobstate_server.store.sqlite.statements import Statements
from jobstate_server.store.sqlite.transaction import SqliteTransaction


def _migrate(database: SqliteDatabase) -> None:
    """Bring the tables up to date. What SQLite sorts, and what it would undo, may be as large as the tables."""
    database.execute_sql("PRAGMA temp_store = file")
    migrate.bring_up_to_date(database, "sqlite")
    database.execute_sql("PRAGMA temp_store = memory")


class SqliteStore:
    """A ``Store`` in one file."""

    def __init__(self, path: Path, clock: Clock, cache_bytes: int = CACHE_BYTES) -> None:
        """Open the file. Creates it if it does not exist, and updates its tables.

        Raises:
            CannotOpen: the directory is missing or read-only, another server has the file, the file is not a database,
                or a newer program has changed it so that this one cannot use it.
        """
        if os.path.realpath(path).endswith(PARTIAL_SUFFIX):
            raise CannotOpen(f"{path} is an unfinished backup; use a finished one, whose name does not end so")
        self.log_id: str
        self.requests_stored: int
        self._clock = clock
        self._cache_sizes = cache_sizes_of(cache_bytes)
        self._cache = JobCache(self._cache_sizes.jobs)
        self._file = StoreFile(path)
        self.path = self._file.path
        """Without symbolic links."""
        try:
            self._database = connect(self._file.path, self._cache_sizes.writer_pages)
            try:
                self._begin()
            except BaseException:
                self._database.close()
                raise
        except (PeeweeException, sqlite3.Error, StoreError) as error:
            self._file.close()
            if isinstance(error, CannotOpen):
                raise
            raise CannotOpen(f"cannot use {path} as a store: {explained(error)}") from error
        except BaseException:
            self._file.close()
            raise

    def _begin(self) -> None:
        database = self._database
        _migrate(database)
        log_row = LogRow.select(LogRow.id, LogRow.requests, LogRow.time)
        ((self.log_id, self.requests_stored, newest),) = database.execute(log_row)
        self._clock.begin_at(newest)
        migrate.note_create_time(database, self._clock.now())
        self._statements = Statements(database)
        reader = SqlReader(database, raise_store_error)
        state = reader.log_state()
        if state.head > state.horizon and reader.event(state.head) is None:
            raise CannotOpen(
                f"cannot use {self.path} as a store: event {state.head}, the last of its log, is missing; was the file"
                f" replaced by a backup while {self._file.path}-wal stayed beside it?"
            )
        self._heads: Collection[int] = (state.head,)
        self._monitor = FileMonitor(self._file, database, CHECKPOINT_AT)
        busy_ms = round(BUSY_TIMEOUT_S * 1_000)
        self._clearing = FileClearing(self._file, database, busy_ms=busy_ms, checkpoint_at=CHECKPOINT_AT)

    @contextmanager
    def transaction(self) -> Iterator[SqliteTransaction]:
        database = self._database
        try:
            self._monitor.check_before_transaction()
            database.begin("IMMEDIATE")
            try:
                transaction = SqliteTransaction(database, self._statements, self._cache, self._clock.now(), self._heads)
                if self._monitor.lost:
                    transaction.check()
                yield transaction
            except BaseException:
                self._roll_back()
                raise
            try:
                self._commit()
            except OutcomeUnknown:
                self._heads = {*self._heads, *transaction.sequences.heads}
                raise
            self._heads = transaction.sequences.heads
            transaction.refresh_cache()
            if transaction.sequences.requests_stored is not None:
                self.requests_stored = transaction.sequences.requests_stored
            self._monitor.check_after_commit()
        except FileLost as error:
            self._monitor.mark_lost(error)
            raise
        except DatabaseError as error:
            raise_store_error(error)
        except sqlite3.Error as error:
            raise_store_error(PeeweeException(error))

    def _commit(self) -> None:
        try:
            self._database.commit()
        except DatabaseError as error:
            # A full disk is detected before anything is durable. After an I/O error the outcome is unknown.
            code = getattr(getattr(error, "orig", None), "sqlite_errorcode", 0) & 0xFF
            self._cache.clear()
            self._roll_back()
            if code == sqlite3.SQLITE_IOERR:
                raise OutcomeUnknown(str(error)) from error
            raise

    def _roll_back(self) -> None:
        # After a full disk or an I/O error SQLite has already rolled back, and a second rollback is an error.
        if self._database.connection().in_transaction:
            self._database.rollback()

    def open_reader(self) -> SqlReader:
        self._monitor.raise_if_lost()
        try:
            database = connect(self.path, self._cache_sizes.reader_pages)
        except PeeweeException as error:
            raise_store_error(error)
        except OSError as error:
            raise StoreUnreachable(f"{self.path} cannot be found ({error.strerror})") from error
        try:
            self._file.check_names()
        except FileLost:
            database.close()
            raise
        return SqliteReader(database, self._monitor.raise_if_lost)

    def open_notifier(self) -> Notifier | None:
        return None

    def clear_unused(self, page: int, limit: int) -> Clearing:
        try:
            self._file.check()
            return self._clearing.step(page, limit)
        except FileLost as error:
            self._monitor.mark_lost(error)
            raise
        except PeeweeException as error:
            raise_store_error(error)

    def stop_clearing(self) -> None:
        self._clearing.stop()

    def disconnect(self) -> None:
        # A write that hangs in the kernel cannot be stopped from here.
        pass

    def close(self) -> None:
        self._monitor.close()
