"""Every statement walks an index, so that its cost does not grow with what is stored."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise

import pytest

from jobstate_server.domain.events import EventType
from jobstate_server.domain.filters import EventFilter, JobFilter, Order, Position
from jobstate_server.domain.job import JobState
from jobstate_server.domain.reach import Reach
from jobstate_server.domain.reads import Finished, LaneRange, Reads, Ready, StateOf
from jobstate_server.domain.waiting import Priority
from jobstate_server.store.reading import job_pages
from jobstate_server.store.reading.reader import SqlReader
from jobstate_server.store.records import ChangedJob, Changes, DispatchChange, LaneChange
from jobstate_server.store.rows import PROGRESS_COLUMNS
from jobstate_server.store.sqlite.store import SqliteStore
from jobstate_server.store.sqlite.transaction import SqliteTransaction

from ...support.reads import reads
from ..support import UNBOUNDED, a_job, a_request, an_attempt, an_event, at, keep, keep_jobs, page_of, remains

DOCUMENTS = {"job_metadata", "job_result", "job_error_details"}
GROWING_TABLES = {"job", *DOCUMENTS, "event", "attempt", "request", "lane", "need", "needed", "members", "label"}
"""The others have one row, or some per job type or task, or are the values of a statement: read whole, and rightly."""


DOCUMENTS_BY_KEY = [
    f"SEARCH {table} USING INTEGER PRIMARY KEY (rowid=?) LEFT-JOIN"
    for table in ("job_metadata", "job_result", "job_error_details")
]

POLICY_BY_KEY = [
    step
    for number in (1, 2)
    for step in (f"CORRELATED SCALAR SUBQUERY {number}", "SEARCH members USING INTEGER PRIMARY KEY (rowid=?)")
]
"""How a group ends, with each of its two columns. It is looked up of groups only."""


@pytest.fixture
def reader(store: SqliteStore) -> Iterator[SqlReader]:
    reader = store.open_reader()
    yield reader
    reader.close()


@contextmanager
def planned(of: SqliteStore | SqlReader) -> Iterator[list[str]]:
    """The plan of every statement run inside, one line per step, the table's name in place of its alias."""
    connection = of._database.connection()
    statements: list[str] = []
    steps: list[str] = []
    connection.set_trace_callback(statements.append)
    yield steps
    connection.set_trace_callback(None)
    for statement in statements:
        if statement.split()[0] in {"SELECT", "UPDATE", "DELETE"}:
            tables = {alias: table for table, alias in re.findall(r'"(\w+)" AS "(\w+)"', statement)}
            for *_, step in connection.execute("EXPLAIN QUERY PLAN " + statement):
                steps.append(" ".join(tables.get(word, word) for word in step.split(" ")))


def table_of(step: str) -> str:
    return re.split(r"[ (]", step)[1]


def check(steps: Collection[str], *, walks: Collection[str] = (), sorts: bool = False) -> None:
    """Hold a plan to what it may do.

    Args:
        walks: indexes that may be walked from one end, for statements that stop at a limit.
        sorts: whether rows may be sorted.
    """
    assert steps
    for step in steps:
        if step.startswith("SCAN") and table_of(step) in GROWING_TABLES:
            assert any(step.endswith(f"INDEX {walk}") for walk in walks), step
        assert sorts or "TEMP B-TREE" not in step, step


LABEL = "label USING PRIMARY KEY (key=? AND value=?"

