"""A migration killed with -9 leaves the old store whole, and the next start brings it up to date."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from peewee import SqliteDatabase

from jobstate_server.domain.filters import Order
from jobstate_server.store import migrate
from jobstate_server.store.models import SchemaRow

from ..support import ANY_JOB, PATIENCE_S, UNBOUNDED, SqliteHome, a_job, an_attempt, attempts_of, reading
from ..upgrades import attempt_as_then, job_as_then, old_store
from .support import environment, opened_at

OPEN_AND_STOP = """
import sys, threading
from pathlib import Path
from jobstate_server.clock import ManualClock
from jobstate_server.store import migrate
from jobstate_server.store.sqlite.store import SqliteStore

def stop(statement):
    if statement.startswith(sys.argv[2]):
        print("stopped", flush=True)
        threading.Event().wait()

bring_up_to_date = migrate.bring_up_to_date

def traced(database, dialect):
    database.connection().set_trace_callback(stop)
    return bring_up_to_date(database, dialect)

migrate.bring_up_to_date = traced
SqliteStore(Path(sys.argv[1]), ManualClock())
"""

JOBS = [a_job(f"{number:03}", create_sequence=number, metadata=bytes(3_000)) for number in range(1, 501)]
"""More pages than a transaction keeps in memory."""


def seen_of(path: Path) -> tuple[int, int]:
    """The schema of a store and how many jobs it has, without changing anything."""
    database = SqliteDatabase(f"file:{path}?mode=rw", uri=True)
    ((version,),) = database.execute(SchemaRow.select(SchemaRow.version))
    ((count,),) = database.execute_sql("SELECT count(*) FROM job")
    database.close()
    return version, count


@pytest.mark.parametrize(
    "at",
    [
        'CREATE TABLE "job_metadata"',
        'DROP TABLE "attempt"',
        'DROP TABLE "job"',
        'CREATE INDEX "job_by_unclaimed"',
        "COMMIT",
    ],
)
def test_a_killed_migration_changes_nothing_and_is_made_up_for(path: Path, at: str) -> None:
    with old_store(SqliteHome(path), 7) as old:
        for job in JOBS:
            old.insert("job", **job_as_then(job))
            old.insert("attempt", **attempt_as_then(an_attempt(job.id)))

    command = [sys.executable, "-c", OPEN_AND_STOP, str(path), at]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "stopped\n"
        finally:
            process.kill()
            process.wait(PATIENCE_S)

    assert seen_of(path) == (7, len(JOBS))
    with opened_at(path) as store, reading(store) as reader:
        assert reader.list_jobs(ANY_JOB, Order.OLDEST_FIRST, None, 1_000, UNBOUNDED).jobs == JOBS
        assert attempts_of(reader, JOBS[-1].id) == [an_attempt(JOBS[-1].id)]
    assert seen_of(path) == (migrate.migrations("sqlite")[-1].version, len(JOBS))
