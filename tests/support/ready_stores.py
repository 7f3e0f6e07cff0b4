"""Stores that are there and empty, as if a server had just made them.

A new store is made by all migrations, some hundred statements, which is most of what a short test costs. Here they run
once in a process, and each store is a copy with a name of its own. What tells how a store comes to be begins with
nothing instead, as servers in processes of their own do.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import uuid
from contextlib import closing
from functools import cache
from pathlib import Path

import psycopg
from peewee import Database

from jobstate_server.store import migrate
from jobstate_server.store.models import LogRow
from jobstate_server.store.postgres.connection import Postgres
from jobstate_server.store.sqlite.connection import connect

CACHE_BYTES = 1024 * 1024


def make_ready(path: Path) -> None:
    """Put a store into this file. Does nothing where something is already, or nothing can be."""
    name, content = _sqlite_template()
    if path.parent.is_dir() and not os.path.lexists(path):
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content.replace(name, _new_name()))


def ready_schema(url: str, schema: str, pg_dump: Path) -> None:
    """Put a store into a schema of the database at ``url``, which does not have it yet."""
    made, name, script = _postgres_template(url, pg_dump)
    script = script.replace(name, _new_name()).replace(made, schema.encode())
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(script)


def _new_name() -> bytes:
    """The name of a log, as random and as long as the server's own."""
    return uuid.uuid4().hex[:12].encode()


def _name_in(database: Database) -> bytes:
    ((name,),) = database.execute(LogRow.select(LogRow.id))
    return str(name).encode()


@cache
def _sqlite_template() -> tuple[bytes, bytes]:
    """The name of a log, and the file of a store that has it."""
    with tempfile.TemporaryDirectory(prefix="jobstate-template-") as folder:
        path = Path(folder) / "jobs.db"
        path.touch()
        with closing(connect(path, CACHE_BYTES)) as database:
            migrate.bring_up_to_date(database, "sqlite")
            name = _name_in(database)
        return name, path.read_bytes()


@cache
def _postgres_template(url: str, pg_dump: Path) -> tuple[bytes, bytes, bytes]:
    """The names of a schema and of the log in it, and the script that makes them."""
    schema = f"template_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f'CREATE SCHEMA "{schema}"'.encode())
        with closing(Postgres(f"{url}&options=-csearch_path%3D{schema}", {})) as database:
            database.connect()
            migrate.bring_up_to_date(database, "postgres")
            name = _name_in(database)
        script = dump(url, schema, pg_dump)
        connection.execute(f'DROP SCHEMA "{schema}" CASCADE'.encode())
    return schema.encode(), name, script


def dump(url: str, schema: str, pg_dump: Path) -> bytes:
    """The statements that make a schema and what is in it."""
    command: list[str | Path] = [
        pg_dump,
        f"--dbname={url}",
        f"--schema={schema}",
        "--inserts",
        "--no-owner",
        "--no-privileges",
    ]
    script = subprocess.run(command, capture_output=True, check=True).stdout
    # Comments, and what is for psql.
    return b"\n".join(line for line in script.splitlines() if not line.startswith((b"\\", b"--")))
