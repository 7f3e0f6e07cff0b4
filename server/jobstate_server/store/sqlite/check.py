"""Checks that a file holds a whole store: every page readable, the log gapless, and the counts equal to a recount."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

from peewee import SQL, PeeweeException, SqliteDatabase, fn

from jobstate_server.domain.job import JobState
from jobstate_server.domain.statistics import Measure
from jobstate_server.store import migrate
from jobstate_server.store.errors import StoreError
from jobstate_server.store.models import AttemptRow, EventRow, JobRow, SchemaRow, TallyRow
from jobstate_server.store.reading.reader import SqlReader
from jobstate_server.store.records import LogState
from jobstate_server.store.sqlite.path_checks import refuse_misplaced

DAMAGE_TOLD_MAX = 10
"""Damaged places told of one file: a file with more is not mended by hand."""

_BUSY_TIMEOUT_S = 5.0
"""A reader of a WAL waits only while a crashed writer's log is recovered."""


@dataclass(slots=True)
class Checked:
    """What a check found."""

    jobs: int = 0
    events: int = 0
    problems: list[str] = field(default_factory=list)
    """A sentence for each thing that is wrong. Empty: the store is whole."""


def check_file(path: Path) -> Checked:
    """Check a store that may be in use: everything is read in one transaction, and nothing is written.

    Takes about as long as reading the file twice.
    """
    checked = Checked()
    if not path.is_file():
        checked.problems.append("there is no such file")
        return checked
    try:
        refuse_misplaced(path)
        with _snapshot(path.resolve()) as database:
            _check(database, checked)
    except (PeeweeException, sqlite3.Error, StoreError) as error:
        checked.problems.append(f"it cannot be read as a store: {error}")
    return checked


@contextmanager
def _snapshot(path: Path) -> Iterator[SqliteDatabase]:
    """The file as it is at one moment. ``mode=rw`` never makes a file, and lets SQLite read the log beside it."""
    name = f"file:{quote(str(path))}?mode=rw"
    database = SqliteDatabase(name, uri=True, pragmas={"query_only": 1}, timeout=_BUSY_TIMEOUT_S, thread_safe=False)
    try:
        database.connect()
        database.begin()
        yield database
    finally:
        database.close()


def _check(database: SqliteDatabase, checked: Checked) -> None:
    damage = [text for (text,) in database.execute_sql(f"PRAGMA integrity_check({DAMAGE_TOLD_MAX})") if text != "ok"]
    checked.problems += [f"it is damaged: {text}" for text in damage]
    if not database.table_exists(SchemaRow._meta.table_name):
        checked.problems.append("it holds no store: it is empty, a copy that was never finished, or something else")
        return
    ((version,),) = database.execute(SchemaRow.select(SchemaRow.version))
    known = migrate.migrations("sqlite")[-1].version
    if version != known:
        checked.problems.append(f"it has schema {version} and this program checks {known}")
        return
    state = SqlReader(database, _raise).log_state()
    checked.events = _check_log(database, state, checked.problems)
    checked.jobs = _check_jobs(database, state, checked.problems)
    _check_counts(database, checked.problems)


def _raise(error: PeeweeException) -> NoReturn:
    raise error


def _one(database: SqliteDatabase, query: Any) -> tuple[Any, ...]:
    row: tuple[Any, ...] = database.execute(query).fetchone()
    return row


def _check_log(database: SqliteDatabase, state: LogState, problems: list[str]) -> int:
    """Every sequence between horizon and head is there, once. Returns how many events there are."""
    sums = EventRow.select(
        fn.COUNT(EventRow.sequence),
        fn.COALESCE(fn.MIN(EventRow.sequence), state.horizon + 1),
        fn.COALESCE(fn.MAX(EventRow.sequence), state.horizon),
        fn.COALESCE(fn.SUM(fn.LENGTH(EventRow.payload)), 0),
    )
    count, first, last, size = _one(database, sums)
    if (count, first, last) != (state.head - state.horizon, state.horizon + 1, state.head):
        problems.append(
            f"the log has {count:,} events from {first} to {last}, where every one from {state.horizon + 1} to"
            f" {state.head} belongs"
        )
    if size != state.bytes:
        problems.append(f"the events hold {size:,} bytes, and the log counts {state.bytes:,}")
    return int(count)


def _check_jobs(database: SqliteDatabase, state: LogState, problems: list[str]) -> int:
    """Every job's version is the sequence of an event of its own, and every ended attempt has its job."""
    (count,) = _one(database, JobRow.select(fn.COUNT(JobRow.id)))
    is_last_event = (EventRow.sequence == JobRow.version) & (EventRow.job_id == JobRow.id)
    without = (
        JobRow.select(fn.COUNT(JobRow.id))
        .left_outer_join(EventRow, on=is_last_event)
        .where((JobRow.version > state.horizon) & EventRow.sequence.is_null())
    )
    (strays,) = _one(database, without)
    if strays:
        problems.append(f"{strays:,} jobs have a version whose event is not in the log")
    jobs = JobRow.select(JobRow.id)
    (orphans,) = _one(database, AttemptRow.select(fn.COUNT(SQL("*"))).where(AttemptRow.job_id.not_in(jobs)))
    if orphans:
        problems.append(f"{orphans:,} ended attempts belong to no job")
    return int(count)


def _check_counts(database: SqliteDatabase, problems: list[str]) -> None:
    """The counts of stored jobs that GetStats answers are those of the jobs that are there."""
    grouped = JobRow.select(JobRow.job_type, JobRow.state, fn.COUNT(JobRow.id)).group_by(JobRow.job_type, JobRow.state)
    counted = {(job_type, state): count for job_type, state, count in database.execute(grouped)}
    stored = TallyRow.select(TallyRow.job_type, TallyRow.bucket, TallyRow.value).where(
        (TallyRow.measure == Measure.STORED) & (TallyRow.value != 0)
    )
    told = {(job_type, state): value for job_type, state, value in database.execute(stored)}
    for key in sorted(counted.keys() | told.keys()):
        if counted.get(key, 0) != told.get(key, 0):
            job_type, state = key
            name = JobState(state).name if state in list(JobState) else str(state)
            problems.append(
                f"there are {counted.get(key, 0):,} jobs of type {job_type} in {name}, and the statistics count"
                f" {told.get(key, 0):,}"
            )
