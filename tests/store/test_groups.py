"""Groups: what is added to their counts and what follows, what of them is due, and what they keep."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from jobstate_server.clock import ManualClock
from jobstate_server.domain.groups import NO_MOVE, TOLERATES_ANY, Group, GroupMove, GroupPolicy, OnExcess
from jobstate_server.domain.job import INT64_MAX, Job, JobState
from jobstate_server.domain.limits import MEMBERS_AT_ONCE
from jobstate_server.domain.reads import Due, Finished
from jobstate_server.domain.wait_order import PROVISIONAL
from jobstate_server.store.base import Store
from jobstate_server.store.records import ChangedJob, Changes, Loaded
from jobstate_server.store.relation_models import MembersRow
from jobstate_server.store.relation_records import GroupChange, NewGroup, NewMember, NewWait

from ..support.reads import reads
from ..unit.memory_store import MemoryStore
from .support import (
    MODERATELY,
    Backend,
    a_job,
    an_event,
    keep,
    keep_jobs,
    opened,
    reading,
    remains,
    stored_job,
)

FINISH = GroupPolicy()
CANCEL = GroupPolicy(0, OnExcess.CANCEL)

SECOND = 1_000_000


def keep_group(store: Store, group_id: str = "group", policy: GroupPolicy = FINISH, parent: Job | None = None) -> Job:
    """Create a group, in a stored one if that is given."""
    depth = 1 if parent is None else parent.group_depth + 1
    parent_id, parent_key = (None, None) if parent is None else (parent.id, parent.create_sequence)
    terms = {"tolerated_failures": policy.tolerated_failures, "on_excess": int(policy.on_excess)}
    place = {"group_id": parent_id, "group_key": parent_key, "group_depth": depth}
    job = a_job(group_id, state=JobState.PROCESSING, claimed=True, **place, **terms)
    keep(
        store,
        Changes(
            inserted=[ChangedJob(job, 0, 0)],
            events=[an_event(group_id)],
            new_groups=[NewGroup(0, group_id, parent_key, None, depth, policy)],
        ),
    )
    return job


def a_change(group: Job, move: GroupMove = NO_MOVE, **changes: Any) -> GroupChange:
    return GroupChange(group.create_sequence, None, move, **changes)


def change(store: Store, *changes: GroupChange, now: int = 1) -> int | None:
    """Change groups in a transaction of its own. Returns when it says that one is due."""
    with store.transaction() as transaction:
        transaction.write(Changes(groups=list(changes), now=now))
        return transaction.group_due


def group_of(store: Store, job: Job) -> Group:
    with reading(store) as reader:
        return reader.groups([job.create_sequence])[job.create_sequence].group


def loaded_due(store: Store, limit: int = 10) -> Loaded:
    """What a new transaction reads of what is due."""
    with store.transaction() as transaction:
        return transaction.load(reads(due=limit))


def is_kept(store: Store, job_id: str) -> bool:
    """Whether cleanup passes over this final job."""
    selection = Finished(2**62, None, 1_000)
    with store.transaction() as transaction:
        found = transaction.load(reads(finished=selection)).finished[selection]
    (kept,) = [each.is_kept for each in found if each.id == job_id]
    return kept


few = st.integers(0, 3)
seldom = st.sampled_from([False] * 9 + [True])
"""What happens to a group once: most of what the rules say is about groups to which it has not."""
moves = st.builds(
    GroupMove,
    total=few,
    completed=few,
    permanently_failed=st.sampled_from([0, 0, 0, 1]),
    cancelled=st.sampled_from([0, 0, 0, 1]),
    progress=st.integers(0, 300),
    tokens=st.sampled_from([0, 5, INT64_MAX]),
    cost_nano=st.sampled_from([0, 7, INT64_MAX]),
)
steps = st.builds(
    GroupChange,
    group_key=st.none(),
    event=st.integers(0, 3),
    move=moves,
    closes=seldom,
    stops=seldom,
    ends=seldom,
    reported=st.sampled_from([None, None, None, 0, 7, 100]),
    look_again=st.sampled_from([None] * 9 + [5 * SECOND]),
)
policies = st.builds(GroupPolicy, st.sampled_from([TOLERATES_ANY, 0, 1, 5]), st.sampled_from(OnExcess))


@settings(MODERATELY, max_examples=100)
@given(
    policies=st.lists(policies, min_size=4, max_size=4),
    transactions=st.lists(
        st.tuples(st.integers(0, SECOND), st.lists(steps, max_size=4, unique_by=lambda step: step.event)), max_size=25
    ),
)
def test_a_statement_changes_groups_as_the_rules_say(
    backend: Backend,
    policies: list[GroupPolicy],
    transactions: list[tuple[int, list[GroupChange]]],
) -> None:
    # One is in none, and each of the others in the one before it.
    new = [
        NewGroup(depth, f"group-{depth}", None, depth - 1 if depth else None, depth + 1, policy)
        for depth, policy in enumerate(policies)
    ]
    memory = MemoryStore()
    with opened(backend.new_home(), ManualClock()) as store:
        created = Changes(events=[an_event(group.group_id) for group in new], new_groups=new)
        first = keep(store, created)
        memory._write_groups(created, first)
        now = 1
        for later, some in transactions:
            now = memory.now = now + later
            changed = [step._replace(group_key=first + (step.event or 0), event=None) for step in some]
            changes = Changes(groups=changed, now=now)
            memory._write_groups(changes, first)

            due = change(store, *changed, now=now)

            assert_same(store, memory)
            expected = [memory.groups[step.group_key or 0].due_time for step in changed]
            assert due == min((time for time in expected if time is not None), default=None)


def assert_same(store: Store, memory: MemoryStore) -> None:
    """The stored groups are those of the store in memory."""
    with reading(store) as reader:
        stored = reader.groups(list(memory.groups))
        times = reader._rows(  # type: ignore[attr-defined]
            MembersRow.select(MembersRow.group_key, MembersRow.due_time, MembersRow.progress_time)
        )
    assert {key: (each.group_id, each.parent_key, each.group) for key, each in stored.items()} == {
        key: (row.group_id, row.parent_key, row.group) for key, row in memory.groups.items()
    }
    assert {key: (due, told) for key, due, told in times} == {
        key: (row.due_time, row.progress_time) for key, row in memory.groups.items()
    }


def test_a_group_is_read_with_all_groups_around_it(store: Store) -> None:
    outer = keep_group(store, "outer", CANCEL)
    inner = keep_group(store, "inner", parent=outer)
    keep_group(store, "other")

    with store.transaction() as transaction:
        found = transaction.groups([inner.create_sequence])

    assert {key: (each.group_id, each.parent_key) for key, each in found.items()} == {
        inner.create_sequence: ("inner", outer.create_sequence),
        outer.create_sequence: ("outer", None),
    }
    assert found[outer.create_sequence].group == Group(CANCEL)


def test_a_job_made_with_its_group_has_the_key_of_it(store: Store) -> None:
    group = a_job("group", group_depth=1, state=JobState.PROCESSING, claimed=True)
    member = a_job("member", group_id="group")
    keep(
        store,
        Changes(
            inserted=[ChangedJob(group, 0, 0), ChangedJob(member, 1, 1)],
            events=[an_event("group"), an_event("member")],
            new_groups=[NewGroup(0, "group", None, None, 1, FINISH)],
            new_members=[NewMember(member, 0)],
            groups=[GroupChange(None, 0, GroupMove(total=1))],
        ),
    )

    stored = stored_job(store, "member")
    assert stored is not None
    assert stored.group_key == group.create_sequence
    assert group_of(store, group).counts.total == 1


def test_a_group_that_does_not_exist_is_passed_over(store: Store) -> None:
    group = keep_group(store)

    change(store, a_change(a_job("none"), GroupMove(total=1, tokens=1)), a_change(group, GroupMove(total=1)))

    assert group_of(store, group).counts == GroupMove(total=1)


def test_tokens_are_added_to_all_groups_around_and_leave_what_is_due(store: Store) -> None:
    outer = keep_group(store, "outer")
    inner = keep_group(store, "inner", parent=outer)
    innermost = keep_group(store, "innermost", parent=inner)
    change(store, a_change(outer, look_again=77))

    change(
        store,
        a_change(innermost, GroupMove(tokens=3, cost_nano=5)),
        a_change(inner, GroupMove(tokens=10)),
    )

    assert group_of(store, innermost).counts == GroupMove(tokens=3, cost_nano=5)
    assert group_of(store, inner).counts == GroupMove(tokens=13, cost_nano=5)
    assert group_of(store, outer).counts == GroupMove(tokens=13, cost_nano=5)
    with store.transaction() as transaction:
        assert transaction.next_due() == 77


def test_what_members_spend_together_may_be_more_than_a_column_can_have(store: Store) -> None:
    outer = keep_group(store, "outer")
    inner = keep_group(store, "inner", parent=outer)

    for _ in range(2):
        change(store, a_change(inner, GroupMove(tokens=3 * INT64_MAX, cost_nano=INT64_MAX)))

    spent = GroupMove(tokens=INT64_MAX, cost_nano=INT64_MAX)
    assert (group_of(store, inner).counts, group_of(store, outer).counts) == (spent, spent)


def test_a_job_made_with_the_groups_that_it_waits_for_has_their_keys(store: Store) -> None:
    outer = a_job("outer", group_depth=1, state=JobState.PROCESSING)
    inner = a_job("inner", group_depth=2, state=JobState.PROCESSING)
    waiting = a_job("waiting", awaited_group=f"7/{PROVISIONAL}/{PROVISIONAL + 1}")
    made = [outer, inner, waiting]
    keep(
        store,
        Changes(
            inserted=[ChangedJob(job, number, number) for number, job in enumerate(made)],
            events=[an_event(job.id) for job in made],
            new_groups=[NewGroup(0, "outer", None, None, 1, FINISH), NewGroup(1, "inner", None, 0, 2, FINISH)],
            new_waits=[NewWait(waiting, (0, 1))],
        ),
    )

    stored = stored_job(store, "waiting")
    assert stored is not None
    assert stored.awaited_group == f"7/{outer.create_sequence}/{inner.create_sequence}"


def test_the_next_due_time_is_the_earliest_of_jobs_and_groups(store: Store) -> None:
    group = keep_group(store)
    with store.transaction() as transaction:
        assert transaction.next_due() is None

    keep_jobs(store, a_job("late", due_time=9))
    change(store, a_change(group, look_again=7))
    with store.transaction() as transaction:
        assert transaction.next_due() == 7

    keep_jobs(store, a_job("early", due_time=5))
    with store.transaction() as transaction:
        assert transaction.next_due() == 5


def test_due_groups_come_with_their_jobs_the_earliest_first(store: Store) -> None:
    groups = [keep_group(store, name) for name in ("second", "first", "not due")]
    change(store, a_change(groups[0], look_again=8), a_change(groups[1], look_again=7))

    loaded = loaded_due(store)

    assert loaded.due_groups == {Due(10): ["first", "second"]}
    assert (loaded.jobs["first"], loaded.jobs["second"]) == (groups[1], groups[0])
    assert loaded.unfinished_members == {}
    assert loaded_due(store, limit=1).due_groups == {Due(1): ["first"]}


def keep_members(store: Store, group: Job, count: int, **changes: Any) -> list[Job]:
    """Insert jobs of this group as they are."""
    values = {"group_id": group.id, "group_key": group.create_sequence, **changes}
    members = [a_job(f"{group.id}-{number:04}", **values) for number in range(count)]
    keep_jobs(store, *members)
    return members


def test_a_stopping_group_comes_with_its_unfinished_members(store: Store) -> None:
    group = keep_group(store)
    members = keep_members(store, group, 3)
    keep_jobs(store, a_job("other"), a_job("ended", group_key=group.create_sequence, state=JobState.COMPLETED))
    change(store, a_change(group, GroupMove(total=4, completed=1), stops=True))

    loaded = loaded_due(store)

    assert loaded.unfinished_members == {"group": [member.id for member in members]}
    assert {member.id: member for member in members}.items() <= loaded.jobs.items()


def test_one_transaction_reads_so_many_members_of_which_each_stopping_group_has_a_share(store: Store) -> None:
    groups = [keep_group(store, name) for name in ("one", "two")]
    for group in groups:
        keep_members(store, group, MEMBERS_AT_ONCE)
        change(store, a_change(group, GroupMove(total=MEMBERS_AT_ONCE), stops=True))

    found = loaded_due(store).unfinished_members

    assert [len(members) for members in found.values()] == [MEMBERS_AT_ONCE // 2] * 2


def test_one_transaction_reads_so_many_bytes_of_members(store: Store) -> None:
    group = keep_group(store)
    keep_members(store, group, 64, metadata=bytes(200 * 1024))
    change(store, a_change(group, GroupMove(total=64), stops=True))

    # 4 MiB are 21 of these jobs. Where their size is not known before, they are read 16 at a time.
    assert 21 <= len(loaded_due(store).unfinished_members["group"]) <= 32


def test_members_are_kept_until_their_group_is_final(store: Store) -> None:
    group = keep_group(store)
    keep_members(store, group, 1, state=JobState.COMPLETED, complete_time=5)
    assert is_kept(store, "group-0000")

    change(store, a_change(group, ends=True))
    assert not is_kept(store, "group-0000")


def test_a_group_that_has_ended_is_kept_until_its_members_have(store: Store) -> None:
    group = keep_group(store)
    ended = replace(group, state=JobState.CANCELLED, complete_time=5)
    keep(store, Changes(updated=[ChangedJob(ended, None, None, group)]))
    change(store, a_change(group, GroupMove(total=1), stops=True, ends=True))
    assert is_kept(store, "group")

    change(store, a_change(group, GroupMove(cancelled=1)))
    assert not is_kept(store, "group")


def test_a_deleted_group_takes_its_counts_with_it(store: Store) -> None:
    group = keep_group(store)
    keep(store, Changes(deleted=[remains(job=group)]))

    with reading(store) as reader:
        assert reader.groups([group.create_sequence]) == {}
