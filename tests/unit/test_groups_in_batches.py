"""Groups, as a batch decides on them and as the server runs them."""

from __future__ import annotations

from typing import Any

import pytest

from jobstate_server.domain import commands as c
from jobstate_server.domain.caller import SERVER
from jobstate_server.domain.durations import SECOND
from jobstate_server.domain.errors import GroupClosed, InvalidField, JobNotFound, NotAGroup, TransitionNotAllowed
from jobstate_server.domain.events import EventType
from jobstate_server.domain.groups import DEPTH_MAX, PROGRESS_INTERVAL, TOLERATES_ANY, GroupPolicy, OnExcess
from jobstate_server.domain.job import JobState, Usage
from jobstate_server.domain.rules.groups import MEMBERS_FAILED
from jobstate_server.domain.rules.needs import LOCKED_RETRY
from jobstate_server.domain.statistics import statistics
from jobstate_server.domain.waiting import CancelCause
from jobstate_server.engine.outcomes import Outcome

from .memory_store import MemoryStore, states_of
from .test_needs_in_batches import TYPE, a_store, create, fail, run

FINISH, CANCEL = OnExcess.FINISH, OnExcess.CANCEL


def a_group(members: int = 0, policy: GroupPolicy | None = None, *, closed: bool = False, **fields: Any) -> MemoryStore:
    """A store with the group ``g`` and its members ``0``, ``1`` and so on."""
    store = a_store(create("g", group=policy or GroupPolicy()), **fields)
    for number in range(members):
        store.do(create(str(number), group_id="g"))
    if closed:
        store.do(c.CloseGroup(job_id="g"))
    return store


def counts(store: MemoryStore, group_id: str = "g") -> tuple[int, ...]:
    return store.groups[store.jobs[group_id].create_sequence].group.counts[:4]


def test_a_group_runs_from_its_creation_on_and_nobody_works_on_it() -> None:
    store = a_group()
    group = store.jobs["g"]

    assert (group.state, group.attempt, group.claimed) == (JobState.PROCESSING, 1, True)
    assert (group.due_time, group.attempt_deadline, group.timeout, group.max_retries) == (None, None, None, 0)
    assert store.told("g") == [EventType.QUEUED, EventType.STARTED]
    for command in (
        c.Start(job_id="g"),
        c.UpdateProgress(job_id="g", attempt=1, progress=5),
        c.Complete(job_id="g"),
        c.Fail(job_id="g", attempt=1),
        c.Release(job_id="g", attempt=1),
        c.Retry(job_id="g"),
    ):
        refusal = store.ask(command)
        assert isinstance(refusal, TransitionNotAllowed)
        assert (refusal.facts["why"], refusal.facts["allowed"]) == ("group", "cancel")
    assert not store.do(c.Acquire(job_types=(TYPE,))).jobs
    assert not store.do(c.MarkStale(job_id="g", attempt=1, heard_time=group.heard_time)).acted


def test_an_answer_with_a_group_has_its_counts() -> None:
    store = a_group()
    made = store.do(create("other", group=GroupPolicy(3)))
    store.do(create("member", group_id="g"))
    closed = store.do(c.CloseGroup(job_id="g"))
    cancelled = store.do(c.Cancel(job_id="g"))

    assert made.groups is not None
    assert made.groups["other"].counts.total == 0
    assert closed.groups is not None
    assert (closed.groups["g"].counts.total, closed.groups["g"].closed) == (1, True)
    assert cancelled.groups is not None
    assert cancelled.groups["g"].stopping
    assert store.do(create("plain")).groups is None


def test_the_end_of_a_group_comes_after_those_of_its_members() -> None:
    store = a_group(2, closed=True)
    run(store, "0")
    run(store, "1")
    assert store.told("g") == [EventType.QUEUED, EventType.STARTED]
    store.settle()

    assert store.told("g")[-1] is EventType.COMPLETED
    assert store.log[-1].job_id == "g"
    assert store.log[-1].event.job.members.completed == 2
    assert store.jobs["g"].progress == 100
    assert not store.is_due()


def test_an_open_group_waits_however_many_members_have_ended() -> None:
    store = a_group(1)
    run(store, "0")
    store.settle()
    assert states_of(store.jobs, "g") == ["PROCESSING"]
    store.do(c.CloseGroup(job_id="g"))
    store.settle()

    assert states_of(store.jobs, "g") == ["COMPLETED"]


def test_an_empty_group_ends_when_it_is_closed() -> None:
    store = a_group(closed=True)
    assert store.group_due == store.now
    store.settle()

    assert store.told("g") == [EventType.QUEUED, EventType.STARTED, EventType.COMPLETED]


