"""A run that is alive never goes stale: it sends heartbeats often enough, whatever blocks its handler."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import grpc
import pytest

from jobstate_client import AsyncClient, Client, ClientClosed, State
from jobstate_client.core.heartbeats import (
    CACHE_S,
    HEARTBEAT_S_MAX,
    HEARTBEAT_S_MIN,
    HEARTBEATS_PER_THRESHOLD,
    HeartbeatIntervals,
)
from jobstate_client.core.inspection import JobType, JobTypes
from jobstate_client.testing import JobstateServer, serving

from ..support.waiting import pause
from .support import Either, done, until


@pytest.fixture
def server() -> Iterator[JobstateServer]:
    """A server whose time is the machine's, where a second of silence is too much."""
    types = {"touchy": {"stale_threshold": "1s"}, "calm": {"stale_threshold": "1h"}}
    with serving(manual_time=False, job_types=types, restart_grace="0s") as server:
        yield server


def policy(name: str, threshold_s: float) -> JobType:
    zero = timedelta(0)
    return JobType(name, 3, None, zero, zero, 0.0, timedelta(seconds=threshold_s), True)


def test_three_heartbeats_arrive_within_the_threshold_of_a_type() -> None:
    known = HeartbeatIntervals()
    known.update(JobTypes((policy("touchy", 10), policy("calm", 3_600), policy("default", 60)), strict=False))

    assert known.interval_s("touchy") * 3 < 10
    assert known.interval_s("touchy") == 10 / HEARTBEATS_PER_THRESHOLD
    assert known.interval_s("calm") == HEARTBEAT_S_MAX
    assert known.interval_s("of no settings") == 60 / HEARTBEATS_PER_THRESHOLD


def test_a_threshold_near_nothing_does_not_make_a_flood() -> None:
    known = HeartbeatIntervals()
    known.update(JobTypes((policy("touchy", 0.001),), strict=False))

    assert known.interval_s("touchy") == HEARTBEAT_S_MIN


def test_what_is_known_counts_for_a_while_and_stays_when_asking_fails() -> None:
    now = 0.0
    known = HeartbeatIntervals(lambda: now)
    assert known.has_expired
    assert known.interval_s("touchy") == HEARTBEAT_S_MAX

    known.update(JobTypes((policy("touchy", 10),), strict=False))
    assert not known.has_expired
    now += CACHE_S
    assert known.has_expired
    known.lookup_failed()
    assert not known.has_expired
    assert known.interval_s("touchy") == 10 / HEARTBEATS_PER_THRESHOLD


async def test_a_run_sends_heartbeats_as_often_as_its_type_needs(either: Any) -> None:
    for job_type, heartbeat_s in (("touchy", 0.25), ("calm", 30.0), ("default", 30.0)):
        async with Either(either.run(await done(either.create(job_type)))) as run:
            assert run._reports.heartbeat_s == heartbeat_s
        async with Either(either.run(await done(either.create(job_type)), heartbeat=7.0)) as run:
            assert run._reports.heartbeat_s == 7.0
        async with Either(either.run(await done(either.create(job_type)), heartbeat=None)) as run:
            assert run._reports.heartbeat_s is None


def silent_for(client: Client, span_s: float) -> int:
    """How many attempts the server finds stale, looking all the time."""
    found, until_s = 0, time.monotonic() + span_s
    never = threading.Event()
    while time.monotonic() < until_s:
        found += client.check_stale().count
        never.wait(0.05)
    return found


async def test_a_silent_run_outlives_its_stale_threshold(either: Any, client: Client) -> None:
    async with Either(either.run(await done(either.create("touchy")))) as run:
        assert await asyncio.to_thread(silent_for, client, 2.5) == 0

    assert (await done(either.get(run.id))).state is State.COMPLETED


async def test_a_handler_that_blocks_the_event_loop_is_alive_all_the_same(
    async_client: AsyncClient, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = [await async_client.create("touchy") for _ in range(3)]
    async with async_client.run(jobs[0]), async_client.run(jobs[1]), async_client.run(jobs[2]):
        # On the event loop: it does not turn meanwhile.
        assert silent_for(client, 2.5) == 0

    assert [(await async_client.get(job)).state for job in jobs] == [State.COMPLETED] * 3
    assert caplog.text.count("the heartbeats of 3 runs are due: a thread sends them") == 1


async def test_a_blocked_loop_is_warned_of_where_nothing_else_can_be_done(
    server: JobstateServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel, AsyncClient(channel=channel) as other:
        job = await other.create("touchy")
        async with other.run(job):
            # On the event loop: it does not turn meanwhile.
            until(lambda: "their attempts may go stale" in caplog.text)


async def longest_turn_s(during: float) -> float:
    """How long one turn of the event loop took at most in so many seconds."""
    loop, longest = asyncio.get_running_loop(), 0.0
    began = turned = loop.time()
    while turned < began + during:
        await pause(0.001)
        longest, turned = max(longest, loop.time() - turned), loop.time()
    return longest


async def test_nobody_warns_of_a_loop_that_turns_while_the_server_is_away(
    async_client: AsyncClient, server: JobstateServer, caplog: pytest.LogCaptureFixture
) -> None:
    interval_s = 1 / HEARTBEATS_PER_THRESHOLD
    async with async_client.run(await async_client.create("touchy")):
        await asyncio.to_thread(server.stop)
        # On a machine that is busy, the loop may really be blocked. Then nothing is learnt.
        for _ in range(20):
            await pause(interval_s)
            caplog.clear()
            if await longest_turn_s(during=4 * interval_s) < interval_s / 2:
                break
        else:
            pytest.fail("this machine never let the loop turn")
        warned = "has been blocked" in caplog.text
        await asyncio.to_thread(server.start)

    assert not warned


async def test_the_thread_of_heartbeats_ends_with_the_runs_and_with_the_client(async_client: AsyncClient) -> None:
    async with async_client.run(await async_client.create("touchy")):
        heartbeats: Any = async_client._report_sender._heartbeats
        first = heartbeats._thread
        assert first.is_alive()
    await asyncio.to_thread(first.join, 10)
    assert not first.is_alive()

    running = async_client.run(await async_client.create("calm"))
    await running.__aenter__()
    second = heartbeats._thread
    assert second is not first
    await async_client.close()
    with pytest.raises(ClientClosed):
        await running.__aexit__(None, None, None)
    await asyncio.to_thread(second.join, 10)
    assert not second.is_alive()
