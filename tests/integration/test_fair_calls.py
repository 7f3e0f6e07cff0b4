"""One caller's flood or large batch leaves the others their turn."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.domain.caller import ANONYMOUS
from jobstate_server.rpc.requests.create import SLICE_ITEMS, batch_create

from ..bench.http2 import Broken
from ..robustness.attackers import Deaf, resets
from ..support.calls import create, get
from ..support.clock import PATIENCE_S
from ..support.server import serving
from ..support.waiting import pause


def reset_calls(connection: Deaf) -> None:
    """Make calls and reset them at once, until the server closes the connection."""
    (crowd,) = resets()
    assert crowd.again is not None
    while True:
        connection.receive()
        crowd.again(connection)
        connection.flush()


async def test_a_connection_whose_calls_are_reset_at_once_is_closed_and_others_are_served(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path / "jobs.db") as running:
        await create(running, "job")
        connection = await asyncio.to_thread(Deaf, running.server.address)
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises((Broken, OSError)):
                await asyncio.to_thread(reset_calls, connection)
        connection.close()

        assert (await get(running, "job")).id == "job"
    assert "most of their calls were reset" in [getattr(line, "reason", "") for line in caplog.records]


async def test_a_client_that_gives_up_all_its_calls_at_once_keeps_its_connection(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path / "jobs.db") as running:
        await create(running, "job")
        calls = [asyncio.ensure_future(running.jobs.Get(pb.GetRequest(id="job"))) for _ in range(100)]
        await pause(0)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)

        assert (await get(running, "job")).id == "job"
    assert not any(hasattr(line, "reason") for line in caplog.records)


async def test_a_large_batch_is_converted_in_slices_between_which_others_have_their_turn() -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    request = pb.BatchCreateRequest(requests=[pb.CreateRequest(job_type="x")] * (10 * SLICE_ITEMS))
    task = asyncio.create_task(other())
    command = await batch_create(request, ANONYMOUS, lambda: "id")
    task.cancel()

    assert len(command.creates) == 10 * SLICE_ITEMS
    assert turns >= 10
