"""Needs: jobs that wait for jobs, row by row of the decisions on them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from jobstate.v1 import dispatch_service_pb2 as dispatch_pb
from jobstate.v1 import job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate.v1 import maintenance_service_pb2 as mpb
from jobstate_server.domain import limits
from jobstate_server.domain.durations import DAY, SECOND

from ..support.calls import (
    acquire,
    cancel,
    complete,
    create,
    fail,
    get,
    history,
    micros,
    names,
    refused,
    retry,
    span,
    start,
    struct,
    until_waiting,
)
from ..support.clock import WatchedClock
from ..support.server import RESTING, Running, serving_url
from .relating import (
    BY_NEED,
    FINAL,
    NEEDS,
    NOT_COMPLETED,
    TIME,
    TURN,
    create_with_needs,
    fail_for_good,
    listed,
    need,
    served,
    states,
    work,
)


@pytest.fixture
async def running(url: str, clock: WatchedClock) -> AsyncIterator[Running]:
    """A server on each store in turn."""
    async with serving_url(url, clock) as running:
        yield running


async def test_a_child_is_ready_one_commit_after_its_parent(running: Running, clock: WatchedClock) -> None:
    """Row 1. An Acquire that waits gets it at once."""
    await create(running, "parent")
    child = await create_with_needs(running, "child", "parent", job_type="other")
    assert (child.state, child.wait_reason) == (job_pb2.JOB_STATE_QUEUED, NEEDS)
    assert (await refused(start(running, "child"))).metadata["why"] == "held back"
    waiting = asyncio.ensure_future(acquire(running, "other", wait=60))
    await until_waiting(running, 1)

    await work(running, "parent")
    await served(running, clock)

    (job,) = await waiting
    assert (job.id, job.attempt) == ("child", 1)
    events = await history(running)
    assert names(events) == ["queued", "queued", "started", "completed", "ready", "started"]
    ready = events[4]
    assert (ready.job.id, ready.job.wait_reason, micros(ready.job.ready_time)) == ("child", TURN, clock.now())


async def test_what_cannot_begin_any_more_is_cancelled_all_the_way_down(running: Running, clock: WatchedClock) -> None:
    """Rows 2 and 10."""
    await create(running, "0")
    for number in range(1, 4):
        await create_with_needs(running, str(number), str(number - 1))
    await create(running, "clean-up", needs=[need("2", NOT_COMPLETED)])
    await create(running, "always", needs=[need("3", FINAL)])

    await cancel(running, "0")
    await served(running, clock)

    for job_id in "123":
        job = await get(running, job_id)
        assert (job.state, job.cancel_cause) == (job_pb2.JOB_STATE_CANCELLED, BY_NEED)
        assert job.cancel_cause_id == str(int(job_id) - 1)
    (_, cancelled) = await history(running, "3")
    assert (cancelled.cancelled.cause, cancelled.cancelled.cause_id) == (BY_NEED, "2")
    assert [(await get(running, name)).wait_reason for name in ("clean-up", "always")] == [TURN, TURN]


async def test_needs_on_ended_jobs_are_decided_at_once(running: Running, clock: WatchedClock) -> None:
    """Row 3."""
    for job_id in ("good", "bad"):
        await create(running, job_id)
    await work(running, "good")
    await fail_for_good(running, "bad")

    ready = await create(running, "ready", needs=[need("good"), need("bad", NOT_COMPLETED)])
    assert ready.wait_reason == TURN
    cancelled = await create(running, "cancelled", needs=[need("good"), need("bad")])
    assert (cancelled.state, cancelled.cancel_cause_id) == (job_pb2.JOB_STATE_CANCELLED, "bad")
    assert cancelled == await get(running, "cancelled")
    assert names(await history(running, "cancelled")) == ["queued", "cancelled"]
    assert cancelled.version == (await history(running, "cancelled"))[-1].sequence
    await served(running, clock)
    assert await states(running, "ready", "cancelled") == ["QUEUED", "CANCELLED"]


async def test_parents_that_end_while_children_are_created_are_told_to_all_of_them(
    running: Running, clock: WatchedClock
) -> None:
    """Row 3, raced: whichever comes first, the child is ready afterwards."""
    for number in range(20):
        await create(running, f"parent-{number}")
        await start(running, f"parent-{number}")

    await asyncio.gather(
        *(
            call
            for number in range(20)
            for call in (
                complete(running, f"parent-{number}"),
                create_with_needs(running, f"child-{number}", f"parent-{number}"),
            )
        )
    )
    await served(running, clock)

    waits = [(await get(running, f"child-{number}")).wait_reason for number in range(20)]
    assert waits == [TURN] * 20


async def test_a_need_on_nothing_refuses_the_create(running: Running) -> None:
    """Row 4."""
    await create(running, "there")
    alone = await refused(create_with_needs(running, "child", "there", "gone"))
    assert (alone.brief, alone.metadata["field"]) == (("NOT_FOUND", "JOB_NOT_FOUND"), "needs[1].job_id")
    batch = pb.BatchCreateRequest(
        requests=[
            pb.CreateRequest(id="new", job_type="default"),
            pb.CreateRequest(id="child", job_type="default", needs=[need("new"), need("gone")]),
        ]
    )
    many = await refused(running.jobs.BatchCreate(batch))
    assert many.metadata == {"job_id": "gone", "field": "requests[1].needs[1].job_id"}
    assert await listed(running) == ["there"]


async def test_cleanup_keeps_what_an_unfinished_job_needs(running: Running, clock: WatchedClock) -> None:
    """Row 5: the child can read its parents' results, however late it begins."""
    for job_id in ("first", "last"):
        await create(running, job_id)
    await create_with_needs(running, "child", "first", "last")
    await start(running, "first")
    await complete(running, "first", result=struct(text="clean"))
    await served(running, clock)
    clock.advance(40 * DAY)
    old = mpb.CleanupRequest(older_than=span(30 * 86_400))
    assert (await running.maintenance.Cleanup(old)).jobs == 0

    await work(running, "last")
    await served(running, clock)
    (result, _) = (await running.jobs.List(pb.ListRequest(needed_by="child", order=pb.LIST_ORDER_CREATE_TIME_ASC))).jobs
    assert result.result["text"] == "clean"
    await work(running, "child")
    await served(running, clock)

    assert (await running.maintenance.Cleanup(old)).jobs == 1
    assert await listed(running) == ["last", "child"]


