"""A server under abuse beside a client that behaves: its memory, its health, what that client meets, and its end.

``python -m tests.robustness.abuse`` tries each attack by itself and then all at once, and prints a table.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from jobstate.v1 import job_service_pb2 as pb

from ..support.ports import ReservedPort
from ..support.server import Process, client_of, served
from ..support.waiting import pause
from .attackers import ATTACKS, Attackers
from .process import memory_kib

JOBS = 2_000
LARGE = "m" * 16_000

GRACE_S = 2.0
STOP_S = GRACE_S + 2.0
"""Within which a server that was told to stop is gone."""

ANSWER_S = 30.0
"""How long the client that behaves waits for an answer."""


@dataclass
class Met:
    """What was met under an attack."""

    attack: str
    memory_kib: int = 0
    """The server's resident memory at its height."""
    took: list[float] = field(default_factory=list)
    """Seconds that each call of the client that behaves took."""
    refused: dict[str, int] = field(default_factory=dict)
    health_s: float = 0.0
    """The longest that health took to be told."""
    stop_s: float = 0.0

    @property
    def p99(self) -> float:
        """Of its calls."""
        return sorted(self.took)[int(len(self.took) * 0.99)] if self.took else ANSWER_S


@dataclass(frozen=True)
class _Target:
    process: Process
    admin: tuple[str, int]


@asynccontextmanager
async def _target(directory: Path) -> AsyncIterator[_Target]:
    port = ReservedPort()
    env = {
        "JOBSTATE_ADMIN_LISTEN": port.address,
        "JOBSTATE_SHUTDOWN_GRACE": f"{GRACE_S}s",
    }
    async with served(directory / "jobs.db", env=env) as process:
        async with client_of(process.address) as client:
            for first in range(0, JOBS, 200):
                items = [pb.CreateRequest(id=f"large-{first + number}", job_type="x") for number in range(200)]
                for item in items:
                    item.metadata["text"] = LARGE
                await client.jobs.BatchCreate(pb.BatchCreateRequest(requests=items))
        yield _Target(process, ("127.0.0.1", port.number))


async def _behave(address: str, met: Met, seconds: float) -> None:
    """Make jobs and look at them, a call at a time, as any client does."""
    end = time.monotonic() + seconds
    number = 0
    async with client_of(address) as client:
        while time.monotonic() < end:
            number += 1
            began = time.monotonic()
            try:
                if number % 4:
                    await client.jobs.Get(pb.GetRequest(id="large-1"), timeout=ANSWER_S, wait_for_ready=True)
                else:
                    await client.jobs.Create(pb.CreateRequest(job_type="y"), timeout=ANSWER_S, wait_for_ready=True)
            except grpc.aio.AioRpcError as error:
                what = f"{error.code().name}: {error.details()}"
                met.refused[what] = met.refused.get(what, 0) + 1
            met.took.append(time.monotonic() - began)


async def lives(host: str, port: int) -> None:
    """Ask the port for probes whether the server lives. Fails when it does not say so."""
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    assert b" 200 " in answer, answer


async def _look(target: _Target, met: Met) -> None:
    """Look at memory and health, ten times a second."""
    while True:
        met.memory_kib = max(met.memory_kib, memory_kib(target.process.process.pid))
        began = time.monotonic()
        await lives(*target.admin)
        met.health_s = max(met.health_s, time.monotonic() - began)
        await pause(0.1)


async def _under(target: _Target, attacks: Sequence[str], name: str, seconds: float) -> Met:
    met = Met(name)
    looking = asyncio.create_task(_look(target, met))
    try:
        with Attackers([ATTACKS[attack] for attack in attacks], target.process.address):
            # The attackers need a moment to start, and to fill what they fill.
            await pause(min(seconds / 3, 4.0) if attacks else 0)
            await _behave(target.process.address, met, seconds)
            if attacks:
                began = time.monotonic()
                looking.cancel()
                target.process.process.terminate()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(30):
                        await target.process.process.wait()
                met.stop_s = time.monotonic() - began
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
    if not looking.cancelled():
        looking.result()
    return met


async def meet(directory: Path, attacks: Sequence[str], name: str, seconds: float) -> tuple[Met, Met]:
    """What is met before, and what is met under, these attacks."""
    async with _target(directory) as target:
        return await _under(target, (), name, min(seconds, 3.0)), await _under(target, attacks, name, seconds)


def main() -> int:
    """Read the command line, and attack."""
    parser = argparse.ArgumentParser(description="Attack a server beside a client that behaves.")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each attack")
    parser.add_argument("attacks", nargs="*", choices=[*ATTACKS, "all", []], help="which; all at once is 'all'")
    options = parser.parse_args()
    names = options.attacks or [*ATTACKS, "all"]
    print("attack                   MiB before    MiB   p99 ms  ratio  calls health ms stop s")
    for name in names:
        with tempfile.TemporaryDirectory(prefix="abuse-") as directory:
            attacks = list(ATTACKS) if name == "all" else [name]
            before, met = asyncio.run(meet(Path(directory), attacks, name, options.seconds))
        print(
            f"{name:24} {before.memory_kib // 1024:10} {met.memory_kib // 1024:6} {met.p99 * 1e3:8.0f}"
            f" {met.p99 / before.p99:6.1f} {len(met.took):6} {met.health_s * 1e3:9.0f} {met.stop_s:6.1f}",
            *(f"{count} × {what[:90]}" for what, count in met.refused.items()),
            flush=True,
        )
    return 0


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main())
