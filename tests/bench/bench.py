"""What all rows share: sizes, scratch folder, load process, servers on empty or well filled stores, the witness."""

from __future__ import annotations

import hashlib
import shutil
import signal
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import messages
from .load import Load
from .messages import Level, Request
from .processes import ROOT, Counters, Echo, JobServer, looks_of_dispatch, stopping
from .samples import Sample

SCRATCH = ROOT / ".bench"
"""Where filled stores are kept between runs, and the figures of the last ones. Not committed."""


CREATING = 2
"""Calls that create jobs for a row, each on its own connection: the server ends a connection that has none."""


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    calls: int = 20_000
    lifecycles: int = 3_000
    live_jobs: int = 1_000
    stream_batches: int = 100
    stream_lifecycles: int = 2_500
    create_batches: int = 20
    fan_out_events: int = 20_000
    fan_out_echoed: int = 500
    fan_out_watchers: int = 100
    races: int = 500
    idle_watchers: int = 5_000
    stored: tuple[int, ...] = (1_000, 100_000, 1_000_000)
    retries: int = 100_000
    window_s: float = 8.0
    disk_updates: int = 100_000
    parked: int = 9_300
    """Of the 10,000 that a server takes the last sixteenth is for connections that have none."""
    few_parked: int = 10
    creates_per_second: int = 100
    lanes: int = 50_000
    limited_workers: int = 1_000
    members: int = 100_000
    children: int = 100_000
    chain: int = 1_000


QUICK = Sizes(
    calls=1_000,
    lifecycles=100,
    live_jobs=200,
    stream_batches=10,
    stream_lifecycles=100,
    create_batches=2,
    fan_out_events=500,
    fan_out_echoed=20,
    fan_out_watchers=20,
    races=50,
    idle_watchers=200,
    stored=(200, 1_000, 3_000),
    retries=1_000,
    window_s=1.0,
    disk_updates=2_000,
    parked=300,
    few_parked=10,
    lanes=500,
    limited_workers=60,
    members=1_000,
    children=1_000,
    chain=50,
)
"""To see in a minute that the harness works; the figures mean nothing."""


class Untrue(Exception):
    """The server answered more than its store holds, or its counters say something else than the load."""


def wait(seconds: float) -> None:
    """Let time pass. What is waited for here is a moment, not a condition."""
    threading.Event().wait(max(0.0, seconds))


class Bench:
    """One run of the benchmark."""

    def __init__(self, runs: int, sizes: Sizes, load: Load, folder: Path) -> None:
        self.runs = runs
        self.sizes = sizes
        self.load = load
        self.folder = folder
        self.witnessed = 0
        """Events that were answered and then found in a store."""
        self.commits = 0
        """Transactions that the servers made of them."""
        self._names = 0

    def name(self, prefix: str) -> str:
        """A name that was not used before."""
        self._names += 1
        return f"{prefix}{self._names}"

    def say(self, text: str) -> None:
        """Tell whoever waits what is going on."""
        print(text, file=sys.stderr, flush=True)

    # Servers

    @contextmanager
    def servers(self, *stored: int, ready: bool = False) -> Iterator[list[JobServer]]:
        """A server for each number of jobs that its store is to hold already: done, or ``ready`` to be handed out."""
        servers = []
        for count in stored:
            store = self.folder / self.name("store") / "jobs.db"
            store.parent.mkdir()
            if count:
                self._copy(filled_store(self, count, ready=ready), store)
            servers.append(JobServer(store))
        try:
            with stopping(*servers):
                yield servers
                for server in servers:
                    self._outlives_a_kill(server)
        finally:
            for server in servers:
                shutil.rmtree(server.store.parent, ignore_errors=True)

    @staticmethod
    def _outlives_a_kill(server: JobServer) -> None:
        """End the server as a crash does, and see that its file still holds all that was answered."""
        server.stop(signal.SIGKILL)
        with closing(sqlite3.connect(server.store)) as connection:
            (head,) = connection.execute("SELECT head FROM log").fetchone()
            (newest,) = connection.execute("SELECT max(sequence) FROM event").fetchone()
        if head < server.witnessed or (newest or 0) < server.witnessed:
            raise Untrue(f"of {server.witnessed} events that were answered a killed server kept {head}")

    @staticmethod
    def _copy(source: Path, store: Path) -> None:
        shutil.copyfile(source, store)

    @contextmanager
    def server_and_echo(self, stored: int = 0) -> Iterator[tuple[JobServer, Echo]]:
        """A server and an echo beside it."""
        with self.servers(stored) as (server,):
            echo = Echo(self.folder)
            with stopping(echo):
                yield server, echo

    def live_jobs(self, server: JobServer, count: int | None = None) -> list[str]:
        """Jobs whose first attempt has begun."""
        prefix = self.name("live-")
        job_ids = [f"{prefix}-{number}" for number in range(self.sizes.live_jobs if count is None else count)]
        for start in range(0, len(job_ids), 10_000):
            lives = [messages.lifecycle(job_id) for job_id in job_ids[start : start + 10_000]]
            bodies = []
            for begin in range(0, len(lives), 500):
                part = lives[begin : begin + 500]
                bodies.append(messages.batch(begin, [life[step] for step in (0, 1) for life in part]))
            self.load.batches(server.address, [bodies])
        return job_ids

    # Measuring

    def witness(
        self, server: JobServer, before: Counters, events: int, commands: int, *, hands_out: bool = False
    ) -> None:
        """Hold what was answered against the server's counters and the rows of its store.

        A server that hands out jobs has commands of its own, which the counters include.

        Raises:
            Untrue: they do not agree, so the sample must not count.
        """
        after = server.counters()
        stored = server.count("SELECT count(*) FROM event WHERE sequence > ?", before.head)
        counted, looks = after.commands - before.commands, server.looks_max(after.at - before.at)
        if hands_out:
            looks += looks_of_dispatch(after.at - before.at)
        if not commands <= counted <= commands + looks:
            raise Untrue(f"{commands} commands were answered, the server counts {counted}")
        if not stored == after.head - before.head == events:
            raise Untrue(f"{events} events were to come of what was answered, the store holds {stored}")
        if events and not 0 < after.commits - before.commits <= counted:
            raise Untrue(f"{commands} commands took {after.commits - before.commits} commits")
        self.witnessed += events
        self.commits += after.commits - before.commits
        server.witnessed = after.head

    def alternate(self, *measures: Callable[[], Sample]) -> list[list[Sample]]:
        """Take each measure in turn, A B A B, as many times as there are runs; returns the samples of each."""
        for measure in measures:
            measure()  # The first of each warms up: imports, caches, the CPU's clock.
        samples: list[list[Sample]] = [[] for _ in measures]
        for _ in range(self.runs):
            for index, measure in enumerate(measures):
                samples[index].append(measure())
        return samples