async def test_cleanup_keeps_also_what_had_ended_before_the_job_that_needs_it_was_created(
    running: Running, clock: WatchedClock
) -> None:
    """Row 5: nobody had needed it until then."""
    await create(running, "parent")
    await work(running, "parent")
    await create_with_needs(running, "child", "parent")
    clock.advance(40 * DAY)
    old = mpb.CleanupRequest(older_than=span(30 * 86_400))

    assert (await running.maintenance.Cleanup(old)).jobs == 0
    assert await listed(running, needed_by="child") == ["parent"]
    await work(running, "child")

    assert (await running.maintenance.Cleanup(old)).jobs == 1
    assert await listed(running) == ["child"]


async def test_a_failed_parent_that_may_be_retried_is_waited_for(running: Running, clock: WatchedClock) -> None:
    """Row 6."""
    await create(running, "parent", RESTING, max_retries=1)
    await create_with_needs(running, "child", "parent")
    await start(running, "parent")
    await fail(running, "parent")
    await served(running, clock)
    assert (await get(running, "child")).wait_reason == NEEDS

    await retry(running, "parent", immediately=True)
    await complete(running, "parent", attempt=2)
    await served(running, clock)

    assert (await get(running, "child")).wait_reason == TURN


async def test_two_ends_at_once_resolve_each_need_once(running: Running, clock: WatchedClock) -> None:
    """Row 7."""
    for job_id in ("good", "bad"):
        await create(running, job_id)
        await start(running, job_id)
    await create_with_needs(running, "child", "good", "bad")

    await asyncio.gather(complete(running, "good"), fail(running, "bad", retryable=False))
    await served(running, clock)

    child = await get(running, "child")
    assert (child.state, child.cancel_cause_id) == (job_pb2.JOB_STATE_CANCELLED, "bad")
    assert names(await history(running, "child")) == ["queued", "cancelled"]
    answer = await running.jobs.Get(pb.GetRequest(id="child", include_needs=True))
    assert [(item.need.job_id, item.met) for item in answer.needs] == [("good", True), ("bad", False)]
    assert answer.needs[1].state == job_pb2.JOB_STATE_PERMANENTLY_FAILED


async def test_only_earlier_jobs_can_be_needed(running: Running) -> None:
    """Row 8: so jobs alone make no circle. Groups are in test_groups."""
    batch = pb.BatchCreateRequest(
        requests=[
            pb.CreateRequest(id="first", job_type="default", needs=[need("second")]),
            pb.CreateRequest(id="second", job_type="default"),
        ]
    )
    refusal = await refused(running.jobs.BatchCreate(batch))
    assert refusal.metadata["field"] == "requests[0].needs[0].job_id"
    assert (await refused(create_with_needs(running, "self", "self"))).reason == "JOB_NOT_FOUND"

    answer = await running.jobs.BatchCreate(pb.BatchCreateRequest(requests=[*reversed(batch.requests)]))
    assert [job.id for job in answer.jobs] == ["second", "first"]


