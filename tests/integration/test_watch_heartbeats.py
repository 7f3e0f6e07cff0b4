"""A watch is never silent for longer than its heartbeat, also while the server searches the log for what matches."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.event_log.pages import Page
from jobstate_server.event_log.stored_pages import StoredPages

from ..support.calls import EVENTS, SYNCED, create, span, watching
from ..support.server import serving

HEARTBEAT = pb.WATCH_RESPONSE_KIND_HEARTBEAT


async def test_heartbeats_come_while_a_page_of_the_log_is_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(path) as running:
        await create(running)
    may_read = asyncio.Event()
    page = StoredPages.page

    async def slow(self: StoredPages, *position: Any) -> Page:
        await may_read.wait()
        return await page(self, *position)

    monkeypatch.setattr(StoredPages, "page", slow)
    request = pb.WatchEventsRequest(start=pb.WATCH_START_EARLIEST, heartbeat_interval=span(1))
    # The server was started anew, so that what happened before is in its log alone.
    async with serving(path) as running, watching(running, request) as watch:
        silent = [await watch.response() for _ in range(2)]
        may_read.set()
        rest = await watch.until(SYNCED)
        async with watching(running, pb.WatchEventsRequest(cursor=silent[0].cursor)) as resumed:
            again = await resumed.until(SYNCED)

    assert [response.kind for response in silent] == [HEARTBEAT] * 2
    assert [response.kind for response in rest if response.kind != HEARTBEAT] == [EVENTS, SYNCED]
    assert [event.name for response in again for event in response.events] == ["processing-job.queued"]
