"""Storms of lanes and limits, at full length or short: what a server promises meanwhile, and what it costs.

``python -m tests.robustness.lane_storms neighbour | limit`` prints figures.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.config import Settings
from jobstate_server.store.chunks import chunks

from ..support.calls import span
from ..support.postgres import own_server
from ..support.server import serving_url
from ..support.waiting import pause, until
from .clients import Stubs
from .dispatch_storms import CREATED_AT_ONCE, REPLICAS, STREAMS_MAX, Storm, percentile, replicas
from .history import LogEntry, Policies
from .lanes import Replay
from .recording import make_archive, policy_of
from .world import World, is_hand_out

QUIET, NOISY = "quiet-", "noisy"

PROMISES = ("whole", "by_turns", "within_limits", "exclusive")
"""What the neighbours are held to. The order within a lane of 200,000 would take hours to check."""

LEASE_S = 3_600
"""No lease ends in a storm, however busy the machine is."""


def _policies(job_types: dict[str, dict[str, Any]]) -> Policies:
    values: dict[str, Any] = {"job_types": job_types}
    return {each.name: policy_of(each) for each in Settings(**values).policies().all()}


@dataclass(frozen=True)
class Neighbourhood:
    """One lane with very many long jobs, and lanes with few short ones."""

    backlog: int
    """Jobs of the noisy lane."""
    lanes: int
    """Quiet ones."""
    per_second: float
    """Jobs that come in each quiet lane."""
    seconds: float
    workers: int
    long_s: float
    short_s: float
    lane_concurrency: int = 0
    in_one_lane: bool = False
    """Whether all are in one lane, and so first come first served."""


async def neighbour(path: Path, given: Neighbourhood) -> Storm:
    """N8: what a quiet lane's jobs wait for, in milliseconds and in jobs that were handed out before them."""
    storm, stopping = Storm(), asyncio.Event()
    job_types = {"default": {"lane_concurrency": given.lane_concurrency}}
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(serving_url(f"sqlite:///{path}", job_types=job_types))
        make_archive(path)
        requests = [_job(given, NOISY, number) for number in range(given.backlog)]
        for some in chunks(requests, CREATED_AT_ONCE):
            await running.jobs.BatchCreate(pb.BatchCreateRequest(requests=some))
        stubs = await _stubs(stack, running.server.address, given.workers)
        group = await stack.enter_async_context(asyncio.TaskGroup())
        for number in range(given.workers):
            group.create_task(_work(stubs[number % len(stubs)], given.short_s, given.long_s, stopping))
        if given.backlog:
            await until(lambda: running.server.acquires.count <= given.workers)
        await asyncio.gather(*(_come(stubs[0], given, f"{QUIET}{number}") for number in range(given.lanes)))
        stopping.set()
        running.server.acquires.drain()
    entries = storm.judge(path, _policies(job_types), PROMISES).log
    waits, before = zip(*_waits(entries), strict=True)
    storm.told["quiet jobs"] = len(waits)
    storm.told["noisy jobs handed out"] = sum(is_hand_out(each) and each.event.source_id == NOISY for each in entries)
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        storm.told[f"{name} of a quiet job's wait, ms"] = percentile(waits, share) / 1_000
        storm.told[f"{name} of hand-outs before it"] = percentile(before, share)
    return storm


def _job(given: Neighbourhood, lane: str, number: int) -> pb.CreateRequest:
    name = "" if given.in_one_lane else lane
    return pb.CreateRequest(id=f"{lane}-{number}", job_type="default", lane=name, source_id=lane)


