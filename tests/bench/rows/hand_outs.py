"""Workers that acquire their jobs, against jobs that are started by hand; backlogs; priorities; jobs given back."""

from __future__ import annotations

import time
from functools import partial

from .. import messages
from ..bench import Bench, Untrue, make_ready, wait
from ..load import Load, Refused
from ..messages import EVERY_LEVEL, Request
from ..processes import JobServer
from ..samples import Finding, spread
from ..worker_loads import CALLERS, HANDS, WORKERS_A_STREAM, CallingWorkers, StreamWorkers, worked
from ..workers import Plan, Worked
from ..workloads import BATCH, CONNECTIONS, Lifecycles, compared

STREAMS = f"{CONNECTIONS} streams, {WORKERS_A_STREAM} workers on each with {BATCH} jobs in hand"


def hand_outs(bench: Bench) -> list[Finding]:
    """Whole lives whose start is a hand-out, against lives that are started by hand: over streams, and in calls."""
    findings = []
    # One for each side: the first has leases that it looks after, also when they have ended.
    with bench.servers(0, 0) as (server, other):
        for what, unit, ours, theirs, limit, note in (
            (
                "lifecycles by Acquire, StreamUpdates",
                "lifecycles",
                StreamWorkers(bench),
                StreamWorkers(bench, starts=True),
                0.95,
                f"{STREAMS}; complete and acquire are one batch; the other: the same workers, who start each job",
            ),
            (
                "jobs by Acquire without reports, StreamUpdates",
                "jobs",
                StreamWorkers(bench, reports=0),
                StreamWorkers(bench, reports=0, starts=True),
                0.95,
                "create, hand-out, complete",
            ),
            (
                "lifecycles by Acquire, unary",
                "lifecycles",
                CallingWorkers(bench),
                Lifecycles(bench),
                None,
                f"{CALLERS} workers with up to {HANDS} jobs in hand: 5.06 calls for a job in place of 6",
            ),
            (
                "jobs by Acquire without reports, unary",
                "jobs",
                CallingWorkers(bench, reports=0),
                Lifecycles(bench, reports=0),
                1.3,
                "2.06 calls for a job in place of 3",
            ),
        ):
            samples = bench.alternate(partial(ours.run, server), partial(theirs.run, other))
            reach = "" if limit is None else f"≥ {limit:g} × started by hand"
            findings += compared(what, unit, *samples, reach=reach, limit=limit, note=note)
    return findings


def backlog(bench: Bench) -> list[Finding]:
    """Hand-outs out of few and of many jobs of five priorities that are ready."""
    sizes = bench.sizes.stored
    load = StreamWorkers(bench, reports=0, levels=EVERY_LEVEL)
    with bench.servers(*sizes, ready=True) as servers:
        few, *more = bench.alternate(*[partial(load.run, server) for server in servers])
    findings = []
    for size, many in zip(sizes[1:], more, strict=True):
        findings += compared(
            f"hand-outs with {size:,} jobs ready, of five priorities",
            "jobs",
            many,
            few,
            reach=f"≥ 0.9 × with {sizes[0]:,}",
            limit=0.9,
            note=f"{STREAMS}; each job handed out is completed, and another created",
        )
    return findings


_IN_BETWEEN = (
    "SELECT count(*) FROM event made JOIN event taken ON taken.job_id = made.job_id AND taken.type = 2"
    " JOIN event other ON other.sequence > made.sequence AND other.sequence < taken.sequence AND other.type = 2"
    " WHERE made.type = 1 AND made.job_id GLOB ? AND other.job_id NOT GLOB ?"
)
_TAKEN = "SELECT count(DISTINCT job_id) FROM event WHERE type = 2 AND job_id GLOB ?"
_TOOK = (
    "SELECT {}(taken.time - made.time) FROM event made JOIN event taken ON taken.job_id = made.job_id"
    " AND taken.type = 2 WHERE made.type = 1 AND made.job_id GLOB ?"
)
_URGENT_EACH_S = 0.02
_URGENT_HANDS = 10
_MANY = 10_000_000


def _create_urgent(bench: Bench, server: JobServer, job_id: str) -> None:
    body = messages.create_request(job_id, EVERY_LEVEL[-1]).SerializeToString()
    bench.load.calls(server.address, [[Request("Create", body)]], connections=1, in_flight=1)


def urgent(bench: Bench) -> list[Finding]:
    """URGENT jobs created while workers are busy with a backlog of NORMAL ones: what is handed out before each."""
    backlog_size = bench.sizes.stored[1]
    before, slowest, mean = [], [], []
    with bench.servers(0) as (server,), Load() as working:
        # Anew: a job that has waited for more than two steps of 10 minutes goes before an urgent one, as it should.
        make_ready(bench, server, [f"{bench.name('normal-')}-{number}" for number in range(backlog_size)])
        for _ in range(bench.runs):
            prefix = bench.name("urgent-")
            until, made, last = time.monotonic() + bench.sizes.window_s / 2, 0, f"{prefix}-last"
            plan = Plan(_MANY, _URGENT_HANDS, prefix=bench.name("normal-"), last=last)
            working.begin("stream_workers", server.address, plan, streams=CONNECTIONS, workers=WORKERS_A_STREAM)
            while time.monotonic() < until:
                _create_urgent(bench, server, f"{prefix}-{made}")
                made += 1
                wait(_URGENT_EACH_S)
            _create_urgent(bench, server, last)
            made += 1
            done: Worked = working.result()
            if done.tally.refused:
                raise Refused("; ".join(done.tally.problems))
            taken = server.count(_TAKEN, f"{prefix}-*")
            if taken != made:
                raise Untrue(f"of {made} urgent jobs {taken} were handed out")
            before.append(float(server.count(_IN_BETWEEN, f"{prefix}-*", f"{prefix}-*")))
            slowest.append(server.count(_TOOK.format("max"), f"{prefix}-*") / 1e6)
            mean.append(server.count(_TOOK.format("sum"), f"{prefix}-*") / 1e6 / made)
    return [
        Finding(
            f"URGENT jobs into {backlog_size:,} NORMAL ones: others handed out before them",
            "none: each goes to the next free hand",
            before,
            0.0,
            at_least=False,
            unit="",
            ours=f"after {spread(mean, ' ms', 1e3)}, at most {spread(slowest, ' ms', 1e3)}",
            note="by the log, all urgent jobs of a run together; 16 busy workers with up to 10 jobs in hand, "
            "who create a job for each that they take",
        )
    ]


def release(bench: Bench) -> list[Finding]:
    """Jobs given back and handed out anew, against jobs completed and others created."""
    jobs = bench.sizes.stream_lifecycles * CONNECTIONS
    ends = StreamWorkers(bench, reports=0)
    with bench.servers(0, 0) as (server, other):
        in_hand = CONNECTIONS * WORKERS_A_STREAM * BATCH
        make_ready(bench, server, [f"{bench.name('again-')}-{number}" for number in range(in_hand)])
        plan = Plan(jobs, BATCH, reports=0, makes=False, releases=True)

        def load() -> Worked:
            options = {"streams": CONNECTIONS, "workers": WORKERS_A_STREAM}
            done: Worked = bench.load.ask("stream_workers", server.address, plan, **options)
            return done

        ours, theirs = bench.alternate(lambda: worked(bench, server, load, plan)[0], partial(ends.run, other))
    note = f"{STREAMS}; the other: each completed, and another created and handed out"
    return compared("jobs released and handed out anew, StreamUpdates", "jobs", ours, theirs, note=note)
