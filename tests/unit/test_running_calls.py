"""A stop waits until no handler runs any more."""

from __future__ import annotations

import asyncio

from jobstate_server.rpc.call import CallsUnderWay
from tests.support.clock import PATIENCE_S


async def test_everybody_who_waits_for_the_last_running_call_sees_its_end() -> None:
    calls = CallsUnderWay()
    calls.begin()
    calls.begin()
    waiting = [asyncio.create_task(calls.none()) for _ in range(2)]
    calls.end()
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)

    calls.end()
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*waiting)


async def test_a_call_that_begins_before_the_waiting_task_has_run_is_waited_for_too() -> None:
    calls = CallsUnderWay()
    calls.begin()
    waiting = asyncio.create_task(calls.none())
    await asyncio.sleep(0)
    calls.end()
    calls.begin()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not waiting.done()

    calls.end()
    async with asyncio.timeout(PATIENCE_S):
        await waiting


async def test_nobody_waits_when_no_call_runs() -> None:
    calls = CallsUnderWay()
    async with asyncio.timeout(PATIENCE_S):
        await calls.none()
        calls.begin()
        calls.end()
        await calls.none()