@contextmanager
def bench(runs: int, sizes: Sizes) -> Iterator[Bench]:
    """A benchmark with all that it needs, cleared away in the end."""
    with tempfile.TemporaryDirectory(prefix="jobstate-bench-") as folder, Load() as load:
        yield Bench(runs, sizes, load, Path(folder))


def _format_of_the_store() -> str:
    """Names what a filled store depends on, so that one of an older format is not used again."""
    digest = hashlib.sha256()
    server = ROOT / "server" / "jobstate_server"
    written = ("store/**/*.py", "store/**/*.sql", "wire/*.py")
    for path in [*sorted(path for pattern in written for path in server.glob(pattern)), Path(messages.__file__)]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def filled_store(bench: Bench, count: int, *, ready: bool = False) -> Path:
    """A store with this many jobs, made by the server itself, and kept.

    They are done, or ``ready`` to be handed out, of all priorities in turn.
    """
    folder = SCRATCH / "stores"
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{count}-{'ready' if ready else 'done'}"
    store = folder / f"{name}-{_format_of_the_store()}.db"
    if store.exists():
        return store
    bench.say(f"  filling a store with {count:,} jobs ...")
    for old in folder.glob(f"{name}-*"):
        old.unlink()
    making = bench.folder / bench.name("making") / "jobs.db"
    making.parent.mkdir()
    began = time.monotonic()
    server = JobServer(making)
    with stopping(server):
        for start in range(0, count, 20_000):
            job_ids = stored_ids(count)[start : start + 20_000]
            _fill(bench, server, job_ids, ready=ready)
    with closing(sqlite3.connect(making)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (made,) = connection.execute("SELECT count(*) FROM job WHERE state = ?", (1 if ready else 3,)).fetchone()
    if made != count:
        raise Untrue(f"of {count} jobs {made} were made")
    shutil.move(making, store)
    bench.say(f"  ... filled in {time.monotonic() - began:.0f} s")
    return store


def _fill(bench: Bench, server: JobServer, job_ids: Sequence[str], *, ready: bool) -> None:
    if ready:
        make_ready(bench, server, job_ids, messages.EVERY_LEVEL)
        return
    halves = [job_ids[::2], job_ids[1::2]]
    bench.load.batches(server.address, [messages.whole_lives_batches(half, 300) for half in halves])


def make_ready(
    bench: Bench,
    server: JobServer,
    job_ids: Sequence[str],
    levels: Sequence[Level] = messages.ONE_LEVEL,
    lanes: int = 1,
    group_id: str = "",
) -> None:
    """Create these jobs, 1,000 in a call, in order, in so many lanes in turn."""
    parts = [(first, job_ids[first : first + 1_000]) for first in range(0, len(job_ids), 1_000)]
    chains = [
        [Request("BatchCreate", messages.batch_create(part, levels, lanes, first, group_id=group_id))]
        for first, part in parts
    ]
    bench.load.calls(server.address, chains, connections=CREATING, in_flight=CREATING)


COUNTED_WITHIN_S = 120.0


def until_counted(server: JobServer, count: int, query: str, *values: object) -> None:
    """Wait until the store has so many.

    Raises:
        Untrue: it still has fewer after two minutes.
    """
    deadline = time.monotonic() + COUNTED_WITHIN_S
    while (counted := server.count(query, *values)) < count:
        if time.monotonic() > deadline:
            raise Untrue(f"{count} were to be counted, after two minutes there are {counted}: {query}")
        wait(0.2)


def stored_ids(count: int) -> Sequence[str]:
    """The ids of the jobs in a filled store."""
    return [f"stored-{number}" for number in range(count)]
