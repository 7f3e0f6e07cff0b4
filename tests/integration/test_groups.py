"""Groups: jobs that the server runs and that end when their members have, row by row of the decisions on them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from jobstate.v1 import dispatch_service_pb2 as dispatch_pb
from jobstate.v1 import event_pb2, job_pb2
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
    names,
    refused,
    release,
    report,
    retry,
    span,
    start,
    until_waiting,
    watching,
)
from ..support.clock import WatchedClock
from ..support.server import RESTING, Running, serving_url
from .relating import (
    BY_GROUP,
    ENDS,
    FINAL,
    close,
    counts,
    create_group,
    create_with_needs,
    fail_for_good,
    listed,
    need,
    order_of_ends,
    served,
    states,
    work,
)
from .support import stale

CANCEL = job_pb2.ON_EXCESS_CANCEL
ANY = -1


@pytest.fixture
async def running(url: str, clock: WatchedClock) -> AsyncIterator[Running]:
    """A server on each store in turn."""
    async with serving_url(url, clock) as running:
        yield running


async def add(running: Running, *job_ids: str, group_id: str = "group") -> None:
    """Add members to a group."""
    for job_id in job_ids:
        await create(running, job_id, group_id=group_id)


async def test_a_group_runs_from_its_creation(running: Running) -> None:
    created = await create_group(running, tolerated_failures=3, on_excess=CANCEL, source_id="day-1")

    assert (created.state, created.attempt, created.claimed) == (job_pb2.JOB_STATE_PROCESSING, 1, True)
    assert (created.group.tolerated_failures, created.group.on_excess) == (3, CANCEL)
    assert created.HasField("members")
    assert created == await get(running, "group")
    events = await history(running)
    assert names(events) == ["queued", "started"]
    assert (events[1].started.resumed, events[1].job) == (False, created)
    assert not (await create(running, "plain")).HasField("members")


async def test_the_end_of_a_group_comes_after_those_of_its_members(running: Running, clock: WatchedClock) -> None:
    """Row 15."""
    await create_group(running)
    await add(running, "a", "b", "c")
    await create_with_needs(running, "report", "group")
    await work(running, "b")
    await close(running)
    await work(running, "a", "c")
    await served(running, clock)

    assert await order_of_ends(running) == ["b", "a", "c", "group"]
    group = await get(running, "group")
    assert (group.state, group.progress, counts(group)) == (job_pb2.JOB_STATE_COMPLETED, 100, (3, 3, 0, 0))
    assert (await history(running, "group"))[-1].job.members.completed == 3
    assert (await get(running, "report")).wait_reason == job_pb2.WAIT_REASON_TURN


async def test_an_open_group_waits_for_more_and_an_empty_closed_one_ends_at_once(
    running: Running, clock: WatchedClock
) -> None:
    """Row 16."""
    await create_group(running)
    await add(running, "a")
    await work(running, "a")
    await served(running, clock)
    assert (await get(running, "group")).state == job_pb2.JOB_STATE_PROCESSING
    await create_group(running, "empty")

    closed = [await close(running, name) for name in ("group", "empty")]
    assert [job.members.closed for job in closed] == [True, True]
    await served(running, clock)

    assert await states(running, "group", "empty") == ["COMPLETED", "COMPLETED"]
    again = await close(running, "empty")
    assert again == await get(running, "empty")
    assert names(await history(running, "empty")) == ["queued", "started", "completed"]


async def test_who_may_add_to_a_closed_group(running: Running, clock: WatchedClock) -> None:
    """Rows 17 and 18: its running members, and nobody else."""
    await create_group(running)
    await add(running, "a")
    await close(running)
    await create(running, "stranger")
    for job_id in ("a", "stranger"):
        await start(running, job_id)

    await create(running, "more", group_id="group", by=pb.AttemptRef(id="a", attempt=1))
    await complete(running, "a")
    for by in (None, pb.AttemptRef(id="stranger", attempt=1)):
        refusal = await refused(create(running, "late", group_id="group", by=by))
        assert refusal.brief == ("FAILED_PRECONDITION", "GROUP_CLOSED")
        assert refusal.metadata == {"group_id": "group", "why": "closed", "field": "group_id"}
    await work(running, "more")
    await served(running, clock)

    ended = await refused(create(running, "late", group_id="group"))
    assert ended.metadata["why"] == "final"
    await create_group(running, "stopping")
    await add(running, "b", group_id="stopping")
    await start(running, "b")
    await cancel(running, "stopping")
    batch = [pb.CreateRequest(job_type="default"), pb.CreateRequest(job_type="default", group_id="stopping")]
    refusal = await refused(running.jobs.BatchCreate(pb.BatchCreateRequest(requests=batch)))
    assert refusal.metadata["field"] == "requests[1].group_id"
    assert (await refused(create(running, "late", group_id="b"))).brief == ("FAILED_PRECONDITION", "NOT_A_GROUP")
    assert (await refused(close(running, "b"))).metadata == {"group_id": "b", "field": "id"}
    assert (await refused(create(running, "late", group_id="no"))).metadata["field"] == "group_id"


async def test_a_retried_member_is_waited_for(running: Running, clock: WatchedClock) -> None:
    """Row 19."""
    await create_group(running)
    await create(running, "a", RESTING, group_id="group")
    await close(running)
    await start(running, "a")
    await fail(running, "a")
    await served(running, clock)
    assert counts(await get(running, "group")) == (1, 0, 0, 0)

    await retry(running, "a", immediately=True)
    await complete(running, "a", attempt=2)
    await served(running, clock)

    assert await states(running, "group") == ["COMPLETED"]


@pytest.mark.parametrize(("tolerated", "state"), [(0, "PERMANENTLY_FAILED"), (2, "COMPLETED"), (ANY, "COMPLETED")])
async def test_members_fail_up_to_what_is_tolerated_and_the_others_are_worked_on(
    running: Running, clock: WatchedClock, tolerated: int, state: str
) -> None:
    """Rows 20 and 21: a member that was cancelled by itself counts too."""
    await create_group(running, tolerated_failures=tolerated)
    await add(running, "a", "b", "c")
    await close(running)
    await fail_for_good(running, "a")
    await cancel(running, "b")
    await served(running, clock)
    assert await states(running, "group", "c") == ["PROCESSING", "QUEUED"]

    await work(running, "c")
    await served(running, clock)

    assert await states(running, "group") == [state]
    group = await get(running, "group")
    assert counts(group) == (3, 1, 1, 1)
    if state == "PERMANENTLY_FAILED":
        assert (group.last_error.code, group.last_error.retryable) == ("MEMBERS_FAILED", False)
        assert names(await history(running, "group"))[-2:] == ["failed", "permanently-failed"]


async def test_too_many_failures_cancel_the_rest_of_a_group_that_says_so(running: Running, clock: WatchedClock) -> None:
    """Row 20. The group takes no more members, so nobody need close it."""
    await create_group(running, tolerated_failures=1, on_excess=CANCEL)
    await add(running, *"abcd")
    await fail_for_good(running, "a", "b")
    await served(running, clock)

    assert await states(running, *"abcd", "group") == [
        "PERMANENTLY_FAILED",
        "PERMANENTLY_FAILED",
        "CANCELLED",
        "CANCELLED",
        "PERMANENTLY_FAILED",
    ]
    cancelled = await get(running, "c")
    assert (cancelled.cancel_cause, cancelled.cancel_cause_id) == (BY_GROUP, "group")
    assert (await order_of_ends(running))[-1] == "group"
    assert counts(await get(running, "group")) == (4, 0, 2, 2)


async def test_a_cancelled_group_hands_out_nothing_more(running: Running, clock: WatchedClock) -> None:
    """Row 22: the verdict is the caller's, at once; running members learn it from their next report."""
    count = limits.MEMBERS_AT_ONCE + 20
    await create_group(running)
    members = [f"member-{number:03}" for number in range(count)]
    requests = [pb.CreateRequest(id=name, job_type="default", group_id="group") for name in members]
    await running.jobs.BatchCreate(pb.BatchCreateRequest(requests=requests))
    await start(running, members[0])

    cancelled = await cancel(running, "group", reason="wrong day")
    assert (cancelled.state, cancelled.members.stopping) == (job_pb2.JOB_STATE_CANCELLED, True)
    assert await acquire(running, max_jobs=10) == []
    await served(running, clock)

    assert counts(await get(running, "group")) == (count, 0, 0, count)
    refusal = await refused(complete(running, members[0]))
    assert (refusal.reason, refusal.metadata["state"]) == ("TRANSITION_NOT_ALLOWED", "CANCELLED")
    events = [event for event in await history(running) if event.type in ENDS]
    assert [event.job.id for event in events[:1]] == ["group"]
    assert {event.cancelled.cause for event in events[1:]} == {BY_GROUP}
    assert len(events) == count + 1


