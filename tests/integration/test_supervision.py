"""No part of a server dies or falls silent unnoticed: what can be is restarted, else the process ends with 70."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2

from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.engine.committer import WAIT_TURNS_MAX
from jobstate_server.store.base import StoreUnreachable
from jobstate_server.supervision.supervisor import PROBE_TURNS, SILENT_TURNS_MAX

from ..support.calls import create, fail, get, health_of, refused, span, start
from ..support.clock import PATIENCE_S
from ..support.held import held
from ..support.server import Client, Running, client_of

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

GAVE_UP = 70


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

        assert server.supervisor.health.troubles == [f"the store has not answered for {server.committer.silence} s"]
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

    assert server.supervisor.health.troubles == ["the store cannot be written: the disk is gone"]
    assert await health_of(running) == NOT_SERVING


# A dead part ends the process, or is replaced.

HARM = """
import sys, threading, time
from jobstate_server import cli
from jobstate_server.admin.probes import _Server as AdminServer
from jobstate_server.engine.committer import Committer
from jobstate_server.engine.due_timer import DueTimer
from jobstate_server.engine.pending import Pending
from jobstate_server.engine.readers import Readers
from jobstate_server.engine.writer import Writer
from jobstate_server.maintenance import schedule
from jobstate_server.maintenance.event_limit import EventLimit
from jobstate_server.maintenance.schedule import Schedule
from jobstate_server.rpc.job_service import JobService
from jobstate_server.event_log.feed import Hub

def harmed(owner, name, harm):
    original = getattr(owner, name)
    def method(self, *args):
        harm(self, *args)
        return original(self, *args)
    setattr(owner, name, method)

def die(*_):
    if ARMED.is_set():
        ARMED.clear()
        raise SystemExit("a part dies")

def fail(*_):
    if ARMED.is_set():
        ARMED.clear()
        raise ValueError("a mistake of ours")

def arm(_self, request, *_):
    if request.id == "arm":
        ARMED.set()

def block(_self, request, *_):
    if request.id == "block":
        time.sleep(600)

ARMED = threading.Event()
schedule.LOOK_INTERVAL = 500_000
harmed(JobService, "Create", arm)
HARMS = {
    "committer": lambda: harmed(Writer, "commit", die),
    "delivery": lambda: harmed(Hub, "publish", fail),
    "settling": lambda: harmed(Pending, "settle", fail),
    "reader": lambda: harmed(Readers, "_results", die),
    "event limit": lambda: harmed(EventLimit, "keep", fail),
    "schedule": lambda: harmed(Schedule, "_ring_later", fail),
    "due timer": lambda: harmed(DueTimer, "_look", fail),
    "turn": lambda: harmed(EventLimit, "turn", fail),
    "admin port": lambda: harmed(AdminServer, "service_actions", die),
    "loop": lambda: harmed(JobService, "Create", block),
}
HARMS[sys.argv.pop(1)]()
sys.exit(cli.main(sys.argv[1:]))
"""


@asynccontextmanager
async def harmed(kind: str, path: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, Client, Path]]:
    """A server process of which a part can be made to die, a client of it, and its log."""
    log = path.with_suffix(".log")
    command = [sys.executable, "-c", HARM, kind, "serve", "--listen", "127.0.0.1:0", "--store", f"sqlite:///{path}"]
    env = {**os.environ, "JOBSTATE_ADMIN_LISTEN": "127.0.0.1:0"}
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=output, env=env)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            address = (await process.stdout.readline()).decode().removeprefix("jobstate: serving on ").strip()
        async with client_of(address) as client:
            yield process, client, log
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def ended(process: asyncio.subprocess.Process) -> int:
    """The exit code."""
    async with asyncio.timeout(PATIENCE_S):
        return await process.wait()


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("committer", "the thread committer has died"),
        ("delivery", "the thread delivery has died"),
        ("settling", "the thread delivery has died"),
        ("loop", "the event loop has not turned for 5 s"),
    ],
)
async def test_a_server_without_a_part_that_everything_needs_ends_with_70_and_says_why(
    kind: str, told: str, path: Path
) -> None:
    async with harmed(kind, path) as (process, client, log):
        await create(client, "before")
        await asyncio.gather(
            client.jobs.Create(pb.CreateRequest(id="block" if kind == "loop" else "arm", job_type="default")),
            return_exceptions=True,
        )

        assert await ended(process) == GAVE_UP
        assert told in log.read_text()


async def test_a_change_whose_delivery_fails_is_answered_all_the_same(path: Path) -> None:
    async with harmed("delivery", path) as (process, client, _):
        created = await create(client, "arm")
        assert created.id == "arm"
        assert await ended(process) == GAVE_UP


async def test_a_reader_that_dies_is_replaced_and_the_server_stops_in_order(path: Path) -> None:
    async with harmed("reader", path) as (process, client, log):
        await create(client, "arm")
        for _ in range(4):
            await asyncio.gather(get(client, "arm"), return_exceptions=True)
        async with asyncio.timeout(PATIENCE_S):
            while "a thread has died and is restarted" not in log.read_text():
                assert (await get(client, "arm")).id == "arm"
        process.send_signal(signal.SIGTERM)

        assert await ended(process) == 0


MENDED = {
    "event limit": "the size of the log could not be looked after",
    "schedule": "the schedule had stopped, and begins anew",
    "due timer": "the due timer had stopped, and begins anew",
    "turn": "a part could not take its turn",
    "admin port": "a thread has died and is restarted",
}
"""Parts that fail once, and what the log tells of it."""


@pytest.mark.parametrize("kind", MENDED)
async def test_a_part_that_fails_is_begun_anew_while_callers_are_served_and_the_server_stops_in_order(
    kind: str, path: Path
) -> None:
    async with harmed(kind, path) as (process, client, log):
        await create(client, "arm", max_retries=1)
        await start(client, "arm")
        retried = await fail(client, "arm", retry_delay=span(2))
        async with asyncio.timeout(PATIENCE_S):
            while MENDED[kind] not in log.read_text():
                await get(client, "arm")
            while (await get(client, "arm")).attempt == retried.attempt:
                assert await health_of(client) == SERVING
        process.send_signal(signal.SIGTERM)

        assert await ended(process) == 0


async def test_a_server_whose_store_does_not_answer_stops_all_the_same_and_tells_who_waits(running: Running) -> None:
    async with held(running.server) as hold:
        waiting = asyncio.ensure_future(create(running))
        await hold.has(1)
        async with asyncio.timeout(PATIENCE_S):
            await running.server.stop()
        refusal = await refused(waiting)

    assert refusal.code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
