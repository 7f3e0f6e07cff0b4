"""The Python clients against bare generated stubs of the same kind: what their comfort costs, or saves.

Both sides run one after the other in one process that is not the benchmark's, on a connection of their own each, and do
the same work: build the request, send it, have the answer in their hands. The library's answer is a value of its own,
the stub's the message itself.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import cycle, islice

import grpc

from jobstate.v1 import job_service_pb2 as pb
from jobstate.v1 import job_service_pb2_grpc as rpc
from jobstate_client import AsyncClient, Client, NewJob

from .. import messages
from ..bench import Bench, Untrue
from ..processes import JobServer
from ..samples import Finding, Sample, ratios, spread
from ..workloads import observed

_THREADS = 8
_IN_FLIGHT = 64
_BATCH = 100

_CALLS_SHARE = 4
"""A Python client makes a fraction of the calls that the load process makes in a time."""

_REPORTS_PER_CALL = 5
"""Reports cost a fraction of a call."""

_OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]

_LAST = "the last word"

_WATCHED_MIN = 0.2
"""A watch hands over values of the library's own, decoded as far as they are looked at."""


class Measured:
    """A stretch of work, timed where it was done."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.cpu = 0.0
        self.ops = 0

    @contextmanager
    def timed(self, ops: int) -> Iterator[None]:
        """The work is what happens in the block."""
        cpu, began = time.process_time(), time.monotonic()
        yield
        self.seconds, self.cpu = time.monotonic() - began, time.process_time() - cpu
        self.ops = ops


# Calls


def _report(job_id: str) -> pb.UpdateProgressRequest:
    return messages.progress_request(job_id)


def _by_threads(job_ids: Sequence[str], calls: int, threads: int, call: Callable[[str], object]) -> Measured:
    """So many calls from so many threads, each one after the other."""
    parts = [list(islice(cycle(job_ids), number, calls, threads)) for number in range(threads)]
    failures: list[BaseException] = []

    def work(part: Sequence[str]) -> None:
        try:
            for job_id in part:
                call(job_id)
        except BaseException as failure:
            failures.append(failure)

    measured = Measured()
    workers = [threading.Thread(target=work, args=(part,)) for part in parts]
    with measured.timed(calls):
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    if failures:
        raise failures[0]
    return measured


def _calls_of_library(address: str, job_ids: Sequence[str], calls: int, threads: int) -> Measured:
    with Client(address, options=_OWN_CONNECTION) as client:
        client.get(job_ids[0])
        return _by_threads(
            job_ids, calls, threads, lambda job_id: client.progress(job_id, 50, "half way there", attempt=1)
        )


def _calls_of_stub(address: str, job_ids: Sequence[str], calls: int, threads: int) -> Measured:
    with grpc.insecure_channel(address, options=_OWN_CONNECTION) as channel:
        stub = rpc.JobServiceStub(channel)
        stub.Get(pb.GetRequest(id=job_ids[0]))
        return _by_threads(job_ids, calls, threads, lambda job_id: stub.UpdateProgress(_report(job_id)))


async def _in_flight(job_ids: Sequence[str], calls: int, call: Callable[[str], Awaitable[object]]) -> Measured:
    """So many calls, 64 at a time."""
    left = iter(list(islice(cycle(job_ids), calls)))

    async def work() -> None:
        for job_id in left:
            await call(job_id)

    measured = Measured()
    with measured.timed(calls):
        await asyncio.gather(*(work() for _ in range(_IN_FLIGHT)))
    return measured


async def _calls_of_async_library(address: str, job_ids: Sequence[str], calls: int) -> Measured:
    async with AsyncClient(address, options=_OWN_CONNECTION) as client:
        await client.get(job_ids[0])
        return await _in_flight(job_ids, calls, lambda job_id: client.progress(job_id, 50, "half way there", attempt=1))


async def _calls_of_async_stub(address: str, job_ids: Sequence[str], calls: int) -> Measured:
    async with grpc.aio.insecure_channel(address, options=_OWN_CONNECTION) as channel:
        stub: rpc.JobServiceAsyncStub = rpc.JobServiceStub(channel)
        await stub.Get(pb.GetRequest(id=job_ids[0]))
        return await _in_flight(job_ids, calls, lambda job_id: stub.UpdateProgress(_report(job_id)))


# Reports of runs


def _reports_of_library(address: str, job_ids: Sequence[str], reports: int) -> Measured:
    """Runs that report as fast as they can, each in a thread of its own, until the last of them is completed."""
    share = reports // len(job_ids)

    def run(job_id: str) -> None:
        with client.run(job_id, worker="worker-1") as run:
            for _ in range(share - 1):
                run.progress(50, "half way there")
            run.progress(99, _LAST)

    with Client(address, options=_OWN_CONNECTION) as client:
        client.create_many(NewJob(messages.JOB_TYPE, id=job_id) for job_id in job_ids)
        measured = _by_threads(job_ids, len(job_ids), len(job_ids), run)
    measured.ops = share * len(job_ids)
    return measured


async def _reports_of_async_library(address: str, job_ids: Sequence[str], reports: int) -> Measured:
    measured = Measured()
    share = reports // len(job_ids)

    async def work(client: AsyncClient, job_id: str) -> None:
        async with client.run(job_id, worker="worker-1") as run:
            for number in range(share - 1):
                run.progress(50, "half way there")
                if number % _BATCH == 0:
                    await asyncio.sleep(0)
            run.progress(99, _LAST)

    async with AsyncClient(address, options=_OWN_CONNECTION) as client:
        await client.create_many(NewJob(messages.JOB_TYPE, id=job_id) for job_id in job_ids)
        with measured.timed(share * len(job_ids)):
            await asyncio.gather(*(work(client, job_id) for job_id in job_ids))
    return measured


def _batches(job_ids: Sequence[str], reports: int) -> Iterator[pb.StreamUpdatesRequest]:
    left = iter(list(islice(cycle(job_ids), reports)))
    while part := list(islice(left, _BATCH)):
        yield pb.StreamUpdatesRequest(updates=[pb.JobUpdate(progress=_report(job_id)) for job_id in part])


def _reports_of_stub(address: str, job_ids: Sequence[str], reports: int) -> Measured:
    """Every report an update of its own, in batches."""
    measured = Measured()
    with grpc.insecure_channel(address, options=_OWN_CONNECTION) as channel, measured.timed(reports):
        for response in rpc.JobServiceStub(channel).StreamUpdates(_batches(job_ids, reports)):
            _refuse_refusals(response)
    return measured


async def _reports_of_async_stub(address: str, job_ids: Sequence[str], reports: int) -> Measured:
    measured = Measured()
    async with grpc.aio.insecure_channel(address, options=_OWN_CONNECTION) as channel:
        stub: rpc.JobServiceAsyncStub = rpc.JobServiceStub(channel)
        with measured.timed(reports):
            async for response in stub.StreamUpdates(_batches(job_ids, reports)):
                _refuse_refusals(response)
    return measured


def _refuse_refusals(response: pb.StreamUpdatesResponse) -> None:
    for outcome in response.outcomes:
        if outcome.HasField("refusal"):
            raise Untrue(f"{outcome.id}: {outcome.refusal.message}")


# Watches


def _history() -> pb.WatchEventsRequest:
    return pb.WatchEventsRequest(start=pb.WATCH_START_EARLIEST, follow=False)


def _watch_of_library(address: str, events: int) -> Measured:
    measured = Measured()
    with Client(address, options=_OWN_CONNECTION) as client:
        client.stats()
        with measured.timed(events):
            _count(events, sum(event.job.progress >= 0 for event in client.watch(start="earliest", follow=False)))
    return measured


def _watch_of_stub(address: str, events: int) -> Measured:
    measured = Measured()
    with grpc.insecure_channel(address, options=_OWN_CONNECTION) as channel:
        stub = rpc.JobServiceStub(channel)
        stub.GetStats(pb.GetStatsRequest())
        with measured.timed(events):
            told = (event for response in stub.WatchEvents(_history()) for event in response.events)
            _count(events, sum(event.job.progress >= 0 for event in told))
    return measured


async def _watch_of_async_library(address: str, events: int) -> Measured:
    measured = Measured()
    async with AsyncClient(address, options=_OWN_CONNECTION) as client:
        await client.stats()
        with measured.timed(events):
            seen = 0
            async for event in client.watch(start="earliest", follow=False):
                seen += event.job.progress >= 0
            _count(events, seen)
    return measured


async def _watch_of_async_stub(address: str, events: int) -> Measured:
    measured = Measured()
    async with grpc.aio.insecure_channel(address, options=_OWN_CONNECTION) as channel:
        stub: rpc.JobServiceAsyncStub = rpc.JobServiceStub(channel)
        await stub.GetStats(pb.GetStatsRequest())
        with measured.timed(events):
            seen = 0
            async for response in stub.WatchEvents(_history()):
                for event in response.events:
                    seen += event.job.progress >= 0
            _count(events, seen)
    return measured


def _count(expected: int, seen: int) -> None:
    if seen != expected:
        raise Untrue(f"of {expected} events {seen} were told")


# The row


class _Callers:
    """The process in which both sides work."""

    def __init__(self) -> None:
        self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))

    def measure(self, work: Callable[..., object], *arguments: object) -> Sample:
        """Have this done there. It may be a coroutine function."""
        measured = self._pool.submit(_work, work, *arguments).result()
        return Sample(measured.ops, measured.seconds, 0.0, measured.cpu)

    def close(self) -> None:
        """End it."""
        self._pool.shutdown()


_LOOPS: list[asyncio.Runner] = []
"""The event loop of the process in which both sides work: gRPC's poller outlives a loop, and complains."""


