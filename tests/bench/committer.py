"""``python -m tests.bench.committer``: where the processor time of a command goes, part by part.

Batches go the whole way from encoded requests to encoded answers, on a SQLite file, in one thread and without gRPC.
Rounds on two stores take turns: on one the functions of each part are timed, on the other nothing is, so the two totals
show what the timing itself costs. What it adds to a part is estimated and taken off. The figures are the minimum of all
rounds, in microseconds of processor time.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import sqlite3
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, cast
from unittest import mock

from peewee import SqliteDatabase
from rich.console import Console
from rich.table import Table

from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.clock import SystemClock
from jobstate_server.domain.caller import ANONYMOUS
from jobstate_server.domain.commands import Command
from jobstate_server.domain.errors import JobStateError
from jobstate_server.domain.job_types import JobTypes
from jobstate_server.domain.rules.decider import Decider
from jobstate_server.domain.statistics import TallyCounter
from jobstate_server.engine import batch
from jobstate_server.engine.acquires import Acquires
from jobstate_server.engine.committer import Committer
from jobstate_server.engine.outcomes import Outcome, Verdict
from jobstate_server.engine.parked_acquires import ParkedAcquires
from jobstate_server.engine.subscribers import Subscribers
from jobstate_server.engine.writer import Writer
from jobstate_server.event_log.feed import EventFeed
from jobstate_server.event_log.recent import RecentEvents
from jobstate_server.rpc import job_service, serving, update_stream
from jobstate_server.rpc.call import Call, StreamCall
from jobstate_server.rpc.job_service import JobService
from jobstate_server.rpc.requests import attempts, create
from jobstate_server.rpc.update_stream import UpdateStreams
from jobstate_server.store.sqlite.file_monitor import FileMonitor
from jobstate_server.store.sqlite.store import SqliteStore
from jobstate_server.store.sqlite.transaction import SqliteTransaction
from jobstate_server.wire.documents import merge_metadata
from jobstate_server.wire.job_ids import JobIds

from . import figures, machine, messages
from .messages import LIFECYCLE_CALLS, Request
from .rows import ROWS

ROUNDS = 12
ROUND_COMMANDS = 6_000
ALONE_COMMANDS = 300
"""Commands of a round when each is a transaction of its own, which the disk makes slow."""

_CALIBRATING_CALLS = 20_000

RECENT_BYTES = 32 * 1024 * 1024

PARTS: Sequence[tuple[str, object, str]] = (
    ("parse", update_stream, "read_batch"),
    ("parse", serving, "parse"),
    ("check", update_stream, "command_of_update"),
    ("check", create, "create"),
    *[("check", attempts, name) for name in ("start", "update_progress", "complete")],
    ("decide", Decider, "decide"),
    ("encode", batch, "encode_event"),
    ("tallies", TallyCounter, "add"),
    ("tallies", TallyCounter, "tallies"),
    ("bookkeeping", batch.Batch, "__init__"),
    ("bookkeeping", batch.Batch, "decide"),
    ("bookkeeping", batch.Batch, "write"),
    ("bookkeeping", batch.Batch, "verdicts"),
    ("bookkeeping", batch.Batch, "earliest_due"),
    ("bookkeeping", Writer, "commit"),
    ("rows", SqliteTransaction, "load"),
    ("rows", SqliteTransaction, "finish"),
    ("rows", SqliteTransaction, "refresh_cache"),
    ("commit", SqliteDatabase, "begin"),
    ("commit", SqliteDatabase, "commit"),
    ("commit", FileMonitor, "check_before_transaction"),
    ("commit", FileMonitor, "check_after_commit"),
    ("feed", EventFeed, "publish"),
    ("answer", update_stream._Batch, "_encode"),
    ("answer", job_service, "encode_job"),
    ("answer", job_service, "encode_whole"),
    ("answer", job_service, "with_version"),
)
"""The functions that are timed, by part. What one of them calls that is timed too does not count as its own."""

ORDER = ("parse", "check", "decide", "encode", "tallies", "bookkeeping", "rows", "SQL", "commit", "feed", "answer")


class Timer:
    """The nanoseconds of processor time of each part, without those of the parts that it calls."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(int)
        self._inner = [0.0]
        self._own_cost = self._outer_cost = 0.0
        """What timing one call adds to the part itself, and to the part that calls it."""
        self._own_cost, self._outer_cost = self._costs()

    def _costs(self) -> tuple[float, float]:
        """The two costs, found by timing a function that does nothing."""
        nothing = self.timed("nothing", lambda: None)
        self.timed("calls", lambda: [nothing() for _ in range(_CALIBRATING_CALLS)])()
        return self.spent["nothing"] / _CALIBRATING_CALLS, self.spent["calls"] / _CALIBRATING_CALLS

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, timed."""

        def run(*arguments: Any, **named: Any) -> Any:
            self._inner.append(0.0)
            began = time.thread_time_ns()
            try:
                return function(*arguments, **named)
            finally:
                took = time.thread_time_ns() - began
                self.spent[part] += took - self._own_cost - self._inner.pop()
                self._inner[-1] += took + self._outer_cost

        return run

    @contextmanager
    def timing(self) -> Iterator[None]:
        """Time every part for as long as this lasts."""
        self.spent.clear()
        with ExitStack() as patches:
            for part, owner, name in PARTS:
                timed = self.timed(part, getattr(owner, name))
                patches.enter_context(mock.patch.object(owner, name, timed))
            yield

    def connections(self) -> type[sqlite3.Connection]:
        """A class of connections that times each statement, by its table."""
        timer = self

        class TimedConnection(sqlite3.Connection):
            def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
                run = timer.timed(_part_of(sql), super().execute)
                return cast(sqlite3.Cursor, run(sql, *values))

        return TimedConnection


def _part_of(statement: str) -> str:
    """The part that a statement belongs to."""
    words = statement.replace('"', " ").split()
    match words[0].upper():
        case "INSERT" | "DELETE":
            return f"SQL {words[2]}"
        case "UPDATE":
            return f"SQL {words[1]}"
        case "SELECT":
            return "SQL reads"
    return "SQL other"


class Gathering:
    """In place of the committer: it writes on the caller's thread, once as many commands wait as are expected."""

    def __init__(self, store: SqliteStore, clock: SystemClock) -> None:
        decider = Decider(JobTypes(), merge_metadata, random.random)
        self.expected = 1
        self.parked = ParkedAcquires()
        self.hand_out_unfinished = Subscribers[[]](lambda: None)
        self.hand_out_opens = Subscribers[[int]](lambda: None)
        self._writer = Writer(store, decider, clock, restart_grace=0)
        self._feed = EventFeed("log", RecentEvents(0, 0, RECENT_BYTES), clock)
        self._waiting: list[tuple[Command, asyncio.Future[Outcome]]] = []

    def submit(self, command: Command, _size: int, _connection: str) -> asyncio.Future[Outcome]:
        """Commit the command together with the others that are expected."""
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting.append((command, future))
        if len(self._waiting) == self.expected:
            waiting, self._waiting = self._waiting, []
            verdicts = self._commit([command for command, _ in waiting])
            for (_, waiter), verdict in zip(waiting, verdicts, strict=True):
                assert not isinstance(verdict, JobStateError), verdict.message
                waiter.set_result(verdict)
        return future

    async def submit_many(
        self, commands: Sequence[Command], _size: int, _connection: str
    ) -> asyncio.Future[list[Verdict]]:
        """Commit the commands."""
        future: asyncio.Future[list[Verdict]] = asyncio.get_running_loop().create_future()
        verdicts = self._commit(commands)
        refused = [verdict.message for verdict in verdicts if isinstance(verdict, JobStateError)]
        assert not refused, refused
        future.set_result(verdicts)
        return future

    def _commit(self, commands: Sequence[Command]) -> list[Verdict]:
        written = self._writer.commit(commands)
        self._feed.publish(written.events)
        return written.verdicts


