"""The servers under load, each a process of its own, and what /proc and the store tell of them."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import grpc
import psycopg

from jobstate.v1 import maintenance_service_pb2 as maintenance
from jobstate.v1 import maintenance_service_pb2_grpc
from jobstate_server.domain.durations import SECOND
from jobstate_server.engine.acquires import LOOK_INTERVAL
from jobstate_server.engine.downtime import RENEW_INTERVAL

ROOT = Path(__file__).resolve().parents[2]
_SCHEDULED = 2
"""What clock_getcpuclockid(3) makes a clock of a process of: its number, and this kind."""
_STOPPED_WITHIN_S = 60.0

HARDLY_EVER = "0 0 29 2 *"
"""A schedule that does not fire during a run: a task that happens to run would be in one sample and not in the next."""

_TASKS = ("CHECK_STALE", "RETRY_FAILED", "EVICT_INACTIVE", "CLEANUP", "CHECK_HEALTH")
_MAX_RETRIES = {"JOBSTATE_JOB_TYPES__bench__MAX_RETRIES": "1000"}
_OPEN_STREAMS = {"JOBSTATE_OPEN_STREAMS_MAX": "20000"}


def cpu_seconds(pid: int) -> float:
    """Processor time, user and system, that a process has taken: as /proc tells it, but not in steps of 10 ms."""
    return time.clock_gettime(~pid << 3 | _SCHEDULED)


def resident_bytes(pid: int) -> int:
    """The memory that a process holds."""
    for line in Path(f"/proc/{pid}/status").read_text("ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(pid)


def environment(code: Path) -> dict[str, str]:
    """What makes a Python take our packages from this checkout, whichever is installed."""
    return {"PYTHONPATH": os.pathsep.join(str(code / part) for part in ("server", "client", "generated/python"))}


def looks_of_dispatch(seconds: float) -> int:
    """How many commands a server that hands out jobs has of its own in this time, at most.

    While workers wait it looks for jobs that another has made ready; and it looks when the first lease may have ended.
    """
    return 2 * (1 + int(seconds * SECOND / LOOK_INTERVAL))


class ServerFailed(Exception):
    """A server did not come up, or ended by itself."""


class Target:
    """A process that serves gRPC."""

    def __init__(
        self, command: Sequence[str], log: Path, env: dict[str, str] | None = None, folder: Path = ROOT
    ) -> None:
        """Start it in a folder, and wait until it says that it serves."""
        self.began = time.monotonic()
        clean = {name: value for name, value in os.environ.items() if not name.startswith("JOBSTATE_")}
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                command, cwd=folder, stdout=subprocess.PIPE, stderr=errors, env={**clean, **(env or {})}
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline().decode()
        if "serving on" not in line:
            raise ServerFailed(f"{' '.join(command)} said {line!r}, and in its log: {log.read_text()[-2000:]}")
        self.served = time.monotonic()
        self.address = line.split()[-1]

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def cpu(self) -> float:
        """Processor time taken so far, in seconds."""
        return cpu_seconds(self.pid)

    def memory(self) -> int:
        """Bytes of memory it holds."""
        return resident_bytes(self.pid)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it, and wait until it has ended."""
        if self._process.poll() is None:
            self._process.send_signal(number)
            try:
                self._process.wait(_STOPPED_WITHIN_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


@dataclass(frozen=True)
class Counters:
    """What the server and its store have counted so far."""

    commits: int
    commands: int
    head: int
    at: float
    """When they were read, on the monotonic clock."""


class Database(Protocol):
    """Where a server keeps its jobs, read as a program that is not ours reads it."""

    url: str
    log: Path
    """Where its servers write their logs."""

    def count(self, query: str, *values: object) -> int:
        """One number; ``?`` stands for each value."""


class File:
    """A SQLite file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = f"sqlite:///{path}"
        self.log = path.with_suffix(".log")

    def count(self, query: str, *values: object) -> int:
        with closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, timeout=30)) as connection:
            (number,) = connection.execute(query, values).fetchone()
        return int(number or 0)


class Postgres:
    """A database of a PostgreSQL server."""

    def __init__(self, url: str, log: Path) -> None:
        self.url = url
        self.log = log

    def count(self, query: str, *values: object) -> int:
        with psycopg.connect(self.url) as connection:
            row = connection.execute(query.replace("?", "%s").encode(), values).fetchone()
        return int(row[0] or 0) if row else 0


class JobServer(Target):
    """A jobstate server, all its settings as shipped but for the schedules of its tasks."""

    def __init__(self, store: Path | Database, code: Path = ROOT, settings: Mapping[str, str] | None = None) -> None:
        """Start one on a store, from a checkout of the repository. ``settings``: variables of its environment."""
        self.database: Database = File(store) if isinstance(store, Path) else store
        self.witnessed = 0
        """The newest event that was answered, and found in the store."""
        schedules = {f"JOBSTATE_SCHEDULES__{task}": HARDLY_EVER for task in _TASKS} | _OPEN_STREAMS
        command = [sys.executable, "-m", "jobstate_server", "serve", "--listen", "127.0.0.1:0"]
        command += ["--log-level", "warning", "--store", self.database.url]
        env = {**schedules, **_MAX_RETRIES, **environment(code), **(settings or {})}
        super().__init__(command, self.database.log, env, code)

    @property
    def store(self) -> Path:
        """The file of a server on SQLite."""
        assert isinstance(self.database, File)
        return self.database.path

    def counters(self) -> Counters:
        """Commits and commands as the server says, the log's head as the store says to a program that is not ours."""
        with grpc.insecure_channel(self.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            stub = maintenance_service_pb2_grpc.MaintenanceServiceStub(channel)
            health = stub.CheckHealth(maintenance.CheckHealthRequest())
        return Counters(health.commits, health.commands, self.count("SELECT head FROM log"), time.monotonic())

    def looks_max(self, seconds: float) -> int:
        """How many commands of its own it has in this time at most, if nothing is due."""
        del seconds
        return 0

    def count(self, query: str, *values: object) -> int:
        """One number out of the store."""
        return self.database.count(query, *values)


class Replicas(JobServer):
    """Several servers on one database, measured as one. Their addresses are separated by commas."""

    def __init__(self, database: Database, count: int, settings: Mapping[str, str] | None = None) -> None:
        self.servers = [JobServer(database, settings=settings) for _ in range(count)]
        self.database = database
        self.witnessed = 0
        self.address = ",".join(server.address for server in self.servers)

    def cpu(self) -> float:
        return sum(server.cpu() for server in self.servers)

    def memory(self) -> int:
        return sum(server.memory() for server in self.servers)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        for server in self.servers:
            server.stop(number)

    def counters(self) -> Counters:
        counted = [server.counters() for server in self.servers]
        return Counters(
            sum(one.commits for one in counted),
            sum(one.commands for one in counted),
            max(one.head for one in counted),
            time.monotonic(),
        )

    def looks_max(self, seconds: float) -> int:
        # Each looks for due jobs when it renews its lease, in case another has died.
        return len(self.servers) * (1 + int(seconds * SECOND / RENEW_INTERVAL))


class Echo(Target):
    """The echo server."""

    def __init__(self, folder: Path) -> None:
        super().__init__([sys.executable, "-m", "tests.bench.echo"], folder / "echo.log")


@contextmanager
def stopping(*targets: Target) -> Iterator[None]:
    """Stops the servers in the end, however it comes."""
    try:
        yield
    finally:
        for target in targets:
            target.stop()
