"""A server process as ``jobstate-server serve`` is one, which writes down how full each part of its memory is.

``python -m tests.robustness.measured_server LEVELS serve ...``. LEVELS gets five lines of JSON a second: for each part
what it holds, and at most may hold, in bytes or as a count.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import TextIO

from jobstate_server import cli, process
from jobstate_server.app import Server
from jobstate_server.engine.write_queue import QUEUE_BYTES_MAX
from jobstate_server.event_log.feed import FILTERS_BYTES_MAX
from jobstate_server.rpc.transport_limits import CALLS_MAX
from jobstate_server.store.sqlite.store import SqliteStore

from ..support.waiting import pause

LOOK_S = 0.2

Levels = dict[str, tuple[int, int]]


def levels(server: Server) -> Levels:
    """How full each part is, and may be."""
    assert isinstance(server.store, SqliteStore)
    settings = server._settings
    recent, jobs, answers = server.feed.recent, server.store._cache, server.grpc.calls.answers
    admission, updates = server.grpc.calls.admission, server.job_service._update_streams._budget
    return {
        "recent events": (recent._bytes, recent._bytes_max),
        "changes waiting to be written": (server.committer.backlog_bytes, QUEUE_BYTES_MAX),
        "jobs in hand": (jobs._bytes, jobs._bytes_max),
        "batches in hand": (admission._batches.held, admission._batches._limit),
        "batches of StreamUpdates": (updates.held, updates._limit),
        "answers": (answers.held, answers._limit),
        "watches and streams": (admission.streams.held, settings.open_streams_max),
        "calls": (admission.calls.held, CALLS_MAX),
        "filters of watches": (server.feed._filters_bytes, FILTERS_BYTES_MAX),
    }


class MeasuredServer(Server):
    """A server that is looked at."""

    told: TextIO

    async def start(self) -> None:
        await super().start()
        self._looking = asyncio.create_task(self._look())

    async def _look(self) -> None:
        while True:
            print(json.dumps(levels(self)), file=self.told, flush=True)
            await pause(LOOK_S)

    async def stop(self) -> None:
        self._looking.cancel()
        await super().stop()


if __name__ == "__main__":
    setattr(process, "Server", MeasuredServer)  # noqa: B010 - mypy lets no class be assigned to
    with Path(sys.argv[1]).open("w", encoding="utf-8") as MeasuredServer.told:
        sys.exit(cli.main(sys.argv[2:]))