LISTS = [
    pytest.param(JobFilter(), "job_by_create_time", id="all"),
    pytest.param(JobFilter(reach=Reach(source_ids=("s*",))), "job_by_create_time", id="reach"),
    pytest.param(JobFilter(states=(JobState.QUEUED,)), "job_by_state", id="state"),
    pytest.param(JobFilter(states=tuple(JobState), reach=Reach(source_ids=("s*",))), "job_by_state", id="states"),
    pytest.param(JobFilter(job_types=("type",)), "job_by_type", id="type"),
    pytest.param(JobFilter(job_types=("a", "b"), reach=Reach(source_ids=("s*",))), "job_by_type", id="types"),
    pytest.param(JobFilter(job_types=("a", "b"), states=tuple(JobState)), "job_by_type", id="types and states"),
    pytest.param(JobFilter(source_ids=("source",)), "job_by_source", id="source"),
    pytest.param(JobFilter(source_ids=("a", "b"), reach=Reach(source_ids=("a*", "b"))), "job_by_source", id="sources"),
    pytest.param(JobFilter(source_ids=("a",), states=(JobState.QUEUED,)), "job_by_source", id="source and state"),
    pytest.param(JobFilter(source_ids=("a",), states=tuple(JobState)), "job_by_source", id="source and states"),
    pytest.param(JobFilter(source_ids=("a",), job_types=("type",)), "job_by_source", id="source and type"),
    pytest.param(
        JobFilter(source_ids=("a", "b"), job_types=("type",), states=(JobState.QUEUED,)),
        "job_by_source",
        id="source, type and state",
    ),
    pytest.param(
        JobFilter(source_ids=("a", "b"), job_types=("a", "b"), states=tuple(JobState)),
        "job_by_source",
        id="sources, types and states",
    ),
    pytest.param(JobFilter(labels=(("a", "b"),)), LABEL, id="label"),
    pytest.param(JobFilter(labels=(("a", "b"), ("c", ""))), LABEL, id="labels"),
    pytest.param(JobFilter(labels=(("a", "b"),), states=tuple(JobState), job_types=("a", "b")), LABEL, id="all"),
    pytest.param(JobFilter(worker="w"), "job_by_worker (worker=?", id="worker"),
    pytest.param(JobFilter(worker="w", states=(JobState.FAILED,)), "job_by_worker (worker=?", id="worker and state"),
    pytest.param(JobFilter(error_code="E"), "job_by_error (error_code=?", id="error"),
    pytest.param(JobFilter(error_code="E", worker="w", job_types=("a",)), "job_by_error (error_code=?", id="error too"),
    pytest.param(JobFilter(complete_time_from=3), "job_by_complete_time (complete_time>?", id="ended from"),
    pytest.param(JobFilter(complete_time_to=8), "job_by_complete_time (complete_time>?", id="ended to"),
    pytest.param(
        JobFilter(complete_time_from=3, complete_time_to=8, worker="w"),
        "job_by_complete_time (complete_time>?",
        id="ended",
    ),
]

SPANS = [
    pytest.param((None, None), id="any time"),
    pytest.param((1, None), id="from"),
    pytest.param((None, 9), id="to"),
    pytest.param((1, 9), id="from and to"),
]


def test_few_jobs_that_ended_are_sorted_where_their_way_is_shorter_than_that_of_all_that_ended(
    store: SqliteStore, reader: SqlReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_pages, "_FEW", 0)
    ended = [a_job(f"{n}", complete_time=9 - n, worker="w" if n < 3 else "") for n in range(9)]
    keep_jobs(store, *ended)
    with planned(reader) as steps:
        page = reader.list_jobs(JobFilter(complete_time_to=9, worker="w"), Order.OLDEST_FIRST, None, 50, UNBOUNDED)

    assert [job.id for job in page.jobs] == ["2", "1"]
    check(steps, sorts=True)
    assert "SEARCH job USING INTEGER PRIMARY KEY (rowid=?)" in steps


BESIDE = (
    "CO-ROUTINE entries",
    "SCAN entries",
    "CORRELATED SCALAR SUBQUERY",
    "SEARCH job USING INTEGER PRIMARY KEY (rowid=?)",
)


def within(wanted: JobFilter, span: tuple[int | None, int | None]) -> JobFilter:
    return replace(wanted, create_time_from=span[0], create_time_to=span[1])


@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize("after", [None, at(5, "job")], ids=["first page", "later page"])
@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize(("wanted", "index"), LISTS)
def test_a_list_walks_the_index_made_for_it(
    store: SqliteStore,
    reader: SqlReader,
    wanted: JobFilter,
    index: str,
    span: tuple[int | None, int | None],
    after: Position | None,
    order: Order,
) -> None:
    with planned(reader) as steps:
        reader.list_jobs(within(wanted, span), order, after, 50, UNBOUNDED)

    check(steps, walks=["job_by_create_time"])
    # What other conditions need of a job is looked up by its key, and the entries of a way are counted in its index.
    others = [step for step in steps if f"INDEX {index}" not in step and index not in step]
    assert [step for step in others if not step.startswith(BESIDE)] == []


