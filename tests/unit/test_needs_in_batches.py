"""Needs, as a batch decides on them and as the end of a job reaches those that need it."""

from __future__ import annotations

from typing import Any

import pytest

from jobstate_server.domain import commands as c
from jobstate_server.domain.durations import SECOND
from jobstate_server.domain.errors import AttemptSuperseded, InvalidField, JobNotFound, TransitionNotAllowed
from jobstate_server.domain.events import EventType
from jobstate_server.domain.groups import GroupPolicy
from jobstate_server.domain.job import Job, JobState
from jobstate_server.domain.needs import Need, NeedCondition
from jobstate_server.domain.rules.needs import LOCKED_RETRY
from jobstate_server.domain.statistics import Measure
from jobstate_server.domain.waiting import CancelCause, WaitReason, wait_reason

from .memory_store import MemoryStore, states_of

TYPE = "clean_transcript"


def create(job_id: str, *needs: str | Need, **fields: Any) -> c.Create:
    related = {name: fields.pop(name) for name in ("group_id", "group", "by") if name in fields}
    wanted = tuple(need if isinstance(need, Need) else Need(need) for need in needs)
    relations = c.Relations(needs=wanted, **related) if wanted or related else None
    return c.Create(job_id=job_id, job_type=TYPE, relations=relations, **fields)


def a_store(*creates: c.Create, **fields: Any) -> MemoryStore:
    store = MemoryStore(**fields)
    for each in creates:
        store.do(each)
    return store


def run(store: MemoryStore, job_id: str, **result: Any) -> Job:
    """Let a worker begin a job and complete it."""
    store.do(c.Start(job_id=job_id, worker="w"))
    (job,) = store.do(c.Complete(job_id=job_id, attempt=1, **result)).jobs
    return job


def fail(store: MemoryStore, job_id: str) -> None:
    store.do(c.Start(job_id=job_id, worker="w"))
    store.do(c.Fail(job_id=job_id, attempt=1, retryable=False))


def waits_for(job: Job) -> WaitReason | None:
    return wait_reason(job)


def test_a_child_is_ready_one_commit_after_its_parent() -> None:
    store = a_store(create("parent"), create("child", "parent"))
    assert waits_for(store.jobs["child"]) is WaitReason.NEEDS
    run(store, "parent")
    assert store.told("child") == [EventType.QUEUED]

    assert store.serve_due().served == 1

    assert waits_for(store.jobs["child"]) is WaitReason.TURN
    assert store.jobs["child"].ready_time == store.now
    assert store.told("child") == [EventType.QUEUED, EventType.READY]
    assert store.jobs["parent"].due_time is None


def test_an_end_reaches_the_children_also_when_its_batch_was_to_end_the_lease() -> None:
    """The batch read the parent as due because of its lease, and so none of those that need it."""
    store = a_store(create("parent"), create("child", "parent"))
    store.do(c.Acquire(job_types=(TYPE,), lease=SECOND))
    store.now += 2 * SECOND

    store.commit(c.Complete(job_id="parent", attempt=1), c.ServeDue(limit=4))
    store.now += LOCKED_RETRY
    store.settle()

    assert waits_for(store.jobs["child"]) is WaitReason.TURN
    assert store.jobs["parent"].due_time is None


def test_a_child_waits_for_the_last_of_its_parents() -> None:
    store = a_store(create("a"), create("b"), create("child", "a", "b"))
    run(store, "b")
    store.settle()
    assert store.jobs["child"].open_needs == 1
    run(store, "a")
    store.settle()

    assert store.told("child") == [EventType.QUEUED, EventType.READY]


def test_what_cannot_begin_any_more_is_cancelled_all_the_way_down() -> None:
    chain = [create("0"), *(create(str(number), str(number - 1)) for number in range(1, 6))]
    store = a_store(*chain)
    fail(store, "0")
    store.settle()

    assert states_of(store.jobs, *"12345") == ["CANCELLED"] * 5
    assert [store.jobs[name].cancel_cause_id for name in "12345"] == list("01234")
    assert {store.jobs[name].cancel_cause for name in "12345"} == {CancelCause.NEED}
    cancelled = next(event.event for event in store.log if event.job_id == "3" and event.type is EventType.CANCELLED)
    assert cancelled.cancelled.cause_id == cancelled.job.cancel_cause_id == "2"


