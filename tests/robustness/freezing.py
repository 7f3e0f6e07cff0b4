"""Servers frozen under running attempts for longer than the attempts may take, and what becomes of reports meanwhile.

As a program it does the same at full length: ``python -m tests.robustness.freezing --freeze 30s --timeout 10s``.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from google.protobuf.duration_pb2 import Duration

from jobstate.v1 import event_pb2
from jobstate.v1 import job_service_pb2 as pb

from ..support.calls import refusal_of
from ..support.postgres import own_server
from ..support.server import Client, client_of
from .torture import seconds

DEADLINE_S = 90.0
"""How long the callers wait: our clients' patience."""

OK = "OK"

CONFIG = """
restart_grace = "30s"
[job_types.frozen]
max_retries = 3
base_delay = "1h"
max_delay = "1h"
"""
"""Attempts that time out wait for a retry, so that nothing else happens to them meanwhile."""


@dataclass(frozen=True)
class Frozen:
    """A server process, and a client of it."""

    process: asyncio.subprocess.Process
    client: Client

    def freeze(self) -> None:
        """Stop it where it is."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)


@asynccontextmanager
async def freezable(directory: Path, url: str, name: str) -> AsyncIterator[Frozen]:
    """A server as the command line starts it, on a store."""
    config = directory / "jobstate.toml"
    config.write_text(CONFIG)
    command = ("-m", "jobstate_server", "serve", "--config", str(config), "--listen", "127.0.0.1:0", "--store", url)
    with (directory / f"{name}.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, stdout=asyncio.subprocess.PIPE, stderr=log
        )
    try:
        assert process.stdout is not None
        line = (await asyncio.wait_for(process.stdout.readline(), DEADLINE_S)).decode()
        async with client_of(line.split()[-1]) as client:
            yield Frozen(process, client)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def begin_attempts(servers: Sequence[Frozen], count: int, timeout_s: float) -> list[str]:
    """Create and start jobs, all of them claimed."""
    names = [f"job-{number}" for number in range(count)]
    timeout = Duration()
    timeout.FromNanoseconds(int(timeout_s * 1e9))
    requests = [pb.CreateRequest(id=name, job_type="frozen", timeout=timeout) for name in names]
    await servers[0].client.jobs.BatchCreate(pb.BatchCreateRequest(requests=requests))
    await asyncio.gather(
        *(
            servers[number % len(servers)].client.jobs.Start(pb.StartRequest(id=name, worker="worker"))
            for number, name in enumerate(names)
        )
    )
    return names


async def report(server: Frozen, name: str) -> str:
    """Complete a job's first attempt. Tells OK, or the reason of the refusal."""
    try:
        await server.client.jobs.Complete(pb.CompleteRequest(id=name, attempt=1), timeout=DEADLINE_S)
    except grpc.aio.AioRpcError as error:
        return refusal_of(error).reason or error.code().name
    return OK


async def all_frozen(
    directory: Path, url: str, servers: int, count: int, timeout_s: float, freeze_s: float
) -> Counter[str]:
    """Freeze all servers of a store, report on every attempt while they are, and tell what the reports came to."""
    async with AsyncExitStack() as stack:
        frozen = [
            await stack.enter_async_context(freezable(directory, url, f"server-{number}")) for number in range(servers)
        ]
        names = await begin_attempts(frozen, count, timeout_s)
        for server in frozen:
            server.freeze()
        thaw = time.monotonic() + freeze_s
        reports = [asyncio.ensure_future(report(frozen[n % servers], name)) for n, name in enumerate(names)]
        await asyncio.wait(reports, timeout=thaw - time.monotonic())
        for server in frozen:
            server.thaw()
        return Counter(await asyncio.gather(*reports))


async def one_frozen(directory: Path, url: str, count: int, timeout_s: float) -> tuple[Counter[str], float]:
    """Freeze one of two replicas until the other has failed every attempt.

    Returns what the reports to the frozen one came to, and by how many seconds the latest limit was overrun.
    """
    async with AsyncExitStack() as stack:
        sleeping, awake = [
            await stack.enter_async_context(freezable(directory, url, f"server-{number}")) for number in range(2)
        ]
        names = await begin_attempts([awake], count, timeout_s)
        watch = awake.client.jobs.WatchEvents(
            pb.WatchEventsRequest(start=pb.WATCH_START_EARLIEST, types=[event_pb2.EVENT_TYPE_FAILED])
        )
        # Nothing of its own is under way when it is frozen, else PostgreSQL has to end that first.
        sleeping.freeze()
        reports = [asyncio.ensure_future(report(sleeping, name)) for name in names]
        failed: list[event_pb2.Event] = []
        async with asyncio.timeout(DEADLINE_S):
            async for response in watch:
                failed += response.events
                if len(failed) == count:
                    break
        watch.cancel()
        sleeping.thaw()
        late = max((event.time.ToNanoseconds() - _limit(event, timeout_s)) / 1e9 for event in failed)
        return Counter(await asyncio.gather(*reports)), late


def _limit(event: event_pb2.Event, timeout_s: float) -> int:
    """When the attempt was to fail: it was claimed as it was started."""
    return int(event.job.start_time.ToNanoseconds() + timeout_s * 1e9)


async def _everything(directory: Path, count: int, timeout_s: float, freeze_s: float) -> None:
    outcomes = await all_frozen(directory, f"sqlite:///{directory / 'jobs.db'}", 1, count, timeout_s, freeze_s)
    print(f"one server on SQLite, frozen for {freeze_s:.0f} s: {dict(outcomes)}", flush=True)
    with own_server() as postgres:
        outcomes = await all_frozen(directory, postgres.new_store(), 2, count, timeout_s, freeze_s)
        print(f"two replicas, both frozen for {freeze_s:.0f} s: {dict(outcomes)}", flush=True)
        outcomes, late = await one_frozen(directory, postgres.new_store(), count, timeout_s)
        print(f"two replicas, one frozen: {dict(outcomes)}; the other was late by {late:.2f} s at most", flush=True)


def main() -> None:
    """Freeze, and tell."""
    parser = argparse.ArgumentParser(description="Freeze servers under running attempts.")
    parser.add_argument("--attempts", type=int, default=200, help="how many run (default 200)")
    parser.add_argument("--timeout", type=seconds, default=10.0, help="of each attempt (default 10s)")
    parser.add_argument("--freeze", type=seconds, default=30.0, help="for how long (default 30s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="freezing-") as name:
        asyncio.run(_everything(Path(name), options.attempts, options.timeout, options.freeze))


if __name__ == "__main__":
    main()
