"""SIGTERM ends a server in time, whatever part of it has died or hangs, and nothing answered is lost."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from jobstate_server.process import GAVE_UP

from ..support.callers import calling, jobs_in
from ..support.faulty import GRACE_S, faulty
from ..support.faulty_server import DIES, HANGS, OF_REPLICAS, PARTS
from ..support.postgres import postgres_server
from ..support.waiting import until

STOP_S = GRACE_S + 2.0
"""Within which a server that was told to stop is gone."""

SLACK_S = 8.0
"""What a machine with other work to do may add. What hangs stays for ever."""

BLOCKS_THE_LOOP = {"delivery", "results", "hand-over", "gets", "what was read", "loop", "turn"}
"""Parts that run on the event loop, which hangs with them: only deadlines are left to end the process."""

DEADLINES = ("the server has not stopped", "the event loop has not turned")
"""That of the stop, and that of a silent loop, which is earlier if the signal comes late on a busy machine."""


async def stopped_after_a_fault(part: str, fault: str, tmp_path: Path) -> tuple[int, str]:
    """Break a part under load and stop the server. Returns its exit code and its log."""
    store = postgres_server().new_store() if part in OF_REPLICAS else f"sqlite:///{tmp_path}/{fault}.db"
    async with faulty(part, fault, store, tmp_path / f"{fault}.log") as server:
        async with calling(server.client) as callers:
            await until(lambda: len(callers.answered) > 10)
            await server.break_part()
            server.process.send_signal(signal.SIGTERM)
            code = await server.end(within_s=STOP_S + SLACK_S)
        log = server.log.read_text()
    assert set(callers.answered) <= jobs_in(store)
    return code, log


@pytest.mark.parametrize("part", PARTS)
async def test_a_server_with_a_broken_part_stops_in_time_and_loses_nothing_that_was_answered(
    part: str, tmp_path: Path
) -> None:
    faults = (DIES, HANGS) if part != "loop" else (HANGS,)
    ends = await asyncio.gather(*(stopped_after_a_fault(part, fault, tmp_path) for fault in faults))

    for fault, (code, log) in zip(faults, ends, strict=True):
        if fault == HANGS and part in BLOCKS_THE_LOOP:
            assert code == GAVE_UP
            assert any(deadline in log for deadline in DEADLINES), log
        else:
            assert code in {0, GAVE_UP}, log
