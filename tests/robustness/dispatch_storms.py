"""Storms that a hand-out has to stand, at full length or short: what a server promises meanwhile, and what it costs.

``python -m tests.robustness.dispatch_storms delays [--store postgres] | crowd | snapshot | turn`` prints figures.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from jobstate.v1 import event_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.clock import SystemClock
from jobstate_server.domain.durations import SECOND
from jobstate_server.store.chunks import chunks
from jobstate_server.store.postgres.store import PostgresStore

from ..store.postgres.support import Recorder as Statements
from ..store.postgres.support import recorded
from ..support.calls import acquire, complete, create, span, start, struct
from ..support.postgres import PostgresServer, own_server
from ..support.server import Running, client_of, serving_url
from ..support.waiting import pause, until
from .clients import Stubs
from .history import History, Policies
from .process import ServerProcess
from .recording import Recorder, make_archive
from .replicas import freeze_in_its_turn
from .validators import VALIDATORS, validate

REPLICAS = 3

CREATED_AT_ONCE = 500

IDLE_S = 6.0
"""How long a crowd waits before the first job comes: each replica renews its lease three times."""

STREAMS_MAX = 90
"""Calls that wait on one connection."""

LOG_PROMISES = (
    "whole",
    "not_early",
    "in_turn",
    "aged",
    "by_turns",
    "within_limits",
    "within_rates",
    "released",
    "alone",
    "retried",
    "exclusive",
    "claimed",
)
"""Promises that the log alone can be held to."""


@dataclass
class Storm:
    """What came of one."""

    told: dict[str, float] = field(default_factory=dict)
    broken: dict[str, list[str]] = field(default_factory=dict)
    checked: dict[str, int] = field(default_factory=dict)

    def judge(
        self, store: Path | str, policies: Policies | None = None, promises: Collection[str] = LOG_PROMISES
    ) -> History:
        """Hold promises to what the log has."""
        log, horizon = Recorder().log(store)
        history = History(store="sqlite" if isinstance(store, Path) else "postgres", log=log, horizon=horizon)
        history.policies = policies or {}
        assert VALIDATORS.keys() >= set(LOG_PROMISES)
        for name, verdict in validate(history, promises).items():
            self.checked[name] = verdict.checked
            if verdict.failures:
                self.broken[name] = verdict.problems
        return history

    def __str__(self) -> str:
        """As text."""
        lines = [f"  {name:44} {value:>14,.3f}" for name, value in self.told.items()]
        lines += [f"  {name:44} {count:>14,} checked" for name, count in self.checked.items()]
        lines += [f"  {name} is broken: {problems}" for name, problems in self.broken.items()]
        return "\n".join(lines)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this share of them lies."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] if values else 0.0


async def _live(stubs: Stubs, name: str, latencies: list[tuple[float, float]], stopping: asyncio.Event) -> None:
    """One caller after whose calls others ask: how long each took, and when it began."""
    count = 0
    while not stopping.is_set():
        count += 1
        job_id = f"{name}-{count}"
        calls: Any = stubs.jobs
        for request in (
            pb.CreateRequest(id=job_id, job_type="live"),
            pb.StartRequest(id=job_id),
            pb.CompleteRequest(id=job_id, attempt=1),
        ):
            began = time.monotonic()
            await getattr(calls, type(request).__name__.removesuffix("Request"))(request)
            latencies.append((began, time.monotonic() - began))
        await pause(0.005)


async def delays_end_at_once(server: ServerProcess, count: int, lead_s: float, callers: int = 4) -> Storm:
    """N6: so many delays end in one microsecond, while others go on with their calls."""
    storm, latencies, stopping = Storm(), list[tuple[float, float]](), asyncio.Event()
    await server.start()
    stubs = Stubs(server.address)
    async with stubs.channel, asyncio.TaskGroup() as group:
        began = time.monotonic()
        at = time.time_ns() // 1_000 + round(lead_s * SECOND)
        for numbers in chunks(range(count), CREATED_AT_ONCE):
            items = [pb.CreateRequest(id=f"delayed-{n:06}", job_type="delayed") for n in numbers]
            for item in items:
                item.not_before_time.FromMicroseconds(at)
                item.metadata.CopyFrom(struct(not_before_us=str(at)))
            await stubs.jobs.BatchCreate(pb.BatchCreateRequest(requests=items))
        storm.told["seconds to create them"] = time.monotonic() - began
        assert time.time_ns() // 1_000 < at - 2 * SECOND, "the delays end before all jobs are made: give them a lead"
        for number in range(callers):
            group.create_task(_live(stubs, f"live-{number}", latencies, stopping))
        first, last = await _all_ready(stubs, count)
        stopping.set()
    await server.stop()
    storm.told["seconds from the first to the last"] = last - first
    before = [latency for began, latency in latencies if began < first - 0.05]
    during = [latency for began, latency in latencies if first <= began <= last]
    for name, some in (("before", before), ("during", during)):
        storm.told[f"calls {name}"] = len(some)
        storm.told[f"p50 of others {name}, ms"] = percentile(some, 0.5) * 1_000
        storm.told[f"p99 of others {name}, ms"] = percentile(some, 0.99) * 1_000
    storm.judge(server.store)
    return storm


async def _all_ready(stubs: Stubs, count: int) -> tuple[float, float]:
    """Wait for so many ``.ready``. Returns when the first and the last came."""
    request = pb.WatchEventsRequest(start=pb.WATCH_START_EARLIEST, types=[event_pb2.EVENT_TYPE_READY])
    seen, first = 0, 0.0
    async for response in stubs.jobs.WatchEvents(request):
        seen += len(response.events)
        if seen and not first:
            first = time.monotonic()
        if seen >= count:
            return first, time.monotonic()
    raise AssertionError("the watch has ended")


@asynccontextmanager
async def replicas(url: str, count: int, **settings: Any) -> AsyncIterator[list[Running]]:
    """Servers of this process on one store, whose log is kept."""
    _make_store(url)
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(serving_url(url, **settings)) for _ in range(count)]


def _make_store(url: str) -> None:
    """A store in PostgreSQL whose log is kept."""
    PostgresStore(url, SystemClock()).close()
    make_archive(url)


def _statements(stack: AsyncExitStack, running: Sequence[Running]) -> list[Statements]:
    """Everything that the writers of these servers send from now on."""
    stores = [each.server.store for each in running]
    return [stack.enter_context(recorded(store)) for store in stores if isinstance(store, PostgresStore)]


async def crowd(url: str, workers: int, singles: int, burst: int) -> Storm:
    """N7: so many workers wait at each of three replicas; first single jobs come, then many at once."""
    storm = Storm()
    async with AsyncExitStack() as stack:
        servers = await stack.enter_async_context(replicas(url, REPLICAS))
        got: list[float] = []
        stopping = asyncio.Event()
        group = await stack.enter_async_context(asyncio.TaskGroup())
        for running in servers:
            for block in chunks(range(workers), STREAMS_MAX):
                stubs = Stubs(running.server.address)
                await stack.enter_async_context(stubs.channel)
                for _ in block:
                    group.create_task(_wait_for_work(stubs, got, stopping))
        await until(lambda: all(running.server.acquires.count == workers for running in servers))
        sent = _statements(stack, servers)
        await pause(IDLE_S)
        idle = sum(len(each.statements) for each in sent) / IDLE_S
        storm.told["statements a second while nothing happens"] = idle
        for each in sent:
            each.statements.clear()
        began = time.monotonic()
        for number in range(singles):
            await create(servers[number % REPLICAS], f"single-{number}")
            await until(lambda: len(got) == number + 1)  # noqa: B023
        seconds = time.monotonic() - began
        besides = sum(len(each.statements) for each in sent) - idle * seconds
        storm.told["seconds for one single job, from create to answer"] = seconds / max(1, singles)
        storm.told["statements for each single job, beside those"] = besides / max(1, singles)
        for each in sent:
            each.statements.clear()
        began = time.monotonic()
        requests = [pb.CreateRequest(id=f"burst-{number}", job_type="default") for number in range(burst)]
        await asyncio.gather(
            *(
                servers[index % REPLICAS].jobs.BatchCreate(pb.BatchCreateRequest(requests=some))
                for index, some in enumerate(chunks(requests, CREATED_AT_ONCE))
            )
        )
        await until(lambda: len(got) == singles + burst)
        storm.told["jobs a second in the burst"] = burst / (time.monotonic() - began)
        storm.told["statements for each job of the burst"] = sum(len(each.statements) for each in sent) / burst
        stopping.set()
        for running in servers:
            running.server.acquires.drain()
    storm.judge(url)
    return storm


async def _wait_for_work(stubs: Stubs, got: list[float], stopping: asyncio.Event) -> None:
    while not stopping.is_set():
        request = pb.AcquireRequest(job_types=["default"], wait=span(60), lease=span(3_600))
        try:
            answer = await stubs.jobs.Acquire(request)
        except Exception:
            if not stopping.is_set():
                raise
            return
        got += [time.monotonic() for _ in answer.jobs]


async def snapshot_is_held(url: str, seconds: float, at_once: int = 16) -> Storm:
    """N10: hand-outs go on, first as usual, then while a transaction is open that sees everything as it was."""
    storm = Storm()
    async with replicas(url, 1) as (running,):
        for name in ("without", "with"):
            holding = psycopg.connect(url) if name == "with" else None
            if holding is not None:
                holding.execute(b"SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                holding.execute(b"SELECT count(*) FROM job")
            picks, handed = await _hand_out_for(running, seconds, at_once)
            half = picks[len(picks) // 2 :]
            storm.told[f"hand-outs a second {name} a snapshot"] = handed / seconds
            storm.told[f"p50 of a pick {name}, ms"] = percentile(half, 0.5) * 1_000
            storm.told[f"p99 of a pick {name}, ms"] = percentile(half, 0.99) * 1_000
            if holding is not None:
                holding.close()
    storm.judge(url)
    return storm


async def _hand_out_for(running: Running, seconds: float, at_once: int) -> tuple[list[float], int]:
    """Make jobs, take them and finish them for a time. Returns how long each pick took, and how many there were."""
    dispatcher = running.server.committer._writer._dispatcher
    offer, picks, handed = dispatcher._pick, list[float](), 0

    def timed(*args: Any, **kwargs: Any) -> bool:
        began = time.perf_counter()
        try:
            return offer(*args, **kwargs)
        finally:
            picks.append(time.perf_counter() - began)

    dispatcher._pick = timed  # type: ignore[method-assign]
    until_then = time.monotonic() + seconds
    while time.monotonic() < until_then:
        items = [pb.CreateRequest(job_type="default") for _ in range(4 * at_once)]
        await running.jobs.BatchCreate(pb.BatchCreateRequest(requests=items))
        for _ in range(4):
            jobs = await acquire(running, max_jobs=at_once)
            handed += len(jobs)
            await asyncio.gather(*(complete(running, job.id, attempt=job.attempt) for job in jobs))
    dispatcher._pick = offer  # type: ignore[method-assign]
    return picks, handed


async def frozen_in_its_turn(sleeping: ServerProcess, awake: ServerProcess, freeze_s: float) -> Storm:
    """N2: a replica is frozen while it alone may hand out jobs of a type. The other has work, and workers who wait."""
    storm = Storm()
    await asyncio.gather(sleeping.start(), awake.start())
    async with client_of(sleeping.address) as first, client_of(awake.address) as second:
        began = await _ask_until_frozen(sleeping, first)
        waits: list[float] = []
        number = 0
        while time.monotonic() < began + freeze_s:
            number += 1
            asked = time.monotonic()
            waiting = asyncio.ensure_future(acquire(second, wait=60, lease=span(3_600)))
            await create(second, f"meanwhile-{number}")
            await waiting
            # The first has waited since the turn was lost.
            waits.append(time.monotonic() - (asked if waits else began))
            await pause(0.05)
        is_frozen = sleeping.is_stopped
        sleeping.signal(signal.SIGCONT)
        assert is_frozen
        # It is as good as new.
        await create(first, "afterwards")
        await start(first, "afterwards")
    storm.told["seconds frozen"] = freeze_s
    storm.told["hand-outs of the other meanwhile"] = len(waits)
    storm.told["longest wait at the other, seconds"] = max(waits)
    storm.told["p50 of the waits, ms"] = percentile(waits, 0.5) * 1_000
    await asyncio.gather(sleeping.stop(), awake.stop())
    storm.judge(awake.store)
    return storm


async def _ask_until_frozen(server: ServerProcess, client: Any) -> float:
    """Have a server stop in its turn. Returns when it did."""
    asking = asyncio.create_task(_keep_asking(client))
    try:
        assert await freeze_in_its_turn(server)
        return time.monotonic()
    finally:
        asking.cancel()
        await asyncio.wait([asking])


async def _keep_asking(client: Any) -> None:
    while True:
        await acquire(client)


def main() -> None:
    """Read the command line, make a storm, tell."""
    parser = argparse.ArgumentParser(description="Storms of dispatch at full length.")
    parser.add_argument("storm", choices=("delays", "crowd", "snapshot", "turn"))
    parser.add_argument("--store", choices=("sqlite", "postgres"), default="sqlite", help="of delays")
    parser.add_argument("--count", type=int, default=100_000, help="delays that end at once (default 100,000)")
    parser.add_argument("--lead", type=float, default=60.0, help="seconds until they end (default 60)")
    parser.add_argument("--workers", type=int, default=1_000, help="that wait at each replica (default 1,000)")
    parser.add_argument("--singles", type=int, default=30, help="jobs that come one by one (default 30)")
    parser.add_argument("--burst", type=int, default=10_000, help="jobs that come at once (default 10,000)")
    parser.add_argument("--seconds", type=float, default=30.0, help="of the snapshot, and of the frozen turn")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="storm-") as name, own_server() as postgres:
        print(asyncio.run(_storm(options, Path(name), postgres)))


async def _storm(options: argparse.Namespace, directory: Path, postgres: PostgresServer) -> Storm:
    match options.storm:
        case "crowd":
            return await crowd(postgres.new_store(), options.workers, options.singles, options.burst)
        case "snapshot":
            return await snapshot_is_held(postgres.new_store(), options.seconds)
        case "turn":
            first, second = servers_on(postgres.new_store(), directory, 2)
            return await frozen_in_its_turn(first, second, options.seconds)
    url = postgres.new_store() if options.store == "postgres" else ""
    (server,) = servers_on(url, directory, 1)
    return await delays_end_at_once(server, options.count, options.lead)


def servers_on(url: str, directory: Path, count: int) -> list[ServerProcess]:
    """Servers, not started, on one store of PostgreSQL, or on a file."""
    if url:
        _make_store(url)
    return [ServerProcess(directory, small=False, url=url, name=f"server-{number}") for number in range(count)]


if __name__ == "__main__":
    main()