async def test_an_acquire_cancels_members_of_a_stopping_group(running: Running, clock: WatchedClock) -> None:
    """Row 23: it does not read past them, and others of the type are handed out."""
    await create_group(running)
    await add(running, "a", "b")
    await create(running, "other")
    await cancel(running, "group")

    found = await acquire(running, max_jobs=5)

    assert [job.id for job in found] == ["other"]
    assert await states(running, "a", "b") == ["CANCELLED", "CANCELLED"]
    await create_group(running, "day")
    await add(running, "c", group_id="day")
    waiting = asyncio.ensure_future(acquire(running, "hour", wait=60))
    await until_waiting(running, 1)
    await create(running, "d", "hour", group_id="day")
    assert [job.id for job in await waiting] == ["d"]
    await served(running, clock)


async def test_a_group_tells_its_progress_at_most_once_a_second(running: Running, clock: WatchedClock) -> None:
    """Row 24. Its counts are exact whenever they are read."""
    await create_group(running)
    await add(running, *"abcd")
    for job_id in "abcd":
        await start(running, job_id)
    clock.advance(10 * SECOND)
    await report(running, "a", progress=80)
    await served(running, clock)
    told = [event.job.progress for event in await history(running, "group", types=[event_pb2.EVENT_TYPE_PROGRESS])]
    assert told == [20]

    await complete(running, "b")
    await report(running, "c", progress=100)
    await served(running, clock)
    group = await get(running, "group")
    assert (group.progress, counts(group)) == (20, (4, 1, 0, 0))
    clock.advance(SECOND)
    await served(running, clock)

    assert (await get(running, "group")).progress == 70
    told = [event.job.progress for event in await history(running, "group", types=[event_pb2.EVENT_TYPE_PROGRESS])]
    assert told == [20, 70]


