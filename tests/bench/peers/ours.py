"""jobstate itself, both ways and on both stores."""

from __future__ import annotations

import contextlib
import sqlite3
from contextlib import ExitStack
from importlib.metadata import version

from ...support.postgres import own_server
from ..bench import Bench, Untrue
from ..processes import JobServer, Postgres, Replicas, stopping
from ..workloads import Lifecycles, StreamLifecycles
from .services import PeerFailed, postgres_version
from .setting import REPORTS, Run, Setting, Work


def _run(bench: Bench, kind: type[Lifecycles | StreamLifecycles], server: JobServer) -> Run:
    loads = {reports: kind(bench, reports=reports) for reports in REPORTS}

    def run(work: Work) -> float:
        # How many jobs a sample has is told by the sizes of the bench.
        try:
            return loads[work.reports].run(server).rate
        except Untrue as error:
            raise PeerFailed(str(error)) from error

    for reports in loads:
        with contextlib.suppress(PeerFailed):
            run(Work(0, reports))  # Warms up.
    return run


def jobstate(bench: Bench, stack: ExitStack) -> list[Setting]:
    """Calls and streams, on SQLite and on PostgreSQL; the servers run until the stack ends."""
    (on_file,) = stack.enter_context(bench.servers(0))
    database = stack.enter_context(own_server()).new_store()
    on_postgres = Replicas(Postgres(database, bench.folder / "jobstate-postgres.log"), 1)
    stack.enter_context(stopping(on_postgres))
    ways: list[tuple[type[Lifecycles | StreamLifecycles], str]] = [
        (StreamLifecycles, "`StreamUpdates`, batches of 100"),
        (Lifecycles, "one update in each call, 64 calls under way"),
    ]
    settings = []
    stores = (on_file, f"SQLite {sqlite3.sqlite_version}"), (on_postgres, f"PostgreSQL {postgres_version()}")
    for server, store in stores:
        for kind, way in ways:
            versions = f"jobstate {version('jobstate-grpc')}, {store}"
            run = _run(bench, kind, server)
            settings.append(Setting(f"**jobstate**, {store.split()[0]}", versions, way, "yes", run, 0))
    return settings
