"""Replicas that handle needs and groups of one store at the same time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from jobstate_server.domain.groups import GroupMove, GroupPolicy, OnExcess
from jobstate_server.domain.job import Job, JobState
from jobstate_server.domain.needs import OpenNeeds
from jobstate_server.domain.reads import Due
from jobstate_server.store.errors import TransactionConflict
from jobstate_server.store.postgres.store import PostgresStore
from jobstate_server.store.records import ChangedJob, Changes
from jobstate_server.store.relation_records import GroupChange, GroupGuard, NewGroup, NewMember

from ...support.reads import reads
from ..support import PATIENCE_S, a_job, an_event, interrupt, keep, keep_jobs, reading, stored_job
from ..test_groups import a_change, change, group_of, keep_group, keep_members
from ..test_relations import a_need, a_parent, keep_children
from .support import recorded, until_it_waits

CANCEL = GroupPolicy(0, OnExcess.CANCEL)


def test_jobs_that_need_one_and_that_another_replica_has_in_hand_are_left_for_later(
    store: PostgresStore, other: PostgresStore
) -> None:
    parent = a_parent()
    keep_jobs(store, parent)
    children = keep_children(store, parent, 3)

    with store.transaction() as one, other.transaction() as another:
        one.load(reads([children[1].id]))
        needs, is_all = another.load(reads(due=10)).open_needs["parent"]

    assert ([need.child_id for need in needs], is_all) == ([children[0].id, children[2].id], False)
    with other.transaction() as another:
        assert another.load(reads(due=10)).open_needs["parent"].is_all


def test_needs_that_are_all_in_the_hands_of_others_are_not_taken_for_none(
    store: PostgresStore, other: PostgresStore
) -> None:
    parent = a_parent()
    keep_jobs(store, parent)
    (child,) = keep_children(store, parent, 1)

    with store.transaction() as one, other.transaction() as another:
        one.load(reads([child.id]))
        assert another.load(reads(due=10)).open_needs == {"parent": OpenNeeds([], is_all=False)}


def test_a_job_that_needs_another_is_read_as_another_replica_left_it(
    store: PostgresStore, other: PostgresStore
) -> None:
    parent = a_parent()
    keep_jobs(store, parent)
    (child,) = keep_children(store, parent, 1)
    changed = a_job(child.id, create_sequence=child.create_sequence, needs_count=1, open_needs=1, worker="other")
    keep(other, Changes(updated=[ChangedJob(changed, 0, None, child)], events=[an_event(child.id)]))

    with store.transaction() as transaction:
        assert transaction.load(reads(due=10)).jobs[child.id] == changed


def test_groups_and_members_that_another_replica_has_in_hand_are_passed_over(
    store: PostgresStore, other: PostgresStore
) -> None:
    groups = [keep_group(store, name) for name in ("one", "two")]
    for group in groups:
        keep_members(store, group, 3)
        change(store, a_change(group, GroupMove(total=3), stops=True))

    with store.transaction() as one, other.transaction() as another:
        one.load(reads(["one", "two-0001"]))
        loaded = another.load(reads(due=10))
        # It is due all the same, should the other replica die.
        assert another.next_due() == 1

    assert loaded.due_groups == {Due(10): ["two"]}
    assert loaded.unfinished_members == {"two": ["two-0000", "two-0002"]}


@pytest.mark.parametrize(
    ("move", "closes", "may_be_closed", "is_refused"),
    [
        (GroupMove(), True, False, True),
        (GroupMove(), True, True, False),
        (GroupMove(total=1, cancelled=1), False, True, True),
        (GroupMove(total=1), False, False, False),
    ],
)
def test_a_member_is_not_added_to_a_group_that_was_closed_or_stopped_meanwhile(
    url: str,
    store: PostgresStore,
    other: PostgresStore,
    move: GroupMove,
    closes: bool,
    may_be_closed: bool,
    is_refused: bool,
) -> None:
    group = keep_group(store, policy=CANCEL)
    key = group.create_sequence

    def add() -> str:
        member = a_job("member", group_id="group", group_key=key)
        adding = Changes(
            inserted=[ChangedJob(member, 0, 0)],
            events=[an_event("member")],
            groups=[a_change(group, GroupMove(total=1))],
            group_guards=[GroupGuard(key, may_be_closed)],
        )
        try:
            with other.transaction() as transaction:
                assert not transaction.groups([key])[key].group.closed
                transaction.finish(adding)
        except TransactionConflict:
            return "refused"
        return "added"

    with ThreadPoolExecutor(1) as threads:
        with store.transaction() as transaction:
            transaction.write(Changes(groups=[a_change(group, move, closes=closes)], now=1))
            adding = threads.submit(add)
            until_it_waits(url, other.database.process)
        assert adding.result(PATIENCE_S) == ("refused" if is_refused else "added")
    assert (stored_job(store, "member") is None) == is_refused
    assert group_of(store, group).counts == move.plus(GroupMove(total=0 if is_refused else 1))


def ending(group: Job, member: Job) -> Changes:
    """The end of a member."""
    return Changes(
        updated=[ChangedJob(ended(member), 0, None, member)],
        events=[an_event(member.id)],
        groups=[a_change(group, GroupMove(completed=1, progress=100))],
        ended_children=[member.create_sequence],
        now=1,
    )


def ended(job: Job) -> Job:
    state = JobState.COMPLETED
    return a_job(
        job.id, create_sequence=job.create_sequence, state=state, complete_time=5, group_key=job.group_key, progress=100
    )


def test_of_two_last_members_that_end_at_once_one_makes_the_group_due(
    url: str, store: PostgresStore, other: PostgresStore
) -> None:
    group = keep_group(store)
    first, second = keep_members(store, group, 2)
    change(store, a_change(group, GroupMove(total=2), closes=True))

    def end(replica: PostgresStore, member: Job) -> int | None:
        with replica.transaction() as transaction:
            transaction.load(reads([member.id]))
            transaction.finish(ending(group, member))
        return transaction.group_due

    with ThreadPoolExecutor(1) as threads:
        with store.transaction() as transaction:
            transaction.load(reads([first.id]))
            transaction.write(ending(group, first))
            # What it shows of progress is due in a second; the end, at once.
            progress_due = transaction.group_due
            ending_second = threads.submit(end, other, second)
            until_it_waits(url, other.database.process)
        assert ending_second.result(PATIENCE_S) == 1
    assert progress_due == 1_000_000
    assert group_of(store, group).unfinished == 0


def test_ends_that_meet_at_parents_and_groups_in_opposite_order_do_not_deadlock(
    store: PostgresStore, other: PostgresStore
) -> None:
    """Each transaction has jobs in hand, and counts for parents and groups of both, named in opposite orders."""
    rounds = 25
    groups = [keep_group(store, name) for name in ("one", "two")]
    parents = [a_job(name, needed=True) for name in ("parent-1", "parent-2")]
    keep_jobs(store, *parents)
    workers = (store, other)
    children: list[list[Job]] = []
    for number in range(len(workers)):
        made = [a_job(f"{number}-{place:03}", needs_count=2, open_needs=2, held=True) for place in range(rounds)]
        order = parents if number else parents[::-1]
        keep(
            store,
            Changes(
                inserted=[ChangedJob(child, place, place) for place, child in enumerate(made)],
                events=[an_event(child.id) for child in made],
                new_needs=[a_need(each, place, at) for place in range(rounds) for at, each in enumerate(order)],
            ),
        )
        children.append(made)

    def work(number: int) -> None:
        order = groups if number else groups[::-1]
        for child in children[number]:
            changes = Changes(
                updated=[ChangedJob(ended(child), 0, None, child)],
                events=[an_event(child.id)],
                groups=[a_change(group, GroupMove(total=1, completed=1, tokens=1)) for group in order],
                group_guards=[GroupGuard(group.create_sequence, may_be_closed=True) for group in order],
                ended_children=[child.create_sequence],
                now=1,
            )
            with workers[number].transaction() as transaction:
                transaction.load(reads([child.id], due=10))
                transaction.finish(changes)

    with ThreadPoolExecutor(len(workers)) as threads:
        for future in [threads.submit(work, number) for number in range(len(workers))]:
            future.result(PATIENCE_S)

    for group in groups:
        expected = GroupMove(total=2 * rounds, completed=2 * rounds, tokens=2 * rounds)
        assert group_of(store, group).counts == expected
    with reading(store) as reader:
        left = reader._execute("SELECT count(*) FROM needed", ())  # type: ignore[attr-defined]
    assert left == [(0,)]


def test_a_transaction_that_waits_for_the_log_holds_no_count(
    url: str, store: PostgresStore, other: PostgresStore
) -> None:
    """Two transactions, each with a job in hand that the other's slice would reach: neither waits for the other's."""
    group = keep_group(store)
    first, second = keep_members(store, group, 2)
    change(store, a_change(group, GroupMove(total=2)))

    def stop() -> list[str]:
        with other.transaction() as transaction:
            transaction.load(reads([second.id]))
            transaction.finish(Changes(groups=[a_change(group, stops=True)], now=1))
        with other.transaction() as transaction:
            return transaction.load(reads(due=10)).unfinished_members["group"]

    with ThreadPoolExecutor(1) as threads:
        with store.transaction() as transaction:
            transaction.load(reads([first.id]))
            transaction.write(ending(group, first))
            stopping = threads.submit(stop)
            until_it_waits(url, other.database.process)
            # With the log in hand, what is due is passed over where the other has it, and not waited for.
            assert transaction.load(reads(due=10)).unfinished_members == {}
        assert stopping.result(PATIENCE_S) == [second.id]


def test_other_replicas_are_told_when_a_group_is_due(store: PostgresStore, other: PostgresStore) -> None:
    group = keep_group(store)
    notifier = other.open_notifier()
    try:
        notifier.wait(0)
        change(store, a_change(group, GroupMove(total=1)))
        change(store, a_change(group, look_again=77))
        told = notifier.wait(PATIENCE_S)
    finally:
        notifier.close()

    assert told is not None
    assert told.next_due == 77


def test_a_replica_that_polls_finds_when_a_group_is_due(store: PostgresStore) -> None:
    group = keep_group(store)
    keep_jobs(store, a_job("later", due_time=99))
    change(store, a_change(group, look_again=77))
    notifier = store.open_notifier()
    try:
        # The first is always a poll.
        told = notifier.wait(0)
    finally:
        notifier.close()

    assert told is not None
    assert told.next_due == 77


def test_what_was_written_of_needs_and_groups_is_undone_with_the_transaction(store: PostgresStore) -> None:
    group = keep_group(store)
    with pytest.raises(RuntimeError):
        interrupt(
            store, lambda transaction: transaction.write(Changes(groups=[a_change(group, closes=True)])), RuntimeError
        )

    assert not group_of(store, group).closed


COUNTS = [1, 100]


@pytest.mark.parametrize("count", COUNTS)
def test_needs_and_groups_of_a_batch_take_a_statement_for_each_kind(store: PostgresStore, count: int) -> None:
    parent, group = a_parent(), keep_group(store)
    keep_jobs(store, parent)
    children = keep_children(store, parent, count)
    jobs = [a_job(f"new-{number}", needs_count=1) for number in range(count)]
    changes = Changes(
        inserted=[ChangedJob(job, number, number) for number, job in enumerate(jobs)],
        events=[an_event(job.id) for job in jobs],
        new_needs=[a_need(parent, number) for number in range(count)],
        ended_children=[child.create_sequence for child in children],
        groups=[a_change(group, GroupMove(total=count, tokens=1))],
        group_guards=[GroupGuard(group.create_sequence, may_be_closed=True)],
    )

    with recorded(store) as recorder, store.transaction() as transaction:
        loaded = transaction.load(reads(due=10))
        assert len(loaded.open_needs["parent"].needs) == count
        transaction.finish(changes)

    # The beginning, what is due, whom it reaches, and what is written.
    assert recorder.round_trips == 4
    assert len(recorder.statements) == 16


def test_members_that_are_made_with_their_group_cost_one_more_round_trip(store: PostgresStore) -> None:
    group = a_job("group", group_depth=1)
    members = [a_job(f"member-{number}", group_id="group") for number in range(100)]
    made = [group, *members]
    changes = Changes(
        inserted=[ChangedJob(job, number, number) for number, job in enumerate(made)],
        events=[an_event(job.id) for job in made],
        new_groups=[NewGroup(0, "group", None, None, 1, GroupPolicy())],
        new_members=[NewMember(member, 0) for member in members],
        groups=[GroupChange(None, 0, GroupMove(total=100))],
    )
    with store.transaction() as transaction:
        first = transaction.finish(changes)

    assert {member.group_key for member in members} == {first}
    stored = stored_job(store, "member-99")
    assert stored is not None
    assert (stored.group_key, stored.create_sequence) == (first, first + 100)
