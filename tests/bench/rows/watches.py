"""The watch: fan-out, how soon a watcher hears, and what idle watchers cost."""

from __future__ import annotations

import time
from dataclasses import dataclass

from jobstate.v1 import job_service_pb2 as pb

from .. import messages
from ..bench import Bench
from ..load import Load
from ..messages import Request
from ..processes import Echo, JobServer
from ..samples import Finding, Sample, percentile, ratios, spread
from ..workloads import Calls

_CONNECTIONS = 4
_IDLE_CONNECTIONS = 50
_PREFIX_BYTES = 5


@dataclass
class _Fan:
    """One fan-out: how much was delivered, and what it took."""

    events: int
    size: int
    cpu: float
    seconds: float

    @property
    def per_core(self) -> float:
        """Events delivered per second of one core of the server."""
        return self.events / self.cpu


def _fan_out(bench: Bench, server: JobServer, job_ids: list[str]) -> _Fan:
    """Publish over a stream while watchers of everything listen, until each has got the last event."""
    marker = bench.name("the-last-of-them-")
    count, watchers = bench.sizes.fan_out_events, bench.sizes.fan_out_watchers
    bodies = messages.progress_batches(job_ids, 100, count // 100)
    bodies.append(messages.batch(-1, [pb.JobUpdate(create=messages.create_request(marker))]))
    with Load() as watching:
        watching.ask("watch", server.address, [messages.watch_everything()] * watchers, _CONNECTIONS)
        watching.ask("of_watches", "expect", marker.encode())
        head, cpu, began = server.counters().head, server.cpu(), time.monotonic()
        watching.begin("of_watches", "wait", 300.0)
        bench.load.batches(server.address, [bodies])
        ended = watching.result()
        cpu = server.cpu() - cpu
        events, size, _ = watching.ask("of_watches", "verdict", head + 1, server.counters().head)
    assert events == (count + 1) * watchers
    bench.witnessed += count + 1
    return _Fan(events, size, cpu, ended - began)


def _echoed(bench: Bench) -> _Fan:
    """The same by the echo, an event per message."""
    count, watchers = bench.sizes.fan_out_echoed, bench.sizes.fan_out_watchers
    size = messages.one_event().ByteSize() + _PREFIX_BYTES
    echo = Echo(bench.folder)
    try:
        with Load() as watching:
            watching.ask("watch", echo.address, [messages.watch_everything()] * watchers, _CONNECTIONS)
            watching.ask("of_watches", "expect", b"\0nothing\0")
            cpu, began = echo.cpu(), time.monotonic()
            watching.begin("of_watches", "wait_for_bytes", count * size, 300.0)
            bench.load.calls(echo.address, [[Request("Retry", pb.RetryRequest(id=str(count)).SerializeToString())]])
            ended = watching.result()
            return _Fan(count * watchers, count * watchers * size, echo.cpu() - cpu, ended - began)
    finally:
        echo.stop()


def fan_out(bench: Bench) -> list[Finding]:
    """Events per second of the server's core to watchers of everything, committing them included."""
    ours, theirs = [], []
    with bench.servers(0) as (server,):
        job_ids = bench.live_jobs(server)
        for _ in range(bench.runs):
            ours.append(_fan_out(bench, server, job_ids))
            theirs.append(_echoed(bench))
    per_core = [fan.per_core for fan in ours]
    watchers = bench.sizes.fan_out_watchers
    carried = spread([fan.size / fan.cpu for fan in ours], " MB/s", 1e-6)
    by_clock = spread([fan.events / fan.seconds for fan in ours], " events/s")
    note = (
        f"events delivered ÷ processor time of the server, the commits included; {carried} on that core; by the clock,"
        f" publisher and watchers on the same machine, {by_clock}"
    )
    return [
        Finding(
            f"fan-out to {watchers} watchers of everything",
            "≥ 1,000,000 events/s on one core",
            per_core,
            1_000_000.0,
            unit=" /s",
            ours=spread(per_core, " events/s"),
            note=note,
        ),
        Finding(
            "fan-out against one message per event",
            "≥ 20 ×",
            ratios(per_core, [fan.per_core for fan in theirs]),
            20.0,
            ours=spread(per_core, " events/s"),
            theirs=spread([fan.per_core for fan in theirs], " events/s"),
            note="the other: grpc.aio streams that yield one event per message and do nothing else",
        ),
    ]


def watch_latency(bench: Bench) -> list[Finding]:
    """How soon an idle watcher hears of a change, against how soon its caller is answered."""
    heard, answered, echoed = [], [], []
    with bench.server_and_echo() as (server, echo):
        chains = [messages.progress_call(bench.live_jobs(server, 1)[0])] * bench.sizes.races
        watch = messages.watch_everything()
        for _ in range(bench.runs):
            tally, spans = bench.load.ask("race", server.address, chains, watch)
            alone, _ = bench.load.ask("race", server.address, chains, None)
            bare, _ = bench.load.ask("race", echo.address, chains, None)
            assert tally.refused + alone.refused + bare.refused == 0, tally.problems + alone.problems
            heard.append(percentile(spans, 0.5))
            answered.append(percentile(alone.took, 0.5))
            echoed.append(percentile(bare.took, 0.5))
    return [
        Finding(
            "commit → watcher, idle: p50",
            "≤ 1.1 × the unary round trip",
            ratios(heard, answered),
            1.1,
            at_least=False,
            ours=spread(heard, " ms", 1e3),
            theirs=spread(answered, " ms", 1e3),
            note="from sending the call to the watcher's having the event; the round trip is that of the same durable"
            f" call with nobody watching; the echo's is {spread(echoed, ' ms', 1e3)}",
        )
    ]


def _idle_requests(count: int) -> list[bytes]:
    """Watches of which half name jobs and half a type, none of them those that the load touches."""
    requests = []
    for number in range(count):
        request = pb.WatchEventsRequest(job_types=["another"]) if number % 2 else pb.WatchEventsRequest()
        if not request.job_types:
            request.job_ids.append(f"nobody-{number}")
        request.heartbeat_interval.FromSeconds(300)
        requests.append(request.SerializeToString())
    return requests


def idle_watchers(bench: Bench) -> list[Finding]:
    """What a watcher that gets nothing costs: memory, and time of every commit."""
    count = bench.sizes.idle_watchers
    with bench.servers(0, 0) as (watched, alone), Load() as watching:
        loads = {server: Calls(bench, bench.live_jobs(server), messages.progress_call) for server in (watched, alone)}
        for server, load in loads.items():
            load.run(server)
        empty = watched.memory()
        watching.ask("watch", watched.address, _idle_requests(count), _IDLE_CONNECTIONS)
        each = (watched.memory() - empty) / count / 1024
        ours, theirs = bench.alternate(lambda: loads[watched].run(watched), lambda: loads[alone].run(alone))
        watching.ask("close_watches")
    return [
        Finding(
            f"{count:,} idle watchers on {_IDLE_CONNECTIONS} connections: memory of each",
            "≤ 27 KB",
            [each],
            27.0,
            at_least=False,
            unit=" KB",
            ours=f"{each:.1f} KB",
            note="growth of the server's resident memory; half name a job, half a job type",
        ),
        _cost(count, ours, theirs),
    ]


def _cost(count: int, ours: list[Sample], theirs: list[Sample]) -> Finding:
    mine, others = [sample.cpu_us for sample in ours], [sample.cpu_us for sample in theirs]
    return Finding(
        f"UpdateProgress that none of {count:,} watches",
        "the same as with none (≤ 1.1 ×)",
        ratios(mine, others),
        1.1,
        at_least=False,
        ours=spread(mine, " µs"),
        theirs=spread(others, " µs"),
        note="server CPU per call, beside a server that nobody watches",
    )
