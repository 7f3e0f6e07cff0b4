"""SIGTERM ends a server in time in the midst of every attack, and nothing answered is lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.process import GAVE_UP

from ..support.callers import Callers, calling, jobs_in
from ..support.server import Client, Process, client_of, served
from ..support.waiting import until
from .attackers import ATTACKS, Attackers

GRACE_S = 1.0

STOP_S = GRACE_S + 2.0
"""Within which a server that was told to stop is gone."""

SLACK_S = 8.0
"""What a machine with other work to do may add. What hangs stays for ever."""


async def fill(client: Client) -> list[str]:
    """Make jobs that are worth reading, or not reading, for an attacker."""
    items = [pb.CreateRequest(id=f"large-{number}", job_type="x") for number in range(200)]
    for item in items:
        item.metadata["text"] = "m" * 16_000
    answer = await client.jobs.BatchCreate(pb.BatchCreateRequest(requests=items))
    return [job.id for job in answer.jobs]


def open_files(pid: int) -> int:
    """How many files a process has open, its connections among them."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def attacked(server: Process, callers: Callers, files_before: int) -> None:
    """Wait until the attackers have connected, and somebody else has been served or refused since."""
    await until(lambda: open_files(server.process.pid) > files_before)
    before = callers.ended
    await until(lambda: callers.ended > before + 5)


@pytest.mark.parametrize("attack", ATTACKS)
async def test_a_server_under_attack_stops_in_time_and_loses_nothing_that_was_answered(
    attack: str, tmp_path: Path
) -> None:
    path = tmp_path / "jobs.db"
    env = {"JOBSTATE_SHUTDOWN_GRACE": f"{GRACE_S}s"}
    async with served(path, env=env) as server, client_of(server.address) as client:
        answered = await fill(client)
        async with calling(client) as callers:
            await until(lambda: callers.ended > 5)
            with Attackers([ATTACKS[attack]], server.address):
                await attacked(server, callers, open_files(server.process.pid))
                server.process.terminate()
                async with asyncio.timeout(STOP_S + SLACK_S):
                    code = await server.process.wait()

    assert code in {0, GAVE_UP}
    assert {*answered, *callers.answered} <= jobs_in(f"sqlite:///{path}")
