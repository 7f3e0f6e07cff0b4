"""The runs of tasks in PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import psycopg

from jobstate_server.domain.recurring import TakenInstant
from jobstate_server.store.base import REPLICA_LEASE
from jobstate_server.store.postgres import statements as sql
from jobstate_server.store.postgres.binary_arrays import Kind, array
from jobstate_server.store.task_runs import RECURRING, RECURRING_FORGOTTEN, TASK_AHEAD_MAX

Execute = Callable[..., "psycopg.Cursor[Any]"]
"""Runs a statement, with its values by name, in the transaction."""


class PostgresTaskRuns:
    """The part of a transaction that is about the runs of tasks."""

    now: int
    _execute: Execute

    def claim_task(self, name: str, due: int, token: str, replica: str) -> bool:
        now = self.now
        limits = {"now": now, "alive_since": now - REPLICA_LEASE, "absurd": now + TASK_AHEAD_MAX}
        claimed = self._execute(sql.CLAIM_TASK, name=name, due=due, token=token, replica=replica, **limits)
        return claimed.fetchone() is not None

    def finish_task(self, name: str, token: str, outcome: str) -> None:
        self._execute(sql.FINISH_TASK, name=name, token=token, outcome=outcome, now=self.now)

    def task_is_ours(self, name: str, token: str) -> bool:
        return self._execute(sql.TASK_IS_OURS, name=name, token=token).fetchone() is not None

    def note_recurring(self, definitions: Mapping[str, str], wall: int) -> None:
        if definitions:
            # In the same order by every replica: they may start together.
            names, texts = zip(*sorted(definitions.items()), strict=True)
            noted = {"names": array(Kind.TEXT, names), "definitions": array(Kind.TEXT, texts)}
            self._execute(sql.NOTE_RECURRING, **noted, wall=wall, now=self.now)
        # The empty name is nobody's: an array has at least one value.
        others = {"recurring": RECURRING + "%", "names": array(Kind.TEXT, ["", *definitions])}
        self._execute(sql.RETIRE_RECURRING, **others)
        self._execute(sql.FORGET_RECURRING, before=wall - RECURRING_FORGOTTEN, **others)


def read_instants(execute: Execute, names: Collection[str]) -> psycopg.Cursor[Any]:
    """Read the latest instants of these recurring entries, and lock them. Those that are locked are left out."""
    return execute(sql.LOCK_INSTANTS, names=array(Kind.TEXT, sorted(names)))


def take_instants(execute: Execute, instants: Sequence[TakenInstant], now: int) -> None:
    """Record that these instants have their jobs."""
    for instant in instants:
        execute(
            sql.TAKE_INSTANT,
            name=instant.task,
            due=instant.due,
            job_id=instant.job_id,
            outcome=f"{instant.job_id} created",
            replica=instant.replica,
            now=now,
        )
