"""Groups beside flows and chords: so many members, until what ends after the last of them has ended."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

from ..bench import Bench, make_ready, until_counted
from ..rows.groups import close_group, create_group
from ..worker_loads import WORKERS_A_STREAM
from ..workers import Plan, Worked
from ..workloads import BATCH, CONNECTIONS
from . import install
from .services import PeerFailed, redis, sample
from .setting import Run, Setting, Trial, Work
from .systems import bullmq_versions, celery_versions, celery_worker, redis_setting, yes

MEMBERS = 10_000
_CELERY_POOL = ("-P", "prefork", "-c", "2")

_ENDED = "SELECT count(*) FROM event WHERE type = 5 AND job_id = ?"


def jobstate_group(bench: Bench, stack: ExitStack) -> list[Setting]:
    """Members created 1,000 in a call, then worked off over streams, until the group has ended."""
    (server,) = stack.enter_context(bench.servers(0))

    def run(work: Work) -> float:
        group_id, began = bench.name("group-"), time.monotonic()
        create_group(bench, server, group_id)
        make_ready(bench, server, [f"{group_id}.{number}" for number in range(work.jobs)], group_id=group_id)
        close_group(bench, server, group_id)
        plan = Plan(work.jobs, BATCH, reports=0, makes=False)
        done: Worked = bench.load.ask(
            "stream_workers", server.address, plan, streams=CONNECTIONS, workers=WORKERS_A_STREAM
        )
        if done.tally.refused:
            raise PeerFailed("; ".join(done.tally.problems))
        until_counted(server, 1, _ENDED, group_id)
        return work.jobs / (time.monotonic() - began)

    workers = CONNECTIONS * WORKERS_A_STREAM
    way = f"`BatchCreate` of 1,000; then workers on `StreamUpdates`, {workers} with {BATCH} in hand"
    return [Setting("**jobstate**, a group", "", way, "yes", run, MEMBERS)]


def bullmq_flow(trial: Trial) -> list[Setting]:
    """A flow, on a Redis that fsyncs and on one as it is shipped."""
    install.node()

    def run_on(*, durable: bool) -> Run:
        def run(work: Work) -> float:
            with redis(trial.new("bullmq"), durable=durable) as port:
                numbers = (port, work.jobs, 64)
                return sample([*install.node_program("bullmq_flow"), *map(str, numbers)], work.jobs)

        return run

    return [
        Setting(
            "BullMQ, a flow",
            bullmq_versions(),
            f"{redis_setting(durable=durable)}; `FlowProducer.add`, worked off as it comes; concurrency 64",
            yes(durable=durable),
            run_on(durable=durable),
            MEMBERS,
        )
        for durable in (True, False)
    ]


def celery_chord(trial: Trial) -> list[Setting]:
    """A chord, on a Redis that fsyncs and on one as it is shipped."""
    python: str | Path = install.python() / "python"

    def run_on(*, durable: bool) -> Run:
        def run(work: Work) -> float:
            with redis(trial.new("celery"), durable=durable) as port:
                env = {"BENCH_REDIS": f"redis://127.0.0.1:{port}/0", "BENCH_REPORTS": "0"}
                with celery_worker(_CELERY_POOL, env, trial.new("celery.log"), work.jobs // 10 + 1):
                    command = [python, "celery_work.py", str(work.jobs), "chord"]
                    return sample(command, work.jobs, env, install.PROGRAMS)

        return run

    return [
        Setting(
            "Celery, a chord",
            celery_versions(),
            f"{redis_setting(durable=durable)}; `chord(...)(end)`, worked off as it comes; prefork, 2 processes",
            yes(durable=durable),
            run_on(durable=durable),
            MEMBERS // 5,
        )
        for durable in (True, False)
    ]
