"""Lanes, limits, rates and pauses: what happens when, on each store. The rows are those of docs/dispatch.md."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from jobstate.v1 import dispatch_service_pb2 as dispatch_pb
from jobstate.v1 import event_pb2, job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.domain.durations import MINUTE, SECOND

from ..support.calls import (
    acquire,
    cancel,
    complete,
    create,
    fail,
    get,
    history,
    micros,
    refused,
    release,
    retry,
    settled,
    span,
    start,
    until_waiting,
)
from ..support.clock import WatchedClock
from ..support.server import Running, serving_url

LIMITED: dict[str, dict[str, Any]] = {
    "one": {"concurrency": 1},
    "two": {"concurrency": 2},
    "each": {"lane_concurrency": 1},
    "sequence": {"lane_concurrency": 1, "lane_holds": "job", "base_delay": "10s", "max_delay": "10s"},
    "paced": {"rate": "6/1m", "burst": 2},
    "each-paced": {"lane_rate": "6/1m"},
    "by-source": {"lane_from": "source_id"},
    "second": {},
}
"""Job types with limits."""


@asynccontextmanager
async def limited(url: str, clock: WatchedClock, **changes: dict[str, Any]) -> AsyncIterator[Running]:
    async with serving_url(url, clock, job_types=LIMITED | changes) as running:
        yield running


@pytest.fixture
async def running(url: str, clock: WatchedClock) -> AsyncIterator[Running]:
    """A server on each store in turn, whose job types have limits."""
    async with limited(url, clock) as running:
        yield running


async def passed(running: Running, clock: WatchedClock, span: int) -> None:
    """Let time pass, and the server do what is due."""
    clock.advance(span)
    await asyncio.sleep(0)
    await settled(running)
    await settled(running)


async def filled(running: Running, job_type: str, **lanes: int) -> None:
    """Create so many jobs in each lane, named a0, a1, … in lane a."""
    requests = [
        pb.CreateRequest(id=f"{lane}{number}", job_type=job_type, lane=lane)
        for lane, count in lanes.items()
        for number in range(count)
    ]
    await running.jobs.BatchCreate(pb.BatchCreateRequest(requests=requests))


async def ids(running: Running, *job_types: str, max_jobs: int = 1, **fields: Any) -> list[str]:
    """The ids of the jobs that an Acquire gets."""
    return [job.id for job in await acquire(running, *job_types, max_jobs=max_jobs, **fields)]


async def explained(running: Running, job_id: str) -> dict[str, dispatch_pb.Hold]:
    """What holds a job back, by the name of the reason."""
    answer = await running.dispatch.Explain(dispatch_pb.ExplainRequest(id=job_id))
    return {dispatch_pb.HoldReason.Name(hold.reason).removeprefix("HOLD_REASON_"): hold for hold in answer.holds}


async def lanes_of(running: Running, job_type: str, **fields: Any) -> list[dispatch_pb.Lane]:
    request = dispatch_pb.ListLanesRequest(job_type=job_type, **fields)
    return list((await running.dispatch.ListLanes(request)).lanes)


async def pause(running: Running, job_type: str, **fields: Any) -> dispatch_pb.PauseResponse:
    return await running.dispatch.Pause(dispatch_pb.PauseRequest(job_type=job_type, **fields))


async def unpause(running: Running, job_type: str, **fields: Any) -> dispatch_pb.UnpauseResponse:
    return await running.dispatch.Unpause(dispatch_pb.UnpauseRequest(job_type=job_type, **fields))


# Turns.


async def test_a_tenant_with_many_jobs_does_not_hold_up_another(running: Running) -> None:
    """Row 13: other lanes wait for one hand-out of every lane at most."""
    await filled(running, "default", many=200, few=3)

    assert await ids(running, max_jobs=7) == ["few0", "many0", "few1", "many1", "few2", "many2", "many3"]


async def test_turns_go_by_what_is_under_way_then_by_the_last_turn(running: Running) -> None:
    """Row 14: a tenant with long jobs gets no more hands than one with short ones."""
    await filled(running, "default", long=9, short=9)
    assert await ids(running, max_jobs=2) == ["long0", "short0"]
    await complete(running, "short0")
    assert await ids(running) == ["short1"]
    await complete(running, "short1")
    await complete(running, "long0")

    # Both have nothing under way: the turn of short was later.
    assert await ids(running, max_jobs=3) == ["long1", "short2", "long2"]


async def test_the_empty_lane_is_a_lane_like_any_other(running: Running) -> None:
    for number in range(9):
        await create(running, f"plain{number}")
    await filled(running, "default", a=9)

    assert await ids(running, max_jobs=4) == ["plain0", "a0", "plain1", "a1"]
    await complete(running, "plain0")
    assert await ids(running, max_jobs=2) == ["plain2", "a2"]


async def test_priority_orders_the_jobs_of_a_lane_and_not_the_lanes(running: Running) -> None:
    await filled(running, "default", a=2, b=2)
    await create(running, "urgent", lane="b", priority=job_pb2.PRIORITY_URGENT)

    assert await ids(running, max_jobs=5) == ["a0", "urgent", "a1", "b0", "b1"]


async def test_a_job_without_a_lane_is_in_that_of_its_source(running: Running) -> None:
    long = "é" * 128
    for source in ("", "tenant", long, long[:-1]):
        await create(running, f"s{len(source)}", "by-source", source_id=source)
    await create(running, "named", "by-source", source_id="tenant", lane="")
    lanes = {job_id: (await get(running, job_id)).lane for job_id in ("s0", "s6", "s128", "s127", "named")}

    assert (lanes["s0"], lanes["s6"], lanes["named"]) == ("", "tenant", "")
    assert len(lanes["s128"].encode()) == 128
    assert lanes["s128"][:58] == lanes["s127"][:58] == "é" * 58
    assert lanes["s128"] != lanes["s127"]


# Limits.


async def test_a_full_type_or_lane_is_passed_over_and_others_go_on(running: Running) -> None:
    """Row 15."""
    await filled(running, "two", a=3)
    await filled(running, "each", b=3, c=3)

    assert sorted(await ids(running, "two", "each", max_jobs=9)) == ["a0", "a1", "b0", "c0"]
    assert await ids(running, "two", "each", max_jobs=9) == []
    await complete(running, "b0")
    assert await ids(running, "two", "each", max_jobs=9) == ["b1"]
    await complete(running, "a1")
    assert await ids(running, "two", "each", max_jobs=9) == ["a2"]


async def test_a_limit_holds_over_a_restart_and_however_an_attempt_ends(url: str, clock: WatchedClock) -> None:
    """Row 16: what runs is counted with the claim and with its end, so no place is lost."""
    async with limited(url, clock) as running:
        await filled(running, "two", a=6)
        assert await ids(running, "two", max_jobs=9) == ["a0", "a1"]
    async with limited(url, clock) as running:
        assert await ids(running, "two", max_jobs=9) == []
        await fail(running, "a0", retryable=False)
        assert await ids(running, "two", max_jobs=9) == ["a2"]
        await cancel(running, "a1")
        assert await ids(running, "two", max_jobs=9) == ["a3"]
        await release(running, "a2")
        assert await ids(running, "two", max_jobs=9) == ["a2"]


async def test_a_waiting_call_gets_the_place_of_an_attempt_that_ends_in_the_same_commit(running: Running) -> None:
    await filled(running, "one", a=2)
    assert await ids(running, "one") == ["a0"]
    waiting = asyncio.ensure_future(ids(running, "one", wait=60))
    await until_waiting(running, 1)

    await complete(running, "a0")

    assert await waiting == ["a1"]
    assert [event.job.id for event in (await history(running))[-2:]] == ["a0", "a1"]


async def test_a_job_that_waits_for_its_retry_gives_its_place_to_others(running: Running, clock: WatchedClock) -> None:
    """Row 18, with lane_holds = attempt."""
    await filled(running, "each", a=2)
    assert await ids(running, "each") == ["a0"]
    await fail(running, "a0", retryable=True)

    assert await ids(running, "each") == ["a1"]


async def test_a_job_that_holds_its_lane_keeps_its_place_through_retries(running: Running, clock: WatchedClock) -> None:
    """Row 18, with lane_holds = job: strictly one after the other."""
    await filled(running, "sequence", a=3, b=1)
    assert await ids(running, "sequence", max_jobs=9) == ["a0", "b0"]
    await fail(running, "a0", retryable=True)
    assert await ids(running, "sequence", max_jobs=9) == []
    assert (await explained(running, "a1")).keys() >= {"LANE_CONCURRENCY"}
    (lane,) = [lane for lane in await lanes_of(running, "sequence") if lane.lane == "a"]
    assert (lane.ready, lane.running) == (2, 1)

    await passed(running, clock, 10 * SECOND)
    await settled(running)

    assert await ids(running, "sequence", max_jobs=9) == ["a0"]
    await release(running, "a0", attempt=2)
    assert await ids(running, "sequence", max_jobs=9) == ["a0"]
    await complete(running, "a0", attempt=3)
    assert await ids(running, "sequence", max_jobs=9) == ["a1"]


async def test_the_empty_lane_of_a_type_can_be_a_sequence(running: Running, clock: WatchedClock) -> None:
    for number in range(2):
        await create(running, f"{number}", "sequence")
    assert await ids(running, "sequence", max_jobs=9) == ["0"]
    await fail(running, "0", retryable=True)
    assert await ids(running, "sequence", max_jobs=9) == []
    await retry(running, "0", immediately=True)
    assert await ids(running, "sequence", max_jobs=9) == ["0"]
    await complete(running, "0", attempt=2)
    assert await ids(running, "sequence", max_jobs=9) == ["1"]


async def test_a_limit_that_is_lowered_takes_nothing_back(url: str, clock: WatchedClock) -> None:
    """Row 19: nothing is handed out until it fits."""
    async with limited(url, clock, open={"concurrency": 3, "lane_concurrency": 3}) as running:
        await filled(running, "open", a=6)
        assert len(await ids(running, "open", max_jobs=9)) == 3
    async with limited(url, clock, open={"concurrency": 2, "lane_concurrency": 1}) as running:
        assert await ids(running, "open", max_jobs=9) == []
        assert (await get(running, "a0")).claimed
        await complete(running, "a0")
        await complete(running, "a1")
        assert await ids(running, "open", max_jobs=9) == []
        await complete(running, "a2")
        assert await ids(running, "open", max_jobs=9) == ["a3"]


@pytest.mark.parametrize("job_type", ["one", "each", "paced", "paused"])
async def test_start_is_by_hand_and_counts(running: Running, job_type: str) -> None:
    """Row 20: it succeeds on a paused, full or rate-limited type."""
    await filled(running, job_type, a=5)
    if job_type == "paused":
        await pause(running, "paused")
    for number in range(3):
        assert (await start(running, f"a{number}")).claimed

    assert await ids(running, job_type, max_jobs=9) == []
    assert (await lanes_of(running, job_type))[0].running == 3


# Rates.


async def test_a_rate_allows_its_burst_and_then_one_after_the_other(running: Running, clock: WatchedClock) -> None:
    await filled(running, "paced", a=9)

    assert await ids(running, "paced", max_jobs=9) == ["a0", "a1"]
    assert await ids(running, "paced", max_jobs=9) == []
    hold = (await explained(running, "a2"))["TYPE_RATE"]
    assert micros(hold.end_time) == clock.now() + 10 * SECOND
    await passed(running, clock, 10 * SECOND - 1)
    assert await ids(running, "paced", max_jobs=9) == []
    await passed(running, clock, 1)
    assert await ids(running, "paced", max_jobs=9) == ["a2"]
    await release(running, "a2")
    assert await ids(running, "paced", max_jobs=9) == []
    await passed(running, clock, MINUTE)
    assert len(await ids(running, "paced", max_jobs=9)) == 2


async def test_a_waiting_call_is_served_when_the_rate_allows_it(running: Running, clock: WatchedClock) -> None:
    await filled(running, "paced", a=9)
    await ids(running, "paced", max_jobs=9)
    waiting = asyncio.ensure_future(ids(running, "paced", wait=60))
    await until_waiting(running, 1)
    for _ in range(9):
        await passed(running, clock, SECOND)
    await passed(running, clock, SECOND - 1)
    assert not waiting.done()

    await passed(running, clock, 1)

    assert await waiting == ["a2"]


async def test_a_rate_of_lanes_closes_only_the_lane(running: Running, clock: WatchedClock) -> None:
    await filled(running, "each-paced", a=3, b=3)

    assert sorted(await ids(running, "each-paced", max_jobs=9)) == ["a0", "b0"]
    await create(running, "c0", "each-paced", lane="c")
    assert await ids(running, "each-paced", max_jobs=9) == ["c0"]
    hold = (await explained(running, "a1"))["LANE_RATE"]
    assert (hold.subject, micros(hold.end_time)) == ("a", clock.now() + 10 * SECOND)
    await passed(running, clock, 10 * SECOND)
    assert sorted(await ids(running, "each-paced", max_jobs=9)) == ["a1", "b1"]


async def test_a_rate_that_has_changed_is_followed_after_a_restart(url: str, clock: WatchedClock) -> None:
    """N16: a lane is closed for as long as the rate in force says."""
    async with limited(url, clock, open={"lane_rate": "1/1d"}) as running:
        await filled(running, "open", a=3, b=3, c=3)
        assert sorted(await ids(running, "open", max_jobs=9)) == ["a0", "b0", "c0"]
    async with limited(url, clock, open={"lane_rate": "1/1d"}) as running:
        assert await ids(running, "open", max_jobs=2) == []
        await filled(running, "open", d=1)
        assert await ids(running, "open", max_jobs=1) == ["d0"]
    async with limited(url, clock, open={}) as running:
        assert sorted(await ids(running, "open", max_jobs=9)) == ["a1", "a2", "b1", "b2", "c1", "c2"]


# Holds.


async def test_a_release_holds_its_lane_and_the_rest_goes_on(running: Running, clock: WatchedClock) -> None:
    """Row 33: the upstream answers 429."""
    await filled(running, "default", a=3, b=2)
    assert await ids(running, max_jobs=2) == ["a0", "b0"]
    await release(running, "a0", hold_lane=span(20), reason="429")
    (event,) = await history(running, "a0", types=[event_pb2.EVENT_TYPE_RELEASED])
    assert micros(event.released.hold_lane) == 20 * SECOND

    assert await ids(running, max_jobs=9) == ["b1"]
    hold = (await explained(running, "a1"))["LANE_HELD"]
    assert (hold.subject, micros(hold.end_time)) == ("a", clock.now() + 20 * SECOND)
    assert "429" in hold.text
    waiting = asyncio.ensure_future(ids(running, wait=60, max_jobs=9))
    await until_waiting(running, 1)
    for _ in range(19):
        await passed(running, clock, SECOND)
    assert not waiting.done()

    await passed(running, clock, SECOND)

    assert await waiting == ["a0", "a1", "a2"]


async def test_the_empty_lane_can_be_held_and_a_shorter_hold_cuts_no_longer_one(
    running: Running, clock: WatchedClock
) -> None:
    for number in range(3):
        await create(running, f"{number}")
    assert await ids(running, max_jobs=2) == ["0", "1"]
    await release(running, "0", hold_lane=span(20))
    await release(running, "1", hold_lane=span(10))
    assert await ids(running, max_jobs=9) == []
    await passed(running, clock, 19 * SECOND)
    assert await ids(running, max_jobs=9) == []
    await passed(running, clock, SECOND)
    assert await ids(running, max_jobs=9) == ["0", "1", "2"]


# Pauses.


@pytest.mark.parametrize("lane", [None, "a", ""])
async def test_waiting_calls_get_nothing_of_what_is_paused_until_it_goes_on(
    running: Running, clock: WatchedClock, lane: str | None
) -> None:
    """Row 23."""
    waiting = asyncio.ensure_future(ids(running, wait=60, max_jobs=9))
    await until_waiting(running, 1)
    fields = {} if lane is None else {"lane": lane}
    stopped = await pause(running, "default", **fields, reason="invoice")
    assert (stopped.ready, stopped.running, stopped.head) == (0, 0, len(await history(running)))
    for number in range(2):
        await create(running, f"{number}", lane=lane or "")
    await passed(running, clock, SECOND)
    assert not waiting.done()
    hold = (await explained(running, "0"))["TYPE_PAUSED" if lane is None else "LANE_PAUSED"]
    assert "invoice" in hold.text
    assert (await pause(running, "default", **fields)).ready == 2

    goes_on = await unpause(running, "default", **fields)

    assert goes_on.ready == 2
    assert await waiting == ["0", "1"]


async def test_a_pause_outlasts_a_restart(url: str, clock: WatchedClock) -> None:
    """Row 23."""
    async with limited(url, clock) as running:
        await filled(running, "default", a=2, b=2)
        await pause(running, "default", lane="a")
        await pause(running, "second")
        await create(running, "other", "second")
    async with limited(url, clock) as running:
        assert await ids(running, "default", "second", max_jobs=9) == ["b0", "b1"]
        paused = [lane.lane for lane in await lanes_of(running, "default") if lane.paused]
        assert paused == ["a"]
        await unpause(running, "second")
        await unpause(running, "default")
        assert await ids(running, "default", "second", max_jobs=9) == ["other"]
        await unpause(running, "default", lane="a")
        assert await ids(running, max_jobs=9) == ["a0", "a1"]


async def test_bad_fields_are_named(running: Running) -> None:
    for call, field in (
        (create(running, lane="a" * 129), "lane"),
        (create(running, lane="a\0"), "lane"),
        (release(running, hold_lane=span(3601)), "hold_lane"),
        (pause(running, "default", lane="a" * 129), "lane"),
        (pause(running, ""), "job_type"),
        (pause(running, "default", reason="a" * 4097), "reason"),
        (unpause(running, "no type"), "job_type"),
        (lanes_of(running, "default", page_size=-1), "page_size"),
        (lanes_of(running, "default", page_token="???"), "page_token"),
    ):
        assert (await refused(call)).fields == [field]


# Lanes.


async def test_lanes_are_listed_in_the_order_of_turns_page_by_page(running: Running, clock: WatchedClock) -> None:
    await filled(running, "default", a=2, b=2, c=1, d=1)
    await create(running, "plain")
    await ids(running, max_jobs=2)
    await pause(running, "default", lane="d")
    clock.advance(SECOND)
    listed: list[dispatch_pb.Lane] = []
    token = ""
    while True:
        request = dispatch_pb.ListLanesRequest(job_type="default", page_size=2, page_token=token)
        page = await running.dispatch.ListLanes(request)
        listed += page.lanes
        token = page.next_page_token
        if not token:
            break

    assert [(lane.lane, lane.ready, lane.running, lane.paused) for lane in listed] == [
        ("b", 2, 0, False),
        ("c", 1, 0, False),
        ("a", 1, 1, False),
        ("", 0, 1, False),
        ("d", 1, 0, True),
    ]
    assert micros(listed[0].oldest_wait) == SECOND
    assert listed[2].HasField("turn_time")
    assert not listed[0].HasField("turn_time")


async def test_lanes_in_which_nothing_is_left_are_forgotten(running: Running, clock: WatchedClock) -> None:
    await filled(running, "default", a=1, b=1, c=1, d=1)
    await ids(running, max_jobs=3)
    for lane in ("a", "b"):
        await complete(running, f"{lane}0")
    await release(running, "c0", hold_lane=span(20))
    await cancel(running, "c0")
    await pause(running, "default", lane="b")
    await running.server.tasks.evict_inactive.run_once()
    assert [lane.lane for lane in await lanes_of(running, "default")] == ["d", "b", "c"]
    await cancel(running, "d0")
    await unpause(running, "default", lane="b")
    await passed(running, clock, 20 * SECOND)

    await running.server.tasks.evict_inactive.run_once()

    assert await lanes_of(running, "default") == []
    await filled(running, "default", a1=1)
    assert await ids(running, max_jobs=3) == ["a10"]


async def test_explain_counts_the_lanes_before(running: Running) -> None:
    await filled(running, "default", a=2, b=3)
    await create(running, "plain")
    answer = await running.dispatch.Explain(dispatch_pb.ExplainRequest(id="b2"))

    assert (answer.ahead_in_lane, answer.lanes_ahead) == (2, 2)
    (turn,) = [hold for hold in answer.holds if hold.reason == dispatch_pb.HOLD_REASON_TURN]
    assert turn.text == "2 jobs of its lane and 2 lanes come before it"


async def test_a_limit_in_use_is_told(running: Running) -> None:
    await filled(running, "two", a=3)
    await ids(running, "two", max_jobs=9)
    limit = (await explained(running, "a2"))["TYPE_CONCURRENCY"].limit

    assert (limit.used, limit.limit) == (2, 2)
