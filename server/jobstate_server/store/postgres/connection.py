"""Opens connections to PostgreSQL, and translates PostgreSQL's errors into store errors."""

from __future__ import annotations

import os
import re
import select
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NoReturn

import psycopg
from peewee import ModelSelect, OperationalError, PeeweeException, PostgresqlDatabase
from psycopg import conninfo, errors

from jobstate_server.store.errors import CannotOpen, ConnectionLost, StoreError, StoreUnreachable, TransactionConflict
from jobstate_server.store.postgres.binary_arrays import register

VERSION_MIN = 140_000
"""PostgreSQL 14, the oldest version that still gets fixes."""

_ROUTE = {
    "application_name": "jobstate-server",
    "connect_timeout": "5",
    # A peer that vanished is detected in about 15 s, not in two hours.
    "keepalives_idle": "5",
    "keepalives_interval": "3",
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",
}
"""Defaults of every connection. The URL overrides them."""

WRITER_SETTINGS = {
    # After it has waited for a row or the log, a replica reads what the last holder committed.
    "default_transaction_isolation": "read committed",
    # How long a writer waits for rows, or the log, that another replica has locked.
    "lock_timeout": "3s",
    # How long a replica that freezes in the middle of a transaction keeps its locks. Not in a pipeline: see
    # TRANSACTION_TIMEOUT.
    "idle_in_transaction_session_timeout": "5s",
    "statement_timeout": "30s",
    # The planner does not know how few rows an array has, and must never scan a whole table for them.
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
}

TRANSACTION_TIMEOUT = {"transaction_timeout": "10s"}
"""An additional writer setting for PostgreSQL 17 and later. It replaces the idle limit that PostgreSQL drops after a
pipeline: see ``forgets_idle_limit``."""

NO_TRANSACTION_TIMEOUT = (
    b"SELECT set_config(name, '0', false) FROM pg_catalog.pg_settings WHERE name = 'transaction_timeout'"
)
"""Lifts that limit, for a transaction that reads everything. Older releases do not have the setting."""

_KNOWS_TRANSACTION_TIMEOUT = 170_000

READER_SETTINGS = {
    "statement_timeout": "30s",
    # Makes the planner prefer the plan that reads the fewest rows. For the jobs of one state it would otherwise scan
    # all jobs by time, assuming that they are spread evenly, and pass a million rows when they are not.
    "seq_page_cost": "0.01",
    "random_page_cost": "0.01",
}
"""All of these are harmless for a writer: a pooler in transaction mode passes connections from readers to the writer,
with their settings."""

_CONFLICTS = (
    errors.DeadlockDetected,
    errors.SerializationFailure,
    errors.LockNotAvailable,
)
_UNREACHABLE = (
    "08",  # connection
    "25006",  # a standby, or a primary that has become one
    "53",  # disk full, out of memory, too many connections
    "55",  # object not in a state for this
    "57",  # shutdown, cannot connect now, statement timeout
    "58",  # input/output error
    "XX",  # internal error, data corrupted
)
"""Classes of SQLSTATE that do not blame the rows: the same transaction may succeed later."""


class Postgres(PostgresqlDatabase):
    """One connection to PostgreSQL, used by one thread at a time. It reconnects after it has broken."""

    def __init__(self, url: str, settings: Mapping[str, str]) -> None:
        """
        Args:
            settings: run-time parameters of PostgreSQL for this connection.

        Raises:
            CannotOpen: libpq cannot read the URL.
        """
        given = parsed(url)
        route = conninfo.make_conninfo(**{**_ROUTE, **{key: str(value) for key, value in given.items()}})
        self._settings = dict(settings)
        self._raw: psycopg.Connection[Any] | None = None
        self._socket: socket.socket | None = None
        """The connection's socket on our own descriptor: libpq may close its descriptor, and the kernel reuse it,
        while another thread disconnects."""
        self._holding_socket = threading.Lock()
        super().__init__(
            # peewee needs a name. Without one in the URL, libpq uses the user's name or the environment.
            str(given.get("dbname") or "default"),
            prefer_psycopg3=True,
            thread_safe=False,
            autoconnect=False,
            conninfo=route,
            isolation_level="REPEATABLE READ" if settings == READER_SETTINGS else None,
        )

    def _connect(self) -> psycopg.Connection[Any]:
        connection = psycopg.connect(self.connect_params["conninfo"], autocommit=True)
        self._hold_socket(socket.socket(fileno=os.dup(connection.fileno())))
        try:
            self._prepare(connection)
        except BaseException:
            self._close(connection)
            raise
        self._raw = connection
        return connection

    def _prepare(self, connection: psycopg.Connection[Any]) -> None:
        register(connection)
        settings = self._settings
        if settings == WRITER_SETTINGS and not forgets_idle_limit(connection):
            settings = settings | TRANSACTION_TIMEOUT
        for name, value in settings.items():
            connection.execute("SELECT set_config(%s, %s, false)", (name, value))

    def _close(self, conn: psycopg.Connection[Any]) -> None:
        self._hold_socket(None)
        conn.close()

    def _hold_socket(self, held: socket.socket | None) -> None:
        with self._holding_socket:
            before, self._socket = self._socket, held
        if before is not None:
            before.close()

    def disconnect(self) -> None:
        """Close the connection from any thread. A thread that waits for PostgreSQL gets ConnectionLost at once."""
        with self._holding_socket, suppress(OSError):
            if self._socket is not None:
                self._socket.shutdown(socket.SHUT_RDWR)

    @property
    def raw_connection(self) -> psycopg.Connection[Any]:
        """psycopg's connection, made again if it has broken. Raises what ``ensure_connected`` raises."""
        self.ensure_connected()
        assert self._raw is not None
        return self._raw

    def ensure_connected(self) -> None:
        """Reconnect if the connection has broken.

        Raises:
            StoreUnreachable: the connection cannot be made.
        """
        if self._raw is not None and self._raw.broken:
            self.close()
        if self._raw is None or self.is_closed():
            try:
                self.connect()
            except (OperationalError, psycopg.Error) as error:
                raise StoreUnreachable(f"cannot connect to PostgreSQL: {_said(error)}") from error

    def live_connection(self) -> psycopg.Connection[Any]:
        """``raw_connection``, also made again if PostgreSQL closed the connection while it was idle."""
        connection = self.raw_connection
        poll = select.poll()
        # Not select.select, which knows no file beyond the thousandth: a server has a connection for each client too.
        poll.register(connection.fileno(), select.POLLIN)
        if poll.poll(0):
            # What PostgreSQL sends unasked is usually that it closes the connection. A new one is harmless otherwise.
            self.close()
        return self.raw_connection

    @property
    def process(self) -> int | None:
        """The process id of PostgreSQL's backend; None while there is no connection."""
        connection = self._raw
        return None if connection is None or connection.closed else connection.info.backend_pid

    def rows(self, query: ModelSelect[Any]) -> list[tuple[Any, ...]]:
        """The rows of a query."""
        text, values = self.get_sql_context().sql(query).query()
        return self.raw_connection.execute(text.encode(), values).fetchall()