class Rig:
    """One store, and the services in front of it."""

    def __init__(self, path: Path, timer: Timer | None) -> None:
        self.timer = timer
        clock = SystemClock()
        with ExitStack() as patches:
            if timer is not None:
                connect = sqlite3.connect
                factory = timer.connections()
                timed = lambda *arguments, **named: connect(*arguments, **named, factory=factory)  # noqa: E731
                patches.enter_context(mock.patch("sqlite3.connect", timed))
            self.store = SqliteStore(path, clock)
        self.committer = Gathering(self.store, clock)
        committer = cast(Committer, self.committer)
        acquires = Acquires(committer, clock)
        self._streams = UpdateStreams(committer, JobIds(clock.now), acquires)
        nobody: Any = None
        self._service = JobService(committer, nobody, nobody, JobTypes(), clock, acquires)
        self._call = StreamCall(ANONYMOUS, 0, "profile", lambda error: None)

    async def stream(self, batches: Sequence[bytes]) -> None:
        """These batches, on one stream."""
        async for _ in self._streams.answers(_each(batches), self._call):
            pass

    async def calls(self, requests: Sequence[Request], at_once: int) -> None:
        """These unary calls, so many at once."""
        self.committer.expected = at_once
        for start in range(0, len(requests), at_once):
            calls = [self._answered(request) for request in requests[start : start + at_once]]
            await (calls[0] if at_once == 1 else asyncio.gather(*calls))

    async def _answered(self, request: Request) -> bytes:
        handler = getattr(self._service, request.method)
        call = Call(ANONYMOUS, len(request.body), "profile")
        parsed = serving.parse(getattr(pb, f"{request.method}Request"), request.body)
        return await cast(Awaitable[bytes], handler(parsed, call))


