"""The statements of SQLite's write path, each built once.

A statement writes many rows, because sqlite3 releases the interpreter lock for each statement. With one row per
statement, a busy event loop would take the lock away at every row.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from itertools import chain
from typing import Any

from peewee import SQL, Query, SqliteDatabase, Tuple

from jobstate_server.domain.job import INT64_MAX, JobState
from jobstate_server.domain.statistics import Measure
from jobstate_server.store.models import AttemptRow, EventRow, HorizonRow, JobRow, LogRow, RequestRow, TallyRow
from jobstate_server.store.rows import (
    ATTEMPT_COLUMNS,
    EVENT_COLUMNS,
    FINISHED_COLUMNS,
    JOB_COLUMNS,
    PROGRESS_COLUMNS,
    REPORT_COLUMNS,
    REQUEST_COLUMNS,
)

_ROWS_AT_ONCE = (256, 64, 16, 4, 1)
"""Rows per statement. There are few sizes, so that each statement is prepared once. The largest binds 10,000 values, a
third of SQLite's default limit."""

_NOTHING: dict[None, None] = {}

# For a value that is not exactly an int, float, str or bytearray, sqlite3 searches four places for an adapter, which
# costs more than binding the value. An adapter in the first place ends the search.
sqlite3.register_adapter(bytes, bytes)
sqlite3.register_adapter(bool, int)
sqlite3.register_adapter(JobState, int)
sqlite3.register_adapter(Measure, int)
sqlite3.register_adapter(type(None), _NOTHING.get)

_TALLY_COLUMNS = tuple(TallyRow._meta.sorted_field_names)


