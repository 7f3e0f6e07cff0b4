"""Checks a store file: every page is readable, the log has no gaps, and the counts equal a recount."""

from __future__ import annotations

import sqlite3
from collections import Counter
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
from jobstate_server.store.models import (
    IS_UNCLAIMED,
    AttemptRow,
    DocumentRow,
    ErrorDetailsRow,
    EventRow,
    JobRow,
    MetadataRow,
    ResultRow,
    SchemaRow,
    TallyRow,
)
from jobstate_server.store.reading.reader import SqlReader
from jobstate_server.store.records import LogState
from jobstate_server.store.sqlite.path_checks import refuse_misplaced

DAMAGE_TOLD_MAX = 10
"""Damaged places reported per file. Nobody repairs a file with more by hand."""

_BUSY_TIMEOUT_S = 5.0
"""A reader waits for a lock only while the WAL of a crashed server is recovered."""


_APART: dict[type[AttemptRow | DocumentRow], str] = {
    AttemptRow: "ended attempts",
    MetadataRow: "documents of metadata",
    ResultRow: "results",
    ErrorDetailsRow: "details of errors",
}


@dataclass(slots=True)
class Checked:
    """The result of a check."""

    jobs: int = 0
    events: int = 0
    problems: list[str] = field(default_factory=list)
    """A sentence for each problem. Empty when the store is sound."""


def check_file(path: Path) -> Checked:
    """Check a store, which may be in use. Reads everything in one transaction, and writes nothing.

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
    """A snapshot of the file. ``mode=rw`` never creates a file, and lets SQLite read the WAL."""
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
        checked.problems.append("it is not a store: it is empty, an unfinished copy, or something else")
        return
    ((version,),) = database.execute(SchemaRow.select(SchemaRow.version))
    known = migrate.migrations("sqlite")[-1].version
    if version != known:
        checked.problems.append(f"it has schema {version}, and this program checks schema {known}")
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
    """Check that every sequence between horizon and head is there once. Returns how many events there are."""
    sums = EventRow.select(
        fn.COUNT(EventRow.sequence),
        fn.COALESCE(fn.MIN(EventRow.sequence), state.horizon + 1),
        fn.COALESCE(fn.MAX(EventRow.sequence), state.horizon),
        fn.COALESCE(fn.SUM(fn.LENGTH(EventRow.payload)), 0),
    )
    count, first, last, size = _one(database, sums)
    if (count, first, last) != (state.head - state.horizon, state.horizon + 1, state.head):
        problems.append(
            f"the log has {count:,} events from {first} to {last}, but should have every event from"
            f" {state.horizon + 1} to {state.head}"
        )
    if size != state.bytes:
        problems.append(f"the events have {size:,} bytes, but the log counts {state.bytes:,}")
    return int(count)


def _check_jobs(database: SqliteDatabase, state: LogState, problems: list[str]) -> int:
    """Check that every job's version is the sequence of one of its events. Returns how many jobs there are."""
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
    _check_belonging(database, problems)
    return int(count)


def _check_belonging(database: SqliteDatabase, problems: list[str]) -> None:
    """Check that what is stored apart from its job has one."""
    jobs = JobRow.select(JobRow.create_sequence)
    for model, what in _APART.items():
        lost = model.select(fn.COUNT(SQL("*"))).where(model.create_sequence.not_in(jobs))
        (orphans,) = _one(database, lost)
        if orphans:
            problems.append(f"{orphans:,} {what} belong to no job")


def _check_counts(database: SqliteDatabase, problems: list[str]) -> None:
    """Check that the counts of GetStats equal a recount of the jobs."""
    grouped = JobRow.select(JobRow.job_type, JobRow.state, fn.COUNT(JobRow.id)).group_by(JobRow.job_type, JobRow.state)
    counted = {(job_type, state): count for job_type, state, count in database.execute(grouped)}
    tallied = _tallied(database, Measure.STORED)
    for key in sorted(counted.keys() | tallied.keys()):
        if counted.get(key, 0) != tallied.get(key, 0):
            job_type, state = key
            name = JobState(state).name if state in list(JobState) else str(state)
            problems.append(
                f"there are {counted.get(key, 0):,} jobs of type {job_type} in {name}, but the statistics count"
                f" {tallied.get(key, 0):,}"
            )
    for measure, condition, what in (
        (Measure.UNCLAIMED, IS_UNCLAIMED, "whose attempt no worker has claimed"),
        (Measure.HELD, JobRow.held, "that are delayed"),
    ):
        of_type = JobRow.select(JobRow.job_type, fn.COUNT(JobRow.id)).where(condition).group_by(JobRow.job_type)
        found = dict(database.execute(of_type))
        kept: Counter[str] = Counter()
        for (job_type, _), value in _tallied(database, measure).items():
            kept[job_type] += value
        problems.extend(
            f"there are {found.get(name, 0):,} jobs of type {name} {what}, but the statistics count {kept[name]:,}"
            for name in sorted(found.keys() | kept.keys())
            if found.get(name, 0) != kept[name]
        )


def _tallied(database: SqliteDatabase, measure: Measure) -> dict[tuple[str, int], int]:
    """A measure as the statistics count it, by job type and bucket."""
    counts = TallyRow.select(TallyRow.job_type, TallyRow.bucket, TallyRow.value).where(
        (TallyRow.measure == measure) & (TallyRow.value != 0)
    )
    return {(job_type, bucket): value for job_type, bucket, value in database.execute(counts)}
