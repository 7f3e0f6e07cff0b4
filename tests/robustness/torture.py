"""Torture: rounds of a real server, many clients, watchers of every kind and a nemesis; then every promise is checked.

``python -m tests.robustness.torture --duration 10m [--seed N]``. A round that fails prints its seed and keeps its
history under ``.torture/``; ``--check FILE`` judges a kept history again.
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
from dataclasses import dataclass, field
from pathlib import Path

from .clients import Client, Shared, pause
from .endgame import gather_final_state
from .history import ANSWERED, History, Watcher, delivered, load
from .nemesis import Nemesis
from .process import ROOT, ServerProcess
from .recording import Recorder
from .validators import Verdict, validate
from .watchers import KINDS, Counts, Watching

CLIENTS = 8
MEMORY_GROWTH_MAX_KIB = 128 * 1024
"""What a server may grow by from its first sample: caches fill, watchers come."""

KEPT = ROOT / ".torture"


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
        self.counts["jobs"] += len({entry.event.job_id for entry in history.log})
        for name, verdict in verdicts.items():
            self.checked[name] += verdict.checked
            self.failures[name] += verdict.failures

    def told(self) -> str:
        """As text, promise by promise."""
        lines = [f"{self.rounds} rounds"]
        lines += [f"  {name:22} {count:>12,}" for name, count in sorted(self.counts.items())]
        for name, checked in self.checked.items():
            lines.append(f"  {name:22} {checked:>12,} checked, {self.failures[name]:,} broken")
        return "\n".join(lines)


async def torment(directory: Path, seed: str, duration_s: float, kills_min: int = 0) -> tuple[History, Counter[str]]:
    """One round."""
    rng = random.Random(seed)
    server = ServerProcess(directory, small=True)
    recorder = Recorder()
    counts = Counts()
    history = History(seed=seed, positions=recorder.positions, memory_growth_max_kib=MEMORY_GROWTH_MAX_KIB)
    try:
        await server.start()
        shared = Shared(server.address, recorder, calls=history.calls)
        async with shared.stack, asyncio.TaskGroup() as group:
            for index in range(CLIENTS):
                stubs = await shared.stubs()
                group.create_task(Client(f"client-{index}", shared, stubs, random.Random(f"{seed}/{index}")).run())
            watching = []
            for name, (habits, filters) in KINDS.items():
                history.watchers.append(Watcher(name, **filters))
                watcher_rng = random.Random(f"{seed}/{name}")
                args = (habits, shared, await shared.stubs(), watcher_rng, counts)
                watching.append(group.create_task(Watching(history.watchers[-1], *args).run()))
            nemesis = Nemesis(server, await shared.stubs(), rng)
            await nemesis.run(Shared.now() + duration_s, kills_min)
            # What the last fault broke is mended before the clients, whose repeats need a server, are called home.
            await pause(0.5)
            shared.stopping.set()
            for task in watching:
                task.cancel()
        history.faults, history.memory = nemesis.faults, nemesis.memory
        await gather_final_state(server, history, recorder, rng)
        assert not server.complaints, f"the server complained: {server.complaints[:3]}"
    finally:
        await server.stop()
    met = Counter(
        {
            "kills": nemesis.counts["kill"],
            "stops": nemesis.counts["stop"],
            "freezes": nemesis.counts["freeze"],
            "clock moves": nemesis.counts["move the clock"],
            "server starts": server.starts,
            "watches opened": counts.opened,
            "resumes": counts.resumed,
            "compactions met": counts.expired,
            "drainings met": counts.drained,
            "watchers": len(history.watchers),
        }
    )
    return history, met


def judge(history: History, directory: Path | None) -> tuple[dict[str, Verdict], str]:
    """Every promise, and what to tell when one is broken; the history and the server's log are then kept."""
    verdicts = validate(history)
    problems = [
        f"{name}: {problem}" for name, verdict in verdicts.items() for problem in verdict.problems if verdict.failures
    ]
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
    for name in ("server.log", "jobs.db"):
        if (directory / name).exists():
            shutil.copy(directory / name, place / name)
    return place / "history.json"


def run_rounds(duration_s: float, round_s: float, seed: str) -> int:
    """Rounds for a time, each with a seed of its own. Returns the exit code."""
    tally = Tally()
    until = time.monotonic() + duration_s
    failed = False
    while time.monotonic() < until:
        round_seed = f"{seed}.{tally.rounds}"
        with tempfile.TemporaryDirectory(prefix="torture-") as name:
            directory = Path(name)
            history, counts = asyncio.run(torment(directory, round_seed, round_s))
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
    parser.add_argument("--round", type=seconds, default=seconds("20s"), help="how long one store lives")
    parser.add_argument("--seed", default="", help="of an earlier run, to make its choices again; timing stays chance")
    parser.add_argument("--check", type=Path, metavar="FILE", help="judge a kept history instead")
    options = parser.parse_args()
    if options.check:
        _, told = judge(load(options.check), None)
        print(told or "every promise held")
        return 1 if told else 0
    return run_rounds(options.duration, options.round, options.seed or secrets.token_hex(4))


if __name__ == "__main__":
    sys.exit(main())