def test_a_group_is_closed_once_and_answers_alike_ever_after() -> None:
    store = a_group(1, closed=True)
    version = store.jobs["g"].version
    (again,) = store.do(c.CloseGroup(job_id="g")).jobs
    assert (again.version, again.state) == (version, JobState.PROCESSING)
    run(store, "0")
    store.settle()
    (ended,) = store.do(c.CloseGroup(job_id="g")).jobs

    assert ended.state is JobState.COMPLETED
    assert isinstance(store.ask(c.CloseGroup(job_id="0")), NotAGroup)
    assert isinstance(store.ask(c.CloseGroup(job_id="none")), JobNotFound)


def test_only_what_takes_members_gets_any() -> None:
    store = a_group(1, closed=True)
    for group_id, error, why in (("none", JobNotFound, None), ("0", NotAGroup, None), ("g", GroupClosed, "closed")):
        refusal = store.ask(create("new", group_id=group_id))
        assert isinstance(refusal, error)
        assert refusal.facts["field"] == "group_id"
        assert refusal.facts.get("why") == why
    store.do(c.Cancel(job_id="g"))
    stopped = store.ask(create("new", group_id="g"))

    assert isinstance(stopped, GroupClosed)
    assert stopped.facts["why"] == "final"
    assert "new" not in store.jobs


def test_a_running_member_may_add_members_to_a_closed_group_and_nobody_else_may() -> None:
    store = a_group(1, closed=True)
    store.do(create("stranger"))
    for job_id in ("0", "stranger"):
        store.do(c.Start(job_id=job_id, worker="w"))
    assert isinstance(store.ask(create("no", group_id="g", by=c.AttemptRef("stranger", 1))), GroupClosed)
    store.do(create("more", group_id="g", by=c.AttemptRef("0", 1)))
    (guard,) = store.changes.group_guards
    assert guard.may_be_closed
    store.do(c.Complete(job_id="0", attempt=1))
    store.settle()
    assert states_of(store.jobs, "g") == ["PROCESSING"]
    run(store, "more")
    store.settle()

    assert states_of(store.jobs, "g") == ["COMPLETED"]


def test_a_close_and_a_create_in_one_batch_are_decided_in_their_order() -> None:
    store = a_group()
    before, _, after = store.commit(
        create("before", group_id="g"), c.CloseGroup(job_id="g"), create("after", group_id="g")
    )

    assert isinstance(before, Outcome)
    assert isinstance(after, GroupClosed)
    assert counts(store) == (1, 0, 0, 0)


def test_a_group_and_its_members_may_be_made_in_one_batch() -> None:
    store = a_store()
    parts = (create("g", group=GroupPolicy()), create("inner", group=GroupPolicy(), group_id="g"))
    store.do(c.BatchCreate(creates=(*parts, create("a", group_id="inner"), create("b", "a", group_id="g"))))
    keys = {name: store.jobs[name].create_sequence for name in ("g", "inner")}

    assert [store.jobs[name].group_key for name in ("g", "inner", "a", "b")] == [
        *(None, keys["g"], keys["inner"], keys["g"])
    ]
    assert store.groups[keys["inner"]].parent_key == keys["g"]
    assert (counts(store)[0], counts(store, "inner")[0]) == (2, 1)
    assert [store.jobs[name].group_depth for name in ("g", "inner", "a")] == [1, 2, 0]


def test_groups_are_nested_so_deep_and_no_deeper() -> None:
    store = a_store(create("0", group=GroupPolicy()))
    for depth in range(1, DEPTH_MAX):
        store.do(create(str(depth), group=GroupPolicy(), group_id=str(depth - 1)))
    refusal = store.ask(create("deep", group=GroupPolicy(), group_id=str(DEPTH_MAX - 1)))

    assert isinstance(refusal, InvalidField)
    assert refusal.field == "group_id"
    store.do(create("member", group_id=str(DEPTH_MAX - 1)))
    store.do(c.Cancel(job_id="0"))
    assert isinstance(store.ask(c.Start(job_id="member")), TransitionNotAllowed)
    store.settle()
    assert {job.state for job in store.jobs.values()} == {JobState.CANCELLED}