@pytest.mark.parametrize("count", [1, 3, 100, 1_000])
@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize("after", [None, at(5, "job")], ids=["first page", "later page"])
@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize(
    "also",
    [
        JobFilter(),
        JobFilter(states=(JobState.QUEUED,), job_types=("type",)),
        JobFilter(source_ids=("source",)),
        JobFilter(reach=Reach(source_ids=("s*",))),
    ],
    ids=["ids alone", "state and type", "source", "reach"],
)
def test_a_list_of_named_jobs_looks_at_no_others(
    store: SqliteStore,
    reader: SqlReader,
    also: JobFilter,
    span: tuple[int | None, int | None],
    after: Position | None,
    order: Order,
    count: int,
) -> None:
    named = JobFilter(
        job_ids=tuple(f"{number}" for number in range(count)),
        states=also.states,
        job_types=also.job_types,
        source_ids=also.source_ids,
        reach=also.reach,
    )

    with planned(reader) as steps:
        reader.list_jobs(within(named, span), order, after, 50, UNBOUNDED)

    check(steps, sorts=True)
    assert any("(id=?)" in step or "job_by_source" in step for step in steps)


def test_the_jobs_of_a_page_are_fetched_by_their_keys(store: SqliteStore, reader: SqlReader) -> None:
    keep_jobs(store, a_job("a"), a_job("b"))

    with planned(reader) as steps:
        reader.list_jobs(JobFilter(), Order.NEWEST_FIRST, None, 50, UNBOUNDED)

    assert steps == [
        "SCAN job USING COVERING INDEX job_by_create_time",
        "SEARCH job USING INTEGER PRIMARY KEY (rowid=?)",
        *DOCUMENTS_BY_KEY,
        *POLICY_BY_KEY,
    ]


def test_the_writer_finds_jobs_by_their_ids_and_due_ones_by_the_index_of_due_times(store: SqliteStore) -> None:
    with store.transaction() as transaction:
        with planned(store) as steps:
            transaction.load(reads(["a", "b"]))
        assert [step for step in steps if table_of(step).startswith("job")] == [
            "SEARCH job USING INDEX job_by_id (id=?)",
            *DOCUMENTS_BY_KEY,
        ]
        with planned(store) as steps:
            transaction.load(reads(due=128))
        assert steps == [
            "SEARCH job USING INDEX job_by_due_time (due_time>? AND due_time<?)",
            *DOCUMENTS_BY_KEY,
            *POLICY_BY_KEY,
            "SEARCH members USING INDEX members_due (due_time>? AND due_time<?)",
        ]


@pytest.mark.parametrize(
    "read",
    [
        pytest.param(lambda reader: reader.jobs(["a", "b"]), id="jobs"),
        pytest.param(lambda reader: reader.jobs(["a", "b"], Reach(source_ids=("s*",))), id="jobs within reach"),
        pytest.param(lambda reader: reader.attempts("job", 10_000, 100, 2**20), id="attempts"),
        pytest.param(lambda reader: reader.log_state(), id="log_state"),
        pytest.param(lambda reader: reader.event(1), id="event"),
        pytest.param(lambda reader: reader.tallies(["type"]), id="tallies"),
        pytest.param(lambda reader: reader.oldest_queued("type"), id="oldest_queued"),
        pytest.param(lambda reader: reader.oldest_unclaimed("type"), id="oldest_unclaimed"),
        pytest.param(lambda reader: reader.has_claimed("type"), id="has_claimed"),
        pytest.param(lambda reader: reader.ended_since(9, 10), id="ended_since"),
        pytest.param(lambda reader: reader.jobs_in_state("t", JobState.FAILED, None, 9), id="jobs_in_state"),
        pytest.param(
            lambda reader: reader.jobs_in_state("t", JobState.FAILED, at(5, "job"), 9), id="jobs_in_state, later"
        ),
        pytest.param(lambda reader: reader.finished_jobs(9, None, 9), id="finished_jobs"),
        pytest.param(lambda reader: reader.finished_jobs(9, at(5, "job"), 9), id="finished_jobs, later"),
        pytest.param(lambda reader: reader.overdue(9), id="overdue"),
        pytest.param(lambda reader: reader.trimmable_events(9, 0), id="trimmable_events"),
    ],
)
def test_a_read_walks_an_index(store: SqliteStore, reader: SqlReader, read: Callable[[SqlReader], object]) -> None:
    with planned(reader) as steps:
        read(reader)

    check(steps)


