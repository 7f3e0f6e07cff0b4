"""Reads of a PostgreSQL transaction for the hand-out: the turn of a type, and its next ready jobs.

Replicas hand out the jobs of a type in turns, so that the order is exact. A turn is an advisory lock of a transaction,
which ends with it however it ends. It is tried for, and only waited for when others have had it many times in a row.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import psycopg
from psycopg import errors

from jobstate_server.domain.dispatch_order import score
from jobstate_server.domain.durations import SECOND
from jobstate_server.domain.job import Job
from jobstate_server.domain.reads import Ready
from jobstate_server.domain.waiting import Priority, UniqueKey
from jobstate_server.store.postgres import statements as sql
from jobstate_server.store.postgres.binary_arrays import Kind, array
from jobstate_server.store.records import ReadyFound
from jobstate_server.store.rows import job_from

MARK_LEAD = 5 * SECOND
"""How far before the first job of the last pick the next one begins to read."""

WHOLE_INTERVAL = 5 * SECOND
"""How often a pick reads from the very beginning: a job that another replica released has an early place."""


PICKS_MAX = 4
"""How often jobs are selected in place of those that others have locked. Without them jobs of the transaction itself,
which come later, would be handed out."""


class Marks:
    """Where the picks of one server begin to read. Only a hint, which keeps them from dead rows at the beginning.

    While any transaction is open for long, PostgreSQL keeps the index entries of jobs that were handed out since.
    """

    def __init__(self) -> None:
        self._marks: dict[tuple[str, int], int] = {}
        self._whole_at: dict[str, int] = {}
        """When the last pick of each type read from the beginning."""

    def begin(self, job_type: str, now: int) -> bool:
        """Whether the marks of this type may be used now. Every few seconds they may not."""
        if now - self._whole_at.get(job_type, 0) < WHOLE_INTERVAL:
            return True
        self._whole_at[job_type] = now
        return False

    def of(self, job_type: str, level: int) -> int:
        """From which ``ready_time`` to read."""
        return self._marks.get((job_type, level), 0)

    def picked(self, job_type: str, level: int, ready_time: int) -> None:
        """The first job that a pick found."""
        self._marks[job_type, level] = ready_time - MARK_LEAD

    def lower(self, jobs: Iterable[Job]) -> None:
        """These jobs became ready, perhaps with an early place."""
        for job in jobs:
            key = job.job_type, job.level
            if self._marks.get(key, 0) > job.ready_time:
                self._marks[key] = job.ready_time


class ReadyReads:
    """The reads of one transaction."""

    def __init__(self, execute: Any, log_id: str, marks: Marks) -> None:
        """``execute``: executes a statement of the transaction."""
        self._execute = execute
        self._log_id = log_id
        self._marks = marks

    def jobs(self, wanted: Sequence[Ready], now: int) -> ReadyFound:
        """See ``Transaction.ready_jobs``."""
        names = {name for some in wanted for name, _ in some.steps}
        whole = {name for name in names if not self._marks.begin(name, now)}
        ids: dict[str, None] = {}
        locked: dict[str, Job] = {}
        for _ in range(PICKS_MAX):
            picked, may_be_more = self._next(wanted, whole, len(ids) - len(locked))
            new = [job_id for job_id in picked if job_id not in ids]
            if not new:
                break
            ids.update(dict.fromkeys(new))
            locked.update(self.locked(new))
            if len(locked) == len(ids) or not may_be_more:
                break
        jobs = [locked[job_id] for job_id in ids if job_id in locked]
        return ReadyFound(jobs, len(jobs) == len(ids))

    def _next(self, wanted: Sequence[Ready], whole: Collection[str], skipped: int) -> tuple[list[str], bool]:
        """The ids of the next jobs, some perhaps twice, and whether there may be more.

        ``skipped``: how many jobs are selected beyond the limits, in place of those that others have locked.
        """
        ids: list[str] = []
        may_be_more = False
        for some in wanted:
            if some.steps:
                picked = self._picked(some.steps, some.limit + skipped, whole)
                may_be_more |= len(picked) == some.limit + skipped
                ids += picked
        return ids, may_be_more

    def locked(self, ids: Sequence[str]) -> dict[str, Job]:
        """Those of these jobs that are ready and not locked by others. They are locked."""
        rows = self._execute(sql.LOCK_READY, ids=array(Kind.TEXT, list(ids)))
        return {row[0]: job_from(row) for row in rows}

    def try_turns(self, names: Collection[str]) -> psycopg.Cursor[Any]:
        """Take the turns of those of these types that no other transaction has. Returns their names."""
        cursor: psycopg.Cursor[Any] = self._execute(
            sql.TRY_TURNS, log_id=self._log_id, names=array(Kind.TEXT, sorted(names))
        )
        return cursor

    def wait_for_turns(self, got: set[str], names: Collection[str]) -> set[str]:
        """Wait for the turns of the others, for a few seconds. Returns the types whose turn this transaction has."""
        left = sorted(set(names) - got)
        self._execute(b"SAVEPOINT turn")
        try:
            self._execute(sql.TAKE_TURNS, log_id=self._log_id, names=array(Kind.TEXT, left))
        except errors.LockNotAvailable:
            self._execute(b"ROLLBACK TO SAVEPOINT turn")
            return got
        return got | set(left)

    def _picked(self, steps: Sequence[tuple[str, int]], limit: int, whole: Collection[str]) -> list[str]:
        """The ids of the first ready jobs of these types. They are not locked yet."""
        ranges = [
            (name, int(level), step, 0 if name in whole else self._marks.of(name, level))
            for name, step in steps
            for level in Priority
        ]
        names, levels, factors, marks = zip(*ranges, strict=True)
        found = self._execute(
            sql.PICK_READY,
            names=array(Kind.TEXT, names),
            levels=array(Kind.INT8, levels),
            steps=array(Kind.INT8, factors),
            marks=array(Kind.INT8, marks),
            limit=limit,
        ).fetchall()
        firsts: dict[tuple[str, int], int] = {}
        for _, ready_time, _, level, _, name in found:
            firsts[name, level] = min(ready_time, firsts.get((name, level), ready_time))
        for (name, level), ready_time in firsts.items():
            self._marks.picked(name, level, ready_time)
        found.sort(key=lambda row: (score(row[1], row[3], row[4]), row[2]))
        return [row[0] for row in found[:limit]]

    def unique_holders(self, keys: Collection[UniqueKey], jobs: dict[str, Job]) -> dict[UniqueKey, str]:
        """The ids of the jobs that have these keys. The jobs are added to ``jobs``."""
        principals, job_types, unique_keys = zip(*keys, strict=True)
        rows: psycopg.Cursor[Any] = self._execute(
            sql.UNIQUE_HOLDERS,
            principals=array(Kind.TEXT, principals),
            job_types=array(Kind.TEXT, job_types),
            keys=array(Kind.TEXT, unique_keys),
        )
        holders: dict[UniqueKey, str] = {}
        for job in map(job_from, rows):
            jobs.setdefault(job.id, job)
            assert job.unique_key is not None
            holders[job.principal, job.job_type, job.unique_key] = job.id
        return holders
