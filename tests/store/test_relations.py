"""Needs: what is stored of them, what a transaction reads of them, and until when a needed job is kept."""

from __future__ import annotations

from typing import Any

from jobstate_server.domain.groups import GroupPolicy, OnExcess
from jobstate_server.domain.job import Job, JobState
from jobstate_server.domain.limits import NEEDS_AT_ONCE
from jobstate_server.domain.needs import Need, NeedCondition, OpenNeed, OpenNeeds, ResolvedNeed
from jobstate_server.domain.reads import Finished
from jobstate_server.store.base import Reader, Store
from jobstate_server.store.records import ChangedJob, Changes, Loaded
from jobstate_server.store.relation_records import NeedRow, NewGroup, StoredNeed

from ..support.reads import reads
from .support import a_job, an_event, keep, keep_jobs, remains, stored_job

LARGE = bytes(200 * 1024)


def a_need(parent: Job, child_event: int = 0, position: int = 0, **changes: Any) -> NeedRow:
    """A need of a new job on a stored one, with nothing special about it."""
    need = NeedRow(
        child_event=child_event,
        position=position,
        parent_id=parent.id,
        parent_key=parent.create_sequence,
        parent_event=None,
        condition=NeedCondition.COMPLETED,
        outcome=None,
        is_counted=True,
    )
    return need._replace(**changes)


def keep_children(store: Store, parent: Job, count: int, **changes: Any) -> list[Job]:
    """Create jobs that need a stored one, in one transaction."""
    children = [
        a_job(f"child-{number:04}", needs_count=1, open_needs=1, held=True, **changes) for number in range(count)
    ]
    changed = Changes(
        inserted=[ChangedJob(child, index, index) for index, child in enumerate(children)],
        events=[an_event(child.id) for child in children],
        new_needs=[a_need(parent, index) for index in range(count)],
    )
    keep(store, changed)
    return children


def loaded_due(store: Store, limit: int = 10) -> Loaded:
    """What a new transaction reads of what is due."""
    with store.transaction() as transaction:
        return transaction.load(reads(due=limit))


def is_kept(store: Store, job: Job) -> bool:
    """Whether cleanup passes over this final job."""
    selection = Finished(2**62, None, 1_000)
    with store.transaction() as transaction:
        found = transaction.load(reads(finished=selection)).finished[selection]
    (kept,) = [each.is_kept for each in found if each.id == job.id]
    return kept


def a_parent(**changes: Any) -> Job:
    return a_job("parent", needed=True, state=JobState.COMPLETED, complete_time=5, due_time=5, **changes)


def test_a_job_is_read_with_what_it_needs_in_the_order_given(store: Store, reader: Reader) -> None:
    first, second = a_job("first"), a_job("second")
    keep_jobs(store, first, second)
    child = a_job("child", needs_count=2, open_needs=1, held=True)
    final = NeedCondition.FINAL
    keep(
        store,
        Changes(
            inserted=[ChangedJob(child, 0, 0)],
            events=[an_event("child")],
            new_needs=[
                a_need(second, position=1, condition=final, outcome=JobState.CANCELLED),
                a_need(first, position=0),
            ],
        ),
    )

    stored = stored_job(store, "child")
    assert stored == child
    assert reader.needs(stored) == [
        StoredNeed(Need("first"), None),
        StoredNeed(Need("second", final), JobState.CANCELLED),
    ]
    assert reader.needs(first) == []


def test_a_need_on_a_job_of_the_same_transaction_has_its_key(store: Store) -> None:
    parent, child = a_job("parent"), a_job("child", needs_count=1, open_needs=1)
    keep(
        store,
        Changes(
            inserted=[ChangedJob(parent, 0, 0), ChangedJob(child, 1, 1)],
            events=[an_event("parent"), an_event("child")],
            new_needs=[a_need(parent, 1, parent_key=None, parent_event=0)],
        ),
    )
    ended = a_parent(create_sequence=parent.create_sequence)
    keep(store, Changes(updated=[ChangedJob(ended, None, None, parent)]))

    needs = loaded_due(store).open_needs["parent"]
    assert needs == OpenNeeds([OpenNeed("child", child.create_sequence, 0, NeedCondition.COMPLETED)])


def test_the_fields_of_needs_and_groups_are_stored_with_a_job(store: Store) -> None:
    job = a_job(
        needs_count=3,
        open_needs=2,
        needed=True,
        group_id="group",
        group_key=7,
        awaited_group="5/6",
        group_depth=2,
        tolerated_failures=-1,
        on_excess=2,
        cancel_cause_id="cause",
    )
    policy = GroupPolicy(-1, OnExcess.CANCEL)
    keep(
        store,
        Changes(
            inserted=[ChangedJob(job, 0, 0)],
            events=[an_event()],
            new_groups=[NewGroup(0, job.id, 7, None, 2, policy)],
        ),
    )

    assert stored_job(store) == job
    with store.transaction() as transaction:
        assert transaction.load(reads(["job"])).jobs["job"] == job


