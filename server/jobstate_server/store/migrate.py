"""Applies the migrations: numbered, forward only, in ``migrations/``.

A migration is one SQL file (``0007_names.sql``), whose column types are names of ``TYPES`` in braces. Where
the dialects need more than that, there is one file for each (``0006_time.sqlite.sql``).

``schema.usable_from`` is the oldest migration that a program must know to use the database. A migration that only adds
leaves it as it was, and old and new programs can use the database side by side. One that raises it is refused while
another server uses the database.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources

from peewee import Database

from jobstate_server.store.errors import CannotOpen
from jobstate_server.store.models import HorizonRow, LogRow, SchemaRow

TYPES = {
    "sqlite": {
        "smallint": "INTEGER",
        "integer": "INTEGER",
        "bigint": "INTEGER",
        "boolean": "INTEGER",
        "text": "TEXT",
        "bytes": "BLOB",
    },
    "postgres": {
        "smallint": "SMALLINT",
        "integer": "INTEGER",
        "bigint": "BIGINT",
        "boolean": "BOOLEAN",
        # Texts compare by their bytes, as in Python: pages are merged there.
        "text": 'TEXT COLLATE "C"',
        "bytes": "BYTEA",
    },
}
"""The column types of each dialect, as the models have them."""

_FILE_NAME = re.compile(r"(\d{4})_\w+?(?:\.(\w+))?\.sql")
_TYPE = re.compile(r"\{(\w+)\}")
_ADVISORY_LOCK = 0x6A6F_6273_7461_7465
"""Key of the PostgreSQL lock that a migration takes: "jobstate" as a number, so that no other program uses it."""
_USABLE_FROM = re.compile(r"^-- usable_from: (\d+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Migration:
    """One step. A program that knows fewer migrations than ``usable_from`` cannot use the result."""

    version: int
    usable_from: int
    statements: tuple[str, ...]


def migrations(dialect: str) -> list[Migration]:
    """All migrations of a dialect, in order."""
    found = []
    for file in resources.files("jobstate_server.store").joinpath("migrations").iterdir():
        match = _FILE_NAME.fullmatch(file.name)
        if match is None or match[2] not in {dialect, None}:
            continue
        text = file.read_text(encoding="utf-8")
        usable_from = _USABLE_FROM.search(text)
        if usable_from is None:
            raise ValueError(f"{file.name} lacks its line '-- usable_from: N'")
        found.append(Migration(int(match[1]), int(usable_from[1]), statements_of(text, dialect)))
    return sorted(found, key=lambda migration: migration.version)


def statements_of(text: str, dialect: str) -> tuple[str, ...]:
    """The statements of a migration's file, with the types of a dialect."""
    code = "\n".join(line for line in text.splitlines() if not line.startswith("--"))
    code = _TYPE.sub(lambda name: TYPES[dialect][name[1]], code)
    return tuple(part for piece in code.split(";\n") if (part := piece.strip().removesuffix(";")))


def bring_up_to_date(
    database: Database, dialect: str, before_breaking: Callable[[int], None] = lambda _version: None
) -> list[int]:
    """Apply the missing migrations in one transaction. Returns their numbers.

    Args:
        before_breaking: called in the transaction with the version of the schema, before a migration that the programs
            that know only this version cannot work beside.

    Raises:
        CannotOpen: a newer program has changed the database so that this one cannot use it.
    """
    known = migrations(dialect)
    newest = known[-1].version
    with database.atomic():
        if dialect == "postgres":
            # Replicas that start together wait for each other. The lock ends with the transaction.
            database.execute_sql(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})")
        version, usable_from = _schema(database, dialect)
        if usable_from > newest:
            raise CannotOpen(
                f"the database has schema {version}, which needs a program that knows schema {usable_from};"
                f" this one knows {newest}: upgrade jobstate-server"
            )
        applied = [migration for migration in known if migration.version > version]
        if version and any(migration.usable_from > version for migration in applied):
            before_breaking(version)
        for migration in applied:
            for statement in migration.statements:
                database.execute_sql(statement)
        if version == 0:
            _begin_log(database)
        if applied:
            last = applied[-1]
            values = {"version": last.version, "usable_from": last.usable_from}
            query = SchemaRow.insert(id="schema", **values)
            database.execute(query.on_conflict(conflict_target=[SchemaRow.id], update=values))
    return [migration.version for migration in applied]


def note_create_time(database: Database, now: int) -> None:
    """Record when the store was created, unless that is recorded already."""
    ((known,),) = database.execute(LogRow.select(LogRow.create_time)).fetchall()
    if not known:
        database.execute(LogRow.update(create_time=now).where(LogRow.create_time == 0))


def _schema(database: Database, dialect: str) -> tuple[int, int]:
    if not _has_schema(database, dialect):
        return 0, 0
    row = database.execute(SchemaRow.select(SchemaRow.version, SchemaRow.usable_from)).fetchone()
    return (row[0], row[1]) if row else (0, 0)


def _has_schema(database: Database, dialect: str) -> bool:
    if dialect == "postgres":
        # peewee would look only in the schema "public", and ignore the search path.
        return bool(database.execute_sql("SELECT to_regclass('schema') IS NOT NULL").fetchone()[0])
    return bool(database.table_exists("schema"))


def _begin_log(database: Database) -> None:
    """Create the log with a random name, so that a cursor of another store is never accepted here."""
    log_id = uuid.uuid4().hex[:12]
    database.execute(LogRow.insert(id=log_id, head=0, bytes=0, requests=0))
    database.execute(HorizonRow.insert(id=log_id, sequence=0, event_check=0, bytes=0))
