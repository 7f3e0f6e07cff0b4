"""Unary calls against the echo: reports, Gets, whole lives."""

from __future__ import annotations

from .. import h2load, messages
from ..bench import Bench, stored_ids
from ..messages import Request
from ..processes import Target
from ..samples import Finding, Sample, percentile, ratios, spread
from ..workloads import Calls, Lifecycles, compared, observed

_P99 = 0.99


def _p99(what: str, ours: list[Sample], theirs: list[Sample], limit: float) -> Finding:
    mine = [percentile(sample.took, _P99) for sample in ours]
    others = [percentile(sample.took, _P99) for sample in theirs]
    return Finding(
        f"{what}: p99",
        f"≤ {limit:g} × echo",
        ratios(mine, others),
        limit,
        at_least=False,
        ours=spread(mine, " ms", 1e3),
        theirs=spread(others, " ms", 1e3),
    )


def _same_call(bench: Bench, target: Target, request: Request, *, changes: bool) -> Sample:
    """From h2load, which can send only one body."""
    count = bench.sizes.calls
    return observed(
        bench, target, lambda: h2load.run(target.address, request, count, bench.folder), count if changes else 0
    )


def unary(bench: Bench) -> list[Finding]:
    """Durable UpdateProgress, 64 in flight: of one job from h2load, of many from our load process."""
    with bench.server_and_echo() as (server, echo):
        job_ids = bench.live_jobs(server)
        (request,) = messages.progress_call(job_ids[0])
        ours, theirs = bench.alternate(
            lambda: _same_call(bench, server, request, changes=True),
            lambda: _same_call(bench, echo, request, changes=True),
        )
        what = "UpdateProgress, 64 in flight"
        findings = compared(what, "calls", ours, theirs, reach="≥ 0.75 × echo", limit=0.75, note="h2load; one job")
        findings.append(_p99(what, ours, theirs, 2.0))
        load = Calls(bench, job_ids, messages.progress_call)
        ours, theirs = bench.alternate(lambda: load.run(server), lambda: load.run(echo))
        what = f"UpdateProgress of {len(job_ids):,} jobs, 64 in flight"
        note = "our load process: a job drawn for each call"
        findings += compared(what, "calls", ours, theirs, reach="≥ 0.75 × echo", limit=0.75, note=note)
        findings.append(_p99(what, ours, theirs, 2.0))
        return findings


def get(bench: Bench) -> list[Finding]:
    """Get, 64 in flight: of one job from h2load, of many from our load process."""
    with bench.server_and_echo(bench.sizes.stored[1]) as (server, echo):
        job_ids = list(stored_ids(bench.sizes.stored[1]))
        (request,) = messages.get_call(job_ids[0])
        ours, theirs = bench.alternate(
            lambda: _same_call(bench, server, request, changes=False),
            lambda: _same_call(bench, echo, request, changes=False),
        )
        findings = compared(
            "Get, 64 in flight", "calls", ours, theirs, reach="≥ 0.85 × echo", limit=0.85, note="h2load; one job"
        )
        load = Calls(bench, job_ids, messages.get_call, changes=False)
        ours, theirs = bench.alternate(lambda: load.run(server), lambda: load.run(echo))
        what = f"Get of {len(job_ids):,} jobs, 64 in flight"
        note = "our load process: a job drawn for each call"
        return findings + compared(what, "calls", ours, theirs, reach="≥ 0.80 × echo", limit=0.80, note=note)


def lifecycles(bench: Bench) -> list[Finding]:
    """Create, Start, three reports, Complete, as calls; 64 lives at a time."""
    with bench.server_and_echo() as (server, echo):
        load = Lifecycles(bench)
        ours, theirs = bench.alternate(lambda: load.run(server), lambda: load.run(echo))
        return compared(
            "whole lifecycles, unary",
            "lifecycles",
            ours,
            theirs,
            reach="≥ 0.70 × echo ÷ 6",
            limit=0.70,
            note="our load process; both answer the same six calls per lifecycle",
        )