def raise_store_error(error: Exception) -> NoReturn:
    """Raise the store error that matches PostgreSQL's SQLSTATE."""
    cause = error
    if isinstance(error, PeeweeException):
        cause = getattr(error, "orig", None) or error
    state = getattr(cause, "sqlstate", None) or ""
    said = _said(cause)
    if isinstance(cause, _CONFLICTS):
        raise TransactionConflict(said) from error
    if is_connection_lost(cause):
        raise ConnectionLost(said) from error
    if state.startswith(_UNREACHABLE):
        raise StoreUnreachable(said) from error
    raise StoreError(said) from error


def is_connection_lost(error: Exception) -> bool:
    """Whether the connection is lost: PostgreSQL closed it, or did not respond at all."""
    state = getattr(error, "sqlstate", None) or ""
    if isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError, PeeweeException)) and not state:
        return True
    # Closed by an operator, a crash, or a timeout, or refused during startup.
    return state.startswith("08") or state in {"57P01", "57P02", "57P03", "57P05", "25P03", "25P04"}


def forgets_idle_limit(connection: psycopg.Connection[Any]) -> bool:
    """Whether no limit applies to a transaction that is idle after a pipeline.

    psycopg ends a pipeline with a Flush message, at which PostgreSQL drops its idle-in-transaction timeout.
    PostgreSQL 17 and later have a timeout that survives it.
    """
    return connection.info.server_version < _KNOWS_TRANSACTION_TIMEOUT


def check_server(connection: psycopg.Connection[Any]) -> None:
    """Refuse a server that cannot keep the store's promises. Raises CannotOpen."""
    version = connection.info.server_version
    if version < VERSION_MIN:
        raise CannotOpen(f"PostgreSQL {version // 10_000} is too old: jobstate-server needs {VERSION_MIN // 10_000}")
    for setting, wrong in (("synchronous_commit", "off"), ("fsync", "off")):
        (value,) = connection.execute("SELECT current_setting(%s)", (setting,)).fetchone() or ("",)
        if value == wrong:
            raise CannotOpen(
                f"PostgreSQL runs with {setting} = {wrong}, which loses committed changes in a crash; switch it on,"
                " at least for this role"
            )


def parsed(url: str) -> dict[str, Any]:
    """The parts of the URL as libpq reads them. Raises CannotOpen if it is invalid or a part may be half a password."""
    try:
        parts = dict(conninfo.conninfo_to_dict(url))
    except (psycopg.Error, ValueError) as error:
        # libpq may quote the password.
        why = _said(error).partition('"')[0].rstrip(" :")
        raise CannotOpen(_UNREADABLE.format(why)) from None
    # libpq reads a piece of a password that is not percent-encoded as host, port or database, and would show it in its
    # error.
    hosts, ports, database = (str(parts.get(name) or "") for name in ("host", "port", "dbname"))
    if "@" in hosts + database or not re.fullmatch(r"[0-9,]*", ports):
        raise CannotOpen(_UNREADABLE.format("one of its parts is invalid"))
    return parts


_UNREADABLE = (
    "cannot use PostgreSQL as a store: its URL cannot be read ({});"
    " write postgresql://USER:PASSWORD@HOST:PORT/DATABASE, reserved characters percent-encoded (@ as %40, / as %2F)"
)


def _said(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def check_committed(committed: psycopg.Cursor[Any]) -> None:
    """Raise StoreError if PostgreSQL turned the commit into a rollback."""
    if committed.statusmessage != "COMMIT":
        raise StoreError("PostgreSQL rolled back the transaction")


def one_row(cursor: psycopg.Cursor[Any]) -> tuple[Any, ...]:
    """The row of a statement that always returns one."""
    row: tuple[Any, ...] | None = cursor.fetchone()
    if row is None:
        raise StoreUnreachable("PostgreSQL returned no row for a statement that always returns one")
    return row
