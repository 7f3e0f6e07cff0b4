"""Memory has a number that holds when every part of it is full at once, and who behaves is served meanwhile."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from jobstate.v1 import job_pb2
from jobstate.v1 import job_service_pb2 as pb

from ..support.calls import create, get, refusal_of, struct
from ..support.clock import PATIENCE_S
from ..support.ports import ReservedPort
from ..support.server import Client, client_of
from ..support.waiting import pause
from .abuse import lives
from .attackers import Attackers, large_updates, unfinished_bodies, unfinished_probes
from .filling import STAGES
from .measured_server import Levels
from .process import ROOT, memory_kib

STATED_MIB = 768
"""What docs/operations.md says that a server takes at most."""

FULL = 0.65
"""A part counts as full from here on: its last quarter is kept for connections that have none, and of what is large,
such as batches of 4 MiB, the last one does not fit."""

FLOOD_S = 90.0
"""How long a server may take, on a machine that is busy with other tests, to close connections five times."""

JOBS = 2_400
TEXT = "m" * 16_000


@dataclass(frozen=True)
class Measured:
    """A server process, and how full it is."""

    process: asyncio.subprocess.Process
    address: str
    probes: int
    """The port for probes."""
    told: Path

    def levels(self) -> Levels:
        """The latest that it has written down."""
        lines = self.told.read_text("utf-8").splitlines(keepends=True)
        levels: Levels = json.loads(lines[-1] if lines[-1].endswith("\n") else lines[-2])
        return levels

    def is_full(self, parts: Iterable[str]) -> bool:
        """Whether each of these parts is full."""
        shares = {part: held / most for part, (held, most) in self.levels().items()}
        return all(shares[part] > FULL for part in parts)


@asynccontextmanager
async def measured(directory: Path) -> AsyncIterator[Measured]:
    """A server on a file in this directory."""
    told, log, probes = directory / "levels", directory / "log", ReservedPort()
    command = ["-m", "tests.robustness.measured_server", str(told), "serve", "--listen", "127.0.0.1:0"]
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *command,
            "--store",
            f"sqlite:///{directory / 'jobs.db'}",
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            env={**os.environ, "JOBSTATE_ADMIN_LISTEN": probes.address},
        )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            line = (await process.stdout.readline()).decode()
        assert line.startswith("jobstate: serving on "), log.read_text("utf-8")
        yield Measured(process, line.split()[-1], probes.number, told)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def fill_caches(client: Client) -> None:
    """Make jobs and read them, until pages, jobs in hand and recent events have all they may have."""
    watch = client.jobs.WatchEvents(pb.WatchEventsRequest())
    responses = aiter(watch)
    await anext(responses)
    for first in range(0, JOBS, 200):
        items = [
            pb.CreateRequest(id=f"large-{first + n}", job_type="x", metadata=struct(text=TEXT)) for n in range(200)
        ]
        await client.jobs.BatchCreate(pb.BatchCreateRequest(requests=items))
        seen = 0
        while seen < 200:
            seen += len((await anext(responses)).events)
    watch.cancel()
    token = ""
    while True:
        # Two at once, for each reader to read.
        request = pb.ListRequest(page_size=1_000, page_token=token)
        page, _ = await asyncio.gather(client.jobs.List(request), client.jobs.List(request))
        token = page.next_page_token
        if not token:
            break
    snapshot = client.jobs.WatchEvents(pb.WatchEventsRequest(start=pb.WATCH_START_EARLIEST, follow=False))
    assert sum([len(response.events) async for response in snapshot]) == JOBS


@contextmanager
def locked(store: Path) -> Iterator[None]:
    """Keep the server from writing."""
    with closing(sqlite3.connect(store, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


async def filled(server: Measured, parts: Iterable[str]) -> None:
    """Wait until these parts are full. Fails when the server once does not say that it lives."""
    async with asyncio.timeout(PATIENCE_S):
        while not server.is_full(parts):
            await lives("127.0.0.1", server.probes)
            await pause(0.1)


async def served(call: Callable[[], Awaitable[job_pb2.Job]]) -> job_pb2.Job:
    """What a client gets that repeats what is refused for load."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await call()
            except grpc.aio.AioRpcError as error:
                if refusal_of(error).reason != "OVERLOADED":
                    raise
                await pause(0.1)


@pytest.mark.timeout(120)
async def test_a_server_all_parts_of_which_are_full_at_once_stays_within_the_memory_that_is_stated(
    tmp_path: Path,
) -> None:
    async with measured(tmp_path) as server, client_of(server.address) as client:
        await fill_caches(client)
        before = memory_kib(server.process.pid, "VmHWM")
        with locked(tmp_path / "jobs.db"), ExitStack() as attackers:
            for stage in STAGES:
                attackers.enter_context(Attackers(tuple(stage.values()), server.address, in_order=True))
                await filled(server, stage)
            await filled(server, server.levels())
            # Who behaves is served all the same.
            assert (await served(lambda: get(client, "large-1"))).id == "large-1"
        assert (await served(lambda: create(client, "afterwards"))).id == "afterwards"
        height = memory_kib(server.process.pid, "VmHWM")

    print(f"{before // 1024} MiB with full caches, {height // 1024} MiB with everything full")
    assert height < STATED_MIB * 1024


@pytest.mark.timeout(120)
async def test_a_server_to_which_everyone_sends_much_at_once_stays_within_the_memory_that_is_stated(
    tmp_path: Path,
) -> None:
    log = tmp_path / "log"
    async with measured(tmp_path) as server, client_of(server.address) as client:
        await fill_caches(client)
        with Attackers((large_updates, unfinished_bodies, unfinished_probes), server.address):
            async with asyncio.timeout(FLOOD_S):
                # Those whose connections are closed come again.
                while log.read_text("utf-8").count("sent more than there was memory for") < 5:
                    await lives("127.0.0.1", server.probes)
                    assert (await served(lambda: get(client, "large-1"))).id == "large-1"
        height = memory_kib(server.process.pid, "VmHWM")

    print(f"{height // 1024} MiB")
    assert height < STATED_MIB * 1024