@pytest.mark.parametrize(
    ("condition", "of_completed", "of_failed"),
    [
        (NeedCondition.COMPLETED, "QUEUED", "CANCELLED"),
        (NeedCondition.FINAL, "QUEUED", "QUEUED"),
        (NeedCondition.NOT_COMPLETED, "CANCELLED", "QUEUED"),
    ],
)
def test_a_need_on_an_ended_job_is_decided_at_once_as_it_would_be_later(
    condition: NeedCondition, of_completed: str, of_failed: str
) -> None:
    store = a_store(create("good"), create("bad"))
    needs = {name: Need(name, condition) for name in ("good", "bad")}
    for name, need in needs.items():
        store.do(create(f"early-{name}", need))
    run(store, "good")
    fail(store, "bad")
    store.settle()
    for name, need in needs.items():
        store.do(create(f"late-{name}", need))
    assert not store.is_due()

    for name, state in (("good", of_completed), ("bad", of_failed)):
        assert states_of(store.jobs, f"early-{name}", f"late-{name}") == [state, state]
        late = store.jobs[f"late-{name}"]
        if state == "QUEUED":
            assert not late.held
            assert store.told(late.id) == [EventType.QUEUED]
        else:
            assert late.cancel_cause_id == name
            assert store.told(late.id) == [EventType.QUEUED, EventType.CANCELLED]


def test_a_need_on_nothing_refuses_the_create() -> None:
    store = a_store(create("there"))
    alone = store.ask(create("child", "there", "gone"))
    in_batch = store.ask(c.BatchCreate(creates=(create("new"), create("child", "new", "gone"))))

    assert isinstance(alone, JobNotFound)
    assert alone.facts == {"job_id": "gone", "field": "needs[1].job_id"}
    assert isinstance(in_batch, JobNotFound)
    assert in_batch.facts["field"] == "requests[1].needs[1].job_id"
    assert set(store.jobs) == {"there"}
    assert not store.jobs["there"].needed


def test_only_earlier_jobs_of_a_batch_can_be_needed() -> None:
    store = a_store()
    backward = (create("first", "second"), create("second"))
    forward = (create("first"), create("second", "first"), create("third", "first", "second"))

    assert isinstance(store.ask(c.BatchCreate(creates=backward)), JobNotFound)
    assert isinstance(store.ask(create("own", "own")), JobNotFound)
    store.do(c.BatchCreate(creates=forward))
    assert [store.jobs[name].open_needs for name in ("first", "second", "third")] == [0, 1, 2]
    run(store, "first")
    store.settle()
    run(store, "second")
    store.settle()
    assert run(store, "third").state is JobState.COMPLETED


@pytest.mark.parametrize("in_one_batch", [True, False])
@pytest.mark.parametrize(
    ("creates", "problem_with"),
    [
        ([create("g", group=GroupPolicy()), create("m", "g", group_id="g")], "needs[0].job_id"),
        (
            [create("g", group=GroupPolicy()), create("x", "g"), create("y"), create("m", "y", "x", group_id="g")],
            "needs[1].job_id",
        ),
        (
            [
                create("outer", group=GroupPolicy()),
                create("g", group=GroupPolicy(), group_id="outer"),
                create("x", "outer"),
                create("m", "x", group_id="g"),
            ],
            "needs[0].job_id",
        ),
        (
            [
                create("g", group=GroupPolicy()),
                create("younger", group=GroupPolicy()),
                create("in-younger", "g", group_id="younger"),
                create("m", "younger", group_id="g"),
            ],
            "needs[0].job_id",
        ),
    ],
    ids=["its own group", "a job that needs its group", "a job that needs a group around", "a younger group"],
)
def test_a_member_cannot_wait_for_its_own_group_whatever_is_in_between(
    creates: list[c.Create], problem_with: str, in_one_batch: bool
) -> None:
    store = a_store(*([] if in_one_batch else creates[:-1]))
    if in_one_batch:
        refusal = store.ask(c.BatchCreate(creates=tuple(creates)))
        assert not store.jobs
    else:
        refusal = store.ask(creates[-1])

    assert isinstance(refusal, InvalidField)
    assert refusal.field == (f"requests[{len(creates) - 1}].{problem_with}" if in_one_batch else problem_with)
    assert "some would wait for each other" in refusal.problem


