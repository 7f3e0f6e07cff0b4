"""The fast lanes: StreamUpdates against unary calls and the echo, BatchCreate against SQLite alone."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from jobstate_server.wire.events import complete_event

from .. import messages
from ..bench import Bench
from ..messages import LIFECYCLE_CALLS
from ..processes import JobServer
from ..samples import Finding, Sample
from ..workloads import BatchCreates, Calls, StreamLifecycles, StreamProgress, compared, observed

_BATCH = BatchCreates.jobs_at_once
_VALUES_MAX = 2_000
"""Bound values of one statement: where SQLite is quickest, found by trying."""


def stream_progress(bench: Bench) -> list[Finding]:
    """Reports over streams, against reports as calls."""
    with bench.servers(0) as (server,):
        job_ids = bench.live_jobs(server)
        stream, unary = StreamProgress(bench, job_ids), Calls(bench, job_ids, messages.progress_call)
        ours, theirs = bench.alternate(lambda: stream.run(server), lambda: unary.run(server))
        return compared(
            "StreamUpdates, progress, batches of 100",
            "updates",
            ours,
            theirs,
            reach="≥ 8 × unary UpdateProgress",
            limit=8.0,
            note="4 streams, 4 batches under way on each; the reference is this server's own unary call",
        )


def stream_lifecycles(bench: Bench) -> list[Finding]:
    """Whole lives over streams, against the echo's calls."""
    with bench.server_and_echo() as (server, echo):
        stream, unary = StreamLifecycles(bench), Calls(bench, ["any"], messages.progress_call)
        ours, theirs = bench.alternate(lambda: stream.run(server), lambda: unary.run(echo))
        return compared(
            "StreamUpdates, whole lifecycles",
            "lifecycles",
            ours,
            theirs,
            reach="≥ 5.2 × echo ÷ 6",
            limit=5.2,
            per=LIFECYCLE_CALLS,
            note="4 streams, batches of 100: one step of 100 jobs, then their next",
        )


