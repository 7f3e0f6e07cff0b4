"""What a call gets from the verdicts of its batch."""

from __future__ import annotations

import asyncio

import pytest

from jobstate_server.domain import commands as c
from jobstate_server.engine.outcomes import Outcome
from jobstate_server.engine.write_queue import QueuedCommands


async def test_too_few_verdicts_are_a_defect_and_no_short_answer() -> None:
    future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    commands = (c.UpdateProgress("one"), c.UpdateProgress("two"))
    call = QueuedCommands(commands, future, rows=2, size=0, is_many=True, since=0)

    with pytest.raises(StopIteration):
        call.resolve(iter([Outcome(())]))
    assert not future.done()
