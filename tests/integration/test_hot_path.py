"""What the hot path may cost: counted in commits, statements and rows, never in time.

These are the falls that a benchmark would show and that must not wait for one: a transaction for each call, a statement
for each row, a scan.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobstate_server.clock import ManualClock
from jobstate_server.domain import commands as c
from jobstate_server.domain.errors import JobStateError
from jobstate_server.domain.job import Usage
from jobstate_server.domain.job_types import JobTypes
from jobstate_server.domain.rules.decider import Decider
from jobstate_server.engine.writer import Writer
from jobstate_server.store.sqlite.store import SqliteStore
from jobstate_server.wire.documents import merge_metadata

BATCH = 64
"""As many as four sizes of statement: one of 64 rows, or in the worst case several."""


class Traced:
    """A writer on a real file, whose statements are counted."""

    def __init__(self, path: Path) -> None:
        self.store = SqliteStore(path, ManualClock())
        decider = Decider(JobTypes(), merge_metadata, random.random)
        self.writer = Writer(self.store, decider, ManualClock(), restart_grace=0)
        # Before the first transaction of a process it is looked whether the one before it was long ago.
        self.writer.work(lambda transaction: None)
        self.statements: list[str] = []
        connection: sqlite3.Connection = self.store._database.connection()
        connection.set_trace_callback(self.statements.append)

    def commit(self, make: Callable[[int], c.Command], count: int = BATCH) -> list[str]:
        """Commit a batch, and return the statements that took."""
        self.statements.clear()
        written = self.writer.commit([make(number) for number in range(count)])
        refused = [verdict for verdict in written.verdicts if isinstance(verdict, JobStateError)]
        assert refused == []
        return list(self.statements)


@pytest.fixture
def traced(tmp_path: Path) -> Iterator[Traced]:
    traced = Traced(tmp_path / "jobs.db")
    yield traced
    traced.store.close()


def create(number: int) -> c.Command:
    return c.Create(job_id=f"job-{number}", job_type="clean_transcript")


def start(number: int) -> c.Command:
    return c.Start(job_id=f"job-{number}", worker="w")


def progress(number: int) -> c.Command:
    return c.UpdateProgress(job_id=f"job-{number}", attempt=1, progress=50, message="half way")


def progress_with_usage(number: int) -> c.Command:
    return c.UpdateProgress(job_id=f"job-{number}", attempt=1, progress=60, usage=Usage(tokens=10, cost_nano=10))


def complete(number: int) -> c.Command:
    return c.Complete(job_id=f"job-{number}", attempt=1)


def verbs(statements: list[str]) -> list[str]:
    """What each statement does to what, in order."""
    return [" ".join(statement.replace('"', "").split()[:3]) for statement in statements]


def test_a_batch_is_one_transaction_with_a_statement_for_each_table(traced: Traced) -> None:
    traced.commit(create)

    # Four tallies change: two of jobs stored, two of how long they waited.
    assert verbs(traced.commit(start)) == [
        "BEGIN IMMEDIATE",
        "UPDATE log SET",
        "UPDATE job SET",
        "INSERT INTO event",
        "INSERT INTO tally",
        "COMMIT",
    ]


def test_progress_of_jobs_in_hand_reads_nothing_and_writes_two_tables(traced: Traced) -> None:
    traced.commit(create)
    traced.commit(start)

    assert verbs(traced.commit(progress)) == [
        "BEGIN IMMEDIATE",
        "UPDATE log SET",
        "UPDATE job SET",
        "INSERT INTO event",
        "COMMIT",
    ]


def test_a_report_of_jobs_in_hand_writes_no_document_and_no_sum(traced: Traced) -> None:
    traced.commit(create)
    traced.commit(start)

    (update,) = [statement for statement in traced.commit(progress) if statement.startswith("UPDATE job")]
    assert "progress_message" in update
    assert not [name for name in ("metadata", "tokens", "cost") if name in update]


def test_a_step_writes_the_columns_of_steps_and_no_document(traced: Traced) -> None:
    traced.commit(create)
    for step in (start, complete):
        (update,) = [statement for statement in traced.commit(step) if statement.startswith("UPDATE job")]
        assert "attempt_deadline" in update
        assert not [name for name in ("job_type", "create_time", "error_code", "retry_count") if name in update]


@pytest.mark.parametrize("step", [create, progress_with_usage, complete])
def test_no_step_takes_more_statements_for_more_commands(traced: Traced, step: Callable[[int], c.Command]) -> None:
    if step is not create:
        traced.commit(create)
        traced.commit(start)

    assert len(traced.commit(step)) <= 9


def test_the_largest_batch_takes_a_few_statements_a_table(traced: Traced) -> None:
    count = 511
    traced.commit(create, count)
    traced.commit(start, count)

    # 511 rows are written as 256, three times 64, three times 16, three times 4 and three times one.
    assert len(traced.commit(progress, count)) <= 3 + 2 * 13


def test_a_refused_command_costs_its_neighbours_no_second_transaction(traced: Traced) -> None:
    traced.commit(create)
    before = traced.writer.counters.commits

    written = traced.writer.commit([start(1), start(1), start(2), start(999)])

    assert traced.writer.counters.commits - before == 1
    assert [isinstance(verdict, JobStateError) for verdict in written.verdicts] == [False, True, False, True]