class ManyRows:
    """One statement for many rows: ``text`` with VALUES (…), (…) in place of its ``{rows}``."""

    def __init__(self, text: str, columns: int) -> None:
        row = f"({', '.join('?' * columns)})"
        self._texts = {size: text.format(rows=f"VALUES {', '.join([row] * size)}") for size in _ROWS_AT_ONCE}

    def run(self, connection: sqlite3.Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        """Write the rows."""
        start = 0
        for size, text in self._texts.items():
            while len(rows) - start >= size:
                connection.execute(text, list(chain.from_iterable(rows[start : start + size])))
                start += size


def _insert(table: str, columns: tuple[str, ...]) -> ManyRows:
    return ManyRows(f"INSERT INTO {table} ({', '.join(columns)}) {{rows}}", len(columns))


def _update(table: str, columns: tuple[str, ...]) -> ManyRows:
    """Rows are the values of ``columns``, then the id. SQLite names the columns of VALUES column1, column2, …"""
    values = ", ".join(f"{column} = new.column{number}" for number, column in enumerate(columns, 1))
    key = len(columns) + 1
    return ManyRows(f"UPDATE {table} SET {values} FROM ({{rows}}) AS new WHERE {table}.id = new.column{key}", key)


class Statements:
    """Every statement of the write path, bound by name or, for rows, by position."""

    insert_jobs = _insert("job", JOB_COLUMNS)
    update_jobs = _update("job", JOB_COLUMNS)
    update_progress = _update("job", PROGRESS_COLUMNS)
    update_report = _update("job", REPORT_COLUMNS)
    insert_events = _insert("event", EVENT_COLUMNS)
    insert_attempts = _insert("attempt", ATTEMPT_COLUMNS)
    insert_requests = _insert("request", REQUEST_COLUMNS)
    add_tallies = ManyRows(
        # "WHERE true" tells the parser that ON does not start a join. A sum that overflows becomes a float, and MIN
        # makes it an integer again.
        f"INSERT INTO tally ({', '.join(_TALLY_COLUMNS)}) SELECT * FROM ({{rows}}) WHERE true"
        " ON CONFLICT (job_type, measure, bucket) DO UPDATE"
        f" SET value = MIN({INT64_MAX}, tally.value + excluded.value)",
        len(_TALLY_COLUMNS),
    )
    delete_jobs = ManyRows("DELETE FROM job WHERE id IN ({rows})", 1)
    delete_attempts = ManyRows("DELETE FROM attempt WHERE job_id IN ({rows})", 1)
    update_usage = ManyRows(
        "UPDATE attempt SET tokens = new.column3, cost_nano = new.column4 FROM ({rows}) AS new"
        " WHERE attempt.job_id = new.column1 AND attempt.number = new.column2",
        4,
    )
    delete_requests = ManyRows("DELETE FROM request WHERE (principal, request_id) IN ({rows})", 2)

    def __init__(self, database: SqliteDatabase) -> None:
        """Build the statements that peewee generates, in this database's dialect."""
        self._database = database
        self._build_jobs()
        self._build_requests()
        self._build_log()

    def _sql(self, query: Query) -> str:
        text, parameters = self._database.get_sql_context().sql(query).query()
        assert not parameters, "statements of the write path must name all their values"
        return str(text)

    def _build_jobs(self) -> None:
        fields = [getattr(JobRow, name) for name in JOB_COLUMNS]
        is_due = JobRow.due_time.is_null(False)
        self.jobs = self._sql(JobRow.select(*fields).where(JobRow.id.in_(SQL("(SELECT value FROM json_each(:ids))"))))
        self.due = self._sql(
            JobRow.select(*fields)
            .where(is_due, JobRow.due_time <= SQL(":now"))
            .order_by(JobRow.due_time, JobRow.id)
            .limit(SQL(":limit"))
        )
        ended = JobRow.complete_time.is_null(False) & (JobRow.complete_time < SQL(":before"))
        follows = Tuple(JobRow.complete_time, JobRow.id) > Tuple(SQL(":after_time"), SQL(":after_id"))
        self.finished = self._sql(
            JobRow.select(*[getattr(JobRow, name) for name in FINISHED_COLUMNS])
            .where(ended, follows)
            .order_by(JobRow.complete_time, JobRow.id)
            .limit(SQL(":limit"))
        )
        self.next_due = self._sql(
            JobRow.select(JobRow.due_time).where(is_due).order_by(JobRow.due_time).limit(SQL("1"))
        )
        self.postpone = self._sql(
            JobRow.update({JobRow.due_time: SQL(":until")}).where(
                is_due, JobRow.due_time < SQL(":until"), JobRow.state == SQL(str(int(JobState.PROCESSING)))
            )
        )

    def _build_requests(self) -> None:
        fields = [getattr(RequestRow, name) for name in REQUEST_COLUMNS]
        # The whole key: with the id alone SQLite would scan the table and find requests of other principals.
        wanted = SQL("(SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(:keys))")
        self.requests = self._sql(
            RequestRow.select(*fields).where(Tuple(RequestRow.principal, RequestRow.request_id).in_(wanted))
        )
        attempt_fields = [getattr(AttemptRow, name) for name in ATTEMPT_COLUMNS]
        self.attempts = self._sql(
            AttemptRow.select(*attempt_fields).where(Tuple(AttemptRow.job_id, AttemptRow.number).in_(wanted))
        )
        old = RequestRow.select(RequestRow.principal, RequestRow.request_id).order_by(RequestRow.time)
        self.old_requests = self._sql(old.where(RequestRow.time < SQL(":older_than")).limit(SQL(":limit")))

    def _build_log(self) -> None:
        advance = {
            LogRow.head: LogRow.head + SQL(":count"),
            LogRow.bytes: LogRow.bytes + SQL(":bytes"),
            LogRow.requests: LogRow.requests + SQL(":requests"),
            LogRow.time: SQL("MAX(time, :now)"),
        }
        self.advance_log = self._sql(LogRow.update(advance).returning(LogRow.head, LogRow.requests))
        self.trim_events = self._sql(EventRow.delete().where(EventRow.sequence <= SQL(":through")))
        self.move_horizon = self._sql(
            HorizonRow.update(
                {
                    HorizonRow.sequence: SQL(":through"),
                    HorizonRow.event_check: SQL(":event_check"),
                    HorizonRow.bytes: HorizonRow.bytes + SQL(":bytes"),
                }
            )
        )
