"""The statements about needs and groups walk an index each, however many there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from jobstate_server.domain.filters import JobFilter, Order, Position
from jobstate_server.domain.groups import GroupMove, GroupPolicy
from jobstate_server.domain.job import Job, JobState
from jobstate_server.domain.needs import NeedCondition, ResolvedNeed
from jobstate_server.domain.reads import Finished
from jobstate_server.domain.waiting import WaitReason
from jobstate_server.store.postgres.reader import PostgresReader
from jobstate_server.store.postgres.store import PostgresStore
from jobstate_server.store.postgres.transaction import PostgresTransaction
from jobstate_server.store.records import ChangedJob, Changes
from jobstate_server.store.relation_records import GroupChange, GroupGuard, NeedRow, NewGroup

from ...support.postgres import postgres_server
from ...support.reads import reads
from ..support import UNBOUNDED, Interruption, a_job, an_event, at, keep, remains
from .support import ended_by, foreign, opened_at, recorded
from .test_plans import GROWING_TABLES, check, planned

GROWING = GROWING_TABLES | {"need", "needed", "members"}

COUNT = 1_000
"""Parents, each with two children, and groups, each with three members: enough for an index to pay."""

KEYS: dict[str, int] = {}


@pytest.fixture(scope="module")
def store() -> Iterator[PostgresStore]:
    """A store with many needs and groups, of which PostgreSQL knows how much is in it."""
    url = postgres_server().new_store()
    with opened_at(url) as store:
        parents = [a_job(f"parent-{number}", needed=True, complete_time=number) for number in range(COUNT)]
        groups = [a_job(f"group-{number}", group_depth=1, state=JobState.PROCESSING) for number in range(COUNT)]
        made = [*parents, *groups]
        first = keep(store, Changes(inserted=_created(made), events=[an_event(job.id) for job in made]))
        KEYS.update((job.id, job.create_sequence) for job in made)
        children = [
            a_job(f"child-{number}", needs_count=1, open_needs=1, held=True, create_time=number)
            for number in range(2 * COUNT)
        ]
        members = [
            a_job(f"member-{number}", group_key=groups[number % COUNT].create_sequence, create_time=number)
            for number in range(3 * COUNT)
        ]
        made = [*children, *members]
        needs = [
            NeedRow(
                number,
                0,
                f"parent-{number // 2}",
                first + number // 2,
                None,
                NeedCondition.COMPLETED,
                None if number % 3 else JobState.COMPLETED,
                is_counted=True,
            )
            for number in range(2 * COUNT)
        ]
        keep(store, Changes(inserted=_created(made), events=[an_event(job.id) for job in made], new_needs=needs))
        _keep_counts(store, groups)
        with foreign(url) as operator:
            operator.execute("ANALYZE")
        yield store


def _created(jobs: list[Job]) -> list[ChangedJob]:
    return [ChangedJob(job, number, number) for number, job in enumerate(jobs)]


def _keep_counts(store: PostgresStore, groups: list[Job]) -> None:
    """Insert the counts of the groups, of which one in five is due and stopping."""
    with foreign(store._url) as connection, connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO members (group_key, group_id, depth, tolerated_failures, on_excess, total, stopping, due_time)"
            " VALUES (%s, %s, 1, 0, 1, 3, %s, %s)",
            [
                (job.create_sequence, job.id, number % 5 == 0, number if number % 5 == 0 else None)
                for number, job in enumerate(groups)
            ],
        )


def reach(transaction: PostgresTransaction) -> None:
    """Read whom ends must reach."""
    some = [a_job(f"parent-{number}", create_sequence=KEYS[f"parent-{number}"]) for number in range(1, 4)]
    ended = [a_job(job.id, create_sequence=job.create_sequence, state=JobState.COMPLETED) for job in some]
    loaded = transaction.load(reads(due=3))
    transaction._relations.load(ended, [], loaded)
    assert len(loaded.unfinished_members) == 3
    assert any(needs.needs for needs in loaded.open_needs.values())
    transaction.groups([KEYS["group-1"]])
    transaction.next_due()


def end(transaction: PostgresTransaction) -> None:
    """Write what ends change."""
    child = KEYS["group-999"] + 5
    transaction.write(
        Changes(
            events=[an_event()],
            new_groups=[NewGroup(0, "new", None, None, 1, GroupPolicy())],
            groups=[GroupChange(KEYS["group-7"], None, GroupMove(total=1, tokens=1), stops=True)],
            group_guards=[GroupGuard(KEYS["group-8"], may_be_closed=True)],
            resolved_needs=[ResolvedNeed(child, 0, JobState.COMPLETED)],
            ended_children=[child, child + 1],
            deleted=[remains()._replace(create_sequence=child, needs_count=1, group_depth=1)],
            now=1,
        )
    )


def clean_up(transaction: PostgresTransaction) -> None:
    """Read what may be deleted."""
    transaction.load(reads(finished=Finished(500, None, 100)))


@pytest.mark.parametrize(
    ("work", "indexes"),
    [
        pytest.param(reach, ("need_open", "job_pkey", "members_due", "job_unfinished_member"), id="reach"),
        pytest.param(end, ("need_pkey", "needed_pkey", "members_pkey"), id="end"),
        pytest.param(clean_up, ("job_by_complete_time",), id="clean up"),
    ],
)
@pytest.mark.parametrize("plans", ["force_custom_plan", "force_generic_plan"])
def test_needs_and_groups_are_found_by_their_indexes_whether_or_not_it_is_planned_anew(
    store: PostgresStore, work: Callable[[PostgresTransaction], object], indexes: tuple[str, ...], plans: str
) -> None:
    with recorded(store) as recorder, ended_by(Interruption, store) as transaction:
        work(transaction)
        raise Interruption
    steps: list[str] = []
    connection = store.database.raw_connection
    for query, values in recorder.statements:
        if query.split()[0] in {b"SELECT", b"UPDATE", b"INSERT", b"WITH", b"DELETE"}:
            connection.execute(f"SET plan_cache_mode = {plans}".encode())
            found = connection.execute(b"EXPLAIN (COSTS off) " + query, values).fetchall()
            steps += [line for (line,) in found]
    connection.execute("RESET plan_cache_mode")

    # The rows of one transaction are put in order, and grouped.
    check(steps, sorts=True, growing=GROWING)
    for index in indexes:
        assert any(index in step for step in steps), (index, steps)


@pytest.fixture
def reader(store: PostgresStore) -> Iterator[PostgresReader]:
    with closing(store.open_reader()) as reader:
        assert isinstance(reader, PostgresReader)
        yield reader


def test_what_readers_see_of_needs_and_groups_is_found_by_key(
    reader: PostgresReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    with planned(reader, monkeypatch) as steps:
        reader.needs(a_job(needs_count=1))
        reader.groups([KEYS["group-1"], KEYS["group-2"]])

    check(steps, sorts=True, growing=GROWING)


@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize("after", [None, at(5, "job")], ids=["first page", "later page"])
@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        (JobFilter(group_id="group-5"), "job_by_group"),
        (JobFilter(group_id="group-5", states=(JobState.QUEUED,)), "job_by_group"),
        (JobFilter(needed_by="child-5"), "need_pkey"),
        (JobFilter(needs="parent-5"), "need_by_parent"),
        (JobFilter(wait_reasons=(WaitReason.NEEDS,)), "job_held"),
        (JobFilter(wait_reasons=(WaitReason.TURN,), job_types=("type",)), "job_by_type"),
    ],
)
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

    # What one job needs, at most NEEDS_MAX, is sorted.
    check(steps, sorts=bool(wanted.needed_by), growing=GROWING)
    assert any(index in step for step in steps), steps