async def test_groups_in_groups(running: Running, clock: WatchedClock) -> None:
    """Row 25: eight deep; the end of an inner one is its verdict in the outer one."""
    await create_group(running, "g1")
    for depth in range(2, 9):
        await create_group(running, f"g{depth}", group_id=f"g{depth - 1}")
    refusal = await refused(create_group(running, "g9", group_id="g8"))
    assert (refusal.reason, refusal.fields) == ("INVALID_FIELD", ["group_id"])
    await add(running, "a", "b", group_id="g8")
    for depth in range(1, 9):
        await close(running, f"g{depth}")
    await work(running, "a")
    await served(running, clock)
    assert await states(running, "g1", "g8") == ["PROCESSING", "PROCESSING"]

    await fail_for_good(running, "b")
    await served(running, clock)

    assert await states(running, *(f"g{depth}" for depth in range(1, 9))) == ["PERMANENTLY_FAILED"] * 8
    assert (await order_of_ends(running))[2:] == [f"g{depth}" for depth in range(8, 0, -1)]
    assert counts(await get(running, "g1")) == (1, 0, 1, 0)


async def test_a_cancelled_group_cancels_the_groups_in_it(running: Running, clock: WatchedClock) -> None:
    await create_group(running, "outer")
    await create_group(running, "inner", group_id="outer")
    await add(running, "a", group_id="inner")
    await cancel(running, "outer")
    assert (await refused(start(running, "a"))).metadata["why"] == "held back"
    answer = await running.dispatch.Explain(dispatch_pb.ExplainRequest(id="a"))
    hold = next(hold for hold in answer.holds if hold.reason == dispatch_pb.HOLD_REASON_GROUP)
    assert (hold.subject, hold.text) == ("outer", "group outer is stopping, so the job will be cancelled")
    assert not answer.HasField("expected_start_time")
    await served(running, clock)

    assert await states(running, "outer", "inner", "a") == ["CANCELLED"] * 3
    assert (await get(running, "a")).cancel_cause_id == "inner"


