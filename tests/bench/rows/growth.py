"""What it costs to have many jobs stored: the other rows again, pages and sums, memory, and the time to start."""

from __future__ import annotations

import time
from collections.abc import Callable

from jobstate.v1 import job_pb2
from jobstate.v1 import job_service_pb2 as pb

from .. import messages
from ..bench import Bench, stored_ids
from ..http2 import Connection
from ..messages import JOB_TYPE, Request
from ..processes import JobServer
from ..samples import Finding, Sample, percentile, ratios, spread
from ..workloads import BatchCreates, Calls, Lifecycles, StreamLifecycles, StreamProgress, Workload

_FLOOR = 0.9


def _named_loads(bench: Bench, server: JobServer, stored: int) -> dict[str, Workload]:
    job_ids = bench.live_jobs(server)
    return {
        "UpdateProgress": Calls(bench, job_ids, messages.progress_call),
        "lifecycles, unary": Lifecycles(bench),
        "Get of any job": Calls(bench, list(stored_ids(stored)), messages.get_call, changes=False),
        "StreamUpdates, progress": StreamProgress(bench, job_ids),
        "StreamUpdates, lifecycles": StreamLifecycles(bench),
        "BatchCreate of 1,000": BatchCreates(bench),
    }


def growth(bench: Bench) -> list[Finding]:
    """Every load on servers with few and with many jobs stored, in turn; then their memory."""
    sizes = bench.sizes.stored
    findings = []
    with bench.servers(*sizes) as servers:
        loads = [_named_loads(bench, server, stored) for server, stored in zip(servers, sizes, strict=True)]
        for name in loads[0]:
            measures = [_measure(named[name], server) for named, server in zip(loads, servers, strict=True)]
            few, *more = bench.alternate(*measures)
            findings += [_grown(name, stored, many, few) for stored, many in zip(sizes[1:], more, strict=True)]
        for server, stored in zip(servers, sizes, strict=True):
            memory = server.memory() / 2**20
            what = f"server memory after these loads, {stored:,} jobs stored at first"
            findings.append(Finding(what, "", [memory], unit=" MiB", ours=f"{memory:.0f} MiB"))
    return findings


def _measure(load: Workload, server: JobServer) -> Callable[[], Sample]:
    return lambda: load.run(server)


def _grown(name: str, stored: int, many: list[Sample], few: list[Sample]) -> Finding:
    by_cpu = ratios([sample.cpu_us for sample in few], [sample.cpu_us for sample in many])
    return Finding(
        f"{name}, {stored:,} jobs stored",
        "≥ 0.9 × as with few",
        ratios([sample.rate for sample in many], [sample.rate for sample in few]),
        _FLOOR,
        ours=spread([sample.rate for sample in many], " /s"),
        theirs=spread([sample.rate for sample in few], " /s"),
        note=f"by server CPU {spread(by_cpu)} ×",
    )


_PAGES = {
    "GetStats": Request("GetStats", b""),
    "List, newest 50": Request("List", b""),
    "List, a state, 100": Request(
        "List", pb.ListRequest(states=[job_pb2.JOB_STATE_COMPLETED], page_size=100).SerializeToString()
    ),
    "List, a type and state, oldest 100": Request(
        "List",
        pb.ListRequest(
            job_types=[JOB_TYPE],
            states=[job_pb2.JOB_STATE_COMPLETED],
            page_size=100,
            order=pb.LIST_ORDER_CREATE_TIME_ASC,
        ).SerializeToString(),
    ),
}


def pages(bench: Bench) -> list[Finding]:
    """GetStats and List pages, one call at a time, with few and with many jobs stored."""
    few, *_, many = bench.sizes.stored
    findings = []
    with bench.servers(few, many) as (small, large):
        for name, request in _PAGES.items():
            chains = [[request]] * bench.sizes.races
            mine: list[float] = []
            others: list[float] = []
            for _ in range(bench.runs):
                for server, spans in ((large, mine), (small, others)):
                    tally, _ = bench.load.ask("race", server.address, chains, None)
                    assert not tally.refused, tally.problems
                    spans.append(percentile(tally.took, 0.5))
            findings.append(
                Finding(
                    f"{name}: time with {many:,} jobs stored",
                    f"≤ 1.5 × with {few:,}",
                    ratios(mine, others),
                    1.5,
                    at_least=False,
                    ours=spread(mine, " ms", 1e3),
                    theirs=spread(others, " ms", 1e3),
                )
            )
    return findings


def start(bench: Bench) -> list[Finding]:
    """From starting the process to the first connection that is answered."""
    findings = []
    for stored, limit in ((0, 0.5), (bench.sizes.stored[-1], 0.5)):
        spans = []
        for _ in range(bench.runs):
            with bench.servers(stored) as (server,):
                Connection(server.address).close()
                spans.append(time.monotonic() - server.began)
        findings.append(
            Finding(
                f"start to serving, {stored:,} jobs stored" if stored else "start to serving, empty",
                f"≤ {limit:g} s",
                spans,
                limit,
                at_least=False,
                unit=" s",
                ours=spread(spans, " s"),
            )
        )
    return findings