@pytest.mark.parametrize(
    ("tolerated", "failures", "state"),
    [(0, 0, "COMPLETED"), (0, 1, "PERMANENTLY_FAILED"), (2, 2, "COMPLETED"), (TOLERATES_ANY, 3, "COMPLETED")],
)
def test_the_verdict_is_how_many_failures_are_tolerated(tolerated: int, failures: int, state: str) -> None:
    store = a_group(4, GroupPolicy(tolerated), closed=True)
    for number in range(4):
        (fail if number < failures else run)(store, str(number))
    store.settle()

    assert states_of(store.jobs, "g") == [state]
    error = store.jobs["g"].last_error
    assert (error is None) == (state == "COMPLETED")
    if error is not None:
        assert (error.code, error.retryable) == (MEMBERS_FAILED, False)
        assert store.told("g")[-2:] == [EventType.FAILED, EventType.PERMANENTLY_FAILED]


def test_with_finish_the_others_are_worked_on_after_too_many_failures() -> None:
    store = a_group(3, GroupPolicy(0, FINISH), closed=True)
    fail(store, "0")
    store.settle()
    assert run(store, "1").state is JobState.COMPLETED
    run(store, "2")
    store.settle()

    assert store.jobs["g"].state is JobState.PERMANENTLY_FAILED
    assert counts(store) == (3, 2, 1, 0)


def test_with_cancel_the_commit_of_the_excess_stops_the_group_which_ends_though_nobody_closed_it() -> None:
    store = a_group(6, GroupPolicy(1, CANCEL), slice=2)
    store.do(c.Start(job_id="5", worker="w"))
    fail(store, "0")
    assert store.jobs["1"].state is JobState.QUEUED
    fail(store, "1")
    assert isinstance(store.ask(c.Start(job_id="2")), TransitionNotAllowed)
    assert isinstance(store.ask(create("new", group_id="g")), GroupClosed)
    taken = store.settle()

    assert taken >= 3
    assert states_of(store.jobs, *"2345g") == ["CANCELLED"] * 4 + ["PERMANENTLY_FAILED"]
    assert {store.jobs[name].cancel_cause_id for name in "2345"} == {"g"}
    assert {store.jobs[name].cancel_cause for name in "2345"} == {CancelCause.GROUP}
    assert store.log[-1].type is EventType.PERMANENTLY_FAILED


def test_a_cancelled_group_ends_at_once_and_hands_out_nothing_more() -> None:
    store = a_group(5, slice=2)
    store.do(c.Start(job_id="0", worker="w"))
    store.do(c.Cancel(job_id="g", reason="enough"))
    assert store.jobs["g"].state is JobState.CANCELLED
    assert store.log[-1].event.job.members.stopping
    refusal = store.ask(c.Start(job_id="1"))
    assert isinstance(refusal, TransitionNotAllowed)
    assert refusal.facts["why"] == "held back"
    store.settle()

    assert states_of(store.jobs, *"01234") == ["CANCELLED"] * 5
    assert counts(store) == (5, 0, 0, 5)
    assert store.told("g").count(EventType.CANCELLED) == 1


def test_an_acquire_cancels_members_of_a_stopping_group_and_gets_others() -> None:
    store = a_group(2)
    store.do(create("free"))
    store.do(c.Cancel(job_id="g"))
    (got,) = store.do(c.Acquire(job_types=(TYPE,), max_jobs=2)).jobs

    assert got.id == "free"
    assert store.batch is not None
    assert store.batch.has_stopped_members
    assert states_of(store.jobs, "0", "1") == ["CANCELLED", "CANCELLED"]


def test_a_hand_out_relies_on_all_groups_around() -> None:
    store = a_group()
    store.do(create("inner", group=GroupPolicy(), group_id="g"))
    store.do(create("member", group_id="inner"))
    store.do(c.Acquire(job_types=(TYPE,)))

    keys = {store.jobs[name].create_sequence for name in ("g", "inner")}
    assert {(guard.group_key, guard.may_be_closed) for guard in store.changes.group_guards} == {
        (key, True) for key in keys
    }


def test_members_that_others_have_in_hand_are_looked_for_again_a_little_later() -> None:
    store = a_group(1)
    store.do(c.Cancel(job_id="g"))
    store.locked = {"0"}
    assert not store.serve_due().has_more
    row = store.groups[store.jobs["g"].create_sequence]
    assert row.due_time == store.now + LOCKED_RETRY
    store.locked, store.now = set(), store.now + LOCKED_RETRY
    store.settle()

    assert store.jobs["0"].state is JobState.CANCELLED