async def _each(batches: Sequence[bytes]) -> AsyncIterator[bytes]:
    for each in batches:
        yield each


class Workload(NamedTuple):
    """A kind of load."""

    name: str
    stream: Callable[[int, list[str]], list[bytes]]
    """Batches of a size for these jobs, as they are sent on a stream."""
    calls: Callable[[list[str]], list[Request]]
    """The same commands as unary calls."""
    makes_jobs: bool
    """Whether the jobs are new in each round. Otherwise they are made and started before the first one."""
    commands: int
    """How many commands of each job a round has."""


def _progress_batches(size: int, job_ids: list[str]) -> list[bytes]:
    return messages.progress_batches(job_ids, size, len(job_ids) // size)


def _lifecycle_batches(size: int, job_ids: list[str]) -> list[bytes]:
    return messages.lifecycle_batches(job_ids, size)


def _progress_calls(job_ids: list[str]) -> list[Request]:
    return [call for job_id in job_ids for call in messages.progress_call(job_id)]


def _lifecycle_calls(job_ids: list[str]) -> list[Request]:
    return [call for step in zip(*map(messages.lifecycle_calls, job_ids), strict=True) for call in step]


PROGRESS = Workload("progress", _progress_batches, _progress_calls, makes_jobs=False, commands=1)
LIFECYCLES = Workload("lifecycles", _lifecycle_batches, _lifecycle_calls, makes_jobs=True, commands=LIFECYCLE_CALLS)


class Profile(NamedTuple):
    """The microseconds of processor time of one command."""

    name: str
    parts: dict[str, float]
    timed: float
    """The whole while the parts are timed, which costs something itself."""
    total: float
    """The whole while nothing is timed."""


async def profile(
    workload: Workload, size: int, *, is_unary: bool, rounds: int = ROUNDS, round_commands: int = ROUND_COMMANDS
) -> Profile:
    """Measure a workload in batches of ``size``."""
    if size == 1:
        round_commands = min(round_commands, ALONE_COMMANDS)
    count = max(1, round_commands // workload.commands // size) * size
    with tempfile.TemporaryDirectory(prefix="jobstate-profile-") as folder:
        rigs = [Rig(Path(folder, "plain.db"), None), Rig(Path(folder, "timed.db"), Timer())]
        totals: list[list[float]] = [[], []]
        parts: dict[str, list[float]] = defaultdict(list)
        job_ids = [f"job-{number}" for number in range(count)]
        for rig in rigs if not workload.makes_jobs else ():
            batches = messages.lifecycle_batches(job_ids, size)
            await rig.stream([each for index, each in enumerate(batches) if index % LIFECYCLE_CALLS < 2])
        for number in range(rounds):
            if workload.makes_jobs:
                job_ids = [f"job-{number}-{index}" for index in range(count)]
            for rig, spent in zip(rigs, totals, strict=True):
                took = await _round(rig, workload, size, job_ids, is_unary=is_unary)
                commands = count * workload.commands
                spent.append(took / commands)
                for part, nanoseconds in rig.timer.spent.items() if rig.timer else ():
                    parts[part].append(nanoseconds / 1_000 / commands)
        for rig in rigs:
            rig.store.close()
    kind = f"unary, {size} at once" if is_unary else f"batches of {size}"
    least = {part: min(spent) for part, spent in parts.items()}
    return Profile(f"{workload.name}, {kind}", least, min(totals[1]), min(totals[0]))


async def _round(rig: Rig, workload: Workload, size: int, job_ids: list[str], *, is_unary: bool) -> float:
    """Send the load of one round, and return how many microseconds it took."""
    sending = rig.calls(workload.calls(job_ids), size) if is_unary else rig.stream(workload.stream(size, job_ids))
    gc.collect()
    with rig.timer.timing() if rig.timer else nullcontext():
        began = time.thread_time_ns()
        await sending
        return (time.thread_time_ns() - began) / 1_000


def figures_of(profiles: Sequence[Profile]) -> dict[str, dict[str, float]]:
    """The microseconds of each part, in the order of the path, by workload."""
    found = sorted({part for each in profiles for part in each.parts})
    order = [part for head in ORDER for part in found if part == head or part.split()[0] == head]
    return {
        each.name: {
            **{part: each.parts.get(part, 0.0) for part in order},
            "event loop and the rest": max(0.0, each.total - sum(each.parts.values())),
            "total while timed": each.timed,
            "total": each.total,
        }
        for each in profiles
    }


def table(profiles: Sequence[Profile]) -> Table:
    """The figures, a column for each workload."""
    columns = figures_of(profiles)
    shown = Table("µs of processor time per command", *columns, title="The committer's path")
    for part in next(iter(columns.values())):
        shown.add_row(part, *[f"{column[part]:.2f}" for column in columns.values()])
    return shown


def keep(profiles: Sequence[Profile]) -> None:
    """Write the figures, and the page anew. The page compares them with those that were kept first."""
    kept = figures.kept()
    first = kept.get("profiles", [])[:1]
    latest = {"at": machine.today(), "commit": machine.commit(), "columns": figures_of(profiles)}
    figures.keep({**kept, "profiles": [*first, latest]}, list(ROWS))


async def profiles(rounds: int = ROUNDS, round_commands: int = ROUND_COMMANDS) -> list[Profile]:
    """Every workload, in streams and as unary calls."""
    found = []
    for workload in (PROGRESS, LIFECYCLES):
        for size, is_unary in ((100, False), (500, False), (64, True), (1, True)):
            found.append(await profile(workload, size, is_unary=is_unary, rounds=rounds, round_commands=round_commands))
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.committer", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"rounds of each workload (default {ROUNDS})")
    parser.add_argument("--keep", action="store_true", help="write the figures to docs/benchmarks.md")
    options = parser.parse_args()
    # As the server's process does, so that the garbage collector has as much to do.
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)
    found = asyncio.run(profiles(options.rounds))
    Console(width=200).print(table(found))
    if options.keep:
        keep(found)


if __name__ == "__main__":
    main()