async def test_a_superseded_attempt_creates_nothing(running: Running, clock: WatchedClock) -> None:
    """Row 9: a running job creates more, and whatever needs them, fenced by its own attempt."""
    await create(running, "crawl")
    assert (await refused(create(running, "early", by=pb.AttemptRef(id="crawl", attempt=1)))).metadata == {
        "job_id": "crawl",
        "attempt": "1",
        "current_attempt": "0",
        "state": "QUEUED",
        "field": "by.attempt",
    }
    await start(running, "crawl")
    await create(running, "more", by=pb.AttemptRef(id="crawl", attempt=1))
    await create(running, "then", by=pb.AttemptRef(id="crawl", attempt=1), needs=[need("more")])
    await fail(running, "crawl")
    await retry(running, "crawl", immediately=True)

    refusal = await refused(create(running, "late", by=pb.AttemptRef(id="crawl", attempt=1)))
    assert (refusal.brief, refusal.metadata["field"]) == (("FAILED_PRECONDITION", "ATTEMPT_SUPERSEDED"), "by.attempt")
    unknown = await refused(create(running, "late", by=pb.AttemptRef(id="nobody", attempt=1)))
    assert (unknown.reason, unknown.metadata["field"]) == ("JOB_NOT_FOUND", "by.id")
    assert await listed(running) == ["crawl", "more", "then"]


async def test_many_children_follow_in_slices(running: Running, clock: WatchedClock) -> None:
    """Row 11: more than one slice of them, those that have ended among them."""
    count = limits.NEEDS_AT_ONCE + 10
    await create(running, "parent")
    children = [f"child-{number:03}" for number in range(count)]
    await running.jobs.BatchCreate(
        pb.BatchCreateRequest(
            requests=[pb.CreateRequest(id=name, job_type="other", needs=[need("parent")]) for name in children]
        )
    )
    await cancel(running, children[0])

    await work(running, "parent")
    await served(running, clock)

    events = [event for event in await history(running) if event.name.endswith(".ready")]
    assert [event.job.id for event in events] == children[1:]
    found = await acquire(running, "other", max_jobs=count)
    assert [job.id for job in found] == children[1:]
    assert (await get(running, "parent")).version == (await history(running, "parent"))[-1].sequence


async def test_more_than_100_needs_are_refused(running: Running) -> None:
    """Row 12."""
    refusal = await refused(create_with_needs(running, "child", *(f"job-{number}" for number in range(101))))
    assert (refusal.reason, refusal.fields) == ("INVALID_FIELD", ["needs"])
    twice = await refused(create_with_needs(running, "child", "job", "job"))
    assert twice.fields == ["needs[1].job_id"]
    odd = await refused(create(running, "child", needs=[pb.Need(job_id="a b"), need("c", 9)]))
    assert odd.fields == ["needs[0].job_id", "needs[1].condition"]


async def test_a_batch_has_at_most_a_thousand_needs(running: Running) -> None:
    await running.jobs.BatchCreate(
        pb.BatchCreateRequest(
            requests=[pb.CreateRequest(id=f"job-{number}", job_type="default") for number in range(limits.NEEDS_MAX)]
        )
    )
    needs = [need(f"job-{number}") for number in range(limits.NEEDS_MAX)]
    requests = [pb.CreateRequest(job_type="default", needs=needs) for _ in range(11)]
    refusal = await refused(running.jobs.BatchCreate(pb.BatchCreateRequest(requests=requests)))
    assert refusal.fields == ["requests[10].needs"]

    requests[10].ClearField("needs")
    requests += [pb.CreateRequest(job_type="default")] * (limits.BATCH_ITEMS_MAX - len(requests))
    answer = await running.jobs.BatchCreate(pb.BatchCreateRequest(requests=requests))

    assert len(answer.jobs) == limits.BATCH_ITEMS_MAX


async def test_needed_by_returns_the_results(running: Running, clock: WatchedClock) -> None:
    """Row 29, and the other filters: each combines with states and types."""
    for job_id in ("a", "b", "c"):
        await create(running, job_id)
    await create_with_needs(running, "x", "a", "b", "c")
    await create_with_needs(running, "y", "b", job_type="other")
    await create(running, "delayed", delay=span(20))
    await start(running, "a")
    await complete(running, "a", result=struct(words=7))
    await served(running, clock)

    assert await listed(running, needed_by="x") == ["a", "b", "c"]
    assert await listed(running, needed_by="x", states=[job_pb2.JOB_STATE_COMPLETED]) == ["a"]
    assert await listed(running, needs="b") == ["x", "y"]
    assert await listed(running, needs="b", job_types=["other"]) == ["y"]
    assert await listed(running, wait_reasons=[NEEDS]) == ["x", "y"]
    assert await listed(running, wait_reasons=[TIME]) == ["delayed"]
    assert await listed(running, wait_reasons=[TURN, TIME]) == ["b", "c", "delayed"]
    assert await listed(running, needed_by="nobody") == []
    both = await refused(running.jobs.List(pb.ListRequest(needed_by="x", needs="b")))
    assert both.fields == ["needs"]
    (job,) = (await running.jobs.List(pb.ListRequest(needed_by="x", states=[job_pb2.JOB_STATE_COMPLETED]))).jobs
    assert job.result["words"] == 7


