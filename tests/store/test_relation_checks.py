"""What is counted of needs and groups is told when it is wrong, and corrected by a recount."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import psycopg
import pytest

from jobstate_server.clock import ManualClock
from jobstate_server.domain.groups import GroupMove, GroupPolicy
from jobstate_server.domain.job import INT64_MAX, Job, JobState
from jobstate_server.store.base import Store
from jobstate_server.store.check import check, correct_counts
from jobstate_server.store.records import ChangedJob, Changes
from jobstate_server.store.relation_checks import RelationMiscount

from .support import Home, PostgresHome, SqliteHome, a_job, keep, keep_jobs, opened, stored_job
from .test_groups import a_change, change, group_of, keep_group, keep_members
from .test_relations import keep_children


@pytest.fixture
def url(home: Home) -> str:
    """The URL of the store that has its home there."""
    if isinstance(home, SqliteHome):
        return f"sqlite:///{home.path}"
    assert isinstance(home, PostgresHome)
    return home.url


def damage(url: str, statement: str) -> None:
    """Do to the store what only a defect can."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as file, file:
            file.execute(statement)
        return
    with psycopg.connect(url) as connection:
        connection.execute(statement.encode())


def wrong(url: str) -> list[RelationMiscount]:
    """The counts of needs and groups that a check tells."""
    return [each for each in check(url).miscounts if isinstance(each, RelationMiscount)]


def ended(job: Job, state: JobState) -> ChangedJob:
    after = a_job(
        job.id,
        create_sequence=job.create_sequence,
        state=state,
        group_key=job.group_key,
        group_depth=job.group_depth,
        estimated_tokens=job.estimated_tokens,
        estimated_cost_nano=job.estimated_cost_nano,
        complete_time=5,
    )
    return ChangedJob(after, None, None, job)


def keep_some(store: Store) -> tuple[Job, Job]:
    """A job that three needed, of which one has ended, and a group in a group, which are returned, with members."""
    parent = a_job("parent", needed=True)
    keep_jobs(store, parent)
    children = keep_children(store, parent, 3, ready_time=7)
    keep(
        store,
        Changes(updated=[ended(children[2], JobState.CANCELLED)], ended_children=[children[2].create_sequence]),
    )
    outer = keep_group(store, "outer", GroupPolicy(5))
    inner = keep_group(store, "inner", parent=outer)
    keep_jobs(
        store,
        *[
            a_job(f"outer-{state.name}", state=state, group_key=outer.create_sequence, progress=30)
            for state in JobState
        ],
    )
    keep_members(store, inner, 2, estimated_tokens=2**40 + 5, estimated_cost_nano=9, progress=10)
    change(store, a_change(inner, GroupMove(total=2, progress=20, tokens=2**41 + 10, cost_nano=18)))
    change(store, a_change(outer, GroupMove(len(JobState) + 1, 1, 1, 1, 4 * 30 + 3 * 100)))
    return outer, inner


ADD_TO = "UPDATE members SET {0} = {0} + {1}"

DAMAGE = {
    "unfinished": (
        "UPDATE needed SET unfinished = unfinished + 1",
        "2 unfinished jobs need parent, but what is stored says 3",
    ),
    "lost": ("DELETE FROM needed", "2 unfinished jobs need parent, but what is stored says 0"),
    "stray": ("INSERT INTO needed VALUES (77, 1)", "0 unfinished jobs need with the key 77, but what is stored says 1"),
    "open_needs": (
        "UPDATE job SET open_needs = 2 WHERE id = 'child-0001'",
        "child-0001 waits for 1 needs, but what is stored says 2",
    ),
    **{
        name: (f"{ADD_TO.format(name, 3)} WHERE group_id = 'inner'", f"{name} of the group inner is ")
        for name in GroupMove._fields
    },
    "outer tokens": ("UPDATE members SET tokens = 1 WHERE group_id = 'outer'", "tokens of the group outer is "),
}


@pytest.mark.parametrize(("statement", "told"), DAMAGE.values(), ids=DAMAGE)
def test_a_wrong_count_of_needs_or_groups_is_named_and_corrected(
    home: Home, url: str, statement: str, told: str
) -> None:
    with opened(home, ManualClock()) as store:
        outer, inner = keep_some(store)
        right = group_of(store, outer), group_of(store, inner)
    assert wrong(url) == []
    damage(url, statement)

    (found,) = wrong(url)
    assert str(found).startswith(told)
    assert found in correct_counts(url)

    assert wrong(url) == []
    assert correct_counts(url) == []
    with opened(home, ManualClock()) as store:
        assert (group_of(store, outer), group_of(store, inner)) == right


def test_every_count_of_a_group_is_named_by_itself(home: Home, url: str) -> None:
    with opened(home, ManualClock()) as store:
        keep_some(store)
    for name in GroupMove._fields:
        damage(url, f"{ADD_TO.format(name, 1)} WHERE group_id = 'inner'")

    assert [each.measure for each in wrong(url)] == list(GroupMove._fields)


def test_a_job_that_is_found_to_wait_for_nothing_becomes_due(home: Home, url: str) -> None:
    with opened(home, ManualClock()) as store:
        keep_some(store)
    damage(
        url, "UPDATE need SET outcome = 3 WHERE child_key = (SELECT create_sequence FROM job WHERE id = 'child-0001')"
    )

    assert [(each.job_id, each.counted, each.stored) for each in wrong(url)] == [("child-0001", 0, 1)]
    correct_counts(url)

    with opened(home, ManualClock()) as store:
        job = stored_job(store, "child-0001")
        assert job is not None
        assert (job.open_needs, job.due_time) == (0, 7)


def test_a_group_that_is_found_to_have_ended_becomes_due(home: Home, url: str) -> None:
    with opened(home, ManualClock()) as store:
        group = keep_group(store)
        keep_members(store, group, 1, state=JobState.COMPLETED, complete_time=5)
        change(store, a_change(group, GroupMove(total=1, completed=1, progress=100), closes=True))
        change(store, a_change(group, GroupMove(), reported=100))
    damage(url, "UPDATE members SET completed = 0, due_time = NULL")

    assert correct_counts(url)

    with opened(home, ManualClock()) as store, store.transaction() as transaction:
        assert transaction.next_due() == 0


def test_members_of_a_final_group_may_have_been_deleted(home: Home, url: str) -> None:
    with opened(home, ManualClock()) as store:
        group = keep_group(store)
        keep_members(store, group, 1, progress=10)
        change(store, a_change(group, GroupMove(3, 1, 1, 0, 210, 7, 8), ends=True))
    assert wrong(url) == []
    damage(url, "UPDATE members SET total = 5")

    (found,) = wrong(url)

    assert (found.measure, found.counted, found.stored) == ("total", 3, 5)


def test_sums_beyond_64_bits_are_counted_as_they_are_stored(home: Home, url: str) -> None:
    with opened(home, ManualClock()) as store:
        group = keep_group(store)
        keep_members(store, group, 3, estimated_tokens=INT64_MAX, estimated_cost_nano=INT64_MAX - 1)
        change(store, a_change(group, GroupMove(3, tokens=3 * INT64_MAX, cost_nano=5)))

    assert [(each.measure, each.counted) for each in wrong(url)] == [("cost_nano", INT64_MAX)]
