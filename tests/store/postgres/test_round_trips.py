"""A batch costs as many statements as it has kinds of rows, and two waits for PostgreSQL, however many rows it has."""

from __future__ import annotations

import pytest

from jobstate_server.clock import ManualClock
from jobstate_server.domain.commands import Create, ServeDue, Start, UpdateProgress
from jobstate_server.domain.durations import SECOND
from jobstate_server.domain.job_types import SHIPPED_JOB_TYPES, JobTypes
from jobstate_server.domain.rules.decider import Decider
from jobstate_server.domain.statistics import Measure
from jobstate_server.engine.outcomes import DueOutcome, Outcome
from jobstate_server.engine.writer import Writer
from jobstate_server.store.postgres.store import PostgresStore
from jobstate_server.store.records import ChangedJob, Changes
from jobstate_server.wire.documents import merge_metadata

from ...support.reads import reads
from ..support import a_job, a_request, an_attempt, an_event, keep, keep_jobs, remains
from .support import Recorder, recorded

COUNTS = [1, 100, 512]


def sent(recorder: Recorder) -> list[str]:
    """The first words of every statement."""
    return [" ".join(query.decode().split()[:3]) for query, _ in recorder.statements]


def a_batch(count: int) -> Changes:
    """Every kind of row, of each so many."""
    return Changes(
        deleted=[remains(f"old {number}") for number in range(count)],
        inserted=[ChangedJob(a_job(f"new {number}"), number) for number in range(count)],
        updated=[ChangedJob(a_job(f"moved {number}"), number) for number in range(count)],
        progressed=[ChangedJob(a_job(f"alive {number}"), number) for number in range(count)],
        events=[an_event(f"new {number}") for number in range(count)],
        attempts=[an_attempt(f"moved {number}") for number in range(count)],
        requests=[a_request(f"{number}") for number in range(count)],
        tallies={("type", Measure.STORED, number): 1 for number in range(count)},
    )


@pytest.mark.parametrize("count", COUNTS)
def test_a_batch_of_every_kind_of_row_is_a_statement_for_each_kind(store: PostgresStore, count: int) -> None:
    jobs = [f"{kind} {number}" for kind in ("old", "moved", "alive") for number in range(count)]
    keep_jobs(store, *map(a_job, jobs))

    with recorded(store) as recorder, store.transaction() as transaction:
        loaded = transaction.load(
            reads(jobs, request_keys=[("owner", f"{number}") for number in range(count)], due=128)
        )
        assert len(loaded.jobs) == len(jobs)
        transaction.finish(a_batch(count))

    assert len(recorder.statements) == 16
    assert recorder.round_trips == 2
    assert sent(recorder)[0] == "BEGIN"
    assert sent(recorder)[-1] == "COMMIT"


@pytest.mark.parametrize("count", COUNTS)
def test_a_batch_of_progress_reports_is_six_statements_in_two_round_trips(store: PostgresStore, count: int) -> None:
    clock = ManualClock()
    decider = Decider(JobTypes(SHIPPED_JOB_TYPES), merge_metadata, lambda: 0.0)
    writer = Writer(store, decider, clock, restart_grace=30 * SECOND)
    names = [f"job-{number}" for number in range(count)]
    writer.commit([Create(job_id=name, job_type="default") for name in names])
    writer.commit([Start(job_id=name) for name in names])

    with recorded(store) as recorder:
        written = writer.commit([UpdateProgress(job_id=name, progress=5) for name in names])

    assert all(isinstance(verdict, Outcome) for verdict in written.verdicts)
    assert len(written.events) == count
    assert len(recorder.statements) == 6
    assert recorder.round_trips == 2


def test_a_report_that_somebody_is_alive_neither_locks_the_log_nor_rings(store: PostgresStore) -> None:
    keep_jobs(store, a_job())

    with recorded(store) as recorder, store.transaction() as transaction:
        transaction.load(reads(["job"]))
        transaction.finish(Changes(progressed=[ChangedJob(a_job(heard_time=5), None)]))

    assert not [text for text in sent(recorder) if text.startswith("UPDATE log") or "pg_notify" in text]
    assert recorder.round_trips == 2


def test_a_look_at_what_is_due_when_nothing_is_writes_nothing(store: PostgresStore) -> None:
    keep(store, Changes(events=[an_event()]))
    decider = Decider(JobTypes(SHIPPED_JOB_TYPES), merge_metadata, lambda: 0.0)
    writer = Writer(store, decider, ManualClock(), restart_grace=0)
    look = [ServeDue(limit=128)]
    writer.commit(look)

    with recorded(store) as recorder:
        written = writer.commit(look)

    (outcome,) = written.verdicts
    assert isinstance(outcome, DueOutcome)
    assert (outcome.served, outcome.failed, outcome.next_due, written.events) == (0, 0, None, [])
    assert {text.split()[0] for text in sent(recorder)} == {"BEGIN", "SELECT", "COMMIT"}