def test_progress_is_told_once_a_second_and_only_if_it_has_changed() -> None:
    store = a_group(4)
    for number in range(4):
        store.do(c.Start(job_id=str(number), worker="w"))
    store.settle()
    told = []
    for tenth in range(30):
        store.do(c.UpdateProgress(job_id=str(tenth % 4), attempt=1, progress=tenth * 3))
        store.now += SECOND // 10
        store.settle()
        told.append(store.told("g").count(EventType.PROGRESS))
    assert PROGRESS_INTERVAL == SECOND
    assert told[-1] in (3, 4)
    mean = sum(store.jobs[str(number)].progress for number in range(4)) // 4
    store.now += SECOND
    store.settle()
    assert store.jobs["g"].progress == mean
    store.now += 10 * SECOND
    assert not store.is_due()


def test_a_group_that_two_servers_find_due_reports_its_progress_once() -> None:
    store = a_group(1)
    store.now += SECOND
    store.do(c.Start(job_id="0", worker="w"))
    store.do(c.UpdateProgress(job_id="0", attempt=1, progress=40))
    store.settle()
    reported = store.now
    store.do(c.UpdateProgress(job_id="0", attempt=1, progress=50))
    store.now += SECOND // 10
    store.do(c.RunGroup(job_id="g", attempt=1, caller=SERVER))

    assert (store.told("g").count(EventType.PROGRESS), store.jobs["g"].progress) == (1, 40)
    store.now = reported + PROGRESS_INTERVAL - 1
    assert not store.is_due()
    store.now += 1
    store.settle()
    assert (store.told("g").count(EventType.PROGRESS), store.jobs["g"].progress) == (2, 50)


def test_a_group_does_not_end_by_what_its_own_transaction_has_changed() -> None:
    """Another replica may have added members meanwhile. What was stored when all had ended stays so."""
    store = a_group(1, closed=True)
    store.do(c.Start(job_id="0", worker="w"))
    store.do(c.UpdateProgress(job_id="0", attempt=1, progress=50))
    store.now += SECOND
    assert store.is_due()
    store.commit(c.Complete(job_id="0", attempt=1), c.ServeDue(limit=4, caller=SERVER))
    assert states_of(store.jobs, "0", "g") == ["COMPLETED", "PROCESSING"]
    assert store.group_due == store.now
    store.settle()

    assert states_of(store.jobs, "g") == ["COMPLETED"]


def test_tokens_and_cost_are_summed_in_the_counts_of_all_groups_around() -> None:
    store = a_group()
    store.do(create("inner", group=GroupPolicy(), group_id="g"))
    store.do(create("a", group_id="inner"))
    store.do(create("b", group_id="g"))
    run(store, "a", usage=Usage(100, 7))
    run(store, "b", usage=Usage(20, 3))
    store.do(c.ReportUsage(job_id="a", attempt=1, usage=Usage(150, 8)))
    sums = [store.groups[store.jobs[name].create_sequence].group.counts[5:] for name in ("g", "inner")]

    assert sums == [(170, 11), (150, 8)]
    assert store.jobs["g"].estimated_tokens == 0


def test_a_group_as_member_counts_by_its_verdict() -> None:
    store = a_group(policy=GroupPolicy(0, CANCEL))
    store.do(create("inner", group=GroupPolicy(), group_id="g"))
    store.do(create("other", group_id="g"))
    store.do(create("a", group_id="inner"))
    store.do(c.CloseGroup(job_id="inner"))
    fail(store, "a")
    store.settle()

    assert states_of(store.jobs, "inner", "other", "g") == ["PERMANENTLY_FAILED", "CANCELLED", "PERMANENTLY_FAILED"]
    ends = [told.job_id for told in store.log if told.event.job.state in (6, 7) and told.type is not EventType.FAILED]
    assert ends == ["a", "inner", "other", "g"]


def test_a_retried_member_is_waited_for() -> None:
    store = a_group(1, closed=True)
    store.do(c.Start(job_id="0", worker="w"))
    store.do(c.Fail(job_id="0", attempt=1, retry_delay=0))
    store.settle()
    assert states_of(store.jobs, "g") == ["PROCESSING"]
    store.do(c.Complete(job_id="0", attempt=2))
    store.settle()

    assert states_of(store.jobs, "g") == ["COMPLETED"]


def test_statistics_count_groups_as_stored_but_not_as_running_or_waiting() -> None:
    store = a_group(1)
    of_type = statistics(TYPE, store.tallies.items())
    assert (of_type.stored[JobState.PROCESSING], of_type.running) == (1, 0)
    store.do(c.Start(job_id="0", worker="w"))
    assert statistics(TYPE, store.tallies.items()).running == 1
    store.do(c.Cancel(job_id="g"))
    store.settle()
    of_type = statistics(TYPE, store.tallies.items())

    assert (of_type.running, *of_type.waiting.values()) == (0, 0, 0, 0)
