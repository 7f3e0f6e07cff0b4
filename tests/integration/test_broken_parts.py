"""A part that breaks in a real server process is restarted, or the process exits with 70; nobody waits for ever."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2

from jobstate.v1 import maintenance_service_pb2 as mpb
from jobstate_server.process import GAVE_UP

from ..support.callers import CALLERS, calling
from ..support.calls import create, fail, get, health_of, span, start, until_health_is
from ..support.clock import PATIENCE_S
from ..support.faulty import Faulty, faulty
from ..support.faulty_server import ARM, DIES, HANGS, OF_REPLICAS, PARTS
from ..support.postgres import postgres_server
from ..support.waiting import until

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def store_of(part: str, path: Path) -> str:
    """A store that is not there yet, for a server that has this part."""
    return postgres_server().new_store() if part in OF_REPLICAS else f"sqlite:///{path}"


FATAL = [
    ("committer", DIES, "the thread committer has died"),
    ("delivery", DIES, "the thread delivery has died"),
    ("results", DIES, "the thread delivery has died"),
    ("hand-over", DIES, "the thread delivery has died"),
    ("loop", HANGS, "the event loop has not turned for 5 s"),
    ("watchdog", DIES, "the thread watchdog has died"),
]
"""Part, fault, and what the log says when the process ends for it."""


@pytest.mark.parametrize(("part", "fault", "told"), FATAL)
async def test_a_server_that_loses_a_part_it_cannot_restart_exits_with_70_and_logs_why(
    part: str, fault: str, told: str, path: Path
) -> None:
    async with faulty(part, fault, store_of(part, path), path.with_suffix(".log")) as server, calling(server.client):
        await server.break_part()

        assert await server.end() == GAVE_UP
        assert told in server.told()


async def test_a_change_whose_delivery_fails_is_still_answered(path: Path) -> None:
    async with faulty("delivery", DIES, store_of("delivery", path), path.with_suffix(".log")) as server:
        assert (await create(server.client, ARM)).id == ARM
        assert await server.end() == GAVE_UP


RESTARTED = "a part has stopped and is restarted part="

RESTARTS = {
    "reader": {DIES: RESTARTED + "reader-"},
    "catch-up reader": {DIES: RESTARTED + "catch-up-reader-0"},
    "notifier": {DIES: RESTARTED + "notifier", HANGS: RESTARTED + "notifier"},
    "admin port": {DIES: RESTARTED + "admin-port", HANGS: RESTARTED + "admin-port"},
    "receive buffers": dict.fromkeys((DIES, HANGS), RESTARTED + "receive-buffers"),
    "log writer": {DIES: "log lines were lost"},
    "look for ready jobs": dict.fromkeys((DIES, HANGS), "the look for ready jobs had stopped; it was restarted"),
    "due timer": dict.fromkeys((DIES, HANGS), "the due timer had stopped; it was restarted"),
    "schedule": dict.fromkeys((DIES, HANGS), "the schedule had stopped; it was restarted"),
    "timekeeper": dict.fromkeys((DIES, HANGS), "the timekeeper had stopped; it was restarted"),
    "membership": dict.fromkeys((DIES, HANGS), "the renewal of the lease had stopped; it was restarted"),
    "event limit": {
        DIES: "the size of the log could not be limited",
        HANGS: "the limit of the log had stopped; it was restarted",
    },
    "turn": {DIES: "a part failed in its turn"},
}
"""By part and fault, what the log says when the part is restarted."""


async def check_restart(server: Faulty, logged: str) -> None:
    """Break the part, see that it is restarted and everybody served, and stop the server."""
    async with calling(server.client) as callers:
        await server.break_part()
        await until(lambda: logged in server.told())
        assert await health_of(server.client) == SERVING
        served = callers.served.copy()
        await until(lambda: all(callers.served[call] > served[call] for call in served))
    # A retry falls due, and is started.
    await create(server.client, "retried", max_retries=1)
    await start(server.client, "retried")
    failed = await fail(server.client, "retried", retry_delay=span(0.1))
    async with asyncio.timeout(PATIENCE_S):
        while (await get(server.client, "retried")).attempt == failed.attempt:
            pass
    server.process.send_signal(signal.SIGTERM)

    assert await server.end() == 0


@pytest.mark.parametrize("part", RESTARTS)
async def test_a_part_that_breaks_is_restarted_while_callers_are_served_and_the_server_stops_in_order(
    part: str, tmp_path: Path
) -> None:
    async def broken(fault: str, logged: str) -> None:
        path = tmp_path / f"{fault}.db"
        async with faulty(part, fault, store_of(part, path), path.with_suffix(".log")) as server:
            await check_restart(server, logged)

    await asyncio.gather(*(broken(fault, logged) for fault, logged in RESTARTS[part].items()))


HANGING = {
    "committer": {"create", "retry", "stream"},
    "reader": set[str](),
    "catch-up reader": {"read_the_log"},
}
"""By thread, the callers that wait for it when it hangs. Of two readers the other goes on."""


@pytest.mark.parametrize("part", HANGING)
async def test_a_thread_that_hangs_in_the_store_turns_health_to_not_serving_and_its_calls_are_refused(
    part: str, path: Path
) -> None:
    async with faulty(part, HANGS, store_of(part, path), path.with_suffix(".log")) as server:
        async with calling(server.client) as callers:
            await server.break_part()
            await until_health_is(server.client, NOT_SERVING)
            await until(lambda: all("STORE_UNAVAILABLE" in callers.refused[call] for call in HANGING[part]))

        assert server.process.returncode is None


async def test_a_log_writer_that_hangs_is_a_problem_that_check_health_reports(path: Path) -> None:
    async with faulty("log writer", HANGS, store_of("log writer", path), path.with_suffix(".log")) as server:
        assert not (await server.client.maintenance.CheckHealth(mpb.CheckHealthRequest())).problems
        await server.break_part()

        async with asyncio.timeout(PATIENCE_S):
            while not (found := (await server.client.maintenance.CheckHealth(mpb.CheckHealthRequest())).problems):
                pass
        assert "the log has not been written for" in found[0]
        assert await health_of(server.client) == SERVING


TASKS = {
    "health watch": {"watch_health"},
    "update stream": {"stream"},
    "watch": {"read_the_log"},
    "gets": {"create"},
    "what was read": {"create"},
}
"""By task or callback of a single call, the callers who make such calls."""


@pytest.mark.parametrize("part", TASKS)
async def test_a_task_that_fails_ends_its_call_and_the_next_one_is_served(part: str, path: Path) -> None:
    async with faulty(part, DIES, store_of(part, path), path.with_suffix(".log")) as server:
        async with calling(server.client) as callers:
            await server.break_part()
            await until(lambda: callers.refused)
            (refused,) = callers.refused
            assert refused in TASKS[part]
            served = callers.served[refused]
            await until(lambda: callers.served[refused] > served)
            assert list(callers.refused) == [refused]
        server.process.send_signal(signal.SIGTERM)

        assert await server.end() == 0


HOLDS_UP = {"log writer": "", "health watch": "watch_health", "update stream": "stream", "watch": "read_the_log"}
"""By part that may hang without harm to others, the caller whose call hangs with it."""


@pytest.mark.parametrize("part", HOLDS_UP)
async def test_a_log_writer_or_a_task_of_one_call_that_hangs_holds_up_no_other_call(part: str, path: Path) -> None:
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


def test_each_part_that_can_break_is_broken_here() -> None:
    assert {part for part, _, _ in FATAL} | {*RESTARTS, *HANGING, *TASKS, *HOLDS_UP} == set(PARTS)
