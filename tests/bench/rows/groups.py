"""Groups: what a member's end costs in a large one, and how soon a group ends."""

from __future__ import annotations

from functools import partial

from jobstate.v1 import job_service_pb2 as pb

from .. import messages
from ..bench import Bench, Untrue, make_ready, until_counted
from ..messages import Request
from ..processes import JobServer
from ..samples import Finding, spread
from ..worker_loads import StreamWorkers
from ..workers import Plan, Worked
from ..workloads import CONNECTIONS, compared
from .hand_outs import STREAMS

_MEMBERS = 10
"""Of each of the groups whose ends are timed."""
_P99 = 0.99

_ENDED = "SELECT count(*) FROM event WHERE type = 5 AND job_id GLOB ?"

_ENDED_AFTER = (
    "SELECT ended.time - last.time FROM event AS ended JOIN"
    " (SELECT substr(job_id, 1, instr(job_id, '.') - 1) AS group_id, max(time) AS time FROM event"
    "  WHERE type = 5 AND job_id GLOB ? GROUP BY 1) AS last ON ended.job_id = last.group_id"
    " WHERE ended.type = 5 ORDER BY 1 LIMIT 1 OFFSET ?"
)
"""Of the groups whose members have ids of this form, in order: how long after its last member a group ended."""


def create_group(bench: Bench, server: JobServer, group_id: str) -> None:
    """Create a group without members."""
    body = messages.group_request(group_id).SerializeToString()
    bench.load.calls(server.address, [[Request("Create", body)]], connections=1, in_flight=1)


def close_group(bench: Bench, server: JobServer, group_id: str) -> None:
    """Say that a group has all its members."""
    body = pb.CloseGroupRequest(id=group_id).SerializeToString()
    bench.load.calls(server.address, [[Request("CloseGroup", body)]], connections=1, in_flight=1)


def _ends(bench: Bench) -> list[Finding]:
    """Hand-outs and ends of a large group's members, against the same jobs in none."""
    count, group_id = bench.sizes.members, bench.name("large-")
    members, plain = StreamWorkers(bench, reports=0, group_id=group_id), StreamWorkers(bench, reports=0)
    with bench.servers(0, 0) as (grouped, other):
        create_group(bench, grouped, group_id)
        for server, name in ((grouped, group_id), (other, "")):
            make_ready(bench, server, [f"{bench.name('ready-')}-{each}" for each in range(count)], group_id=name)
        ours, theirs = bench.alternate(partial(members.run, grouped), partial(plain.run, other))
    return compared(
        f"jobs of a group of {count:,} by Acquire",
        "jobs",
        ours,
        theirs,
        reach="≥ 0.9 × without a group",
        limit=0.9,
        note=f"{STREAMS}; each job handed out is completed, and another member created",
    )


def _last_end(bench: Bench) -> Finding:
    """How long after its last member a group ends."""
    count, slowest, middle = bench.sizes.races, [], []
    with bench.servers(0) as (server,):
        for _ in range(bench.runs):
            prefix = bench.name("small-")
            names = [f"{prefix}-{number}" for number in range(count)]
            for name in names:
                create_group(bench, server, name)
                make_ready(bench, server, [f"{name}.{each}" for each in range(_MEMBERS)], group_id=name)
                close_group(bench, server, name)
            plan = Plan(count * _MEMBERS, _MEMBERS, reports=0, makes=False)
            done: Worked = bench.load.ask("calling_workers", server.address, plan, connections=CONNECTIONS, workers=4)
            if done.tally.refused:
                raise Untrue("; ".join(done.tally.problems))
            until_counted(server, count * (_MEMBERS + 1), _ENDED, f"{prefix}-*")
            at = [server.count(_ENDED_AFTER, f"{prefix}-*.*", int(share * count)) / 1e3 for share in (_P99, 0.5)]
            slowest.append(at[0])
            middle.append(at[1])
    return Finding(
        "last member's end → the group's end: p99",
        "≤ 20 ms",
        slowest,
        20.0,
        at_least=False,
        unit=" ms",
        ours=spread(slowest, " ms"),
        note=f"by the log; {count:,} groups of {_MEMBERS} members, worked on one after the other; p50"
        f" {spread(middle, ' ms')}",
    )


def groups(bench: Bench) -> list[Finding]:
    """What a group costs its members, and how soon it ends after them."""
    return [*_ends(bench), _last_end(bench)]