@pytest.mark.parametrize(
    ("wanted", "sorts"),
    [
        pytest.param(EventFilter(), False, id="all"),
        pytest.param(EventFilter(reach=Reach(source_ids=("s*",))), False, id="reach"),
        pytest.param(EventFilter(job_types=frozenset({"a", "b"})), False, id="types"),
        pytest.param(
            EventFilter(source_ids=frozenset({"a"}), types=frozenset({EventType.QUEUED})), False, id="source and kind"
        ),
        # What jobs have in a few segments of the log is put in order by sorting.
        pytest.param(EventFilter(job_ids=frozenset({"a"})), True, id="job"),
        pytest.param(EventFilter(job_ids=frozenset({"a"}), reach=Reach(source_ids=("s*",))), True, id="job and reach"),
        pytest.param(EventFilter(job_ids=frozenset({"a", "b"})), True, id="jobs"),
        pytest.param(EventFilter(job_ids=frozenset(map(str, range(1_000)))), True, id="a thousand jobs"),
    ],
)
def test_events_are_read_in_the_order_of_an_index(
    store: SqliteStore, reader: SqlReader, wanted: EventFilter, sorts: bool
) -> None:
    with planned(reader) as steps:
        page_of(reader, 5, wanted)

    check(steps, sorts=sorts)
    index = "event_by_segment" if wanted.job_ids else "INTEGER PRIMARY KEY"
    # The check of the last event looked at is found by its sequence.
    events = [step for step in steps if step.startswith("SEARCH event") and "LEFT-JOIN" not in step]
    assert events
    assert all(index in step for step in events)


def write(transaction: SqliteTransaction) -> None:
    transaction.write(
        Changes(
            deleted=[remains("gone")],
            inserted=[ChangedJob(a_job("new", metadata=b"m"), 0)],
            updated=[ChangedJob(a_job("a", result=b"r"), 0)],
            progressed=[ChangedJob(a_job("b"), 0)],
            events=[an_event()],
            attempts=[an_attempt("new")],
            requests=[a_request("new")],
        )
    )


FINISHED = Finished(2_000, at(500, "job-00500"), 128)


@pytest.mark.parametrize(
    "work",
    [
        pytest.param(write, id="write"),
        pytest.param(lambda transaction: transaction.load(reads(["a", "b"])), id="load jobs"),
        pytest.param(lambda transaction: transaction.load(reads(request_keys=[("a", "b")])), id="load requests"),
        pytest.param(lambda transaction: transaction.load(reads(attempt_keys=[("a", 1)])), id="load attempts"),
        pytest.param(lambda transaction: transaction.write(Changes(amended=[an_attempt("a")])), id="amend"),
        pytest.param(lambda transaction: transaction.load(reads(due=128)), id="load due"),
        pytest.param(lambda transaction: transaction.load(reads(finished=FINISHED)), id="load finished"),
        pytest.param(lambda transaction: transaction.next_due(), id="next_due"),
        pytest.param(lambda transaction: transaction.postpone_timeouts(9), id="postpone_timeouts"),
        pytest.param(lambda transaction: transaction.trim_events(9, 0, 10), id="trim_events"),
        pytest.param(lambda transaction: transaction.trim_requests(9, 10), id="trim_requests"),
        pytest.param(lambda transaction: transaction.claim_task("task", 9, "token", "replica"), id="claim_task"),
        pytest.param(lambda transaction: transaction.finish_task("task", "token", ""), id="finish_task"),
        pytest.param(lambda transaction: transaction.task_is_ours("task", "token"), id="task_is_ours"),
        pytest.param(lambda transaction: transaction.leave("replica"), id="leave"),
    ],
)
def test_the_writer_walks_an_index(store: SqliteStore, work: Callable[[SqliteTransaction], object]) -> None:
    keep(store, Changes(events=[an_event(), an_event()], requests=[a_request(), a_request("other")]))

    with planned(store) as steps, store.transaction() as transaction:
        work(transaction)

    check(steps)


def test_a_progress_report_touches_no_index(store: SqliteStore) -> None:
    """The columns that progress changes are in none of the job's indexes: that is what makes it cheap."""
    connection = store._database.connection()
    indexed = {
        column
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'index' AND tbl_name = 'job'")
        for _, _, column in connection.execute(f"PRAGMA index_info({name})")
    }

    assert "create_time" in indexed
    assert not indexed & set(PROGRESS_COLUMNS)


def test_a_hand_out_reads_a_range_of_the_index_for_each_priority_and_sorts_nothing(store: SqliteStore) -> None:
    keep_jobs(store, *(a_job(f"{number}", ready_time=number, level=1 + number % 5) for number in range(200)))
    with store.transaction() as transaction, planned(store) as steps:
        transaction.ready_jobs([Ready((("type", 10), ("other", 0)), 10)])

    check(steps)
    ranges = [step for step in steps if "job_ready" in step]
    assert len(ranges) == 10
    assert all("(job_type=? AND lane=? AND level=? AND ready_time>?)" in step for step in ranges), ranges


