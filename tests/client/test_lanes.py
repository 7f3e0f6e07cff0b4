"""Lanes, limits, rates, holds and pauses, as both clients offer them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from jobstate_client import (
    AsyncClient,
    Client,
    EventType,
    HoldReason,
    InvalidField,
    Job,
    JobType,
    LaneFrom,
    LaneHolds,
    LimitUse,
    NewJob,
    Rate,
    Release,
    Run,
    State,
    UnknownJobType,
)
from jobstate_client.core import dispatch
from jobstate_client.testing import JobstateServer, serving

from .support import done, in_thread, items, raised, until
from .test_worker_dispatch import at_work, handled

LIMITED: dict[str, dict[str, Any]] = {
    "one": {"concurrency": 1},
    "each": {"lane_concurrency": 1},
    "paced": {"rate": "6/1m", "burst": 1},
    "paced-each": {"lane_rate": "6/1m", "lane_burst": 1},
    "by-source": {"lane_from": "source_id"},
    "sequence": {"lane_concurrency": 1, "lane_holds": "job"},
}


@pytest.fixture
def server() -> Iterator[JobstateServer]:
    """A server whose job types have limits."""
    with serving(job_types=LIMITED) as server:
        yield server


async def ids(either: Any, job_type: str = "work", max_jobs: int = 9) -> list[str]:
    """What an acquire gets."""
    return [job.id for job in await done(either.acquire([job_type], max_jobs=max_jobs))]


async def reasons(either: Any, job: Job | str) -> list[HoldReason]:
    return [hold.reason for hold in (await done(either.explain(job))).holds]


async def test_lanes_take_turns(either: Any) -> None:
    await done(either.create_many(NewJob("work", id=f"a{number}", lane="a") for number in range(3)))
    last = await done(either.create("work", id="b0", lane="b"))

    assert last.lane == (await done(either.get(last))).lane == "b"
    assert await ids(either) == ["a0", "b0", "a1", "a2"]


async def test_a_job_without_a_lane_is_in_that_which_its_type_says_and_the_empty_lane_can_be_named(either: Any) -> None:
    by_type = await done(either.create("by-source", source_id="tenant-7"))
    by_caller = await done(either.create("by-source", source_id="tenant-7", lane=""))

    assert (by_type.lane, by_caller.lane) == ("tenant-7", "")
    with pytest.raises(TypeError, match="a NewJob has all the fields"):
        await done(either.create(NewJob("work"), lane=""))


async def test_a_lane_that_is_too_long_is_named(either: Any) -> None:
    for method in (either.create, either.pause, either.unpause):
        with pytest.raises(InvalidField) as refused:
            await done(method("work", lane="x" * 129))
        assert refused.value.field == "lane"


async def test_lanes_are_listed_in_the_order_of_their_turns(either: Any, server: JobstateServer) -> None:
    await done(either.create_many(NewJob("work", lane=lane) for lane in ("a", "a", "b", "c")))
    await done(either.pause("work", lane="b", reason="invoice"))
    (job,) = await done(either.acquire(["work"]))
    server.advance(5)
    assert job.lane == "a"

    listed = await items(either.lanes("work", page_size=1))

    assert [(each.lane, each.ready, each.running) for each in listed] == [("c", 1, 0), ("a", 1, 1), ("b", 1, 0)]
    assert [(each.paused, each.pause_reason) for each in listed] == [(False, ""), (False, ""), (True, "invoice")]
    assert (listed[0].turn_time, listed[1].turn_time) == (None, server.now - timedelta(seconds=5))
    assert [each.oldest_wait for each in listed] == [timedelta(seconds=5)] * 3
    assert await items(either.lanes("other")) == []


async def test_a_paused_type_hands_out_nothing_until_it_is_unpaused(either: Any, server: JobstateServer) -> None:
    await done(either.create_many(NewJob("work", id=name) for name in ("first", "second", "third")))
    await done(either.acquire(["work"]))
    paused = await done(either.pause("work", reason="the disk is full"))
    server.restart()
    status = await done(either.type_status("work"))
    told = (await done(either.explain("second"))).holds[0]

    assert (paused.ready, paused.running) == (2, 1)
    assert (status.paused, status.pause_reason, status.held_until_time) == (True, "the disk is full", None)
    assert (told.reason, told.text) == (HoldReason.TYPE_PAUSED, "its type work is paused: the disk is full")
    assert await ids(either) == []
    assert (await done(either.start("third"))).state is State.PROCESSING

    unpaused = await done(either.unpause("work"))

    assert unpaused.ready == 1
    assert unpaused.head > paused.head
    assert not (await done(either.type_status("work"))).paused
    assert await ids(either) == ["second"]


async def test_a_paused_lane_is_passed_over_and_stays_paused_when_its_type_goes_on(either: Any) -> None:
    await done(either.create_many(NewJob("work", id=lane, lane=lane) for lane in ("a", "b")))
    assert (await done(either.pause("work", lane="a"))).ready == 1
    await done(either.pause("work"))
    await done(either.unpause("work"))
    told = (await done(either.explain("a"))).holds[0]

    assert await ids(either) == ["b"]
    assert (told.reason, told.subject) == (HoldReason.LANE_PAUSED, "a")
    await done(either.unpause("work", lane="a"))
    assert await ids(either) == ["a"]


async def test_the_empty_lane_is_paused_by_its_name(either: Any) -> None:
    await done(either.create_many([NewJob("work", id="plain"), NewJob("work", id="a", lane="a")]))
    await done(either.pause("work", lane=""))

    assert await ids(either) == ["a"]
    assert HoldReason.LANE_PAUSED in await reasons(either, "plain")


async def test_calls_that_wait_are_served_by_unpause(client: Client) -> None:
    client.pause("work")
    client.create("work", id="first")
    with in_thread(lambda: client.acquire(["work"], wait=60)) as acquired:
        until(lambda: client.explain("first").waiting_acquires == 1)
        client.unpause("work")
        assert [job.id for job in acquired()] == ["first"]


async def test_a_strict_server_pauses_no_type_that_it_does_not_know() -> None:
    with serving(job_types={"work": {}}, strict_job_types=True) as server:
        client = server.client()
        for call in (client.pause, client.unpause):
            assert raised(UnknownJobType, lambda call=call: call("unknown")).job_type == "unknown"  # type: ignore[misc]


async def test_a_job_says_which_limit_it_waits_for(either: Any, server: JobstateServer) -> None:
    for job_type in ("one", "each", "paced", "paced-each"):
        await done(either.create_many(NewJob(job_type, id=f"{job_type}-{n}", lane="a") for n in range(2)))
        assert await ids(either, job_type) == [f"{job_type}-0"]
    told = {name: await done(either.explain(f"{name}-1")) for name in ("one", "each", "paced", "paced-each")}
    first = {name: each.holds[0] for name, each in told.items()}

    assert (first["one"].reason, first["one"].limit) == (HoldReason.TYPE_CONCURRENCY, LimitUse(1, 1))
    assert (first["each"].reason, first["each"].limit) == (HoldReason.LANE_CONCURRENCY, LimitUse(1, 1))
    assert (first["each"].subject, told["each"].lanes_ahead, told["each"].ahead_in_lane) == ("a", 0, 0)
    in_ten_seconds = server.now + timedelta(seconds=10)
    assert (first["paced"].reason, first["paced"].end_time) == (HoldReason.TYPE_RATE, in_ten_seconds)
    assert (first["paced-each"].reason, first["paced-each"].end_time) == (HoldReason.LANE_RATE, in_ten_seconds)
    assert (await done(either.type_status("paced"))).held_until_time == in_ten_seconds
    server.advance(10)
    assert (await done(either.type_status("paced"))).held_until_time is None
    assert await ids(either, "paced") == ["paced-1"]


async def test_the_limits_of_a_type_are_in_its_policy(either: Any) -> None:
    with serving(
        job_types={
            "full": {
                "concurrency": 40,
                "rate": "600/1m",
                "burst": 20,
                "lane_from": "source_id",
                "lane_concurrency": 4,
                "lane_rate": "60/1m",
                "lane_holds": "job",
            }
        }
    ) as server:
        policies = {each.name: each for each in server.client().job_types().types}
    full, usual = policies["full"], policies["default"]
    minute = timedelta(minutes=1)

    assert (full.concurrency, full.rate, full.lane_from) == (40, Rate(600, minute, 20), LaneFrom.SOURCE_ID)
    assert (full.lane_concurrency, full.lane_rate, full.lane_holds) == (4, Rate(60, minute, 6), LaneHolds.JOB)
    assert limits_of(usual) == (0, None, LaneFrom.NONE, 0, None, LaneHolds.ATTEMPT)


def limits_of(policy: JobType) -> tuple[Any, ...]:
    return (
        policy.concurrency,
        policy.rate,
        policy.lane_from,
        policy.lane_concurrency,
        policy.lane_rate,
        policy.lane_holds,
    )


async def test_a_release_holds_its_lane_and_the_others_go_on(either: Any, server: JobstateServer) -> None:
    await done(either.create_many(NewJob("work", id=f"{lane}{n}", lane=lane) for lane in "ab" for n in range(2)))
    (job,) = await done(either.acquire(["work"]))
    await done(either.release(job, "429", delay=20, hold_lane=timedelta(seconds=30)))
    (event,) = await items(either.watch(types=[EventType.RELEASED], start="earliest", follow=False))
    told = (await done(either.explain("a1"))).holds[0]

    assert event.detail.hold_lane == timedelta(seconds=30)
    assert (told.reason, told.subject) == (HoldReason.LANE_HELD, "a")
    assert told.end_time == server.now + timedelta(seconds=30)
    assert told.text.endswith("429")
    assert await ids(either) == ["b0", "b1"]
    (lane,) = [each for each in await items(either.lanes("work")) if each.lane == "a"]
    assert lane.held_until_time == told.end_time
    server.advance(30)
    assert sorted(await ids(either)) == ["a0", "a1"]


@pytest.mark.parametrize(
    ("hold_lane", "delay", "sent"),
    [
        (True, 20, 20.0),
        (True, timedelta(hours=2), 3_600.0),
        (True, 0, 0.0),
        (False, 20, None),
        (None, 20, None),
        (5, 20, 5.0),
        (timedelta(minutes=1), None, 60.0),
    ],
)
def test_a_lane_is_held_as_long_as_the_delay_or_as_long_as_it_is_said(hold_lane: Any, delay: Any, sent: Any) -> None:
    request: Any = dispatch.release("first", delay=delay, hold_lane=hold_lane).request
    raised_in_work = Release(delay=delay, hold_lane=hold_lane)

    assert (request.hold_lane.ToTimedelta().total_seconds() if request.HasField("hold_lane") else None) == sent
    assert raised_in_work.hold_lane == hold_lane


def test_a_hold_that_the_server_would_refuse_is_refused_where_it_is_made() -> None:
    with pytest.raises(ValueError, match="hold_lane=True holds the lane as long as the delay: give one"):
        Release(hold_lane=True)
    with pytest.raises(ValueError, match="hold_lane=True holds the lane as long as the delay"):
        dispatch.release("first", hold_lane=True)
    with pytest.raises(ValueError, match="hold_lane must be from 0 to 1 hour"):
        Release(hold_lane=3_601)
    with pytest.raises(TypeError, match="hold_lane must be a timedelta or a number of seconds"):
        Release(hold_lane="20s")  # type: ignore[arg-type]


async def test_a_release_with_a_hold_that_is_too_long_is_refused_with_the_field(either: Any) -> None:
    job = await done(either.start(await done(either.create("work"))))
    with pytest.raises(InvalidField) as refused:
        await done(either.release(job, hold_lane=3_601))

    assert refused.value.field == "hold_lane"


async def test_a_handler_that_gets_a_429_holds_its_lane_for_as_long_as_it_was_told(
    either: Client | AsyncClient, client: Client, server: JobstateServer, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[str] = []

    def work(run: Run) -> None:
        asked.append(run.id)
        if run.id == "a0" and run.attempt == 1:
            raise Release(delay=20, hold_lane=True, reason="429")

    client.create_many(NewJob("work", id=f"{lane}{number}", lane=lane) for lane in "ab" for number in range(2))
    with caplog.at_level(logging.INFO, "jobstate_client"):
        async with at_work(either.worker(handled(either, work), job_types=["work"])):
            await asyncio.to_thread(
                until, lambda: client.stats().total.completed == 2 and client.explain("a1").waiting_acquires == 1
            )
            before, held = list(asked), client.explain("a1").holds[0]
            server.advance(20)
            await asyncio.to_thread(until, lambda: client.stats().total.completed == 4)

    assert sorted(before) == ["a0", "b0", "b1"]
    assert (held.reason, held.text) == (HoldReason.LANE_HELD, "a Release holds its lane 'a': 429")
    assert client.get("a0").retry_count == 0
    assert "failed" not in caplog.text


async def test_a_subclass_of_release_can_say_it_in_its_class(either: Any, client: Client) -> None:
    class TooMany(Release):
        delay = 20
        hold_lane = True
        reason = "429"

        def __init__(self) -> None:
            pass

    def work(run: Run) -> None:
        raise TooMany

    client.create("work", id="first", lane="a")
    async with at_work(either.worker(handled(either, work), job_types=["work"])):
        await asyncio.to_thread(until, lambda: client.get("first").state is State.RETRYING)
    (event,) = client.watch(types=[EventType.RELEASED], start="earliest", follow=False)

    assert (event.detail.delay, event.detail.hold_lane) == (timedelta(seconds=20), timedelta(seconds=20))


async def test_jobs_of_a_lane_run_one_after_the_other_through_retries(either: Any, server: JobstateServer) -> None:
    await done(either.create_many(NewJob("sequence", id=f"{n}", lane="a") for n in range(2)))
    (job,) = await done(either.acquire(["sequence"], max_jobs=2))
    await done(either.fail(job, "BROKEN", retry_delay=10))
    assert await ids(either, "sequence") == []
    assert HoldReason.LANE_CONCURRENCY in await reasons(either, "1")
    server.advance(10)

    assert await ids(either, "sequence") == ["0"]


async def test_a_job_is_not_expected_before_its_hold_ends_nor_at_all_while_nobody_knows_when(
    either: Any, server: JobstateServer
) -> None:
    await done(either.create_many(NewJob("work", id=f"{n}") for n in range(2)))
    (job,) = await done(either.acquire(["work"]))
    soon = (await done(either.explain("1"))).expected_start_time
    assert server.now < soon <= server.now + timedelta(minutes=2)
    await done(either.release(job, hold_lane=3_600))
    assert (await done(either.explain("1"))).expected_start_time == server.now + timedelta(hours=1)
    await done(either.pause("work"))
    assert (await done(either.explain("1"))).expected_start_time is None
    await done(either.create_many(NewJob("each", id=f"each-{n}", lane="a") for n in range(2)))
    await done(either.acquire(["each"]))

    assert (await done(either.explain("each-1"))).expected_start_time is None
