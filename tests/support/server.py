"""Real servers on loopback, each with its own file: in this process, or started by the command line."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc

from jobstate.v1 import dispatch_service_pb2_grpc, job_service_pb2_grpc, maintenance_service_pb2_grpc
from jobstate_server.app import Server
from jobstate_server.clock import Clock
from jobstate_server.config import Settings

from .clock import PATIENCE_S
from .ready_stores import make_ready

HARDLY_EVER = "0 0 29 2 *"
"""A schedule that does not fire while a test runs. APScheduler reads the clock of the machine, not that of the test."""

QUIET = {
    "check_stale": HARDLY_EVER,
    "retry_failed": HARDLY_EVER,
    "evict_inactive": HARDLY_EVER,
    "cleanup": HARDLY_EVER,
    "check_health": HARDLY_EVER,
}

RESTING = "resting"
"""A job type of every test server whose failed jobs rest in FAILED."""


@dataclass(frozen=True)
class Client:
    """Stubs on one channel."""

    channel: grpc.aio.Channel
    jobs: job_service_pb2_grpc.JobServiceAsyncStub
    maintenance: maintenance_service_pb2_grpc.MaintenanceServiceAsyncStub
    dispatch: dispatch_service_pb2_grpc.DispatchServiceAsyncStub
    health: Any
    """A HealthStub. Its type stubs do not cover asyncio."""


@dataclass(frozen=True)
class Running(Client):
    """A server in this process, and a client of it."""

    server: Server
    path: Path


@asynccontextmanager
async def client_of(address: str) -> AsyncIterator[Client]:
    """A client with a connection of its own."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        yield Client(
            channel,
            job_service_pb2_grpc.JobServiceStub(channel),
            maintenance_service_pb2_grpc.MaintenanceServiceStub(channel),
            dispatch_service_pb2_grpc.DispatchServiceStub(channel),
            health_pb2_grpc.HealthStub(channel),
        )


def settings_for(path: Path, **settings: Any) -> Settings:
    """Settings of a server on a free port of loopback, whose tasks run only when asked to."""
    job_types = {RESTING: {"auto_retry": False}} | settings.pop("job_types", {})
    defaults: dict[str, Any] = {"listen": "127.0.0.1:0", "schedules": QUIET, "shutdown_grace": "2s"}
    return Settings(**(defaults | {"store": f"sqlite:///{path}", "job_types": job_types} | settings))


@asynccontextmanager
async def serving(path: Path, clock: Clock | None = None, **settings: Any) -> AsyncIterator[Running]:
    """A server on the file at ``path``, which need not be there, stopped at the end of the block."""
    if "store" not in settings:
        make_ready(path)
    server = Server(settings_for(path, **settings), clock)
    await server.start()
    try:
        async with client_of(server.address) as client:
            yield Running(client.channel, client.jobs, client.maintenance, client.dispatch, client.health, server, path)
    finally:
        await server.stop()


@asynccontextmanager
async def serving_url(url: str, clock: Clock | None = None, **settings: Any) -> AsyncIterator[Running]:
    """A server on the store at a URL, which other servers may share. Its ``path`` means nothing."""
    async with serving(Path(), clock, store=url, **settings) as running:
        yield running


def rows(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all tables of the store, read by SQLite alone."""
    with closing(sqlite3.connect(path)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {table: sorted(connection.execute(f'SELECT * FROM "{table}"'), key=repr) for table in tables}  # noqa: S608


def stored_job_ids(path: Path) -> set[str]:
    """The ids of all jobs in the store, read by SQLite alone."""
    with closing(sqlite3.connect(path)) as connection:
        return {job_id for (job_id,) in connection.execute("SELECT id FROM job")}


@dataclass(frozen=True)
class Process:
    """A server process."""

    process: asyncio.subprocess.Process
    address: str
    stderr: Path

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send the signal and wait for the exit code."""
        self.process.send_signal(number)
        async with asyncio.timeout(PATIENCE_S):
            return await self.process.wait()


@asynccontextmanager
async def served(
    path: Path, *arguments: str, stderr: Path | None = None, env: Mapping[str, str] | None = None
) -> AsyncIterator[Process]:
    """``python -m jobstate_server serve`` on the file at ``path``. The block begins once it serves."""
    log = stderr or path.with_suffix(".log")
    command = (sys.executable, "-m", "jobstate_server", "serve", "--listen", "127.0.0.1:0", "--store")
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *command,
            f"sqlite:///{path}",
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=output,
            env={**os.environ, **(env or {})},
        )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            line = (await process.stdout.readline()).decode()
        greeting = "jobstate: serving on "
        assert line.startswith(greeting), f"{line!r}, and on stderr: {log.read_text()}"
        yield Process(process, line.removeprefix(greeting).strip(), log)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