async def test_what_a_job_needs_is_told_with_it(running: Running, clock: WatchedClock) -> None:
    for job_id in ("a", "b"):
        await create(running, job_id)
    await create(running, "child", needs=[need("b", FINAL), need("a")])
    await cancel(running, "b")
    await served(running, clock)

    answer = await running.jobs.Get(pb.GetRequest(id="child", include_needs=True))

    assert [(item.need.job_id, item.need.condition, item.met, item.state) for item in answer.needs] == [
        ("b", FINAL, True, job_pb2.JOB_STATE_CANCELLED),
        ("a", job_pb2.NEED_CONDITION_COMPLETED, False, job_pb2.JOB_STATE_UNSPECIFIED),
    ]
    assert not (await running.jobs.Get(pb.GetRequest(id="child"))).needs


async def test_explain_names_at_most_ten_of_the_jobs_that_a_job_waits_for(running: Running) -> None:
    for number in range(12):
        await create(running, f"job-{number:02}")
    await create(running, "child", needs=[need(f"job-{number:02}") for number in range(12)], delay=span(20))

    answer = await running.dispatch.Explain(dispatch_pb.ExplainRequest(id="child"))

    reasons = [hold.reason for hold in answer.holds]
    assert reasons == [dispatch_pb.HOLD_REASON_TIME] + [dispatch_pb.HOLD_REASON_NEED] * limits.EXPLAINED_NEEDS_MAX
    assert answer.holds[1].subject == "job-00"
    assert answer.holds[1].text == "it waits for job job-00 to be COMPLETED"
    assert not answer.HasField("expected_start_time")


async def test_a_delay_and_needs_end_with_the_later_of_both(running: Running, clock: WatchedClock) -> None:
    for job_id in ("soon", "late"):
        await create(running, job_id)
    await create_with_needs(running, "a", "soon", delay=span(20))
    await create_with_needs(running, "b", "late", delay=span(20), start_within=span(5))
    await work(running, "soon")
    await served(running, clock)
    waits = [(await get(running, name)).wait_reason for name in "ab"]
    assert waits == [TIME, NEEDS]

    clock.advance(20 * SECOND)
    await served(running, clock)
    assert [(await get(running, name)).wait_reason for name in "ab"] == [TURN, NEEDS]
    await work(running, "late")
    await served(running, clock)
    assert (await get(running, "b")).wait_reason == TURN
    clock.advance(5 * SECOND)
    await served(running, clock)

    assert await states(running, "a", "b") == ["QUEUED", "CANCELLED"]


async def test_a_repeat_of_a_create_with_needs_answers_with_the_job_as_it_is(
    running: Running, clock: WatchedClock
) -> None:
    await create(running, "parent")
    request = pb.CreateRequest(id="child", job_type="default", needs=[need("parent")], request_id="request-1")
    first = (await running.jobs.Create(request)).job
    await work(running, "parent")
    await served(running, clock)

    second = (await running.jobs.Create(request)).job

    assert (first.wait_reason, second.wait_reason) == (NEEDS, TURN)
    assert second == await get(running, "child")


async def test_jobs_that_wait_are_counted_by_what_they_wait_for(running: Running, clock: WatchedClock) -> None:
    await create(running, "parent")
    for number in range(3):
        await create_with_needs(running, f"child-{number}", "parent")

    answer = await running.jobs.GetStats(pb.GetStatsRequest())

    assert {item.reason: item.count for item in answer.total.waiting} == {NEEDS: 3, TURN: 1}
    await work(running, "parent")
    await served(running, clock)
    answer = await running.jobs.GetStats(pb.GetStatsRequest())
    assert {item.reason: item.count for item in answer.total.waiting} == {TURN: 3}


async def test_needs_are_met_after_a_restart(url: str, clock: WatchedClock) -> None:
    """Row 13, without the kill: what was due when the server stopped is done by the next."""
    async with serving_url(url, clock) as running:
        await create(running, "parent")
        await create_with_needs(running, "child", "parent")
        await start(running, "parent")
        await complete(running, "parent")
    async with serving_url(url, clock) as running:
        await served(running, clock)
        assert (await get(running, "child")).wait_reason == TURN
