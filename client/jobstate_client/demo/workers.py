"""The workers of the demo: processes, so that one of them can be killed."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from jobstate_client.demo.processes import end, last_line
from jobstate_client.demo.scene import WORKERS
from jobstate_client.demo.worker import READY

READY_WITHIN_S = 10.0


class Unexpected(Exception):
    """The outcome was not the expected one. The message says what differs."""


class Workers:
    """The processes, by the names under which they take jobs."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._processes: dict[str, Process] = {}
        self.killed: list[str] = []

    async def start(self, address: str) -> None:
        """Start all of them.

        Raises:
            Unexpected: one ended, or did not start in time.
        """
        with self._log.open("wb") as errors:
            for name in WORKERS:
                self._processes[name] = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "jobstate_client.demo.worker", address, name),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=errors,
                )
        try:
            async with asyncio.timeout(READY_WITHIN_S):
                for name, process in self._processes.items():
                    assert process.stdout is not None
                    if (await process.stdout.readline()).decode().strip() != READY:
                        raise Unexpected(f"{name} did not start: {last_line(self._log)}")
        except TimeoutError:
            raise Unexpected(f"the workers did not start within {READY_WITHIN_S:.0f} s") from None

    async def kill(self, name: str) -> None:
        """End one by SIGKILL, as `kill -9` does."""
        process = self._processes.pop(name)
        process.kill()
        await process.wait()
        self.killed.append(name)

    async def stop(self) -> None:
        """End the others by SIGTERM.

        Raises:
            Unexpected: one did not end well.
        """
        while self._processes:
            name, process = self._processes.popitem()
            await end(process)
            if process.returncode:
                raise Unexpected(f"{name} ended with code {process.returncode}: {last_line(self._log)}")

    async def clear(self) -> None:
        """End what still runs."""
        for process in self._processes.values():
            if process.returncode is None:
                process.kill()
                await process.wait()


@asynccontextmanager
async def running_workers(address: str, folder: Path) -> AsyncIterator[Workers]:
    """Run the workers for as long as the block lasts.

    Raises:
        Unexpected: they did not start.
    """
    workers = Workers(folder / "workers.log")
    try:
        await workers.start(address)
        yield workers
    finally:
        await workers.clear()
