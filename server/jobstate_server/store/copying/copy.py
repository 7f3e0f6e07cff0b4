"""Copies a whole store into an empty one of either kind, to move from SQLite to PostgreSQL or back.

The log keeps its name, sequences and events, so all cursors and request ids stay valid. The copy is one transaction at
the destination, so it is kept whole or not at all. No server can change either side meanwhile.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote
from zlib import crc32

from peewee import SQL, Model, ModelSelect, PeeweeException, SqliteDatabase, fn

from jobstate_server.clock import SystemClock
from jobstate_server.store import migrate
from jobstate_server.store.errors import CannotOpen, StoreError
from jobstate_server.store.models import (
    DOCUMENT_TABLES,
    TABLES,
    EventRow,
    HorizonRow,
    LogRow,
    ReplicaRow,
    SchemaRow,
    WholeJobRow,
)
from jobstate_server.store.rows import DOCUMENTS, JOB_COLUMNS
from jobstate_server.store.sqlite.documents import WHOLE_JOBS
from jobstate_server.store.sqlite.file import StoreFile
from jobstate_server.store.sqlite.store import SqliteStore
from jobstate_server.store.urls import is_postgres, postgres_driver, redacted

BATCH_ROWS = 500
"""Rows in memory at once. A job has at most about 200 KB, so they take at most 100 MB, and usually 1 MB."""

COPIED: tuple[type[Model], ...] = tuple(model for model in TABLES["postgres"] if model not in (SchemaRow, ReplicaRow))
"""All tables but two: the destination has its own schema version, and replicas of the source do not use it. Jobs are
copied with their documents, wherever each side has those."""

_READ_ONLY: dict[str, str | int] = {"query_only": 1}
_DURABLE: dict[str, str | int] = {"synchronous": "full"}

_BUSY_TIMEOUT_S = 5.0
"""No server uses the file. Only a checkpoint of another tool, or a backup, can hold a lock for a moment."""

_JOB_WIDTH = len(JOB_COLUMNS)
_WIDTH = _JOB_WIDTH + len(DOCUMENTS)
_KEY_INDEX = JOB_COLUMNS.index("create_sequence")

_BEGUN: tuple[type[Model], ...] = (LogRow, HorizonRow)
"""Tables that have one row even in an empty store."""


class CannotCopy(StoreError):
    """No copy was made, and the destination is unchanged. The message says what to change."""


class Copied(NamedTuple):
    """A copied table, whose rows were counted on both sides."""

    table: str
    rows: int


class Progress(Protocol):
    """Called with the progress of a copy."""

    def __call__(self, table: str, done: int, total: int) -> None:
        """``done`` of ``total`` rows of a table have been read. An exception ends the copy, and nothing is kept."""


class View(Protocol):
    """One side of a copy. Nothing else can change it."""

    def batches(self, query: ModelSelect[Any]) -> Generator[list[tuple[Any, ...]], None, None]:
        """The rows of a query, at most ``BATCH_ROWS`` at a time. One query at a time."""

    def has_table(self, name: str) -> bool:
        """Whether the table exists."""

    def rows_of(self, model: type[Model]) -> Generator[list[tuple[Any, ...]], None, None]:
        """All rows of a table, whole, in the order of ``columns_of``, at most ``BATCH_ROWS`` at a time."""

    def insert(self, model: type[Model], rows: Iterable[tuple[Any, ...]]) -> None:
        """Insert whole rows, in the order of ``columns_of``."""

    def empty(self, model: type[Model]) -> None:
        """Delete every row of a table."""


def columns_of(model: type[Model]) -> Sequence[str]:
    """The order of the columns of a copied row."""
    return (*JOB_COLUMNS, *DOCUMENTS) if model is WholeJobRow else model._meta.sorted_field_names


def copy_store(source_url: str, destination_url: str, on_progress: Progress) -> list[Copied]:
    """Copy everything, and compare both sides before the commit.

    Raises:
        CannotCopy: the source is missing, in use, or of another release; the destination is not empty; or the two sides
            differ after the copy.
        CannotOpen: the destination cannot be used as a store, or is in use.
        OutcomeUnknown: the connection was lost during the commit. The destination has everything or nothing.
        StoreError: reading or writing failed. Nothing was kept.
    """
    for url in (source_url, destination_url):
        _check_url(url)
    if source_url == destination_url:
        raise CannotCopy(f"{redacted(source_url)} cannot be copied to itself")
    with _opened(source_url, is_source=True) as source, _opened(destination_url, is_source=False) as destination:
        _check_empty(destination, destination_url)
        for model in _BEGUN:
            destination.empty(model)
        copied = [_copy_table(model, source, destination, on_progress) for model in COPIED]
        if _end_of_log(source) != _end_of_log(destination):
            raise CannotCopy(
                "the ends of the two logs differ after the copy, so nothing was kept; is the source damaged?"
            )
        return copied


def _check_url(url: str) -> None:
    is_file = url.startswith("sqlite:///") and url != "sqlite:///"
    if not is_file and not is_postgres(url):
        raise CannotCopy(f"{redacted(url)!r} is no store; use sqlite:///jobs.db or postgresql://USER@HOST/DATABASE")


def _opened(url: str, *, is_source: bool) -> AbstractContextManager[View]:
    if not is_postgres(url):
        path = Path(url.removeprefix("sqlite:///"))
        return _sqlite_source(path) if is_source else _sqlite_destination(path)
    try:
        with postgres_driver():
            # The driver is installed only with PostgreSQL support.
            from jobstate_server.store.copying.postgres import postgres_destination, postgres_source  # noqa: PLC0415
    except CannotOpen as error:
        raise CannotCopy(str(error)) from error
    opened = postgres_source if is_source else postgres_destination
    return opened(url, lambda view: check_schema(view, url))


def check_schema(view: View, url: str) -> None:
    """Refuse tables of another release, which may hold data that this one does not know. Raises CannotCopy."""
    if not view.has_table(SchemaRow._meta.table_name):
        raise CannotCopy(f"{redacted(url)} is not a store")
    ((version,),) = _rows(view, SchemaRow.select(SchemaRow.version))
    known = migrate.migrations("sqlite")[-1].version
    if version > known:
        raise CannotCopy(
            f"{redacted(url)} has schema {version} and this program knows {known}:"
            " use the jobstate-server of that release"
        )
    if version < known:
        raise CannotCopy(
            f"{redacted(url)} has schema {version} and this program copies {known}: bring it up to date first, with"
            f" jobstate-server migrate --store {redacted(url)}"
        )


def _check_empty(view: View, url: str) -> None:
    begun = {LogRow: LogRow.head > 0, HorizonRow: HorizonRow.sequence > 0}
    for model in COPIED:
        query = model.select(SQL("1")).limit(1)
        if model in begun:
            query = query.where(begun[model])
        if _rows(view, query):
            raise CannotCopy(
                f"{redacted(url)} is not empty (table {model._meta.table_name}): copy into a new"
                f" {'database or schema' if is_postgres(url) else 'file'}, nothing is ever overwritten"
            )


def _copy_table(model: type[Model], source: View, destination: View, on_progress: Progress) -> Copied:
    name, total = model._meta.table_name, _count(source, model)
    with closing(source.rows_of(model)) as everything:
        destination.insert(model, _with_progress(everything, lambda done: on_progress(name, done, total)))
    arrived = _count(destination, model)
    if arrived != total:
        raise CannotCopy(f"{arrived:,} of {total:,} rows of table {name} arrived, so nothing was kept")
    return Copied(name, total)


def _with_progress(batches: Iterable[list[tuple[Any, ...]]], tell: Callable[[int], None]) -> Iterator[tuple[Any, ...]]:
    done = 0
    for rows in batches:
        done += len(rows)
        tell(done)
        yield from rows


def _count(view: View, model: type[Model]) -> int:
    ((count,),) = _rows(view, model.select(fn.COUNT(SQL("*"))))
    return int(count)


def _rows(view: View, query: ModelSelect[Any]) -> list[tuple[Any, ...]]:
    """All rows of a query that has few."""
    return [row for rows in view.batches(query) for row in rows]


def _end_of_log(view: View) -> tuple[object, ...]:
    """What cursors are checked against: the log's name and head, the horizon, and the check of the newest event."""
    log = _rows(view, LogRow.select(LogRow.id, LogRow.head, LogRow.bytes))
    horizon = _rows(view, HorizonRow.select(HorizonRow.sequence, HorizonRow.event_check, HorizonRow.bytes))
    newest = EventRow.select(EventRow.sequence, EventRow.payload).order_by(EventRow.sequence.desc()).limit(1)
    last = [(sequence, crc32(payload)) for sequence, payload in _rows(view, newest)]
    return (*log, *horizon, *last)


