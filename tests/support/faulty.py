"""Server processes of which one part breaks; see ``faulty_server``."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from jobstate.v1 import job_service_pb2 as pb

from .clock import PATIENCE_S
from .faulty_server import ARM, BROKEN
from .server import Client, client_of

GRACE_S = 0.5


@dataclass(frozen=True)
class Faulty:
    """A server process that one part of can be broken, and a client of it."""

    process: asyncio.subprocess.Process
    client: Client
    address: str
    log: Path

    def told(self) -> str:
        """What the log tells."""
        return self.log.read_text()

    async def break_part(self) -> None:
        """Break the part. Returns when it has broken."""
        # Whether this is answered depends on what breaks.
        arming = asyncio.ensure_future(self.client.jobs.Create(pb.CreateRequest(id=ARM, job_type="default")))
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            line = await self.process.stdout.readline()
        assert line.decode().startswith(BROKEN), (line, self.told())
        arming.cancel()
        await asyncio.gather(arming, return_exceptions=True)

    async def end(self, within_s: float = PATIENCE_S) -> int:
        """Wait for the exit code."""
        async with asyncio.timeout(within_s):
            return await self.process.wait()


@asynccontextmanager
async def faulty(part: str, fault: str, store: str, log: Path) -> AsyncIterator[Faulty]:
    """A server process of which this part breaks in this way when it is told to."""
    command = [sys.executable, "-m", "tests.support.faulty_server", part, fault, "serve", "--listen", "127.0.0.1:0"]
    env = {**os.environ, "JOBSTATE_ADMIN_LISTEN": "127.0.0.1:0", "JOBSTATE_SHUTDOWN_GRACE": f"{GRACE_S}s"}
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *command, "--store", store, stdout=asyncio.subprocess.PIPE, stderr=output, env=env
        )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            greeting = (await process.stdout.readline()).decode()
        assert greeting.startswith("jobstate: serving on "), greeting
        address = greeting.rpartition(" ")[2].strip()
        async with client_of(address) as client:
            yield Faulty(process, client, address, log)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