async def test_reports_on_a_group_are_refused(running: Running) -> None:
    """Row 26."""
    await create_group(running)
    for call in (
        start(running, "group"),
        report(running, "group", attempt=1, progress=5),
        complete(running, "group", attempt=1),
        fail(running, "group", attempt=1),
        release(running, "group", attempt=1),
        retry(running, "group"),
        running.jobs.ReportUsage(pb.ReportUsageRequest(id="group", attempt=1, usage=job_pb2.Usage(tokens=1))),
    ):
        refusal = await refused(call)
        assert refusal.brief == ("FAILED_PRECONDITION", "TRANSITION_NOT_ALLOWED")
        assert (refusal.metadata["why"], refusal.metadata["allowed"]) == ("group", "cancel")
    assert await acquire(running, "import_day") == []


async def test_what_groups_do_not_take_is_refused_by_its_field(running: Running) -> None:
    for fields in (
        {"max_retries": 1},
        {"timeout": span(60)},
        {"priority": job_pb2.PRIORITY_HIGH},
        {"lane": "tenant"},
        {"delay": span(5)},
        {"start_within": span(5)},
        {"needs": [need("other")]},
        {"unique_key": "day", "unique_until": pb.UNIQUE_UNTIL_STARTED},
        {"tolerated_failures": -2},
        {"on_excess": 7},
    ):
        (field,) = (await refused(create_group(running, **fields))).fields
        assert field in (*fields, *(f"group.{name}" for name in fields))
    assert (await create_group(running, unique_key="day", max_retries=None)).unique_key == "day"


async def test_stale_and_timeouts_pass_groups_over(running: Running, clock: WatchedClock) -> None:
    """Row 27."""
    await create_group(running)
    clock.advance(2 * DAY)
    await served(running, clock)

    assert await stale(running) == []
    assert (await get(running, "group")).state == job_pb2.JOB_STATE_PROCESSING
    stats = (await running.jobs.GetStats(pb.GetStatsRequest())).total
    assert stats.running == 0
    await cancel(running, "group")


async def test_tokens_and_cost_are_summed_in_members_and_nowhere_twice(running: Running, clock: WatchedClock) -> None:
    """Row 28."""
    await create_group(running, "outer")
    await create_group(running, "inner", group_id="outer")
    await add(running, "a", group_id="outer")
    await add(running, "b", group_id="inner")
    for job_id, tokens in (("a", 5), ("b", 7)):
        await start(running, job_id)
        await complete(running, job_id, usage=job_pb2.Usage(tokens=tokens, cost=0.5))
    await served(running, clock)

    outer, inner = await get(running, "outer"), await get(running, "inner")
    assert [(job.members.tokens, job.members.cost) for job in (outer, inner)] == [(12, 1.0), (7, 0.5)]
    assert (outer.estimated_tokens, inner.estimated_tokens) == (0, 0)
    assert (await running.jobs.GetStats(pb.GetStatsRequest())).total.tokens == 12


async def test_cleanup_keeps_members_of_an_unfinished_group(running: Running, clock: WatchedClock) -> None:
    """Row 31. Afterwards each goes after its own end, and the counts stay in the group."""
    await create_group(running)
    await add(running, "a", "b")
    await work(running, "a", "b")
    await served(running, clock)
    clock.advance(40 * DAY)
    old = mpb.CleanupRequest(older_than=span(30 * 86_400))
    assert (await running.maintenance.Cleanup(old)).jobs == 0
    await close(running)
    await served(running, clock)

    assert (await running.maintenance.Cleanup(old)).jobs == 2
    assert await listed(running) == ["group"]
    assert counts(await get(running, "group")) == (2, 2, 0, 0)
    clock.advance(40 * DAY)
    assert (await running.maintenance.Cleanup(old)).jobs == 1