class RawInserts:
    """The job and event rows that a server wrote, written again by nothing but SQLite, with the same indexes."""

    def __init__(self, store: Path, copy: Path) -> None:
        self._copy = copy
        with closing(sqlite3.connect(store)) as connection:
            self._schema = [
                sql
                for (sql,) in connection.execute(
                    "SELECT sql FROM sqlite_master WHERE tbl_name IN ('job', 'job_metadata', 'event') AND sql NOT NULL"
                    " ORDER BY rowid"
                )
            ]
            self._rows = {
                "job": connection.execute("SELECT * FROM job ORDER BY version").fetchall(),
                "job_metadata": connection.execute("SELECT * FROM job_metadata ORDER BY create_sequence").fetchall(),
                "event": connection.execute("SELECT * FROM event ORDER BY sequence").fetchall(),
            }
        assert {len(rows) for rows in self._rows.values()} == {len(self._rows["event"])}

    def _batches(self, pieces: Callable[[str, Sequence[tuple[object, ...]]], object]) -> list[list[object]]:
        count = len(self._rows["job"])
        return [
            [pieces(table, rows[start : start + _BATCH]) for table, rows in self._rows.items()]
            for start in range(0, count, _BATCH)
        ]

    def executemany(self) -> Sample:
        """One prepared statement per table, run for each row."""

        def piece(table: str, rows: Sequence[tuple[object, ...]]) -> tuple[str, Sequence[tuple[object, ...]]]:
            marks = ", ".join("?" * len(rows[0]))
            return f"INSERT INTO {table} VALUES ({marks})", rows  # noqa: S608

        batches = self._batches(piece)

        def write(connection: sqlite3.Connection, statement: object) -> None:
            assert isinstance(statement, tuple)
            connection.executemany(*statement)

        return self._timed(batches, write)

    def many_rows(self) -> Sample:
        """Statements of many rows each."""

        def piece(table: str, rows: Sequence[tuple[object, ...]]) -> list[tuple[str, list[object]]]:
            at_once = max(1, _VALUES_MAX // len(rows[0]))
            marks = f"({', '.join('?' * len(rows[0]))})"
            parts = [rows[start : start + at_once] for start in range(0, len(rows), at_once)]
            return [
                (f"INSERT INTO {table} VALUES {', '.join([marks] * len(part))}", [v for row in part for v in row])  # noqa: S608
                for part in parts
            ]

        batches = self._batches(piece)

        def write(connection: sqlite3.Connection, statements: object) -> None:
            assert isinstance(statements, list)
            for statement, values in statements:
                connection.execute(statement, values)

        return self._timed(batches, write)

    def _timed(self, batches: list[list[object]], write: Callable[[sqlite3.Connection, object], None]) -> Sample:
        for suffix in ("", "-wal", "-shm"):
            self._copy.with_name(self._copy.name + suffix).unlink(missing_ok=True)
        with closing(sqlite3.connect(self._copy, isolation_level=None)) as connection:
            for pragma in ("journal_mode = wal", "synchronous = full", "cache_size = -65536"):
                connection.execute(f"PRAGMA {pragma}")
            for sql in self._schema:
                connection.execute(sql)
            cpu, began = time.process_time(), time.monotonic()
            for batch in batches:
                connection.execute("BEGIN IMMEDIATE")
                for statements in batch:
                    write(connection, statements)
                connection.execute("COMMIT")
            seconds, cpu = time.monotonic() - began, time.process_time() - cpu
            (count,) = connection.execute("SELECT count(*) FROM job").fetchone()
        return Sample(count, seconds, cpu)

    def run(self) -> Sample:
        """The quicker of the two ways."""
        return max(self.executemany(), self.many_rows(), key=lambda sample: sample.rate)


def batch_create(bench: Bench) -> list[Finding]:
    """BatchCreate of 1,000 jobs, against the same rows inserted by SQLite alone."""
    load = BatchCreates(bench)
    with bench.servers(0) as (server,):
        load.run(server)
        raw = RawInserts(server.store, bench.folder / "raw.db")

    def ours() -> Sample:
        with bench.servers(0) as (fresh,):
            return load.run(fresh)

    made, inserted = bench.alternate(ours, raw.run)
    return compared(
        "BatchCreate of 1,000",
        "jobs",
        made,
        inserted,
        reach="≥ 0.30 × raw SQLite inserts",
        limit=0.30,
        note="an empty store each time; raw: the same rows and indexes of jobs, metadata and events, prebuilt, 1,000 "
        "per transaction, the quicker of executemany and statements of many rows",
    )


def _disk_of(store: Path) -> int:
    """Bytes of a stopped server's file, its write-ahead log emptied into it."""
    with closing(sqlite3.connect(store)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return store.stat().st_size


def _sent_size(store: Path, after: int) -> float:
    """Bytes of an event as watchers get it, on average over those after a sequence. 0 if there are none."""
    columns = "sequence, time, job_id, job_type, source_id, type, payload"
    with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as connection:
        events = connection.execute(f"SELECT {columns} FROM event WHERE sequence > ?", (after,))  # noqa: S608
        sizes = [len(complete_event(*event)) for event in events]
    return sum(sizes) / max(1, len(sizes))


def disk(bench: Bench) -> list[Finding]:
    """Bytes on disk per progress update and per job."""
    store = bench.folder / bench.name("disk") / "jobs.db"
    store.parent.mkdir()
    sizes: list[int] = []
    averages: list[float] = []
    jobs = BatchCreates(bench)
    updates = bench.sizes.disk_updates
    server = JobServer(store)
    try:
        job_ids = bench.live_jobs(server)
        for step in ("empty", "jobs", "updates"):
            before = server.counters().head
            if step == "jobs":
                jobs.run(server)
            elif step == "updates":
                bodies = messages.progress_batches(job_ids, 100, updates // 100)
                observed(bench, server, partial(bench.load.batches, server.address, [bodies]), updates)
            averages.append(_sent_size(store, before))
            server.stop()
            sizes.append(_disk_of(store))
            server = JobServer(store)
    finally:
        server.stop()
    made = bench.sizes.create_batches * _BATCH
    per_job, per_update = (sizes[1] - sizes[0]) / made, (sizes[2] - sizes[1]) / updates
    return [
        _on_disk("bytes on disk per progress update", per_update, averages[2], 1.5, "the update's encoded event"),
        _on_disk("bytes on disk per job created", per_job, averages[1], 2.3, "its encoded `.queued` event, job inside"),
    ]


def _on_disk(what: str, per_op: float, encoded: float, limit: float, of: str) -> Finding:
    return Finding(
        what,
        f"≤ {limit:g} × the encoded event",
        [per_op / encoded],
        limit,
        at_least=False,
        ours=f"{per_op:.0f} B",
        theirs=f"{encoded:.0f} B",
        note=f"against {of}; growth of the file, log emptied into it",
    )