async def _stubs(stack: AsyncExitStack, address: str, workers: int) -> list[Stubs]:
    found = [Stubs(address) for _ in range(-(-workers // STREAMS_MAX))]
    for stubs in found:
        await stack.enter_async_context(stubs.channel)
    return found


async def _work(stubs: Stubs, short_s: float, long_s: float, stopping: asyncio.Event) -> None:
    """Take one job after the other, each for as long as it takes."""
    request = pb.AcquireRequest(job_types=["default"], wait=span(60), lease=span(LEASE_S))
    while not stopping.is_set():
        try:
            answer = await stubs.jobs.Acquire(request)
        except Exception:
            if not stopping.is_set():
                raise
            return
        for job in answer.jobs:
            working = asyncio.create_task(stopping.wait())
            done, _ = await asyncio.wait([working], timeout=long_s if job.source_id == NOISY else short_s)
            if done:
                return
            working.cancel()
            await stubs.jobs.Complete(pb.CompleteRequest(id=job.id, attempt=job.attempt))


async def _come(stubs: Stubs, given: Neighbourhood, lane: str) -> None:
    """Create jobs in a quiet lane at its pace, not all lanes at the same moment."""
    number = int(lane.removeprefix(QUIET))
    await pause(number / max(1, given.lanes) / given.per_second)
    for count in range(round(given.seconds * given.per_second)):
        await stubs.jobs.Create(_job(given, lane, count))
        await pause(1 / given.per_second)


def _waits(log: Sequence[LogEntry]) -> list[tuple[int, int]]:
    """For each quiet job how long it waited, and how many were handed out meanwhile. Those left have waited so far."""
    waits: list[tuple[int, int]] = []
    handed = 0
    ready: dict[str, tuple[int, int]] = {}
    for entry in log:
        is_quiet = entry.event.source_id != NOISY
        if entry.event.type == "QUEUED" and is_quiet:
            ready[entry.event.job_id] = entry.time, handed
        elif is_hand_out(entry):
            if is_quiet:
                since, before = ready.pop(entry.event.job_id)
                waits.append((entry.time - since, handed - before))
            handed += 1
    return waits + [(log[-1].time - since, handed - before) for since, before in ready.values()]


async def limit(url: str, workers: int, jobs: int, duration_s: float, at_most: int = 10) -> Storm:
    """So many workers wait at three replicas for jobs of a type of which ``at_most`` may run."""
    storm, stopping = Storm(), asyncio.Event()
    job_types = {"default": {"concurrency": at_most}}
    async with AsyncExitStack() as stack:
        servers = await stack.enter_async_context(replicas(url, REPLICAS, job_types=job_types))
        group = await stack.enter_async_context(asyncio.TaskGroup())
        for running in servers:
            count = workers // REPLICAS
            stubs = await _stubs(stack, running.server.address, count)
            for number in range(count):
                group.create_task(_work(stubs[number % len(stubs)], duration_s, duration_s, stopping))
            await until(lambda: running.server.acquires.count == count)  # noqa: B023
        requests = [pb.CreateRequest(id=f"{number:06}", job_type="default") for number in range(jobs)]
        for some in chunks(requests, CREATED_AT_ONCE):
            await servers[0].jobs.BatchCreate(pb.BatchCreateRequest(requests=some))
        while (await servers[0].jobs.GetStats(pb.GetStatsRequest())).total.completed < jobs:
            await pause(duration_s)
        stopping.set()
        for running in servers:
            running.server.acquires.drain()
    history = storm.judge(url, _policies(job_types))
    storm.told |= _use(World(history), at_most, duration_s)
    return storm


def _use(world: World, at_most: int, duration_s: float) -> dict[str, float]:
    """How far a limit was used, by the log, until the last job was handed out."""
    replay = Replay(world)
    most, used, at = 0, 0, 0
    claims = [entry.time for entry in world.history.log if is_hand_out(entry)]
    for entry in replay.events():
        running = replay.types["default"].all.now.running
        if claims[0] <= at and entry.time <= claims[-1]:
            used += running * (entry.time - at)
        at = entry.time
        most = max(most, running)
    took = claims[-1] - claims[0]
    ideal = at_most / (duration_s * 1e6) * took
    return {
        "most that ran at once": most,
        "share of the places in use": used / at_most / took,
        "hand-outs of the ideal": (len(claims) - at_most) / ideal,
    }


def main() -> None:
    """Read the command line, make a storm, tell."""
    parser = argparse.ArgumentParser(description="Storms of lanes and limits at full length.")
    parser.add_argument("storm", choices=("neighbour", "limit"))
    parser.add_argument("--backlog", type=int, default=200_000, help="jobs of the noisy lane (default 200,000)")
    parser.add_argument("--lanes", type=int, default=50, help="quiet lanes (default 50)")
    parser.add_argument("--seconds", type=float, default=30.0, help="that the neighbours live together (default 30)")
    parser.add_argument("--workers", type=int, default=0, help="default 200 for neighbours, 1,000 for the limit")
    parser.add_argument("--jobs", type=int, default=600, help="of the limit (default 600)")
    parser.add_argument("--duration", type=float, default=1.0, help="of a job of the limit, in seconds (default 1)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="storm-") as name:
        if options.storm == "limit":
            with own_server() as postgres:
                url = postgres.new_store()
                print(asyncio.run(limit(url, options.workers or 1_000, options.jobs, options.duration)))
            return
        workers = options.workers or 200
        for what, changes in (
            ("without the noisy lane", {"backlog": 0}),
            ("with it, and at most half of the workers for a lane", {"lane_concurrency": workers // 2}),
            ("with it, by turns alone", {}),
            ("with it, all in one lane", {"in_one_lane": True}),
        ):
            given: dict[str, Any] = {"backlog": options.backlog, "lanes": options.lanes, "per_second": 1.0}
            given |= {"seconds": options.seconds, "workers": workers, "long_s": 10.0, "short_s": 0.1, **changes}
            print(what)
            print(asyncio.run(neighbour(Path(name) / f"{what.replace(' ', '-')}.db", Neighbourhood(**given))))


if __name__ == "__main__":
    main()
