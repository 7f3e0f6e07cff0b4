"""Reads of a SQLite transaction for the hand-out: the next ready jobs, and the jobs that have a unique key."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from heapq import merge
from itertools import islice
from typing import Any, NamedTuple

from jobstate_server.domain.dispatch_order import score
from jobstate_server.domain.job import Job
from jobstate_server.domain.reads import Ready
from jobstate_server.domain.waiting import Priority, UniqueKey
from jobstate_server.store.job_cache import JobCache
from jobstate_server.store.rows import job_from
from jobstate_server.store.sqlite.statements import Statements

_READ_AT_ONCE = 64
"""Entries that are read at first of one type and priority. Most calls of Acquire want fewer jobs."""


class _Entry(NamedTuple):
    """An entry of the index ``job_ready``. It compares as the jobs are handed out."""

    score: int
    create_sequence: int
    job_id: str


class ReadyReads:
    """The reads of one transaction."""

    def __init__(self, connection: sqlite3.Connection, statements: Statements, cache: JobCache) -> None:
        self._connection = connection
        self._statements = statements
        self._cache = cache

    def jobs(self, wanted: Ready) -> list[Job]:
        """The first ready jobs of these types, in the order in which they are handed out.

        The index has them in this order within each type and priority, so only the jobs that are returned are read, and
        at most a few entries more of each.
        """
        levels = [
            self._of_level(name, step, level, min(wanted.limit, _READ_AT_ONCE))
            for name, step in wanted.steps
            for level in Priority
        ]
        return self.whole([entry.job_id for entry in islice(merge(*levels), wanted.limit)])

    def whole(self, ids: Sequence[str]) -> list[Job]:
        """These jobs, in this order."""
        found = self._cache.found(ids)
        missing = [job_id for job_id in ids if job_id not in found]
        if missing:
            rows = self._connection.execute(self._statements.jobs, {"ids": json.dumps(missing)}).fetchall()
            found.update((job.id, job) for job in map(job_from, rows))
        return [found[job_id] for job_id in ids]

    def _of_level(self, job_type: str, step: int, level: int, at_once: int) -> Iterator[_Entry]:
        values: dict[str, Any] = {"job_type": job_type, "level": level, "limit": at_once}
        values |= {"ready_time": -1, "create_sequence": 0}
        while True:
            rows = self._connection.execute(self._statements.ready, values).fetchall()
            for job_id, ready_time, sequence in rows:
                yield _Entry(score(ready_time, level, step), sequence, job_id)
            if len(rows) < values["limit"]:
                return
            _, values["ready_time"], values["create_sequence"] = rows[-1]
            # SQLite reads anew all that have the same ready_time, as those of a BatchCreate have.
            values["limit"] *= 2

    def unique_holders(self, keys: Collection[UniqueKey], jobs: dict[str, Job]) -> dict[UniqueKey, str]:
        """The ids of the jobs that have these keys. The jobs are added to ``jobs``."""
        rows = self._connection.execute(self._statements.unique, {"keys": json.dumps(list(keys))}).fetchall()
        holders: dict[UniqueKey, str] = {}
        for job in map(job_from, rows):
            jobs.setdefault(job.id, self._cache.get(job.id) or job)
            assert job.unique_key is not None
            holders[job.principal, job.job_type, job.unique_key] = job.id
        return holders