def test_unique_keys_are_looked_up_in_their_index(store: SqliteStore) -> None:
    keep_jobs(store, *(a_job(f"{number}", unique_key=f"{number}") for number in range(200)))
    with store.transaction() as transaction, planned(store) as steps:
        transaction.load(Reads(unique_keys={("owner", "type", "7"), ("owner", "type", "8")}))

    check(steps)
    assert any("job_unique (principal=? AND job_type=? AND unique_key=?)" in step for step in steps), steps


def test_what_waits_before_a_job_is_counted_in_the_index(reader: SqlReader) -> None:
    with planned(reader) as steps:
        reader.oldest_ready("type")
        reader.ready_before(a_job(), 10, 100)

    check(steps)
    assert all("job_ready" in step for step in steps), steps


@contextmanager
def counted_steps(store: SqliteStore) -> Iterator[list[int]]:
    """How many thousand steps of SQLite's machine the statements inside take, some of which each row needs."""
    connection = store._database.connection()
    counted = [0]

    def count() -> int:
        counted[0] += 1
        return 0

    connection.set_progress_handler(count, 1_000)
    yield counted
    connection.set_progress_handler(None, 1)


def test_a_hand_out_reads_as_many_rows_as_it_returns_however_many_are_ready_since_the_same_moment(
    store: SqliteStore,
) -> None:
    keep_jobs(store, *(a_job(f"{number}", ready_time=7, level=3) for number in range(8_000)))
    steps = []
    for limit in (500, 1_000, 2_000, 4_000):
        with store.transaction() as transaction, counted_steps(store) as counted:
            found = transaction.ready_jobs([Ready((("type", 10),), limit)])
            assert [job.id for job in found.jobs] == [f"{number}" for number in range(limit)]
        steps.append(counted[0])

    # Twice as many rows take twice as many steps, and never four times.
    assert all(after < 3 * before for before, after in pairwise(steps)), steps


@pytest.mark.parametrize("holds_jobs", [False, True])
def test_turns_are_read_in_the_order_of_their_index_however_many_lanes_are_full(
    store: SqliteStore, holds_jobs: bool
) -> None:
    lanes = [LaneChange("type", f"{n:03}", 1, 0, n % 9, 0, n, 0, -1, 0, "") for n in range(300)]
    keep(store, Changes(lanes=lanes, dispatch=[DispatchChange("type", 300, 0, 0, 0, 0, 0)], now=1))
    wanted = StateOf("type", 10, 5, holds_jobs, is_limited=True, lanes=frozenset({"007"}))
    wanted = wanted._replace(ready_lanes=frozenset({"008"}))
    ranges = [LaneRange("type", f"{n:03}", 10, 1, holds_jobs, is_all=n > 9) for n in range(20)]
    with store.transaction() as transaction, planned(store) as steps:
        transaction.hand_out_states([wanted])
        transaction.ready_places(ranges)

    check(steps)
    turns = "lane_turn_of_jobs (job_type=? AND <expr><?)" if holds_jobs else "lane_turn (job_type=? AND running<?)"
    assert any(turns in step for step in steps), steps
    for key in ("(job_type=? AND lane=? AND level=?)", "(job_type=? AND lane=?)"):
        assert any(f"job_ready {key}" in step for step in steps), steps


@pytest.mark.parametrize("holds_jobs", [False, True])
def test_lanes_are_read_for_operators_by_their_indexes_with_as_many_statements_however_many_there_are(
    reader: SqlReader, holds_jobs: bool
) -> None:
    found: list[int] = []
    for count in (1, 1_000):
        names = [f"{number}" for number in range(count)]
        with planned(reader) as steps:
            reader.lanes_in_turn("type", (1, 2, "a"), count, holds_jobs=holds_jobs)
            reader.lanes_without_turn("type", "a", count, 9, holds_jobs=holds_jobs)
            reader.lanes_before("type", (1, 2, "a"), count, holds_jobs=holds_jobs)
            reader.oldest_ready_in("type", ["", *names])
        check(steps)
        assert sum("job_ready (job_type=? AND lane=? AND level=?)" in step for step in steps) == 2 * len(Priority)
        found.append(len(steps))

    assert found[0] == found[1]
