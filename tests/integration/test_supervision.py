"""No part of a server dies or falls silent unnoticed: what can be is restarted, else the process ends with 70."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2

from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.engine.committer import WAIT_TURNS_MAX
from jobstate_server.process import GAVE_UP
from jobstate_server.store.errors import StoreUnreachable
from jobstate_server.supervision.supervisor import PROBE_TURNS, SILENT_TURNS_MAX

from ..support.callers import CALLERS, calling
from ..support.calls import create, fail, get, health_of, refused, span, start, until_health_is
from ..support.clock import PATIENCE_S
from ..support.faulty import faulty
from ..support.faulty_server import ARM, DIES, HANGS, OF_REPLICAS
from ..support.held import held
from ..support.postgres import postgres_server
from ..support.server import Running
from ..support.waiting import until

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


# A store that does not answer is not a dead part.


async def test_a_store_that_does_not_answer_makes_health_tell_after_five_seconds_and_serves_again_afterwards(
    running: Running,
) -> None:
    server = running.server
    async with held(server) as hold:
        waiting = asyncio.ensure_future(create(running))
        await hold.has(1)
        for _ in range(SILENT_TURNS_MAX):
            server.committer.turn()
        server.supervisor.turn()

        assert server.supervisor.health.problems == [f"the store has not answered for {server.committer.silence} s"]
        assert await health_of(running) == NOT_SERVING
        hold.release()
        await waiting
    server.supervisor.turn()

    assert await health_of(running) == SERVING


async def test_a_change_that_the_store_does_not_answer_is_told_after_half_a_minute_and_may_have_been_made(
    running: Running,
) -> None:
    async with held(running.server) as hold:
        first = asyncio.ensure_future(create(running, "first", request_id="request-1"))
        await hold.has(1)
        for _ in range(WAIT_TURNS_MAX + 1):
            running.server.committer.turn()
        refusal = await refused(first)
        hold.release()

    assert refusal.brief == ("UNAVAILABLE", "STORE_UNAVAILABLE")
    assert refusal.message == (
        "the store has not answered for 30 s: the outcome is unknown, repeat with the same request_id"
    )
    assert (await create(running, "first", request_id="request-1")).id == "first"
    assert running.server.committer.backlog == 0


async def test_a_batch_of_a_stream_that_the_store_does_not_answer_is_refused_update_by_update(
    running: Running,
) -> None:
    async with held(running.server):
        updates = [pb.JobUpdate(create=pb.CreateRequest(job_type="default")) for _ in range(3)]
        stream = running.jobs.StreamUpdates()
        await stream.write(pb.StreamUpdatesRequest(batch=1, updates=updates))
        async with asyncio.timeout(PATIENCE_S):
            while running.server.committer.backlog < len(updates):
                await running.jobs.ListJobTypes(pb.ListJobTypesRequest())
        for _ in range(WAIT_TURNS_MAX + 1):
            running.server.committer.turn()
        answer = await stream.read()

    assert isinstance(answer, pb.StreamUpdatesResponse)
    assert [outcome.refusal.reason for outcome in answer.outcomes] == ["STORE_UNAVAILABLE"] * 3
    stream.cancel()


async def test_while_nobody_calls_the_store_is_looked_at_all_the_same(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object) -> None:
        raise StoreUnreachable("the disk is gone")

    server = running.server
    monkeypatch.setattr(server.committer._writer, "work", unreachable)
    for _ in range(PROBE_TURNS):
        server.supervisor.turn()
    async with asyncio.timeout(PATIENCE_S):
        while server.supervisor.health.is_serving:
            await server.readers.probe()

    assert server.supervisor.health.problems == ["the store cannot be written: the disk is gone"]
    assert await health_of(running) == NOT_SERVING


# A dead part ends the process, or is replaced.


def store_of(part: str, path: Path) -> str:
    """A store that is not there yet, for a server that has this part."""
    return postgres_server().new_store() if part in OF_REPLICAS else f"sqlite:///{path}"


@pytest.mark.parametrize(
    ("part", "fault", "told"),
    [
        ("committer", DIES, "the thread committer has died"),
        ("delivery", DIES, "the thread delivery has died"),
        ("results", DIES, "the thread delivery has died"),
        ("loop", HANGS, "the event loop has not turned for 5 s"),
        ("watchdog", DIES, "the thread watchdog has died"),
    ],
)
async def test_a_server_without_a_part_that_everything_needs_ends_with_70_and_says_why(
    part: str, fault: str, told: str, path: Path
) -> None:
    async with faulty(part, fault, store_of(part, path), path.with_suffix(".log")) as server, calling(server.client):
        await server.break_part()

        assert await server.end() == GAVE_UP
        assert told in server.told()


async def test_a_change_whose_delivery_fails_is_answered_all_the_same(path: Path) -> None:
    async with faulty("delivery", DIES, store_of("delivery", path), path.with_suffix(".log")) as server:
        assert (await create(server.client, ARM)).id == ARM
        assert await server.end() == GAVE_UP


RESTARTED = "a part has stopped and is restarted part="

MENDED = {
    ("reader", DIES): RESTARTED + "reader-",
    ("catch-up reader", DIES): RESTARTED + "catch-up-reader-0",
    ("notifier", DIES): RESTARTED + "notifier",
    ("notifier", HANGS): RESTARTED + "notifier",
    ("admin port", DIES): RESTARTED + "admin-port",
    ("admin port", HANGS): RESTARTED + "admin-port",
    ("log writer", DIES): "log lines were lost",
    ("due timer", DIES): "the due timer had stopped, and begins anew",
    ("due timer", HANGS): "the due timer had stopped, and begins anew",
    ("schedule", DIES): "the schedule had stopped; it was restarted",
    ("schedule", HANGS): "the schedule had stopped; it was restarted",
    ("timekeeper", DIES): "the timekeeper had stopped, and begins anew",
    ("timekeeper", HANGS): "the timekeeper had stopped, and begins anew",
    ("membership", DIES): "this replica had stopped renewing its lease, and begins anew",
    ("membership", HANGS): "this replica had stopped renewing its lease, and begins anew",
    ("event limit", DIES): "the size of the log could not be limited",
    ("event limit", HANGS): "looking after the size of the log had stopped, and begins anew",
    ("turn", DIES): "a part failed in its turn",
}
"""Parts that break once, how, and what the log tells of it."""


@pytest.mark.parametrize(("part", "fault"), MENDED)
async def test_a_part_that_breaks_is_begun_anew_while_callers_are_served_and_the_server_stops_in_order(
    part: str, fault: str, path: Path
) -> None:
    async with faulty(part, fault, store_of(part, path), path.with_suffix(".log")) as server:
        async with calling(server.client) as callers:
            await server.break_part()
            await until(lambda: MENDED[part, fault] in server.told())
            assert await health_of(server.client) == SERVING
            served = callers.served.copy()
            await until(lambda: all(callers.served[call] > served[call] for call in served))
        # A retry falls due, and is served.
        await create(server.client, "retried", max_retries=1)
        await start(server.client, "retried")
        failed = await fail(server.client, "retried", retry_delay=span(0.1))
        async with asyncio.timeout(PATIENCE_S):
            while (await get(server.client, "retried")).attempt == failed.attempt:
                pass
        server.process.send_signal(signal.SIGTERM)

        assert await server.end() == 0


HANGING = {
    "committer": {"create", "retry", "stream"},
    "reader": set[str](),
    "catch-up reader": {"read_the_log"},
}
"""Threads that hang in the store, and whose calls then have no answer. A second reader goes on."""


@pytest.mark.parametrize("part", HANGING)
async def test_a_thread_that_hangs_in_the_store_makes_health_tell_and_who_waits_for_it_is_refused(
    part: str, path: Path
) -> None:
    async with faulty(part, HANGS, store_of(part, path), path.with_suffix(".log")) as server:
        async with calling(server.client) as callers:
            await server.break_part()
            await until_health_is(server.client, NOT_SERVING)
            await until(lambda: all("STORE_UNAVAILABLE" in callers.refused[call] for call in HANGING[part]))

        assert server.process.returncode is None


TASKS = {"health watch": "watch_health", "update stream": "stream"}
"""Tasks of one call each, and who makes it."""


@pytest.mark.parametrize("part", TASKS)
async def test_a_task_that_fails_ends_its_call_and_the_next_one_is_served(part: str, path: Path) -> None:
    async with faulty(part, DIES, store_of(part, path), path.with_suffix(".log")) as server:
        async with calling(server.client) as callers:
            await server.break_part()
            await until(lambda: callers.refused[TASKS[part]])
            served = callers.served[TASKS[part]]
            await until(lambda: callers.served[TASKS[part]] > served)
            assert list(callers.refused) == [TASKS[part]]
        server.process.send_signal(signal.SIGTERM)

        assert await server.end() == 0


HOLDS_UP = {"log writer": "", "health watch": "watch_health", "update stream": "stream"}
"""What may hang without anybody else being held up, and whose call hangs with it."""


@pytest.mark.parametrize("part", HOLDS_UP)
async def test_a_writer_of_the_log_or_a_task_of_one_call_that_hangs_holds_up_no_other_call(
    part: str, path: Path
) -> None:
    async with faulty(part, HANGS, store_of(part, path), path.with_suffix(".log")) as server:
        async with calling(server.client) as callers:
            await until(lambda: len(callers.served) == CALLERS)
            await server.break_part()
            served = callers.served.copy()
            others = served.keys() - {HOLDS_UP[part]}
            await until(lambda: all(callers.served[call] > served[call] + 5 for call in others))
            assert await health_of(server.client) == SERVING
            assert not callers.refused
        server.process.send_signal(signal.SIGTERM)

        assert await server.end() == 0


async def test_a_server_whose_store_does_not_answer_stops_all_the_same_and_tells_who_waits(running: Running) -> None:
    async with held(running.server) as hold:
        waiting = asyncio.ensure_future(create(running))
        await hold.has(1)
        async with asyncio.timeout(PATIENCE_S):
            await running.server.stop()
        refusal = await refused(waiting)

    assert refusal.code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