def _work(work: Callable[..., object], *arguments: object) -> Measured:
    done = work(*arguments)
    if asyncio.iscoroutine(done):
        if not _LOOPS:
            _LOOPS.append(asyncio.Runner())
        done = _LOOPS[0].run(done)
    assert isinstance(done, Measured)
    return done


def _beside(
    what: str, unit: str, ours: list[Sample], theirs: list[Sample], note: str, limit: float | None = None
) -> list[Finding]:
    """How the rates compare, and how the processor time does that each side takes for itself."""
    costs = [[sample.client_cpu / sample.ops for sample in side] for side in (ours, theirs)]
    return [
        Finding(
            what,
            "" if limit is None else f"≥ {limit:g} × the stub",
            ratios([mine.rate for mine in ours], [other.rate for other in theirs]),
            limit,
            ours=spread([mine.rate for mine in ours], f" {unit}/s"),
            theirs=spread([other.rate for other in theirs], f" {unit}/s"),
            note=note,
        ),
        Finding(
            f"{what}: by client CPU",
            "",
            ratios(costs[1], costs[0]),
            ours=spread(costs[0], " µs", 1e6),
            theirs=spread(costs[1], " µs", 1e6),
            note="the inverse of processor time per operation in the client's process",
        ),
    ]


def _calls(bench: Bench, server: JobServer, callers: _Callers) -> list[Finding]:
    job_ids = bench.live_jobs(server)
    count = bench.sizes.calls // _CALLS_SHARE
    findings = []
    for what, ours, theirs, more in (
        ("Client.progress, 1 thread", _calls_of_library, _calls_of_stub, (1,)),
        (f"Client.progress, {_THREADS} threads", _calls_of_library, _calls_of_stub, (_THREADS,)),
        (f"AsyncClient.progress, {_IN_FLIGHT} in flight", _calls_of_async_library, _calls_of_async_stub, ()),
    ):
        measures = [
            partial(
                observed,
                bench,
                server,
                partial(callers.measure, side, server.address, job_ids, count, *more),
                count,
            )
            for side in (ours, theirs)
        ]
        note = "the other: the generated stub, called as often from as many"
        samples, others = bench.alternate(*measures)
        findings += _beside(what, "calls", samples, others, note)
    return findings


