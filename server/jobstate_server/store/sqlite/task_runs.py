"""The runs of tasks on a SQLite file."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Mapping, Sequence

from peewee import SqliteDatabase

from jobstate_server.domain.recurring import TakenInstant
from jobstate_server.store.base import REPLICA_LEASE
from jobstate_server.store.models import ReplicaRow, TaskRunRow
from jobstate_server.store.reading.reader import SqlReader
from jobstate_server.store.records import TaskRun
from jobstate_server.store.sqlite.connection import raise_store_error
from jobstate_server.store.task_runs import RECURRING, RECURRING_FORGOTTEN, TASK_AHEAD_MAX

_INSTANTS = "SELECT name, last_due FROM task_run WHERE name IN (SELECT value FROM json_each(:names))"
_TAKE = (
    "UPDATE task_run SET last_due = :due, start_time = :now, end_time = :now, outcome = :outcome, replica = :replica,"
    " job_id = :job_id WHERE name = :name"
)
_NOTE = (
    "INSERT INTO task_run AS held (name, last_due, token, start_time, outcome, definition)"
    " VALUES (:name, :wall, '', :now, '', :definition)"
    " ON CONFLICT (name) DO UPDATE SET definition = excluded.definition,"
    " last_due = max(held.last_due, excluded.last_due) WHERE held.definition <> excluded.definition"
)
_RETIRE = (
    "UPDATE task_run SET definition = '' WHERE name GLOB :recurring AND definition <> ''"
    " AND name NOT IN (SELECT value FROM json_each(:names))"
)
_FORGET = (
    "DELETE FROM task_run WHERE name GLOB :recurring AND last_due < :before"
    " AND name NOT IN (SELECT value FROM json_each(:names))"
)


class SqliteTaskRuns:
    """The part of a transaction that is about the runs of tasks."""

    now: int
    _database: SqliteDatabase
    _connection: sqlite3.Connection

    def claim_task(self, name: str, due: int, token: str, replica: str) -> bool:
        held = self._task_runs().get(name)
        if held is not None and not self._can_claim(held, due):
            return False
        values = {
            "last_due": due,
            "token": token,
            "start_time": self.now,
            "end_time": None,
            "outcome": "",
            "replica": replica,
        }
        query = TaskRunRow.insert(name=name, **values)
        self._database.execute(query.on_conflict(conflict_target=[TaskRunRow.name], update=values))
        return True

    def _task_runs(self) -> Mapping[str, TaskRun]:
        return SqlReader(self._database, raise_store_error).task_runs()

    def _can_claim(self, held: TaskRun, due: int) -> bool:
        is_abandoned = held.end_time is None and not self._is_alive(held.replica)
        is_absurd = held.last_due > self.now + TASK_AHEAD_MAX
        return held.last_due < due or is_absurd or (held.last_due == due and is_abandoned)

    def _is_alive(self, replica: str) -> bool:
        renewed = ReplicaRow.select(ReplicaRow.renew_time).where(ReplicaRow.id == replica)
        rows = self._database.execute(renewed).fetchall()
        return bool(rows) and rows[0][0] > self.now - REPLICA_LEASE

    def finish_task(self, name: str, token: str, outcome: str) -> None:
        ours = (TaskRunRow.name == name) & (TaskRunRow.token == token)
        self._database.execute(TaskRunRow.update(end_time=self.now, outcome=outcome).where(ours))

    def task_is_ours(self, name: str, token: str) -> bool:
        runs = self._task_runs()
        return name in runs and runs[name].token == token

    def note_recurring(self, definitions: Mapping[str, str], wall: int) -> None:
        rows = [
            {"name": name, "definition": definition, "wall": wall, "now": self.now}
            for name, definition in definitions.items()
        ]
        self._connection.executemany(_NOTE, rows)
        others = {
            "recurring": RECURRING + "*",
            "names": json.dumps(list(definitions)),
            "before": wall - RECURRING_FORGOTTEN,
        }
        self._connection.execute(_RETIRE, others)
        self._connection.execute(_FORGET, others)


def latest_instants(connection: sqlite3.Connection, names: Collection[str]) -> dict[str, int]:
    """The latest instants of these recurring entries."""
    return dict(connection.execute(_INSTANTS, {"names": json.dumps(list(names))}).fetchall())


def take_instants(connection: sqlite3.Connection, instants: Sequence[TakenInstant], now: int) -> None:
    """Record that these instants have their jobs."""
    connection.executemany(
        _TAKE,
        [
            {
                "name": instant.task,
                "due": instant.due,
                "job_id": instant.job_id,
                "outcome": f"{instant.job_id} created",
                "replica": instant.replica,
                "now": now,
            }
            for instant in instants
        ],
    )