def test_what_needs_change_of_a_job_is_written(store: Store) -> None:
    before = a_job(needs_count=2, open_needs=2, held=True)
    keep_jobs(store, before)
    after = a_job(needs_count=2, open_needs=1, held=True, needed=True, cancel_cause_id="cause")
    keep(store, Changes(updated=[ChangedJob(after, None, None, before)]))

    assert stored_job(store) == after


def test_a_due_job_that_is_final_comes_with_its_open_needs_and_their_jobs(store: Store) -> None:
    parent = a_parent()
    keep_jobs(store, parent, a_job("waits", due_time=6))
    children = keep_children(store, parent, 3)

    loaded = loaded_due(store)

    needs = [OpenNeed(child.id, child.create_sequence, 0, NeedCondition.COMPLETED) for child in children]
    assert loaded.open_needs == {"parent": OpenNeeds(needs)}
    assert {child.id: child for child in children}.items() <= loaded.jobs.items()


def test_needs_that_are_resolved_are_not_read_again(store: Store, reader: Reader) -> None:
    parent = a_parent()
    keep_jobs(store, parent)
    first, second = keep_children(store, parent, 2)
    keep(store, Changes(resolved_needs=[ResolvedNeed(first.create_sequence, 0, JobState.COMPLETED)]))

    needs = loaded_due(store).open_needs["parent"].needs
    assert [need.child_id for need in needs] == [second.id]
    assert reader.needs(first) == [StoredNeed(Need("parent"), JobState.COMPLETED)]


def test_one_transaction_reads_so_many_open_needs_and_says_that_there_are_more(store: Store) -> None:
    parent = a_parent()
    keep_jobs(store, parent)
    keep_children(store, parent, NEEDS_AT_ONCE + 1)

    needs, is_all = loaded_due(store).open_needs["parent"]

    assert (len(needs), is_all) == (NEEDS_AT_ONCE, False)


def test_each_job_that_ended_has_a_share_of_the_open_needs_that_are_read(store: Store) -> None:
    parent, other = a_parent(), a_job("other", state=JobState.CANCELLED, complete_time=6, due_time=6)
    keep_jobs(store, parent, other, a_job("none", state=JobState.CANCELLED, complete_time=7, due_time=7))
    keep_children(store, parent, NEEDS_AT_ONCE)
    child = a_job("last", needs_count=1, open_needs=1, held=True)
    changes = Changes(inserted=[ChangedJob(child, 0, 0)], events=[an_event("last")], new_needs=[a_need(other)])
    keep(store, changes)

    found = loaded_due(store).open_needs

    assert {name: (len(needs), is_all) for name, (needs, is_all) in found.items()} == {
        "parent": (NEEDS_AT_ONCE // 3, False),
        "other": (1, True),
        "none": (0, True),
    }


def test_one_transaction_reads_so_many_bytes_of_the_jobs_that_need_one(store: Store) -> None:
    parent = a_parent()
    keep_jobs(store, parent)
    keep_children(store, parent, 64, metadata=LARGE)

    needs, is_all = loaded_due(store).open_needs["parent"]

    # 4 MiB are 21 of these jobs. Where their size is not known before, they are read 16 at a time.
    assert 21 <= len(needs) <= 32
    assert not is_all


def test_a_needed_job_is_kept_until_the_last_job_that_needs_it_has_ended(store: Store) -> None:
    parent = a_parent()
    keep_jobs(store, parent)
    assert not is_kept(store, parent)

    first, second = keep_children(store, parent, 2)
    keep(store, Changes(ended_children=[first.create_sequence]))
    assert is_kept(store, parent)

    keep(store, Changes(ended_children=[second.create_sequence]))
    assert not is_kept(store, parent)


def test_a_job_that_ended_when_it_was_created_keeps_nothing(store: Store) -> None:
    parent = a_parent()
    keep_jobs(store, parent)
    child = a_job("child", state=JobState.CANCELLED, complete_time=6, needs_count=1)
    keep(
        store,
        Changes(
            inserted=[ChangedJob(child, 0, 0)],
            events=[an_event("child")],
            new_needs=[a_need(parent, is_counted=False, outcome=JobState.COMPLETED)],
        ),
    )

    assert not is_kept(store, parent)


def test_a_deleted_job_takes_its_needs_with_it(store: Store) -> None:
    parent = a_parent()
    keep_jobs(store, parent)
    (child,) = keep_children(store, parent, 1)
    keep(store, Changes(deleted=[remains(job=child)], ended_children=[]))

    assert loaded_due(store).open_needs == {"parent": OpenNeeds([])}


def test_a_need_outlives_the_job_that_was_needed(store: Store, reader: Reader) -> None:
    parent = a_parent()
    keep_jobs(store, parent)
    (child,) = keep_children(store, parent, 1)
    keep(store, Changes(resolved_needs=[ResolvedNeed(child.create_sequence, 0, JobState.COMPLETED)]))
    keep(store, Changes(deleted=[remains(job=parent)]))

    assert reader.needs(child) == [StoredNeed(Need("parent"), JobState.COMPLETED)]