def _coalesced(
    bench: Bench, server: JobServer, work: Callable[[list[str]], Sample], runs: int, events: list[int]
) -> Sample:
    """Runs that report; how many events became of it is for the server to say, that none is lost for us."""
    prefix = bench.name("run-")
    job_ids = [f"{prefix}-{number}" for number in range(runs)]
    before = server.counters()
    sample = work(job_ids)
    made = server.counters().head - before.head - 3 * len(job_ids)
    bench.witness(server, before, 3 * len(job_ids) + made, 1 + 2 * len(job_ids) + made)
    query = "SELECT count(*) FROM job WHERE id GLOB ? AND state = 3 AND progress_message = ?"
    ended = server.count(query, f"{prefix}-*", _LAST)
    if ended != len(job_ids) or made > sample.ops:
        raise Untrue(f"of {len(job_ids)} runs {ended} ended with their last report; {made} events of {sample.ops}")
    events.append(made)
    return sample


def _reports(bench: Bench, server: JobServer, callers: _Callers) -> list[Finding]:
    job_ids = bench.live_jobs(server)
    reports, bare = bench.sizes.calls * _REPORTS_PER_CALL, bench.sizes.calls
    findings = []
    for what, runs, ours, theirs in (
        (f"run.progress, {_THREADS} runs in threads", _THREADS, _reports_of_library, _reports_of_stub),
        (f"run.progress, {_IN_FLIGHT} asyncio runs", _IN_FLIGHT, _reports_of_async_library, _reports_of_async_stub),
    ):
        events: list[int] = []

        def run(job_ids: list[str], work: Callable[..., object] = ours) -> Sample:
            return callers.measure(work, server.address, job_ids, reports)

        of_stub = partial(callers.measure, theirs, server.address, job_ids, bare)
        samples, others = bench.alternate(
            partial(_coalesced, bench, server, run, runs, events), partial(observed, bench, server, of_stub, bare)
        )
        note = (
            "from the start of the runs until the last of them is completed; of reports that wait the newest wins:"
            f" {spread([float(made) for made in events[1:]])} events became of {reports:,} reports; the other: every"
            f" report an event, StreamUpdates of the generated stub in batches of {_BATCH}"
        )
        findings += _beside(what, "reports", samples, others, note)
    return findings


def _watches(bench: Bench, callers: _Callers) -> list[Finding]:
    findings = []
    with bench.servers(0) as (server,):
        job_ids = bench.live_jobs(server)
        bodies = messages.progress_batches(job_ids, _BATCH, bench.sizes.fan_out_events // _BATCH)
        bench.load.batches(server.address, [bodies])
        events = server.counters().head
        for what, ours, theirs in (
            ("Client.watch, events received", _watch_of_library, _watch_of_stub),
            ("AsyncClient.watch, events received", _watch_of_async_library, _watch_of_async_stub),
        ):
            measures = [partial(callers.measure, side, server.address, events) for side in (ours, theirs)]
            note = f"a history of {events:,} events; the other: the messages of the generated stub, as they are"
            samples, others = bench.alternate(*measures)
            findings += _beside(what, "events", samples, others, note, _WATCHED_MIN)
    return findings


def clients(bench: Bench) -> list[Finding]:
    """Calls, reports and watches of both Python clients, each beside the bare stub in the same process."""
    callers = _Callers()
    try:
        with bench.servers(0) as (server,):
            findings = _calls(bench, server, callers) + _reports(bench, server, callers)
        return findings + _watches(bench, callers)
    finally:
        callers.close()
