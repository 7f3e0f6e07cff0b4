"""The statements about lanes walk an index each, whatever else the lanes have."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from jobstate_server.domain.plan import TypePause
from jobstate_server.domain.reads import LaneRange, StateOf
from jobstate_server.store.postgres.reader import PostgresReader
from jobstate_server.store.postgres.store import PostgresStore
from jobstate_server.store.postgres.transaction import PostgresTransaction
from jobstate_server.store.records import Changes, DispatchChange, LaneChange, LaneGuard, TypeGuard

from ...support.postgres import postgres_server
from ..support import Interruption, a_job, keep, unversioned
from .support import ended_by, foreign, opened_at, recorded
from .test_plans import check, planned

LANES = 3_000
"""Of a type: of each five, one is full, one closed, one has nothing, one only runs. Enough for an index to pay."""


def a_lane(number: int, **changes: int) -> LaneChange:
    """What is added to the lane of this number."""
    of_five = [{"ready": 1}, {"ready": 1, "running": 9}, {"ready": 1, "held_until": 50}, {}, {"running": 1}]
    fields = dict.fromkeys(LaneChange._fields[2:-1], 0) | {"tolerance": -1, "turn_time": number}
    return LaneChange("type", f"{number:05}", **(fields | of_five[number % 5] | changes), hold_reason="")


@pytest.fixture(scope="module")
def store() -> Iterator[PostgresStore]:
    """A store with many lanes, of which PostgreSQL knows how much is in it."""
    url = postgres_server().new_store()
    with opened_at(url) as store:
        lanes = [a_lane(number) for number in range(LANES)]
        jobs = [a_job(f"job-{number}", lane=f"{number:05}", ready_time=number) for number in range(LANES)]
        sums = [sum(column) for column in zip(*(each[2:6] for each in lanes), strict=True)]
        dispatch = [DispatchChange._make(("type", *sums, 0, 0))]
        keep(store, Changes(inserted=unversioned(jobs), lanes=lanes, dispatch=dispatch, now=1))
        with foreign(url) as operator:
            operator.execute("ANALYZE")
        yield store


@pytest.fixture
def reader(store: PostgresStore) -> Iterator[PostgresReader]:
    with closing(store.open_reader()) as reader:
        assert isinstance(reader, PostgresReader)
        yield reader


@pytest.mark.parametrize("holds_jobs", [False, True])
def test_lanes_are_read_for_operators_by_their_indexes(
    reader: PostgresReader, monkeypatch: pytest.MonkeyPatch, holds_jobs: bool
) -> None:
    with planned(reader, monkeypatch) as steps:
        reader.type_record("type")
        reader.lane_record("type", "00001")
        reader.lanes_in_turn("type", None, 50, holds_jobs=holds_jobs)
        reader.lanes_in_turn("type", (0, 7, "00007"), 50, holds_jobs=holds_jobs)
        reader.lanes_without_turn("type", "00100", 50, 9, holds_jobs=holds_jobs)
        reader.lanes_before("type", (1, 900, "00900"), 100, holds_jobs=holds_jobs)

    check(steps)
    assert any("lane_turn_of_jobs" if holds_jobs else "lane_turn" in step for step in steps), steps


@pytest.mark.parametrize("count", [1, 50, 1_000])
def test_the_oldest_jobs_of_a_page_of_lanes_are_read_in_the_index_of_ready_jobs(
    reader: PostgresReader, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    with planned(reader, monkeypatch) as steps:
        found = reader.oldest_ready_in("type", [f"{number:05}" for number in range(count)])

    assert found == {f"{number:05}": number for number in range(count)}
    # A page of many lanes may well be found by reading them all: they are rows of the page itself.
    check([step for step in steps if count < 1_000 or "Seq Scan on lane" not in step])
    assert any("job_ready" in step for step in steps), steps


def hand_out(transaction: PostgresTransaction, *, holds_jobs: bool) -> None:
    """Read what a batch reads that hands out jobs, and write what it writes."""
    some = frozenset({"00007", "00008"})
    wanted = StateOf("type", 10, 5, holds_jobs, is_limited=True, lanes=some, ready_lanes=some)
    transaction.hand_out_states([wanted])
    found = transaction.ready_places(
        [LaneRange("type", f"{number:05}", 10, 2, holds_jobs) for number in range(0, 50, 5)]
    )
    assert len(found) == 10
    transaction.take_ready([place.job_id for place in found])
    transaction.write(
        Changes(
            lanes=[a_lane(number, running=1) for number in range(0, LANES + 50, 100)],
            dispatch=[DispatchChange("type", 0, 0, 31, 0, 0, 0)],
            pauses=[TypePause("type", "00005", True, "why")],
            type_guards=[TypeGuard("type", 10**9, 10**18)],
            lane_guards=[LaneGuard("type", "00000", 9, holds_jobs, 10**18)],
            now=1,
        )
    )


@pytest.mark.parametrize(
    "work",
    [
        pytest.param(lambda transaction: hand_out(transaction, holds_jobs=False), id="hand-out"),
        pytest.param(lambda transaction: hand_out(transaction, holds_jobs=True), id="holds_jobs"),
    ],
)
@pytest.mark.parametrize("plans", ["force_custom_plan", "force_generic_plan"])
def test_a_hand_out_walks_the_indexes_of_lanes_whether_or_not_it_plans_anew(
    store: PostgresStore, work: Callable[[PostgresTransaction], object], plans: str
) -> None:
    with recorded(store) as recorder, ended_by(Interruption, store) as transaction:
        work(transaction)
        raise Interruption
    steps: list[str] = []
    connection = store.database.raw_connection
    for query, values in recorder.statements:
        if query.split()[0] in {b"SELECT", b"UPDATE", b"INSERT", b"WITH"}:
            connection.execute(f"SET plan_cache_mode = {plans}".encode())
            found = connection.execute(b"EXPLAIN (COSTS off) " + query, values).fetchall()
            steps += [line for (line,) in found]
    connection.execute("RESET plan_cache_mode")

    # Jobs are locked in the order of their ids, and lanes opened again in the order of their times.
    check(steps, sorts=True)
    for index in ("lane_turn", "lane_closed", "lane_pkey", "job_ready"):
        assert any(index in step for step in steps), (index, steps)