async def test_members_are_listed_and_a_group_comes_with_its_counts(running: Running) -> None:
    await create_group(running)
    await add(running, *"abc")
    await work(running, "b")
    await create(running, "other")

    assert await listed(running, group_id="group") == ["a", "b", "c"]
    assert await listed(running, group_id="group", states=[job_pb2.JOB_STATE_COMPLETED]) == ["b"]
    assert await listed(running, group_id="nobody") == []
    (job,) = (await running.jobs.List(pb.ListRequest(job_types=["import_day"]))).jobs
    assert (job.id, counts(job)) == ("group", (3, 1, 0, 0))
    assert [job.group_id for job in (await running.jobs.List(pb.ListRequest(group_id="group"))).jobs] == ["group"] * 3
    async with watching(running, pb.WatchEventsRequest(snapshot=True, follow=False)) as watch:
        jobs = [job for response in await watch.rest() for job in response.jobs]
    assert [counts(job) for job in jobs if job.id == "group"] == [(3, 1, 0, 0)]


async def test_a_watch_of_a_group_ends_with_it(running: Running, clock: WatchedClock) -> None:
    await create_group(running)
    await add(running, "a")
    request = pb.WatchEventsRequest(job_ids=["group"], until_final=True, start=pb.WATCH_START_EARLIEST)
    async with watching(running, request) as watch:
        await close(running)
        await work(running, "a")
        await served(running, clock)
        events = [event for response in await watch.rest() for event in response.events]

    assert names(events) == ["queued", "started", "completed"]
    assert counts(events[-1].job) == (1, 1, 0, 0)


async def test_a_group_its_members_and_what_needs_it_are_made_in_one_batch(
    running: Running, clock: WatchedClock
) -> None:
    requests = [
        pb.CreateRequest(id="group", job_type="import_day", group=job_pb2.GroupPolicy()),
        pb.CreateRequest(id="fetch", job_type="default", group_id="group"),
        pb.CreateRequest(id="clean", job_type="default", group_id="group", needs=[need("fetch")]),
        pb.CreateRequest(id="report", job_type="default", needs=[need("group", FINAL)]),
    ]
    await running.jobs.BatchCreate(pb.BatchCreateRequest(requests=requests))
    await close(running)
    assert [job.id for job in await acquire(running, max_jobs=5)] == ["fetch"]
    await complete(running, "fetch")
    await served(running, clock)
    assert [job.id for job in await acquire(running, max_jobs=5)] == ["clean"]
    await complete(running, "clean")
    await served(running, clock)
    assert [job.id for job in await acquire(running, max_jobs=5)] == ["report"]


@pytest.mark.parametrize("in_one_batch", [True, False])
async def test_no_group_waits_for_itself(running: Running, in_one_batch: bool) -> None:
    """Row 8, for groups: a member that needs its group, or what waits for it, would never end."""
    first = [
        pb.CreateRequest(id="group", job_type="import_day", group=job_pb2.GroupPolicy()),
        pb.CreateRequest(id="report", job_type="default", needs=[need("group")]),
        pb.CreateRequest(id="free", job_type="default"),
    ]
    last = pb.CreateRequest(id="member", job_type="default", group_id="group", needs=[need("free"), need("report")])
    if in_one_batch:
        refusal = await refused(running.jobs.BatchCreate(pb.BatchCreateRequest(requests=[*first, last])))
    else:
        await running.jobs.BatchCreate(pb.BatchCreateRequest(requests=first))
        refusal = await refused(running.jobs.Create(last))

    assert refusal.brief == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert refusal.fields == ["requests[3].needs[1].job_id" if in_one_batch else "needs[1].job_id"]


async def test_a_group_ends_after_a_restart(url: str, clock: WatchedClock) -> None:
    async with serving_url(url, clock) as running:
        await create_group(running)
        await add(running, "a")
        await close(running)
        await work(running, "a")
    async with serving_url(url, clock) as running:
        await served(running, clock)
        assert await states(running, "group") == ["COMPLETED"]
        assert [job.id for job in await acquire(running)] == []
