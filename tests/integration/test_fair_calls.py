"""One caller's flood or large batch leaves the others their turn."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.domain.caller import ANONYMOUS
from jobstate_server.rpc.loop_turns import LoopTurns
from jobstate_server.rpc.requests.create import SLICE_ITEMS, batch_create
from jobstate_server.rpc.update_stream import SLICE_UPDATES

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


async def turns_during(work: Callable[[], Awaitable[object]]) -> int:
    """How many turns the event loop takes during some work."""
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    await work()
    task.cancel()
    return turns


async def test_large_batches_are_converted_in_slices_one_in_each_turn_of_the_loop() -> None:
    turns = LoopTurns()
    request = pb.BatchCreateRequest(requests=[pb.CreateRequest(job_type="x")] * (10 * SLICE_ITEMS))

    async def convert() -> None:
        command = await batch_create(request, ANONYMOUS, lambda: "id", turns.take)
        assert len(command.creates) == 10 * SLICE_ITEMS

    assert await turns_during(convert) >= 9
    assert await turns_during(lambda: asyncio.gather(*(convert() for _ in range(5)))) >= 49


async def test_a_slice_that_is_cancelled_while_it_waits_leaves_its_turn_to_the_next() -> None:
    turns = LoopTurns()
    await turns.take()
    waiting = [asyncio.create_task(turns.take()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*waiting[1:])


async def test_batches_of_many_streams_are_converted_in_slices_too(tmp_path: Path) -> None:
    slices = 0

    class Counted(LoopTurns):
        async def take(self) -> None:
            nonlocal slices
            slices += 1
            await super().take()

    update = pb.JobUpdate(progress=pb.UpdateProgressRequest(id="none", attempt=1))
    batch = pb.StreamUpdatesRequest(updates=[update] * (4 * SLICE_UPDATES))
    async with serving(tmp_path / "jobs.db") as running:
        running.server.job_service._update_streams._turns = Counted()
        streams = [running.jobs.StreamUpdates(iter([batch])) for _ in range(3)]
        answers = await asyncio.gather(*(anext(aiter(stream)) for stream in streams))

    assert [len(answer.outcomes) for answer in answers] == [4 * SLICE_UPDATES] * 3
    assert slices == 3 * 5
