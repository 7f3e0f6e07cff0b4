"""A run that is alive never goes stale: it sends heartbeats often enough, whatever blocks its handler."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import grpc
import pytest

from jobstate_client import AsyncClient, Client, ClientClosed, State
from jobstate_client.aio import heartbeat_thread
from jobstate_client.aio.heartbeat_thread import HeartbeatThread
from jobstate_client.core.heartbeats import (
    CACHE_S,
    HEARTBEAT_S_MAX,
    HEARTBEAT_S_MIN,
    HEARTBEATS_PER_THRESHOLD,
    HeartbeatIntervals,
)
from jobstate_client.core.inspection import JobType, JobTypes
from jobstate_client.core.report_queue import ReportQueue
from jobstate_client.testing import JobstateServer, serving

from .support import PATIENCE_S, Either, done, until

STEP_S = 0.8
"""Shorter than the stale threshold of a touchy job, and two are longer."""


@pytest.fixture
def server() -> Iterator[JobstateServer]:
    """A server for which a second of silence is too much. The test moves its clock."""
    types = {"touchy": {"stale_threshold": "1s"}, "calm": {"stale_threshold": "1h"}}
    with serving(job_types=types, restart_grace="0s") as server:
        yield server


class Heartbeats:
    """What the server has heard."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._heard_at = float("-inf")
        """When the newest batch of reports was sent that the server has answered."""
        handle_response, send = ReportQueue.handle_response, HeartbeatThread._send

        def note_response(queue: ReportQueue, response: Any, now: float) -> None:
            sent_at = queue.waiting_since
            handle_response(queue, response, now)
            assert sent_at is not None
            self._heard_at = max(self._heard_at, sent_at)

        def note_sent(*arguments: Any) -> None:
            sent_at = time.monotonic()
            send(*arguments)
            self._heard_at = max(self._heard_at, sent_at)

        monkeypatch.setattr(ReportQueue, "handle_response", note_response)
        monkeypatch.setattr(HeartbeatThread, "_send", staticmethod(note_sent))
        monkeypatch.setattr(heartbeat_thread, "SEND_TIMEOUT_S", PATIENCE_S)

    def stale_attempts(self, server: JobstateServer, client: Client) -> int:
        """How many attempts the server finds stale within three steps, each of which has a heartbeat."""
        found = 0
        for _ in range(3):
            server.advance(STEP_S)
            found += client.check_stale().count
            self._wait_for_one_sent_after(time.monotonic())
        return found

    def _wait_for_one_sent_after(self, moment: float) -> None:
        until(lambda: self._heard_at > moment)


@pytest.fixture
def heartbeats(monkeypatch: pytest.MonkeyPatch) -> Heartbeats:
    return Heartbeats(monkeypatch)


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


async def test_a_silent_run_outlives_its_stale_threshold(
    either: Any, client: Client, server: JobstateServer, heartbeats: Heartbeats
) -> None:
    async with Either(either.run(await done(either.create("touchy")))) as run:
        assert await asyncio.to_thread(heartbeats.stale_attempts, server, client) == 0

    assert (await done(either.get(run.id))).state is State.COMPLETED


async def test_a_handler_that_blocks_the_event_loop_is_alive_all_the_same(
    async_client: AsyncClient,
    client: Client,
    server: JobstateServer,
    heartbeats: Heartbeats,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def warnings() -> int:
        return caplog.text.count("the heartbeats of 3 runs are due: a thread sends them")

    jobs = [await async_client.create("touchy") for _ in range(3)]
    async with async_client.run(jobs[0]), async_client.run(jobs[1]), async_client.run(jobs[2]):
        # A busy machine may have blocked the loop before.
        before = warnings()
        # On the event loop: it does not turn meanwhile.
        assert heartbeats.stale_attempts(server, client) == 0
        assert max(before, 1) <= warnings() <= before + 1

    assert [(await async_client.get(job)).state for job in jobs] == [State.COMPLETED] * 3


async def test_a_blocked_loop_is_warned_of_where_nothing_else_can_be_done(
    server: JobstateServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel, AsyncClient(channel=channel) as other:
        job = await other.create("touchy")
        async with other.run(job):
            # On the event loop: it does not turn meanwhile.
            until(lambda: "their attempts may go stale" in caplog.text)


async def test_nobody_warns_of_a_loop_that_turns_while_the_server_is_away(
    server: JobstateServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        grpc.aio.insecure_channel(server.address) as channel,
        AsyncClient(channel=channel) as other,
        other.run(await other.create("touchy")),
    ):
        sender: Any = other._report_sender
        # A busy machine may not let the loop turn between two checks of the thread, so the test makes them.
        thread = sender._heartbeats._thread
        sender._heartbeats.close()
        await asyncio.to_thread(thread.join, PATIENCE_S)
        await asyncio.to_thread(server.stop)
        caplog.clear()

        def check() -> None:
            for reports in sender._queue.attempts():
                reports.last_sent_at = float("-inf")
            sender._heartbeats._check(None)

        for _ in range(5):
            # The loop turns before it learns that the check has ended.
            await asyncio.to_thread(check)
        assert "has been blocked" not in caplog.text

        check()
        check()
        assert "has been blocked" in caplog.text
        await asyncio.to_thread(server.start)


async def test_the_thread_of_heartbeats_ends_with_the_runs_and_with_the_client(async_client: AsyncClient) -> None:
    async with async_client.run(await async_client.create("touchy")):
        heartbeats: Any = async_client._report_sender._heartbeats
        first = heartbeats._thread
        assert first.is_alive()
    await asyncio.to_thread(first.join, PATIENCE_S)
    assert not first.is_alive()

    running = async_client.run(await async_client.create("calm"))
    await running.__aenter__()
    second = heartbeats._thread
    assert second is not first
    await async_client.close()
    with pytest.raises(ClientClosed):
        await running.__aexit__(None, None, None)
    await asyncio.to_thread(second.join, PATIENCE_S)
    assert not second.is_alive()
