"""Workers that wait, and jobs that wait: how soon a job is handed out, very many workers, delays, unique keys."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from jobstate.v1 import job_service_pb2 as pb

from .. import messages
from ..bench import CREATING, Bench, Untrue, until_counted, wait
from ..load import Load, sample
from ..messages import Request
from ..processes import JobServer
from ..samples import Finding, Sample, percentile, ratios, spread
from ..workloads import compared, observed
from .disturbed import reported

_UNWORKED = "unworked"
"""A job type that no worker asks for."""
_P99 = 0.99


def _create_unworked(job_id: str, unique_key: str = "") -> Request:
    request = messages.create_request(job_id)
    request.job_type, request.unique_key = _UNWORKED, unique_key
    return Request("Create", request.SerializeToString())


def create_round_trip(bench: Bench, server: JobServer) -> float:
    """The median time that a Create takes for whose job nobody waits, one at a time, in seconds."""
    prefix = bench.name("alone-")
    chains = [[_create_unworked(f"{prefix}-{number}")] for number in range(bench.sizes.races)]
    tally, _ = bench.load.ask("race", server.address, chains, None)
    return percentile(sample(tally).took, 0.5)


def hand_out_latency(bench: Bench) -> list[Finding]:
    """How soon an idle worker that waits has the job that is created for it."""
    heard, answered, slowest = [], [], []
    with bench.servers(0) as (server,):
        for _ in range(bench.runs):
            count, before = bench.sizes.races, server.counters()
            names = [f"{bench.name('raced-')}-{number}" for number in range(count)]
            _, spans = bench.load.ask("hand_out_race", server.address, names)
            bench.witness(server, before, 3 * count, 3 * count, hands_out=True)
            heard.append(percentile(spans, 0.5))
            slowest.append(percentile(spans, _P99))
            answered.append(create_round_trip(bench, server))
    what = "Create → idle worker has the job"
    return [
        Finding(
            f"{what}: p50",
            "≤ 1.2 × the unary round trip",
            ratios(heard, answered),
            1.2,
            at_least=False,
            ours=spread(heard, " ms", 1e3),
            theirs=spread(answered, " ms", 1e3),
            note="from sending the Create to the worker's having the answer to its Acquire; the round trip is that of a"
            " durable Create for which nobody waits",
        ),
        Finding(
            f"{what}: p99",
            "≤ 10 ms",
            [span * 1e3 for span in slowest],
            10.0,
            at_least=False,
            unit=" ms",
            ours=spread(slowest, " ms", 1e3),
        ),
    ]


_IDLE_SHARE = 0.05
_IDLE_FOR_S = 0.5
_IDLE_WITHIN_S = 60.0


def _until_idle(server: JobServer) -> None:
    """Wait until a server has cleared away the calls of the sample before."""
    deadline = time.monotonic() + _IDLE_WITHIN_S
    while time.monotonic() < deadline:
        cpu = server.cpu()
        wait(_IDLE_FOR_S)
        if server.cpu() - cpu < _IDLE_SHARE * _IDLE_FOR_S:
            return
    raise Untrue("the server is busy with nothing to do")


def parked_workers(bench: Bench) -> list[Finding]:
    """What very many workers cost that wait for jobs of one type: memory of each, and time of every Create."""
    sizes = bench.sizes
    memory: list[float] = []

    def creates(server: JobServer, workers: int) -> Sample:
        prefix, count = bench.name("rare-"), int(sizes.creates_per_second * sizes.window_s)
        requests = [
            Request("Create", messages.create_request(f"{prefix}-{number}").SerializeToString())
            for number in range(count)
        ]
        _until_idle(server)
        empty = server.memory()
        with Load() as waiting:
            waiting.ask("park", server.address, workers)
            if workers == sizes.parked:
                memory.append((server.memory() - empty) / workers / 1024)
            before, cpu = server.counters(), server.cpu()
            waiting.begin("of_watches", "wait_served", count)
            taken = sample(bench.load.ask("paced", server.address, requests, sizes.creates_per_second))
            waiting.result()
            taken.server_cpu = server.cpu() - cpu
            if not server.counters().head - before.head == 2 * count == 2 * taken.ops:
                raise Untrue(f"{count} jobs were to be created and handed out, with two events each")
            bench.witnessed += 2 * count
            waiting.ask("close_watches")
        return taken

    with bench.servers(0, 0) as (many, few):
        ours, theirs = bench.alternate(partial(creates, many, sizes.parked), partial(creates, few, sizes.few_parked))
    costs = [[each.cpu_us for each in side] for side in (ours, theirs)]
    took = [[percentile(each.took, _P99) for each in side] for side in (ours, theirs)]
    pace = f"{sizes.creates_per_second} Creates/s, each of which one of them gets and then waits again"
    return [
        Finding(
            f"Create while {sizes.parked:,} workers wait for its type: server CPU",
            f"≤ 1.2 × with {sizes.few_parked}",
            ratios(*costs),
            1.2,
            at_least=False,
            ours=spread(costs[0], " µs"),
            theirs=spread(costs[1], " µs"),
            note=f"{pace}; p99 of the Creates {spread(took[0], ' ms', 1e3)}, and {spread(took[1], ' ms', 1e3)}",
        ),
        Finding(
            f"{sizes.parked:,} workers that wait: memory of each",
            "≤ 60 KiB",
            memory[:1],
            60.0,
            at_least=False,
            unit=" KiB",
            ours=f"{memory[0]:.1f} KiB",
            note="growth of the server's resident memory when they first come, 99 on a connection; a server takes"
            " 10,000, the last sixteenth of them from connections that have none",
        ),
    ]


def delays(bench: Bench) -> list[Finding]:
    """Very many jobs whose delays end at one instant, under load."""
    count, seconds = bench.sizes.retries, bench.sizes.window_s
    mine, others, took = [], [], []
    with bench.servers(0) as (server,):
        job_ids = bench.live_jobs(server)
        for _ in range(bench.runs):
            others.append(reported(bench, server, job_ids, seconds).took_at(_P99))
            moment = time.time() + count / _CREATED_A_SECOND + 2.0
            _create_delayed(bench, server, count, moment)
            head = server.counters().head
            wait(moment - 0.3 - time.time())
            taken = reported(bench, server, job_ids, max(seconds, count / 10_000))
            first, last = ready_within(server, head, count)
            mine.append(taken.took_at(_P99, (first, last)))
            took.append(last - first)
    what = f"{count:,} delays that end at one instant"
    return [
        Finding(
            f"{what}: all ready within",
            "≤ 10 s",
            took,
            10.0,
            at_least=False,
            unit=" s",
            ours=spread(took, " s"),
            note="while UpdateProgress is called",
        ),
        Finding(
            f"UpdateProgress during {what}: p99",
            "≤ 2 × undisturbed",
            ratios(mine, others),
            2.0,
            at_least=False,
            ours=spread(mine, " ms", 1e3),
            theirs=spread(others, " ms", 1e3),
            note="until all were ready; against the same server right before",
        ),
    ]


_CREATED_A_SECOND = 4_000
"""Fewer than can be created in a second, so that all are there before the first is due."""


def _create_delayed(bench: Bench, server: JobServer, count: int, moment: float) -> None:
    """Create jobs that nobody may begin before this moment of the wall clock."""
    prefix = bench.name("later-")
    chains = []
    for start in range(0, count, 1_000):
        requests = [messages.create_request(f"{prefix}-{number}") for number in range(start, min(start + 1_000, count))]
        for request in requests:
            request.not_before_time.FromMicroseconds(int(moment * 1e6))
        chains.append([Request("BatchCreate", pb.BatchCreateRequest(requests=requests).SerializeToString())])
    bench.load.calls(server.address, chains, connections=CREATING, in_flight=CREATING)


def ready_within(server: JobServer, head: int, count: int) -> tuple[float, float]:
    """The first and the last moment of jobs that became ready, by the monotonic clock, once all have."""
    of_ready = "FROM event WHERE sequence > ? AND type = 12"
    until_counted(server, count, f"SELECT count(*) {of_ready}", head)
    offset = time.time() - time.monotonic()
    first, last = (server.count(f"SELECT {which}(time) {of_ready}", head) / 1e6 - offset for which in ("min", "max"))
    return first, last


def unique_keys(bench: Bench) -> list[Finding]:
    """Creates with a unique key that nobody has, and with one that a job has, against Creates without."""
    count = bench.sizes.calls // 2

    def run(server: JobServer, key: Callable[[str], str], events: int) -> Sample:
        prefix = bench.name("made-")
        names = [f"{prefix}-{number}" for number in range(count)]
        chains = [[_create_unworked(name, key(name))] for name in names]
        return observed(bench, server, lambda: bench.load.calls(server.address, chains), events, count)

    with bench.servers(0) as (server,):
        bench.load.calls(server.address, [[_create_unworked("the-one", "taken")]])
        without, with_new, with_taken = bench.alternate(
            lambda: run(server, lambda _: "", count),
            lambda: run(server, lambda name: name, count),
            lambda: run(server, lambda _: "taken", 0),
        )
    note = "64 in flight; the other: without a key"
    return [
        *compared("Create with a unique key that no job has", "calls", with_new, without, note=note),
        *compared(
            "Create with a unique key that a job has",
            "calls",
            with_taken,
            without,
            note=f"it returns that job and writes nothing; {note}",
        ),
    ]
