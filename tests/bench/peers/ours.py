"""jobstate itself on both stores: its workers, and callers that start each job by hand."""

from __future__ import annotations

import contextlib
import sqlite3
import sys
from collections.abc import Callable
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path

from ...support.postgres import own_server
from ..bench import Bench, Untrue
from ..load import Refused
from ..processes import JobServer, Postgres, Replicas, stopping
from ..worker_loads import CALLERS, HANDS, WORKERS_A_STREAM, CallingWorkers, StreamWorkers
from ..workloads import BATCH, CONNECTIONS, Lifecycles, StreamLifecycles, Workload
from .install import PROGRAMS
from .services import PeerFailed, postgres_version, sample
from .setting import REPORTS, Run, Setting, Trial, Work

_LOADS: dict[str, Callable[[Bench, int], Workload]] = {
    f"workers on `StreamUpdates`: {CONNECTIONS * WORKERS_A_STREAM} with {BATCH} jobs in hand": (
        lambda bench, reports: StreamWorkers(bench, reports=reports)
    ),
    f"workers in calls: {CALLERS} with {HANDS} jobs in hand": (
        lambda bench, reports: CallingWorkers(bench, reports=reports)
    ),
    f"without workers: started by hand, `StreamUpdates`, batches of {BATCH}": (
        lambda bench, reports: StreamLifecycles(bench, reports=reports)
    ),
    "without workers: started by hand, one update in each call, 64 calls under way": (
        lambda bench, reports: Lifecycles(bench, reports=reports)
    ),
}
"""Done by the load process. How many jobs a sample has is told by the sizes of the bench."""

_AT_ONCE = 1_000
_CLIENT_JOBS = {_AT_ONCE: 5_000, 1: 3_000}


def _loaded(bench: Bench, make: Callable[[Bench, int], Workload], server: JobServer) -> Run:
    loads = {reports: make(bench, reports) for reports in REPORTS}

    def run(work: Work) -> float:
        try:
            return loads[work.reports].run(server).rate
        except (Untrue, Refused) as error:
            raise PeerFailed(str(error)) from error

    for reports in loads:
        with contextlib.suppress(PeerFailed):
            run(Work(0, reports))  # Warms up.
    return run


def _client_run(server: JobServer, at_once: int, concurrency: int) -> Run:
    def run(work: Work) -> float:
        numbers = (work.jobs, work.reports, concurrency, at_once)
        command: list[str | Path] = [sys.executable, PROGRAMS / "jobstate_work.py", server.address, *map(str, numbers)]
        return sample(command, work.jobs)

    return run


def _client_settings(system: str, versions: str, server: JobServer, trial: Trial) -> list[Setting]:
    settings = []
    for at_once, how in ((_AT_ONCE, f"`create_many` of {_AT_ONCE:,}"), (1, "one job in each call, 64 calls under way")):
        trial.say(f"  {system}, Python client, {how}:")
        ways = [(f"concurrency {number}", _client_run(server, at_once, number)) for number in (64, 250)]
        name, run = trial.best(ways, 500)
        way = f"`AsyncClient.worker` in Python; {how}; {name}"
        settings.append(Setting(system, versions, way, "yes", run, _CLIENT_JOBS[at_once]))
    return settings


def jobstate(bench: Bench, stack: ExitStack, trial: Trial) -> list[Setting]:
    """Every way, on SQLite and on PostgreSQL; the servers run until the stack ends."""
    (on_file,) = stack.enter_context(bench.servers(0))
    database = stack.enter_context(own_server()).new_store()
    on_postgres = Replicas(Postgres(database, bench.folder / "jobstate-postgres.log"), 1)
    stack.enter_context(stopping(on_postgres))
    settings = []
    stores = (on_file, f"SQLite {sqlite3.sqlite_version}"), (on_postgres, f"PostgreSQL {postgres_version()}")
    for server, store in stores:
        system = f"**jobstate**, {store.split()[0]}"
        versions = f"jobstate {version('jobstate-grpc')}, {store}"
        for way, make in _LOADS.items():
            settings.append(Setting(system, versions, way, "yes", _loaded(bench, make, server), 0))
        settings += _client_settings(system, versions, server, trial)
    return settings
