"""A reader far slower than the writers: what it costs the server, and what it gets.

``python -m tests.robustness.slow_reader --events 200000`` is the long form, one message a second.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from jobstate.v1 import job_service_pb2 as pb

from ..support.waiting import pause
from .clients import Stubs
from .history import History, MemorySample, Stream, Watcher, delivered
from .process import ServerProcess, memory_kib
from .recording import Recorder
from .validators import broken

JOBS = 50
EVENTS_BETWEEN_SAMPLES = 2_000

MESSAGE = "m" * 200
"""Makes an event some 300 bytes, so that what is unread is far more than a connection holds."""

GROWTH_MAX_KIB = 64 * 1024
"""For a server with few recent events: pages of SQLite's caches, and little else."""

CACHES_MAX_KIB = 256 * 1024
"""For one as it is used: SQLite's caches of the writer and of catching up, 64 MiB each, and all recent events."""

SLOWER = 3
"""How many times as fast as the reader the writer is at least, however slow the machine makes it."""

HELD = ("ordered", "unique", "reliable", "bookmarkable", "bounded")
"""The promises that a run as short of other things as this one tells something about."""


@dataclass(frozen=True)
class Outcome:
    """What a slow reader met."""

    history: History
    written: int
    received: int
    received_meanwhile: int
    """Of these, how many while the writer wrote."""

    @property
    def told(self) -> str:
        """As text."""
        memory = [sample.kib // 1024 for sample in self.history.memory]
        return (
            f"{self.written:,} events written, {self.received_meanwhile:,} read meanwhile,"
            f" {self.received:,} in the end; server memory {memory[0]} MiB before, at most {max(memory)} MiB"
        )


@dataclass
class Writing:
    """How far the writer has come."""

    events: int = 0
    is_finished: bool = False


class SlowReader:
    """A watcher of everything that takes its time."""

    def __init__(self, stubs: Stubs, recorder: Recorder) -> None:
        self.stream = Stream("LATEST", code="LEFT")
        self._recorder = recorder
        self._responses = aiter(stubs.jobs.WatchEvents(pb.WatchEventsRequest()))

    @property
    def received(self) -> int:
        """How many events have come."""
        return len(delivered(self.stream))

    async def read(self) -> None:
        """Take one response."""
        self.stream.responses.append(self._recorder.response(await anext(self._responses), 0.0))

    async def read_now_and_then(self, every_s: float, writing: Writing) -> None:
        """Take one response after another, slowly, and a third of the events at most while the writer writes."""
        while not writing.is_finished:
            if self.received * SLOWER < writing.events:
                await self.read()
            await pause(every_s)


async def run(directory: Path, events: int, every_s: float, *, small: bool) -> Outcome:
    """Write many events while one watcher reads a message now and then; then let it read on."""
    server = ServerProcess(directory, small=small)
    recorder = Recorder()
    history = History(positions=recorder.positions, memory_growth_max_kib=GROWTH_MAX_KIB if small else CACHES_MAX_KIB)
    try:
        await server.start()
        # Without this option gRPC holds 4 MiB for a reader before the server feels that it is slow.
        writing, reading = Stubs(server.address), Stubs(server.address, **{"http2.bdp_probe": 0})
        async with writing.channel, reading.channel:
            reader = SlowReader(reading, recorder)
            history.watchers.append(Watcher("slow", streams=[reader.stream]))
            await reader.read()
            # What writing itself takes, in buffers and SQLite's cache, is there before anything is measured.
            written = await _write(writing, history, server, "warm", events // 10, Writing())
            while reader.received < written:
                await reader.read()
            history.memory.clear()
            progress = Writing(written)
            slowly = asyncio.create_task(reader.read_now_and_then(every_s, progress))
            written += await _write(writing, history, server, "job", events, progress)
            progress.is_finished = True
            await slowly
            meanwhile = reader.received
            while reader.received < written:
                await reader.read()
            history.memory.append(MemorySample(server.pid, memory_kib(server.pid)))
    finally:
        await server.stop()
    history.log, history.horizon = recorder.log(server.store)
    return Outcome(history, written, reader.received, meanwhile)


async def _write(
    stubs: Stubs, history: History, server: ServerProcess, prefix: str, events: int, progress: Writing
) -> int:
    """Make this many events, few jobs that report a lot, looking at the server's memory now and then."""
    for index in range(JOBS):
        await stubs.jobs.Create(pb.CreateRequest(id=f"{prefix}-{index}", job_type="steady"))
        await stubs.jobs.Start(pb.StartRequest(id=f"{prefix}-{index}"))

    async def report(index: int, count: int) -> None:
        request = pb.UpdateProgressRequest(id=f"{prefix}-{index}", attempt=1, message=MESSAGE)
        for _ in range(count):
            await stubs.jobs.UpdateProgress(request)
            progress.events += 1

    rounds = max(1, events // EVENTS_BETWEEN_SAMPLES)
    each = events // JOBS // rounds
    for _ in range(rounds):
        history.memory.append(MemorySample(server.pid, memory_kib(server.pid)))
        await asyncio.gather(*(report(index, each) for index in range(JOBS)))
    return JOBS * (2 + rounds * each)


def main() -> int:
    """Read the command line, and read slowly."""
    parser = argparse.ArgumentParser(description="One message a second while many events are written.")
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--every", type=float, default=1.0, help="seconds between two messages")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="slow-reader-") as name:
        outcome = asyncio.run(run(Path(name), options.events, options.every, small=False))
    print(outcome.told)
    print("MiB, every 2,000 events:", *(sample.kib // 1024 for sample in outcome.history.memory))
    problems = broken(outcome.history, HELD)
    print(problems or "every promise held")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
