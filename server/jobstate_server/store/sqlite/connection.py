"""Opens connections to a SQLite store, and translates SQLite's errors into store errors."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

from peewee import ModelSelect, PeeweeException, SqliteDatabase

from jobstate_server.store.errors import StoreError, StoreUnreachable, TransactionConflict
from jobstate_server.store.reading.reader import SqlReader
from jobstate_server.store.sqlite.documents import WHOLE_JOBS

CHECKPOINT_AT = 4_000
"""Pages of WAL, 16 MiB, at which SQLite copies them into the file. Nearly every commit writes the pages of a busy
index, so the more commits share one checkpoint, the less is copied and synced."""

_PRAGMAS = {
    "journal_mode": "wal",
    "synchronous": "full",
    "temp_store": "memory",
    "wal_autocheckpoint": CHECKPOINT_AT,
    # After a burst the WAL file is truncated to this size; otherwise it would never shrink.
    "journal_size_limit": 64 * 1024 * 1024,
}

BUSY_TIMEOUT_S = 5.0
"""No other server writes. Only a checkpoint of another tool, or a backup, can hold a lock for a moment."""

_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_UNREACHABLE = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PROTOCOL,
}


_ADVICE = {
    **dict.fromkeys(_DAMAGED, "run jobstate-server check on the file, and restore a backup"),
    **dict.fromkeys(_BUSY, "another program has locked it; stop that program"),
    sqlite3.SQLITE_FULL: "free some disk space",
    sqlite3.SQLITE_IOERR: "check the disk, which may be full or broken",
    sqlite3.SQLITE_READONLY: "the file and its directory must be writable",
}


def explained(error: Exception) -> str:
    """The first error and what to do about it. When the rollback failed too, its error is not the cause."""
    first: BaseException = error
    while isinstance(first.__context__, (PeeweeException, sqlite3.Error, StoreError)):
        first = first.__context__
    code = getattr(first, "sqlite_errorcode", None)
    advice = "" if code is None else _ADVICE.get(code & 0xFF, "")
    return f"{first}: {advice}" if advice else str(first)


def raise_store_error(error: PeeweeException) -> NoReturn:
    """Raise the store error that matches SQLite's result code."""
    cause = getattr(error, "orig", None) or error
    code = getattr(cause, "sqlite_errorcode", None)
    primary = None if code is None else code & 0xFF
    if primary in _BUSY:
        raise TransactionConflict(str(cause)) from error
    if primary in _DAMAGED:
        raise StoreUnreachable(f"{cause}: run jobstate-server check on the file, and restore a backup") from error
    if primary in _UNREACHABLE:
        raise StoreUnreachable(str(cause)) from error
    raise StoreError(str(cause)) from error


def connect(path: Path, cache_bytes: int) -> SqliteDatabase:
    """Open a new connection to the file, which must exist: this never creates one.

    Args:
        cache_bytes: how much of the file the connection may keep in memory.
    """
    name = f"file:{quote(str(path))}?mode=rw"
    # Incremental vacuum lets retention return free pages in small steps. It can only be set while the file is empty,
    # and setting it again would write to the file.
    is_empty = path.stat().st_size == 0
    pragmas = {**({"auto_vacuum": "incremental"} if is_empty else {}), **_PRAGMAS, "cache_size": -(cache_bytes // 1024)}
    database = SqliteDatabase(
        name, uri=True, pragmas=pragmas, timeout=BUSY_TIMEOUT_S, check_same_thread=False, thread_safe=False
    )
    database.connect()
    return database


class SqliteReader(SqlReader):
    """Reads on its own connection, and refuses to read once the store has lost its file."""

    whole_jobs = WHOLE_JOBS

    def __init__(self, database: SqliteDatabase, check: Callable[[], None]) -> None:
        super().__init__(database, raise_store_error)
        self._check = check

    def _execute(self, text: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        self._check()
        return super()._execute(text, values)

    def _page(self, end: ModelSelect[Any], events: ModelSelect[Any]) -> tuple[tuple[Any, ...], list[tuple[Any, ...]]]:
        # In one statement SQLite would copy every row.
        try:
            with self._database.atomic():
                return self._rows(end)[0], self._rows(events)
        except PeeweeException as error:
            # Raised by the transaction itself: each statement translates its own errors.
            self._translate(error)

    def _stop_statement(self) -> None:
        self._database.connection().interrupt()
