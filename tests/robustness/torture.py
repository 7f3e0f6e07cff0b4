"""Torture: rounds of real servers, many clients, watchers of every kind and a nemesis; then every promise is checked.

``python -m tests.robustness.torture --duration 10m [--seed N] [--store postgres --replicas 3]``. A round that fails
prints its seed and keeps its history under ``.torture/``; ``--check FILE`` judges a kept history again.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import secrets
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from ..support.postgres import PostgresServer, own_server
from ..support.waiting import pause
from .clients import Shared
from .company import Company
from .database import Database
from .endgame import gather_final_state
from .groups import BY_GROUP
from .history import ANSWERED, History, LogEntry, delivered
from .loading import load
from .needs import BY_NEED
from .nemesis import Nemesis
from .process import ROOT, ServerProcess
from .recording import Recorder
from .recurrences import is_recurring
from .relations import asked
from .replicas import ReplicaNemesis
from .server_process import RELEASES_MAX, policies
from .validators import Verdict, validate
from .world import is_group

MEETS_S = 60.0
"""How long a round goes on at most for what its clients are to meet."""

SETTLES_S = 0.5
"""After the last fault: what it broke is mended."""

CALM_S = {"sqlite": 0.5, "postgres": 7.0}
"""How long nothing is done then. Replicas are held to finding work that others made, and have some seconds for it."""

MEMORY_GROWTH_MAX_KIB = 128 * 1024
"""What a server may grow by from its first sample: caches fill, watchers come."""

KEPT = ROOT / ".torture"

COMPLAINTS_MAX = 10
"""Lines told of what servers logged; the rest is in the logs that are kept."""

STORES = ("sqlite", "postgres")

REPLICAS = {"sqlite": 1, "postgres": 3}
"""Servers on one store unless it is said: of three one can be frozen and one killed while the third serves."""

REPLICAS_MAX = 9
"""Each takes six of the hundred connections that PostgreSQL has, and those of one just killed linger."""

ROUND_S = {"sqlite": 20.0, "postgres": 40.0}
"""How long a store lives unless it is said. What happens to PostgreSQL takes longer."""


@dataclass
class Tally:
    """What came of one or more rounds."""

    rounds: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    checked: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)

    def add(self, history: History, verdicts: dict[str, Verdict], counts: Counter[str]) -> None:
        """Add a round."""
        self.rounds += 1
        self.counts.update(counts)
        self.counts["calls answered"] += sum(call.outcome == ANSWERED for call in history.calls)
        self.counts["calls repeated"] += sum(call.tries > 1 for call in history.calls)
        self.counts["calls"] += len(history.calls)
        self.counts["events written"] += len(history.log)
        self.counts["events compacted"] += history.horizon
        self.counts["events checked"] += sum(len(delivered(s)) for w in history.watchers for s in w.streams)
        self.counts["events erased"] += sum(entry.is_erased for entry in history.log)
        self.counts["jobs"] += len({entry.event.job_id for entry in history.log})
        self.counts.update(name for entry in history.log for name in _kinds(entry))
        for name, verdict in verdicts.items():
            self.checked[name] += verdict.checked
            self.failures[name] += verdict.failures

    def told(self) -> str:
        """As text, promise by promise."""
        lines = [f"{self.rounds} rounds"]
        lines += [f"  {name:28} {count:>12,}" for name, count in sorted(self.counts.items())]
        for name, checked in self.checked.items():
            lines.append(f"  {name:28} {checked:>12,} checked, {self.failures[name]:,} broken")
        return "\n".join(lines)


def _kinds(entry: LogEntry) -> Iterator[str]:
    """What an event is about, if it is about labels, needs, groups or the creation by anything but Create."""
    if entry.event.type == "QUEUED":
        if entry.event.labels:
            yield "jobs with labels"
        if "recreated_from" in entry.job:
            yield "jobs recreated"
        if is_recurring(entry):
            yield "recurring jobs"
        if asked(entry).get("needs"):
            yield "jobs with needs"
        if is_group(entry):
            yield "groups"
        if "group_id" in entry.job:
            yield "members"
    if entry.event.type in {"COMPLETED", "PERMANENTLY_FAILED"} and is_group(entry):
        yield f"groups {entry.event.type}"
    cause = entry.job.get("cancel_cause")
    if entry.event.type == "CANCELLED" and cause in {BY_NEED, BY_GROUP}:
        yield f"cancelled for a {'need' if cause == BY_NEED else 'group'}"


@dataclass(frozen=True)
class Scene:
    """Where a round takes place."""

    directory: Path
    servers: list[ServerProcess]
    database: Database | None = None
    """What they share, if they do."""

    @staticmethod
    def of_one(directory: Path) -> Scene:
        """One server on a file."""
        return Scene(directory, [ServerProcess(directory, small=True, recurring=True)])

    @staticmethod
    def of_replicas(directory: Path, postgres: PostgresServer, replicas: int) -> Scene:
        """Several servers on a new store in PostgreSQL."""
        database = Database(postgres)
        names = [f"replica-{number}" for number in range(1, replicas + 1)]
        servers = [
            ServerProcess(directory, small=True, url=database.url_of(name), name=name, recurring=True) for name in names
        ]
        return Scene(directory, servers, database)

    async def start(self) -> None:
        """Start all servers."""
        await asyncio.gather(*(server.start() for server in self.servers))

    async def nemesis(self, shared: Shared, rng: random.Random) -> Nemesis:
        """One that knows what there is to harm."""
        stubs = await shared.stubs()
        if self.database is None:
            return Nemesis(self.servers, stubs, rng, shared.present)
        return ReplicaNemesis(self.database, self.servers, stubs, rng, shared.present)

    async def stop(self) -> None:
        """Make sure that no server is left."""
        for server in self.servers:
            await server.stop()


async def torment(
    scene: Scene, seed: str, duration_s: float, kills_min: int = 0, meets: Collection[str] = ()
) -> tuple[History, Counter[str]]:
    """One round.

    Args:
        meets: what the clients meet in it, even if it takes a busy machine longer.
    """
    rng = random.Random(seed)
    recorder = Recorder()
    history = History(seed=seed, positions=recorder.positions, memory_growth_max_kib=MEMORY_GROWTH_MAX_KIB)
    history.store = "sqlite" if scene.database is None else "postgres"
    history.policies, history.releases_max = policies(), RELEASES_MAX
    try:
        await scene.start()
        shared = Shared([server.address for server in scene.servers], recorder, history.calls, history.acquires)
        async with shared.stack, asyncio.TaskGroup() as group:
            company = Company(shared, seed, group)
            await company.begin(history)
            nemesis = await scene.nemesis(shared, rng)
            async with abused(shared.addresses, seed) as attacks:
                await nemesis.run(Shared.now() + duration_s, kills_min)
                await _until_met(company, meets)
                history.calm = await calm(history.store)
            # Only now the clients, whose repeats need a server, are called home.
            company.call_home()
        history.faults, history.memory = nemesis.faults, nemesis.memory
        history.pauses, history.configured = shared.pauses, nemesis.configured
        history.bulks, history.erasings = shared.bulks, shared.erasings
        await gather_final_state(scene.servers, history, recorder, rng)
        history.recounted = [*nemesis.recounted, *history.recounted]
        history.complaints = [line for server in scene.servers for line in server.complaints]
    finally:
        await scene.stop()
    met = Counter({NAMED.get(name, name): count for name, count in nemesis.counts.items()})
    met["server starts"] = sum(server.starts for server in scene.servers)
    return history, met + company.met() + attacks


async def _until_met(company: Company, names: Collection[str]) -> None:
    """Let the clients go on until they have met all of this, or are past hope."""
    until = Shared.now() + MEETS_S
    while not all(map(company.met().__getitem__, names)) and Shared.now() < until:
        await pause(0.2)


async def calm(store: str) -> tuple[float, float]:
    """Let the clients go on for a while without faults. Returns from when until when."""
    await pause(SETTLES_S)
    since = Shared.now()
    await pause(CALM_S[store])
    return since, Shared.now()


@asynccontextmanager
async def abused(addresses: Sequence[str], seed: str) -> AsyncIterator[Counter[str]]:
    """An abuser at work on these servers. What it did is counted at the end."""
    attacks: Counter[str] = Counter()
    command = [sys.executable, "-m", "tests.robustness.abuser", seed, *addresses]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
    try:
        yield attacks
        assert process.returncode is None, f"the abuser has ended with {process.returncode}"
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        told, _ = await process.communicate()
        attacks.update(f"abuse: {name}" for name in told.decode().splitlines())


NAMED = {"kill": "kills", "stop": "stops", "freeze": "freezes", "move the clock": "clock moves"}
"""Deeds that are many, as they are counted; of the others the name is told."""


def judge(history: History, directory: Path | None) -> tuple[dict[str, Verdict], str]:
    """Every promise, and what to tell when one is broken, or a server complained; history and logs are then kept."""
    verdicts = validate(history)
    problems = [
        f"{name}: {problem}" for name, verdict in verdicts.items() for problem in verdict.problems if verdict.failures
    ]
    problems += [f"a server logged: {line}" for line in history.complaints[:COMPLAINTS_MAX]]
    if not problems:
        return verdicts, ""
    told = f"seed {history.seed} broke its promises:\n  " + "\n  ".join(problems)
    if directory is not None:
        told += f"\nits history: {keep(history, directory)}"
    return verdicts, told


def keep(history: History, directory: Path) -> Path:
    """Keep what a failed round left."""
    place = KEPT / re.sub(r"\W", "-", history.seed)
    history.save(place / "history.json")
    for path in (*directory.glob("*.log"), directory / "jobs.db"):
        if path.exists():
            shutil.copy(path, place / path.name)
    return place / "history.json"


@contextmanager
def _postgres(store: str) -> Iterator[PostgresServer | None]:
    """A PostgreSQL of this run, if it needs one."""
    if store == "sqlite":
        yield None
        return
    with own_server() as server:
        yield server


def run_rounds(duration_s: float, round_s: float, seed: str, store: str, replicas: int) -> int:
    """Rounds for a time, each with a seed of its own. Returns the exit code."""
    tally = Tally()
    failed = False
    with _postgres(store) as postgres:
        until = time.monotonic() + duration_s
        while time.monotonic() < until:
            round_seed = f"{seed}.{tally.rounds}"
            with tempfile.TemporaryDirectory(prefix="torture-") as name:
                directory = Path(name)
                scene = (
                    Scene.of_one(directory) if postgres is None else Scene.of_replicas(directory, postgres, replicas)
                )
                try:
                    history, counts = asyncio.run(torment(scene, round_seed, round_s))
                except BaseException:
                    print(f"what round {round_seed} left: {keep(History(round_seed), directory).parent}", flush=True)
                    raise
                verdicts, told = judge(history, directory)
            tally.add(history, verdicts, counts)
            print(f"round {round_seed}: {counts['kills']} kills, {len(history.log):,} events", flush=True)
            if told:
                failed = True
                print(told, flush=True)
    print(f"seed {seed}: {tally.told()}")
    print("FAILED" if failed else "every promise held")
    return 1 if failed else 0


def seconds(text: str) -> float:
    """A duration such as 90s or 10m."""
    match = re.fullmatch(r"(\d+)(s|m|h)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration such as 90s, 10m or 1h")
    return int(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


def main() -> int:
    """Read the command line, and torture."""
    parser = argparse.ArgumentParser(description="Torture a server, and check every promise.")
    parser.add_argument("--duration", type=seconds, default=seconds("1m"), help="such as 90s, 10m, 1h")
    parser.add_argument("--round", type=seconds, help="how long one store lives (default 20s; with postgres 40s)")
    parser.add_argument("--seed", default="", help="of an earlier run, to make its choices again; timing stays chance")
    parser.add_argument("--store", choices=STORES, default="sqlite", help="what keeps the jobs (default sqlite)")
    parser.add_argument(
        "--replicas", type=int, help=f"servers on one store, 1 to {REPLICAS_MAX} (default 1; with postgres 3)"
    )
    parser.add_argument("--check", type=Path, metavar="FILE", help="judge a kept history instead")
    options = parser.parse_args()
    if options.check:
        _, told = judge(load(options.check), None)
        print(told or "every promise held")
        return 1 if told else 0
    replicas = REPLICAS[options.store] if options.replicas is None else options.replicas
    if not 1 <= replicas <= REPLICAS_MAX:
        parser.error(f"there can be 1 to {REPLICAS_MAX} replicas")
    if options.store == "sqlite" and replicas > 1:
        parser.error("a file of SQLite has one server: for more replicas choose postgres as the store")
    round_s = options.round or ROUND_S[options.store]
    return run_rounds(options.duration, round_s, options.seed or secrets.token_hex(4), options.store, replicas)


if __name__ == "__main__":
    sys.exit(main())
