"""Runs a server for the demo: a child process on loopback with a temporary file."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from jobstate_client.demo.processes import end, last_line
from jobstate_client.demo.scene import LEASE_S

READY_WITHIN_S = 10.0

_READY = "jobstate: serving on "

_CONFIG = f"""\
# A job type beside the three that every server has.
[job_types.render_video]
max_retries = 2
lease = "{LEASE_S}s"
base_delay = "1s"
"""


class ServerFailed(Exception):
    """The server did not start. The message says why, if that is known."""


@asynccontextmanager
async def running_server(folder: Path) -> AsyncIterator[str]:
    """Run a server that keeps its file in ``folder``. Yields its address.

    Raises:
        ServerFailed: it ended, or did not start in time.
    """
    config, log = folder / "jobstate.toml", folder / "server.log"
    config.write_text(_CONFIG, encoding="utf-8")
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "jobstate_server", "serve", "--config", config, "--log-level", "warning"),
            *("--listen", "127.0.0.1:0", "--store", f"sqlite:///{folder / 'jobs.db'}"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            env={name: value for name, value in os.environ.items() if not name.startswith("JOBSTATE_")},
        )
    try:
        yield await _address(process, log)
    finally:
        await end(process)


async def _address(process: Process, log: Path) -> str:
    assert process.stdout is not None
    try:
        async with asyncio.timeout(READY_WITHIN_S):
            line = (await process.stdout.readline()).decode().strip()
    except TimeoutError:
        raise ServerFailed(f"the server did not start within {READY_WITHIN_S:.0f} s") from None
    if line.startswith(_READY):
        return line.removeprefix(_READY)
    raise ServerFailed(_why(log))


def _why(log: Path) -> str:
    last = last_line(log).removeprefix("jobstate-server: ")
    if "No module named" in last:
        return "the server is not installed; install it with: pip install 'jobstate-grpc[server]'"
    return f"the server did not start: {last}"
