"""How long the jobs of a quiet lane wait beside a neighbour with very many."""

from __future__ import annotations

import time
from functools import partial

from .. import messages
from ..bench import Bench, Untrue, make_ready, wait
from ..load import Load, Refused
from ..messages import Request
from ..processes import JobServer
from ..samples import Finding, Sample, ratios, spread
from ..worker_loads import WORKERS_A_STREAM
from ..workers import Plan, Worked
from ..workloads import CONNECTIONS

QUIET = "quiet"
"""The lane. The neighbour's jobs are in the empty one, which is a lane like any other."""

_EACH_S = 0.02
_HANDS = 10
_MANY = 10_000_000
_P99 = 0.99

_TAKEN = "SELECT count(DISTINCT job_id) FROM event WHERE type = 2 AND job_id GLOB ?"
_WAITED = (
    "SELECT taken.time - made.time FROM event made JOIN event taken ON taken.job_id = made.job_id AND taken.type = 2"
    " WHERE made.type = 1 AND made.job_id GLOB ? ORDER BY 1 LIMIT 1 OFFSET ?"
)


def _create(bench: Bench, server: JobServer, job_id: str, lane: str) -> None:
    body = messages.create_request(job_id, lane=lane).SerializeToString()
    bench.load.calls(server.address, [[Request("Create", body)]], connections=1, in_flight=1)


def _quiet_jobs(bench: Bench, server: JobServer, working: Load, lane: str) -> Sample:
    """Create jobs one by one while workers are busy with the neighbour's, until they have taken the last of these.

    The time of the sample is what they waited, by the log: the 99th percentile.
    """
    prefix, began = bench.name("quiet-"), time.monotonic()
    made, last = 0, f"{prefix}-last"
    plan = Plan(_MANY, _HANDS, reports=0, prefix=bench.name("noise-"), last=last)
    working.begin("stream_workers", server.address, plan, streams=CONNECTIONS, workers=WORKERS_A_STREAM)
    while time.monotonic() < began + bench.sizes.window_s / 2:
        _create(bench, server, f"{prefix}-{made}", lane)
        made += 1
        wait(_EACH_S)
    _create(bench, server, last, lane)
    made += 1
    done: Worked = working.result()
    if done.tally.refused:
        raise Refused("; ".join(done.tally.problems))
    taken = server.count(_TAKEN, f"{prefix}-*")
    if taken != made:
        raise Untrue(f"of {made} jobs of the quiet lane {taken} were handed out")
    waited = server.count(_WAITED, f"{prefix}-*", int(_P99 * made)) / 1e6
    return Sample(done.hand_outs, time.monotonic() - began, took=[waited])


def noisy_neighbour(bench: Bench) -> list[Finding]:
    """Jobs of a quiet lane beside a neighbour's backlog, beside one without a backlog, and in one queue with it."""
    backlog = bench.sizes.stored[1]
    with bench.servers(0, 0, 0) as (noisy, calm, plain), Load() as working:
        for server in (noisy, plain):
            make_ready(bench, server, [f"{bench.name('noise-')}-{number}" for number in range(backlog)])
        lanes = ((noisy, QUIET), (calm, QUIET), (plain, ""))
        sides = bench.alternate(*[partial(_quiet_jobs, bench, server, working, lane) for server, lane in lanes])
    beside, without, queued = ([each.took[0] for each in side] for side in sides)
    rates = [spread([each.rate for each in side]) for side in sides]
    what = f"a quiet lane beside {backlog:,} jobs of a neighbour: wait until the hand-out, p99"
    return [
        Finding(
            what,
            "≤ 2 × without the backlog",
            ratios(beside, without),
            2.0,
            at_least=False,
            ours=spread(beside, " ms", 1e3),
            theirs=spread(without, " ms", 1e3),
            note=f"by the log; {CONNECTIONS * WORKERS_A_STREAM} busy workers with up to {_HANDS} jobs in hand, who"
            f" create a job of the neighbour for each that they take: {rates[0]} hand-outs/s, and {rates[1]} where it"
            f" has no more than these; a job of the quiet lane each {_EACH_S * 1e3:g} ms and round trip",
        ),
        Finding(
            f"{what}: the same without lanes, first come first served",
            "",
            ratios(queued, beside),
            ours=spread(beside, " ms", 1e3),
            theirs=spread(queued, " s"),
            note=f"how many times longer; {rates[2]} hand-outs/s",
        ),
    ]
