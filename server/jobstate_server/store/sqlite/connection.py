"""Connections to a SQLite store: how they are set up, and what SQLite says, told as the store's own errors."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

from peewee import ModelSelect, PeeweeException, SqliteDatabase

from jobstate_server.store.errors import StoreError, StoreUnreachable, TransactionConflict
from jobstate_server.store.reading.reader import SqlReader

CHECKPOINT_AT = 4_000
"""Pages of WAL, 16 MiB, after which they are copied into the file. The pages of a busy index are written by nearly
every commit: the more commits one copy serves, the fewer times they are copied, and the file synchronised."""

_PRAGMAS = {
    "journal_mode": "wal",
    "synchronous": "full",
    "temp_store": "memory",
    "wal_autocheckpoint": CHECKPOINT_AT,
    # After a burst the WAL file is cut back to this; otherwise it keeps its greatest size for ever.
    "journal_size_limit": 64 * 1024 * 1024,
}

_BUSY_TIMEOUT_S = 5.0
"""Nobody else writes; only a checkpoint of a foreign tool, or a backup, can be in the way for a moment."""

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
    **dict.fromkeys(_BUSY, "another program has it locked; end that one"),
    sqlite3.SQLITE_FULL: "make room on its disk",
    sqlite3.SQLITE_IOERR: "look at its disk, which may be full or broken",
    sqlite3.SQLITE_READONLY: "the file and its directory must be writable",
}


def explained(error: Exception) -> str:
    """What was wrong first, and what to do about it: where a rollback fails too, that is the last to be said."""
    first: BaseException = error
    while isinstance(first.__context__, (PeeweeException, sqlite3.Error, StoreError)):
        first = first.__context__
    code = getattr(first, "sqlite_errorcode", None)
    advice = "" if code is None else _ADVICE.get(code & 0xFF, "")
    return f"{first}: {advice}" if advice else str(first)


def raise_store_error(error: PeeweeException) -> NoReturn:
    """Tell the passing from the lasting by SQLite's own result code."""
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
    """A connection of its own to the file, which must be there: none is ever made here.

    Args:
        cache_bytes: how much of the file it may keep in memory.
    """
    name = f"file:{quote(str(path))}?mode=rw"
    # What retention frees can be given back piece by piece. That is decided while the file is empty; asked for again it
    # would be written again.
    is_empty = path.stat().st_size == 0
    pragmas = {**({"auto_vacuum": "incremental"} if is_empty else {}), **_PRAGMAS, "cache_size": -(cache_bytes // 1024)}
    database = SqliteDatabase(
        name, uri=True, pragmas=pragmas, timeout=_BUSY_TIMEOUT_S, check_same_thread=False, thread_safe=False
    )
    database.connect()
    return database


class SqliteReader(SqlReader):
    """Reads on a connection of its own, but nothing from a file that is not the store's any more."""

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

    def _break_off(self) -> None:
        self._database.connection().interrupt()
