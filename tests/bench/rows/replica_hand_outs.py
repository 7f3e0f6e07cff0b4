"""Hand-outs on replicas that share one PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import psycopg

from ..bench import Bench, Untrue, make_ready
from ..load import sample
from ..processes import Postgres, Replicas
from ..samples import Finding, Sample, percentile, ratios, spread
from ..worker_loads import CallingWorkers, StreamWorkers
from ..workloads import compared
from .hand_outs import STREAMS
from .replicas import groups_of_replicas
from .waiting import create_round_trip

_SHARED = "servers, PostgreSQL and the load share this machine's cores"
_JOBS_PER_SECOND = 800


def replica_hand_outs(bench: Bench) -> list[Finding]:
    """Lives whose start is a hand-out on one and on three replicas, against lives that are started by hand there."""
    findings: list[Finding] = []
    with groups_of_replicas(bench, 1, 3) as groups:
        handed, started = StreamWorkers(bench), StreamWorkers(bench, starts=True)
        measures: list[Callable[[], Sample]] = []
        for group in groups:
            measures += [partial(handed.run, group), partial(started.run, group)]
        one, one_started, three, three_started = bench.alternate(*measures)
    for what, ours, theirs in (("one replica", one, one_started), ("three replicas", three, three_started)):
        findings += compared(
            f"PostgreSQL, {what}: lifecycles by Acquire, StreamUpdates",
            "lifecycles",
            ours,
            theirs,
            reach="≥ 0.9 × started by hand",
            limit=0.9,
            note=f"{STREAMS}; {_SHARED}",
        )
    findings += compared(
        "PostgreSQL: three replicas against one, lifecycles by Acquire",
        "lifecycles",
        three,
        one,
        reach="≥ 2 × one",
        limit=2.0,
        note=_SHARED,
    )[:1]
    return findings


def replica_hand_out_latency(bench: Bench) -> list[Finding]:
    """How soon a worker that waits at another replica has the job."""
    heard, answered, slowest = [], [], []
    with groups_of_replicas(bench, 2) as (pair,):
        for _ in range(bench.runs):
            names = [f"{bench.name('across-')}-{number}" for number in range(bench.sizes.races)]
            _, spans = bench.load.ask("hand_out_race", pair.address, names)
            heard.append(percentile(spans, 0.5))
            slowest.append(percentile(spans, 0.99))
            answered.append(create_round_trip(bench, pair.servers[0]))
    return [
        Finding(
            "PostgreSQL: Create → idle worker at another replica has the job: p50",
            "≤ 3 × the round trip",
            ratios(heard, answered),
            3.0,
            at_least=False,
            ours=spread(heard, " ms", 1e3),
            theirs=spread(answered, " ms", 1e3),
            note=f"p99 {spread(slowest, ' ms', 1e3)}; the round trip is that of a Create for which nobody waits",
        )
    ]


def held_snapshot(bench: Bench) -> list[Finding]:
    """Hand-outs while somebody's transaction keeps PostgreSQL from clearing away what they leave behind."""
    mine: list[float] = []
    others: list[float] = []
    load = CallingWorkers(bench, reports=0, hands=1, jobs=int(_JOBS_PER_SECOND * bench.sizes.window_s))

    def run(group: Replicas, took: list[float]) -> Sample:
        taken = load.run(group)
        took.append(percentile(load.acquired, 0.99))
        return taken

    def held(group: Replicas) -> Sample:
        assert isinstance(group.database, Postgres)
        with psycopg.connect(group.database.url) as connection:
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            connection.execute("SELECT count(*) FROM log")
            return run(group, mine)

    with groups_of_replicas(bench, 1, 1) as (clogged, clear):
        with_it, without = bench.alternate(partial(held, clogged), partial(run, clear, others))
    return [
        Finding(
            "PostgreSQL: Acquire while another transaction holds a snapshot: p99",
            "≤ 2 × without",
            ratios(mine[1:], others[1:]),
            2.0,
            at_least=False,
            ours=spread(mine[1:], " ms", 1e3),
            theirs=spread(others[1:], " ms", 1e3),
            note=f"one replica, 64 workers with one job in hand; {spread([each.rate for each in with_it])} jobs/s of"
            f" {spread([each.rate for each in without])}, a database of its own for each",
        )
    ]


_LIMIT = 10
_ROUNDS = 8
"""Jobs one after the other in each place."""

_MOST_AT_ONCE = (
    "SELECT max(running) FROM (SELECT sum(CASE type WHEN 2 THEN 1 ELSE -1 END) OVER (ORDER BY sequence) AS running"
    " FROM event WHERE sequence > ? AND type IN (2, 5)) AS counted"
)
_TOOK = (
    "SELECT max(CASE type WHEN 5 THEN time END) - min(CASE type WHEN 2 THEN time END) FROM event"
    " WHERE sequence > ? AND type IN (2, 5)"
)


def replica_limit(bench: Bench) -> list[Finding]:
    """Very many workers at three replicas, and a limit of ten: how many run at once, and how well places are used."""
    seconds, jobs, workers = bench.sizes.window_s / _ROUNDS, _LIMIT * _ROUNDS, bench.sizes.limited_workers
    shares: list[float] = []
    most: list[float] = []
    with groups_of_replicas(bench, 3, JOBSTATE_JOB_TYPES__bench__CONCURRENCY=str(_LIMIT)) as (group,):
        for _ in range(bench.runs):
            names = [f"{bench.name('limited-')}-{number}" for number in range(jobs)]
            make_ready(bench, group, names)
            head = group.counters().head
            done = sample(bench.load.ask("limited_workers", group.address, jobs, workers=workers, seconds=seconds))
            if not done.ops == jobs == group.count("SELECT count(*) FROM event WHERE sequence > ? AND type = 5", head):
                raise Untrue(f"{jobs} jobs were to be done, and {done.ops} were")
            bench.witnessed += 3 * jobs
            most.append(float(group.count(_MOST_AT_ONCE, head)))
            shares.append(_ROUNDS * seconds / (group.count(_TOOK, head) / 1e6))
    what = f"PostgreSQL, three replicas, {workers:,} workers, at most {_LIMIT} at once"
    return [
        Finding(
            f"{what}: running at once, by the log",
            f"never {_LIMIT + 1}",
            [max(most)],
            float(_LIMIT),
            at_least=False,
            unit="",
            note=f"the most of {bench.runs} runs",
        ),
        Finding(
            f"{what}: share of the time that the limit allows",
            "≥ 0.95",
            shares,
            0.95,
            unit="",
            note=f"{jobs} jobs of {seconds:g} s; by the log, from the first hand-out to the last end; {_SHARED}",
        ),
    ]