class SqliteView:
    """A SQLite file on its own connection."""

    def __init__(self, path: Path, pragmas: dict[str, str | int]) -> None:
        self._path = path
        # ``mode=rw`` never creates the file: a misspelt source must not become an empty store.
        name = f"file:{quote(str(path))}?mode=rw"
        self._database = SqliteDatabase(name, uri=True, pragmas=pragmas, timeout=_BUSY_TIMEOUT_S, thread_safe=False)
        with self._explained():
            self._database.connect()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (PeeweeException, sqlite3.Error) as error:
            raise StoreError(f"{self._path}: {error}") from error

    def batches(self, query: ModelSelect[Any]) -> Generator[list[tuple[Any, ...]], None, None]:
        with self._explained():
            cursor = self._database.execute(query)
            while rows := cursor.fetchmany(BATCH_ROWS):
                yield rows

    def has_table(self, name: str) -> bool:
        with self._explained():
            return bool(self._database.table_exists(name))

    def rows_of(self, model: type[Model]) -> Generator[list[tuple[Any, ...]], None, None]:
        if model is not WholeJobRow:
            yield from self.batches(model.select(*model._meta.sorted_fields))
            return
        with self._explained():
            cursor = self._database.connection().execute(WHOLE_JOBS)
            while rows := cursor.fetchmany(BATCH_ROWS):
                yield [(*row[:_JOB_WIDTH], *(document or b"" for document in row[_JOB_WIDTH:_WIDTH])) for row in rows]

    def insert(self, model: type[Model], rows: Iterable[tuple[Any, ...]]) -> None:
        with self._explained():
            if model is WholeJobRow:
                self._insert_jobs(rows)
            else:
                self._insert(model._meta.table_name, columns_of(model), rows)

    def _insert_jobs(self, rows: Iterable[tuple[Any, ...]]) -> None:
        remaining = iter(rows)
        while some := list(islice(remaining, BATCH_ROWS)):
            self._insert("job", JOB_COLUMNS, [row[:_JOB_WIDTH] for row in some])
            for index, table in enumerate(DOCUMENT_TABLES, start=_JOB_WIDTH):
                documents = [(row[_KEY_INDEX], row[index]) for row in some if row[index]]
                self._insert(table._meta.table_name, ("create_sequence", "content"), documents)

    def _insert(self, table: str, columns: Sequence[str], rows: Iterable[tuple[Any, ...]]) -> None:
        marks = ", ".join("?" * len(columns))
        # Names come from our models; values are bound.
        text = f'INSERT INTO "{table}" ({", ".join(columns)}) VALUES ({marks})'  # noqa: S608
        self._database.connection().executemany(text, rows)

    def empty(self, model: type[Model]) -> None:
        with self._explained():
            self._database.execute(model.delete())

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit at the end of the block; an exception rolls back."""
        with self._explained():
            self._database.begin("IMMEDIATE")
        try:
            yield
        except BaseException:
            self._database.rollback()
            raise
        with self._explained():
            self._database.commit()

    def close(self) -> None:
        """Close the connection."""
        self._database.close()


@contextmanager
def _sqlite_source(path: Path) -> Iterator[View]:
    if not path.is_file():
        raise CannotCopy(f"there is no file {path}")
    # Not opened as a store, which would migrate it. The lock keeps servers away.
    with closing(StoreFile(path, make=False)) as file, closing(SqliteView(file.path, _READ_ONLY)) as view:
        check_schema(view, f"sqlite:///{path}")
        yield view


@contextmanager
def _sqlite_destination(path: Path) -> Iterator[View]:
    with closing(SqliteStore(path, SystemClock())) as store, closing(SqliteView(store.path, _DURABLE)) as view:
        check_schema(view, f"sqlite:///{path}")
        with view.transaction():
            yield view
