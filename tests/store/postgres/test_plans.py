"""Every statement walks an index, so that its cost does not grow with what is stored."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import pytest

from jobstate_server.domain.events import EventType
from jobstate_server.domain.filters import EventFilter, JobFilter, Order, Position
from jobstate_server.domain.job import JobState
from jobstate_server.domain.labels import to_text
from jobstate_server.domain.reach import Reach
from jobstate_server.domain.reads import Finished, Reads, Ready
from jobstate_server.domain.statistics import Measure
from jobstate_server.store.postgres import statements as sql
from jobstate_server.store.postgres.reader import PostgresReader
from jobstate_server.store.postgres.ready_jobs import Marks, ReadyReads
from jobstate_server.store.postgres.store import PostgresStore
from jobstate_server.store.postgres.transaction import PostgresTransaction
from jobstate_server.store.records import ChangedJob, Changes

from ...support.postgres import postgres_server
from ...support.reads import reads
from ..support import (
    UNBOUNDED,
    Interruption,
    a_job,
    a_request,
    an_attempt,
    an_error,
    an_event,
    at,
    keep,
    page_of,
    remains,
    unversioned,
)
from .support import ended_by, foreign, opened_at, recorded

GROWING_TABLES = frozenset({"job", "event", "attempt", "request", "lane", "label"})
"""The others have one row, or some per job type or task: read whole, and rightly."""

STORED = 3_000
"""Jobs, each with an event, an attempt and a request id: enough for a planner to see that an index pays."""


@pytest.fixture(scope="module")
def store() -> Iterator[PostgresStore]:
    """A store in use, of which PostgreSQL knows how much is in it."""
    url = postgres_server().new_store()
    with opened_at(url) as store:
        jobs = [
            a_job(
                f"job-{number:05}",
                create_time=number,
                job_type=f"type-{number % 10}",
                source_id=f"source-{number // 3}",
                state=JobState(1 + number % len(JobState)),
                due_time=number if number % 5 == 0 else None,
                complete_time=number if number % 3 == 0 else None,
                worker=f"worker-{number % 20}",
                last_error=an_error(code=f"E-{number % 3}") if number % 10 == 0 else None,
                labels=to_text({"all": "", "tenant": "acme" if number % 7 else "other"}),
            )
            for number in range(STORED)
        ]
        keep(
            store,
            Changes(
                inserted=unversioned(jobs),
                events=[an_event(job.id, job_type=job.job_type, source_id=job.source_id) for job in jobs],
                attempts=[an_attempt(job.id) for job in jobs],
                requests=[a_request(f"request-{number}", time=number) for number in range(STORED)],
                tallies={("type", Measure.STORED, bucket): 1 for bucket in range(100)},
            ),
        )
        with foreign(url) as operator:
            operator.execute("ANALYZE")
        yield store


@pytest.fixture
def reader(store: PostgresStore) -> Iterator[PostgresReader]:
    with closing(store.open_reader()) as reader:
        assert isinstance(reader, PostgresReader)
        yield reader


@contextmanager
def planned(reader: PostgresReader, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The plan of every read made inside, one line per step."""
    steps: list[str] = []
    execute = reader._execute

    def explained(text: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        steps.extend(line for (line,) in execute(f"EXPLAIN (COSTS off) {text}", values))
        return execute(text, values)

    monkeypatch.setattr(reader, "_execute", explained)
    yield steps
    monkeypatch.undo()


def check(steps: Collection[str], *, sorts: bool = False, growing: Collection[str] = GROWING_TABLES) -> None:
    """Hold a plan to what it may do: read no growing table whole, and sort only where that is said."""
    assert steps
    for step in steps:
        match = re.search(r"Seq Scan on (\w+)", step)
        assert match is None or match[1] not in growing, steps
        # What an index has sorted by its first column is put in order by the second at no cost that grows.
        assert sorts or "Sort" not in step.replace("Incremental Sort", ""), steps


LISTS = [
    pytest.param(JobFilter(), "job_by_create_time", id="all"),
    pytest.param(JobFilter(reach=Reach(source_ids=("source-5", "source-6"))), "job_by_source", id="reach"),
    pytest.param(JobFilter(states=(JobState.QUEUED,)), "job_by_state", id="state"),
    pytest.param(JobFilter(states=tuple(JobState)), "job_by_state", id="states"),
    pytest.param(JobFilter(job_types=("type-1", "type-2")), "job_by_type", id="types"),
    pytest.param(JobFilter(job_types=("type-1",), states=(JobState.QUEUED,)), "job_by_type", id="type and state"),
    pytest.param(JobFilter(source_ids=("source-5", "source-6")), "job_by_source", id="sources"),
    pytest.param(
        JobFilter(source_ids=("source-5",), states=(JobState.QUEUED,), job_types=("type-1",)),
        "job_by_source",
        id="source, state and type",
    ),
    pytest.param(JobFilter(labels=(("tenant", "acme"),)), "label_pkey", id="label"),
    pytest.param(JobFilter(labels=(("tenant", "acme"), ("all", "")), source_ids=()), "label_pkey", id="labels"),
    pytest.param(JobFilter(labels=(("all", ""),), reach=Reach(source_ids=("source-*",))), "label_pkey", id="of all"),
    pytest.param(JobFilter(worker="worker-7"), "job_by_worker", id="worker"),
    pytest.param(JobFilter(error_code="E-1"), "job_by_error", id="error"),
    pytest.param(JobFilter(complete_time_from=900, complete_time_to=2_000), "job_by_complete_time", id="ended"),
]


@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize("after", [None, at(1_500, "job-01500")], ids=["first page", "later page"])
@pytest.mark.parametrize(("wanted", "index"), LISTS)
def test_a_list_walks_the_index_made_for_it(
    reader: PostgresReader,
    monkeypatch: pytest.MonkeyPatch,
    wanted: JobFilter,
    index: str,
    after: Position | None,
    order: Order,
) -> None:
    with planned(reader, monkeypatch) as steps:
        reader.list_jobs(wanted, order, after, 50, UNBOUNDED)

    check(steps)
    walks = [step for step in steps if " using " in step or "Index Scan on" in step]
    assert any(index in step for step in walks), steps
    assert not [step for step in walks if index not in step and "job_pkey" not in step], steps


@pytest.mark.parametrize("count", [1, 100])
def test_a_list_of_named_jobs_looks_at_no_others(
    reader: PostgresReader, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    with planned(reader, monkeypatch) as steps:
        reader.list_jobs(
            JobFilter(job_ids=tuple(f"job-{number:05}" for number in range(count))),
            Order.NEWEST_FIRST,
            None,
            50,
            UNBOUNDED,
        )

    check(steps, sorts=True)
    # How a group ends is looked up of groups only.
    scans = [step for step in steps if "Scan" in step and "Bitmap Heap" not in step and "on members" not in step]
    assert scans
    assert all("job_by_id" in step or "job_pkey" in step for step in scans)


READS = [
    pytest.param(lambda reader: reader.jobs(["job-00001", "job-00002"]), id="jobs"),
    pytest.param(lambda reader: reader.attempts("job-00001", 10_000, 100, 2**20), id="attempts"),
    pytest.param(lambda reader: reader.log_state(), id="log_state"),
    pytest.param(lambda reader: reader.event(1), id="event"),
    pytest.param(lambda reader: reader.oldest_queued("type-1"), id="oldest_queued"),
    pytest.param(lambda reader: reader.oldest_unclaimed("type-1"), id="oldest_unclaimed"),
    pytest.param(lambda reader: reader.oldest_ready("type-1"), id="oldest_ready"),
    pytest.param(lambda reader: reader.has_ready(["type-1", "new"], [("", "request-00001")]), id="has_ready"),
    pytest.param(lambda reader: reader.ready_before(a_job(job_type="type-1"), 10, 100), id="ready_before"),
    pytest.param(lambda reader: reader.has_claimed("type-1"), id="has_claimed"),
    pytest.param(lambda reader: reader.ended_since(9, 10), id="ended_since"),
    pytest.param(lambda reader: reader.jobs_in_state("type-1", JobState.FAILED, None, 9), id="jobs_in_state"),
    pytest.param(
        lambda reader: reader.jobs_in_state("type-1", JobState.FAILED, at(1_500, "job-01500"), 9),
        id="jobs_in_state, later",
    ),
    pytest.param(lambda reader: reader.finished_jobs(2_000, None, 9), id="finished_jobs"),
    pytest.param(lambda reader: reader.finished_jobs(2_000, at(500, "job-00500"), 9), id="finished_jobs, later"),
    pytest.param(lambda reader: reader.overdue(50), id="overdue"),
]


@pytest.mark.parametrize("read", READS)
def test_a_read_walks_an_index(
    reader: PostgresReader, monkeypatch: pytest.MonkeyPatch, read: Callable[[PostgresReader], object]
) -> None:
    with planned(reader, monkeypatch) as steps:
        read(reader)

    check(steps)


@pytest.mark.parametrize(
    ("wanted", "sorts"),
    [
        pytest.param(EventFilter(), False, id="all"),
        pytest.param(EventFilter(reach=Reach(source_ids=("s*",))), False, id="reach"),
        pytest.param(EventFilter(source_ids=frozenset({"a"}), types=frozenset({EventType.QUEUED})), False, id="source"),
        # What jobs have in a few segments of the log is put in order by sorting.
        pytest.param(EventFilter(job_ids=frozenset({"job-00001"})), True, id="job"),
        pytest.param(EventFilter(job_ids=frozenset({"job-00001", "job-02000"})), True, id="jobs"),
    ],
)
def test_events_are_read_by_way_of_an_index(
    reader: PostgresReader, monkeypatch: pytest.MonkeyPatch, wanted: EventFilter, sorts: bool
) -> None:
    with planned(reader, monkeypatch) as steps:
        page_of(reader, 5 if wanted.job_ids else STORED - 100, wanted, limit=50)

    check(steps, sorts=sorts)
    index = "event_by_segment" if wanted.job_ids else "event_pkey"
    assert any(index in step for step in steps)


def write(transaction: PostgresTransaction) -> None:
    transaction.load(reads(["job-00001", "job-00002"], request_keys=[("owner", "request-1")], due=10))
    transaction.write(
        Changes(
            deleted=[remains("job-00003")],
            inserted=[ChangedJob(a_job("new"), 0)],
            updated=[ChangedJob(a_job("job-00001"), 0)],
            progressed=[ChangedJob(a_job("job-00002"), 0)],
            events=[an_event()],
            attempts=[an_attempt("new", 7)],
            requests=[a_request("new")],
            tallies={("type", Measure.STORED, 1): 1},
        )
    )


FINISHED = Finished(2_000, at(500, "job-00500"), 128)
UNIQUE = {("owner", "type-1", "key-1"), ("owner", "type-2", "key-2")}
READY = Ready((("type-0", 10), ("type-1", 0)), 64)


@pytest.mark.parametrize(
    "work",
    [
        pytest.param(write, id="load and write"),
        pytest.param(lambda transaction: transaction.load(reads([f"job-{n:05}" for n in range(512)])), id="load 512"),
        pytest.param(lambda transaction: transaction.load(reads(attempt_keys=[("job-00001", 1)])), id="load attempts"),
        pytest.param(lambda transaction: transaction.write(Changes(amended=[an_attempt("job-00001")])), id="amend"),
        pytest.param(lambda transaction: transaction.load(reads(due=128)), id="load due"),
        pytest.param(lambda transaction: transaction.load(Reads(unique_keys=UNIQUE)), id="load unique keys"),
        pytest.param(lambda transaction: transaction.ready_jobs([READY]), id="ready jobs"),
        pytest.param(lambda transaction: transaction.load(reads(finished=FINISHED)), id="load finished"),
        pytest.param(lambda transaction: transaction.next_due(), id="next_due"),
        pytest.param(lambda transaction: transaction.postpone_timeouts(9), id="postpone_timeouts"),
        pytest.param(lambda transaction: transaction.trim_events(9, 0, 10), id="trim_events"),
        pytest.param(lambda transaction: transaction.trim_requests(9, 10), id="trim_requests"),
        pytest.param(lambda transaction: transaction.probe(), id="probe"),
        pytest.param(lambda transaction: transaction.claim_task("task", 9, "token", "replica"), id="claim_task"),
        pytest.param(lambda transaction: transaction.finish_task("task", "token", ""), id="finish_task"),
        pytest.param(lambda transaction: transaction.renew("replica"), id="renew"),
        pytest.param(lambda transaction: transaction.last_renewed(), id="last_renewed"),
    ],
)
@pytest.mark.parametrize("plans", ["force_custom_plan", "force_generic_plan"])
def test_the_writer_walks_an_index_whether_or_not_it_plans_anew(
    store: PostgresStore, work: Callable[[PostgresTransaction], object], plans: str
) -> None:
    with recorded(store) as recorder, ended_by(Interruption, store) as transaction:
        work(transaction)
        raise Interruption
    steps: list[str] = []
    connection = store.database.raw_connection
    for query, values in recorder.statements:
        if query.split()[0] in {b"SELECT", b"UPDATE", b"DELETE", b"INSERT", b"WITH"}:
            connection.execute(f"SET plan_cache_mode = {plans}".encode())
            found = connection.execute(b"EXPLAIN (COSTS off) " + query, values).fetchall()
            steps += [line for (line,) in found]
    connection.execute("RESET plan_cache_mode")

    # Due jobs are locked in the order of their times, named ones in the order of their ids.
    check(steps, sorts=True)


def test_a_hand_out_reads_as_many_rows_as_it_wants_however_many_are_ready_since_the_same_moment() -> None:
    url = postgres_server().new_store()
    with opened_at(url) as store:
        jobs = [a_job(f"{number}", ready_time=7, level=3, create_sequence=number + 1) for number in range(5_000)]
        keep(store, Changes(inserted=unversioned(jobs)))
        with foreign(url) as operator, ended_by(Interruption, store) as transaction:
            operator.execute("ANALYZE")
            analyzed: list[str] = []
            execute = transaction._execute

            def explained(text: bytes, **values: Any) -> Any:
                if text == sql.PICK_READY:
                    prefix = b"EXPLAIN (ANALYZE, COSTS off, TIMING off, SUMMARY off) "
                    analyzed.extend(line for (line,) in execute(prefix + text, **values))
                return execute(text, **values)

            found = ReadyReads(explained, store.log_id, Marks()).jobs([Ready((("type", 10),), 100)], transaction.now)
            raise Interruption

    assert [job.id for job in found.jobs] == [f"{number}" for number in range(100)]
    assert any("job_ready" in line for line in analyzed)
    assert not any("Rows Removed" in line for line in analyzed), analyzed
    assert max(float(rows) for line in analyzed for rows in re.findall(r"rows=([0-9.]+)", line)) <= 100
