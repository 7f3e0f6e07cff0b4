"""What a job takes on disk stays within what docs/benchmarks.md states."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from jobstate_server.clock import SystemClock
from jobstate_server.domain import commands as c
from jobstate_server.engine.writer import Writer
from jobstate_server.event_log.recent import LogEntry
from jobstate_server.store.sqlite.store import SqliteStore
from jobstate_server.wire.job_ids import JobIds

from ...unit.support import a_decider
from .support import opened_at

JOBS = 2_000
BATCH = 100

CREATED_MAX = 2.75
"""Bytes on disk for a created job with 200 bytes of metadata, as a multiple of its encoded event."""

REPORTED_MAX = 1.25
"""The same for a progress report."""


def size_of(store: SqliteStore) -> int:
    """Bytes of the file, once the WAL is emptied into it."""
    connection = store._database.connection()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    ((pages,), (free,), (size,)) = (
        connection.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "freelist_count", "page_size")
    )
    return int(pages - free) * int(size)


def grown(store: SqliteStore, make: Callable[[int], c.Command]) -> float:
    """How many bytes the file grows by for each of these commands, per byte of their encoded events."""
    writer = Writer(store, a_decider(), SystemClock(), restart_grace=0)
    before, encoded = size_of(store), 0
    for start in range(0, JOBS, BATCH):
        written = writer.commit([make(number) for number in range(start, start + BATCH)])
        assert len(written.events) == BATCH
        encoded += sum(len(LogEntry(event).encoded) for event in written.events)
    return (size_of(store) - before) / encoded


def test_a_job_takes_little_more_on_disk_than_its_events(path: Path) -> None:
    ids = [JobIds(SystemClock().now)() for _ in range(JOBS)]
    metadata = b"m" * 200

    def create(number: int) -> c.Command:
        return c.Create(
            job_id=ids[number], job_type="clean_transcript", source_id=f"episode-{number:06}", metadata=metadata
        )

    def report(number: int) -> c.Command:
        return c.UpdateProgress(job_id=ids[number], attempt=1, progress=50, message="half of it")

    with opened_at(path) as store:
        created = grown(store, create)
        grown(store, lambda number: c.Start(job_id=ids[number], worker="worker-1"))
        reported = grown(store, report)

    assert created <= CREATED_MAX
    assert reported <= REPORTED_MAX
