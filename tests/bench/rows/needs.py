"""Jobs that need others: a long chain, and very many children of one parent."""

from __future__ import annotations

import threading
from functools import partial
from itertools import pairwise

from jobstate.v1 import job_service_pb2 as pb

from .. import messages
from ..bench import CREATING, Bench, until_counted
from ..load import Load, Refused
from ..messages import Request
from ..processes import JobServer
from ..samples import Finding, ratios, spread
from ..workers import Plan, Worked
from .disturbed import reported
from .waiting import create_round_trip, ready_within

_P99 = 0.99
_WAIT_S = 5.0
"""How long the worker of the chain waits for the next job: it is ready at once."""
_BEFORE_S = 0.3
"""How long the others call before the parent ends."""

_ENDED = "SELECT count(*) FROM event WHERE type = 5 AND job_id GLOB ?"
_HOP = (
    "SELECT took FROM (SELECT time - lag(time) OVER (ORDER BY sequence) AS took FROM event"
    " WHERE type = 5 AND job_id GLOB ?) WHERE took IS NOT NULL ORDER BY took LIMIT 1 OFFSET ?"
)
"""From the end of one job of a chain to the end of the next, in order."""


def _needing(job_id: str, parent: str) -> pb.CreateRequest:
    request = messages.create_request(job_id)
    request.needs.add(job_id=parent)
    return request


def _create(bench: Bench, server: JobServer, requests: list[pb.CreateRequest], *, in_order: bool = False) -> None:
    """Create these, 1,000 in a call."""
    calls = [
        Request("BatchCreate", pb.BatchCreateRequest(requests=requests[first : first + 1_000]).SerializeToString())
        for first in range(0, len(requests), 1_000)
    ]
    chains = [calls] if in_order else [[call] for call in calls]
    bench.load.calls(server.address, chains, connections=min(CREATING, len(chains)), in_flight=CREATING)


def chain(bench: Bench) -> list[Finding]:
    """Jobs each of which needs the one before, done by one worker that waits for the next."""
    count, hops, trips = bench.sizes.chain, [], []
    with bench.servers(0) as (server,):
        for _ in range(bench.runs):
            prefix = bench.name("link-")
            names = [f"{prefix}-{number}" for number in range(count)]
            links = [_needing(name, before) for before, name in pairwise(names)]
            _create(bench, server, [messages.create_request(names[0]), *links], in_order=True)
            plan = Plan(count, 1, reports=0, makes=False, wait_s=_WAIT_S)
            done: Worked = bench.load.ask("calling_workers", server.address, plan, connections=1, workers=1)
            if done.tally.refused:
                raise Refused("; ".join(done.tally.problems))
            until_counted(server, count, _ENDED, f"{prefix}-*")
            hops.append(server.count(_HOP, f"{prefix}-*", (count - 1) // 2) / 1e6)
            trips.append(create_round_trip(bench, server))
    return [
        Finding(
            f"a chain of {count:,} jobs: each hop, p50",
            "≤ 3 × a round trip",
            ratios(hops, trips),
            3.0,
            at_least=False,
            ours=spread(hops, " ms", 1e3),
            theirs=spread(trips, " ms", 1e3),
            note="by the log, from the end of a job to the end of the next: it becomes ready, the one worker, which"
            " waits, is answered, and completes it; the round trip is that of a durable Create",
        )
    ]


def fan_out_of_needs(bench: Bench) -> list[Finding]:
    """Very many jobs that need one, which ends under load."""
    count, seconds = bench.sizes.children, bench.sizes.window_s
    mine, others, took = [], [], []
    with bench.servers(0) as (server,), Load() as ending:
        job_ids = bench.live_jobs(server)
        for _ in range(bench.runs):
            parent = bench.name("parent-")
            others.append(reported(bench, server, job_ids, seconds).took_at(_P99))
            _create(bench, server, [messages.create_request(parent)])
            _create(bench, server, [_needing(f"{parent}.{number}", parent) for number in range(count)])
            start = Request("Start", messages.start_request(parent).SerializeToString())
            ending.calls(server.address, [[start]], connections=1, in_flight=1)
            head = server.counters().head
            complete = Request("Complete", messages.complete_request(parent).SerializeToString())
            end = partial(ending.calls, server.address, [[complete]], connections=1, in_flight=1)
            timer = threading.Timer(_BEFORE_S, end)
            timer.start()
            taken = reported(bench, server, job_ids, max(seconds, count / 10_000))
            timer.join()
            first, last = ready_within(server, head, count)
            mine.append(taken.took_at(_P99, (first, last)))
            took.append(last - first)
    what = f"{count:,} jobs become ready that need one"
    return [
        Finding(
            f"{what}: within",
            "≤ 15 s",
            took,
            15.0,
            at_least=False,
            unit=" s",
            ours=spread(took, " s"),
            note="while UpdateProgress is called",
        ),
        Finding(
            f"UpdateProgress while {what}: p99",
            "≤ 2 × undisturbed",
            ratios(mine, others),
            2.0,
            at_least=False,
            ours=spread(mine, " ms", 1e3),
            theirs=spread(others, " ms", 1e3),
            note="until all were ready; against the same server right before",
        ),
    ]
