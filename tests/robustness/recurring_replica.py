"""A replica that does nothing but create recurring jobs.

``python -m tests.robustness.recurring_replica URL NAME CLOCK ENTRIES``, where the file CLOCK has the time. For each
line on standard input it does what is due, and answers with that line. ``purge`` also cancels and deletes all jobs, as
if they had ended long ago.
"""

from __future__ import annotations

import asyncio
import json
import random
import struct
import sys
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from mmap import ACCESS_READ, mmap
from pathlib import Path

from jobstate_server.clock import ManualClock, Timer
from jobstate_server.domain.caller import SERVER
from jobstate_server.domain.commands import Cancel, DeleteFinished
from jobstate_server.domain.job import JobState
from jobstate_server.domain.job_types import JobTypes
from jobstate_server.domain.rules.decider import Decider
from jobstate_server.engine.committer import Committer
from jobstate_server.engine.readers import Readers
from jobstate_server.maintenance import recurring
from jobstate_server.maintenance.recurring_entry import RecurringEntry
from jobstate_server.store.factory import open_store
from jobstate_server.wire.documents import merge_metadata

TIME = struct.Struct("<q")
"""How the file of the clock has the time: microseconds since the epoch."""

POLL_S = 0.005
"""Seconds between two looks whether something is to be tried again."""


class _Awaited:
    """A timer."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class SharedClock(ManualClock):
    """A clock that all replicas read from one file, and that a test moves. It moves for who is frozen, too."""

    def __init__(self, file: Path) -> None:
        with file.open("rb") as content:
            self._shown = mmap(content.fileno(), TIME.size, access=ACCESS_READ)
        self._awaited: list[tuple[int, int, _Awaited]] = []
        self._numbers = count()
        super().__init__()

    def _wall(self) -> int:
        (time,) = TIME.unpack(self._shown[:])
        return int(time)

    def monotonic(self) -> int:
        return self._wall()

    def call_later(self, delay: int, callback: Callable[[], None]) -> Timer:
        timer = _Awaited(callback)
        heappush(self._awaited, (self.monotonic() + delay, next(self._numbers), timer))
        return timer

    def run_due(self) -> None:
        """Run the timers that are due, each once."""
        now, due = self.monotonic(), []
        while self._awaited and self._awaited[0][0] <= now:
            due.append(heappop(self._awaited)[2])
        for timer in due:
            if timer.callback is not None:
                timer.callback()


class Replica:
    """The store, the committer and the recurring jobs of a server."""

    def __init__(self, url: str, name: str, clock: Path, entries: list[RecurringEntry]) -> None:
        self.clock = SharedClock(clock)
        self.store = open_store(url, self.clock, 64 * 1024 * 1024)
        decider = Decider(JobTypes(), merge_metadata, random.random)
        self.committer = Committer(self.store, decider, self.clock, restart_grace=0, replica=name, is_shared=True)
        self.readers = Readers(self.store)
        self.jobs = recurring.RecurringJobs(entries, self.committer, self.readers, self.clock, replica=name)

    async def begin(self) -> None:
        self.committer.start()
        self.readers.start()
        self.jobs.start()
        await self.settle()

    async def settle(self) -> None:
        """Do what is due. What fails is tried again without a wait."""
        self.clock.run_due()
        idle = asyncio.ensure_future(self.jobs.idle())
        while not (await asyncio.wait((idle,), timeout=POLL_S))[0]:
            self.clock.run_due()
        await idle

    async def purge(self) -> None:
        """Cancel and delete all jobs."""
        jobs = await self.readers.run(lambda reader: reader.jobs_in_state("default", JobState.QUEUED, None, 10_000))
        await asyncio.gather(*(self.committer.submit_own(Cancel(job.id, SERVER)) for job in jobs))
        ended_by = self.clock.now() + 1
        await self.committer.submit_own(DeleteFinished(caller=SERVER, before=ended_by, after=None, limit=10_000))


async def _main() -> None:
    recurring.RETRY_DELAY = 0
    url, name, clock, entries = sys.argv[1:]
    replica = Replica(url, name, Path(clock), [RecurringEntry(**values) for values in json.loads(entries)])
    await replica.begin()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    print("begun", flush=True)
    while line := (await reader.readline()).decode().strip():
        await replica.settle()
        if line == "purge":
            await replica.purge()
        print(line, flush=True)


if __name__ == "__main__":
    asyncio.run(_main())