def test_a_member_waits_for_older_groups_and_for_those_in_its_own() -> None:
    store = a_store(create("first", group=GroupPolicy()), create("second", group=GroupPolicy()))
    store.do(create("planner", "first"))
    part = create("part", group=GroupPolicy(), group_id="second")
    last = create("last", "part", "planner", group_id="second")
    store.do(c.BatchCreate(creates=(part, last)))

    assert store.jobs["planner"].awaited_group == str(store.jobs["first"].create_sequence)
    keys = [store.jobs[name].create_sequence for name in ("second", "part")]
    assert store.jobs["last"].awaited_group == "/".join(map(str, keys))


def test_a_job_that_waits_for_nothing_any_more_may_be_needed_by_all() -> None:
    store = a_store(create("g", group=GroupPolicy()), create("h", group=GroupPolicy()))
    store.do(create("x", "h"))
    assert isinstance(store.ask(create("early", "x", group_id="g")), InvalidField)
    store.do(c.CloseGroup(job_id="h"))
    store.settle()

    store.do(create("late", "x", group_id="g"))


def test_a_failed_parent_that_may_be_retried_is_waited_for() -> None:
    store = a_store(create("parent"), create("child", "parent"))
    store.do(c.Start(job_id="parent", worker="w"))
    store.do(c.Fail(job_id="parent", attempt=1, retry_delay=0))
    store.settle()
    assert waits_for(store.jobs["child"]) is WaitReason.NEEDS
    store.do(c.Complete(job_id="parent", attempt=2))
    store.settle()

    assert waits_for(store.jobs["child"]) is WaitReason.TURN


def test_two_ends_at_once_resolve_each_edge_once() -> None:
    store = a_store(create("good"), create("bad"), create("child", "good", "bad"), slice=10)
    for name in ("good", "bad"):
        store.do(c.Start(job_id=name, worker="w"))
    store.commit(c.Complete(job_id="good", attempt=1), c.Fail(job_id="bad", attempt=1, retryable=False))
    store.settle()

    assert store.told("child") == [EventType.QUEUED, EventType.CANCELLED]
    assert [need.outcome for need in store.needs.values()] == [JobState.COMPLETED, JobState.PERMANENTLY_FAILED]
    assert not store.jobs["child"].held


def test_many_children_follow_in_slices_and_the_parent_stays_due_until_then() -> None:
    children = [create(f"child-{number}", "parent") for number in range(7)]
    store = a_store(create("parent"), *children, slice=2)
    run(store, "parent")
    version = store.jobs["parent"].version

    assert [store.serve_due().has_more for _ in range(4)] == [True, True, True, False]
    assert not any(store.jobs[each.job_id].held for each in children)
    assert not store.is_due()
    assert store.jobs["parent"].version == version


def test_children_that_others_have_in_hand_are_looked_for_again_a_little_later() -> None:
    store = a_store(create("parent"), create("free", "parent"), create("locked", "parent"))
    run(store, "parent")
    store.locked = {"locked"}
    assert store.serve_due().has_more
    assert not store.serve_due().has_more
    assert store.jobs["parent"].due_time == store.now + LOCKED_RETRY
    store.locked, store.now = set(), store.now + LOCKED_RETRY
    store.settle()

    assert not store.jobs["locked"].held


def test_a_child_that_was_cancelled_by_hand_stays_so() -> None:
    store = a_store(create("parent"), create("child", "parent"))
    store.do(c.Cancel(job_id="child", reason="enough"))
    run(store, "parent")
    store.settle()

    assert store.told("child") == [EventType.QUEUED, EventType.CANCELLED]
    assert store.jobs["child"].cancel_cause == CancelCause.CALLER
    assert [need.outcome for need in store.needs.values()] == [JobState.COMPLETED]


def test_needs_of_jobs_that_have_ended_already_are_resolved_too_when_they_fill_a_slice() -> None:
    children = [f"child-{number}" for number in range(5)]
    store = a_store(create("parent"), *(create(name, "parent") for name in children), slice=2)
    for name in children:
        store.do(c.Cancel(job_id=name))
    run(store, "parent")

    assert store.settle() == 3
    assert {need.outcome for need in store.needs.values()} == {JobState.COMPLETED}


def test_a_job_that_waits_for_its_needs_cannot_be_begun() -> None:
    store = a_store(create("parent"), create("child", "parent"))

    for command in (c.Start(job_id="child"), c.Retry(job_id="child", immediately=True)):
        refusal = store.ask(command)
        assert isinstance(refusal, TransitionNotAllowed)
        assert "waits for its needs" in refusal.message
        assert refusal.facts["allowed"] == "cancel"
    assert not store.do(c.Acquire(job_types=(TYPE,), max_jobs=9)).jobs[1:]


