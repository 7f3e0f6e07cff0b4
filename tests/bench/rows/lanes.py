"""Hand-outs among very many lanes."""

from __future__ import annotations

from functools import partial

from ..bench import Bench, make_ready
from ..samples import Finding
from ..worker_loads import StreamWorkers
from ..workloads import compared
from .hand_outs import STREAMS


def lanes(bench: Bench) -> list[Finding]:
    """Hand-outs of jobs that are ready in very many lanes, against as many jobs in one."""
    count = bench.sizes.lanes
    many, one = StreamWorkers(bench, reports=0, lanes=count), StreamWorkers(bench, reports=0)
    with bench.servers(0, 0) as (laned, plain):
        for server, number in ((laned, count), (plain, 1)):
            make_ready(bench, server, [f"{bench.name('ready-')}-{each}" for each in range(count)], lanes=number)
        ours, theirs = bench.alternate(partial(many.run, laned), partial(one.run, plain))
    return compared(
        f"hand-outs from {count:,} lanes with a job ready in each",
        "jobs",
        ours,
        theirs,
        reach="≥ 0.8 × one lane with as many",
        limit=0.8,
        note=f"{STREAMS}; each job handed out is completed, and another created in the next lane",
    )