def test_a_delay_goes_on_beside_needs_and_the_later_of_both_counts() -> None:
    store = a_store(create("parent"), create("child", "parent", delay=60 * SECOND, start_within=5 * SECOND))
    child = store.jobs["child"]
    assert (waits_for(child), child.due_time) == (WaitReason.NEEDS, None)
    run(store, "parent")
    store.settle()
    child = store.jobs["child"]
    assert (waits_for(child), child.due_time) == (WaitReason.TIME, child.ready_time)
    assert store.told("child") == [EventType.QUEUED, EventType.WAITING]
    store.now += 60 * SECOND
    store.settle()

    child = store.jobs["child"]
    assert store.told("child") == [EventType.QUEUED, EventType.WAITING, EventType.READY]
    assert child.due_time == child.ready_time + 5 * SECOND == store.now + 5 * SECOND


def test_a_retry_that_ends_the_delay_of_a_job_that_waits_for_its_needs_is_told() -> None:
    store = a_store(create("parent"), create("child", "parent", delay=60 * SECOND))
    store.do(c.Retry(job_id="child", immediately=True))
    child = store.jobs["child"]
    assert (waits_for(child), child.ready_time, child.update_time) == (WaitReason.NEEDS, store.now, store.now)
    assert store.told("child") == [EventType.QUEUED, EventType.WAITING]
    run(store, "parent")
    store.settle()

    assert store.told("child") == [EventType.QUEUED, EventType.WAITING, EventType.READY]
    assert waits_for(store.jobs["child"]) is WaitReason.TURN


def test_what_an_unfinished_job_needs_is_counted_until_that_has_ended() -> None:
    store = a_store(create("a"), create("b"))
    run(store, "a")
    store.do(create("child", "a", "b"))
    keys = [store.jobs[name].create_sequence for name in ("a", "b")]
    assert [store.needed[key] for key in keys] == [1, 1]
    run(store, "b")
    store.settle()
    assert [store.needed[key] for key in keys] == [1, 1]
    run(store, "child")

    assert [store.needed[key] for key in keys] == [0, 0]


def test_a_job_that_is_created_and_ends_in_one_batch_keeps_nothing() -> None:
    store = a_store(create("parent"))
    store.commit(create("child", "parent"), c.Cancel(job_id="child"))
    assert store.needed.get(store.jobs["parent"].create_sequence, 0) == 0
    run(store, "parent")
    store.settle()

    assert [need.outcome for need in store.needs.values()] == [JobState.COMPLETED]


def test_a_superseded_attempt_creates_nothing() -> None:
    store = a_store(create("parent"))
    assert isinstance(store.ask(create("early", by=c.AttemptRef("parent", 1))), AttemptSuperseded)
    store.do(c.Start(job_id="parent", worker="w"))
    store.do(create("child", by=c.AttemptRef("parent", 1)))
    store.do(c.Fail(job_id="parent", attempt=1, retry_delay=0))
    store.settle()
    late = store.ask(create("late", by=c.AttemptRef("parent", 1)))

    assert isinstance(late, AttemptSuperseded)
    assert late.facts["field"] == "by.attempt"
    assert set(store.jobs) == {"parent", "child"}


def test_jobs_that_wait_are_counted_by_what_they_wait_for() -> None:
    store = a_store(create("parent"), create("a", "parent"), create("b", "parent", delay=SECOND), create("c", "parent"))

    def held() -> list[int]:
        return [store.tallies.get((TYPE, Measure.HELD, each), 0) for each in (WaitReason.TIME, WaitReason.NEEDS)]

    assert held() == [0, 3]
    store.do(c.Cancel(job_id="c"))
    assert held() == [0, 2]
    run(store, "parent")
    store.settle()
    assert held() == [1, 0]
    store.now += SECOND
    store.settle()
    assert held() == [0, 0]


def test_a_job_without_relations_writes_nothing_more() -> None:
    store = a_store(create("job"))
    run(store, "job")

    changes = store.changes
    assert not any((changes.new_needs, changes.ended_children, changes.groups, changes.group_guards))
    assert not any((store.needs, store.needed, store.groups))


def test_a_group_can_be_needed_like_any_job() -> None:
    store = a_store(create("group", group=GroupPolicy()), create("report", "group"), create("a", group_id="group"))
    store.do(c.CloseGroup(job_id="group"))
    run(store, "a")
    store.settle()

    assert states_of(store.jobs, "group", "report") == ["COMPLETED", "QUEUED"]
    assert not store.jobs["report"].held
