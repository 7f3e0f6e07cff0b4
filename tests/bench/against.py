"""``python -m tests.bench.against COMMIT``: what the rows that a change does not concern cost before it, and now.

Two servers side by side, one from a checkout of that commit, under the same load in turn. What is compared is the
processor time of the server per operation: a busy machine changes it little.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from . import machine, messages
from .bench import QUICK, SCRATCH, Bench, Sizes, bench
from .processes import ROOT, JobServer, environment, stopping
from .samples import ratios, shown, spread
from .workloads import BatchCreates, Calls, Lifecycles, StreamLifecycles, StreamProgress, Workload

PAIRS = 12
COSTS_AT_MOST = 0.97
"""A feature may cost 3 % on a row that does not use it: the upper quartile of the ratios is to reach this."""


def _checkout(commit: str) -> Path:
    """The repository as it was at a commit."""
    name = subprocess.run(
        ["git", "rev-parse", "--short=12", f"{commit}^{{commit}}"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    folder = SCRATCH / "commits" / name
    if not folder.exists():
        folder.mkdir(parents=True)
        archive = subprocess.run(["git", "archive", name], cwd=ROOT, capture_output=True, check=True).stdout
        subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
    return folder


def _refuse_others(code: Path) -> None:
    """Raise RuntimeError when a Python that is to use this checkout uses something else."""
    command = [
        sys.executable,
        "-c",
        "import jobstate_server as s, jobstate.v1.job_pb2 as j; print(s.__file__, j.__file__)",
    ]
    found = subprocess.run(command, cwd=code, env=environment(code), capture_output=True, text=True, check=True).stdout
    if not all(path.startswith(str(code)) for path in found.split()):
        raise RuntimeError(f"a server of {code} would run {found}")


@contextmanager
def _servers(run: Bench, codes: Sequence[Path]) -> Iterator[list[JobServer]]:
    servers: list[JobServer] = []
    try:
        for code in codes:
            _refuse_others(code)
            store = run.folder / run.name("store") / "jobs.db"
            store.parent.mkdir()
            servers.append(JobServer(store, code))
        yield servers
    finally:
        with stopping(*servers):
            pass


Load = Callable[[Bench, list[str]], Workload]

LOADS: dict[str, Load] = {
    "UpdateProgress, 64 in flight": lambda run, job_ids: Calls(run, job_ids, messages.progress_call),
    "Get, 64 in flight": lambda run, job_ids: Calls(run, job_ids, messages.get_call, changes=False),
    "whole lifecycles, unary": lambda run, _: Lifecycles(run),
    "StreamUpdates, progress": StreamProgress,
    "StreamUpdates, whole lifecycles": lambda run, _: StreamLifecycles(run),
    "BatchCreate of 1,000": lambda run, _: BatchCreates(run),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.against", description=__doc__)
    parser.add_argument("commit")
    parser.add_argument("--rows", nargs="*", choices=list(LOADS), metavar="NAME", help=f"of {', '.join(LOADS)}")
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--limit", type=float, default=COSTS_AT_MOST, help=f"of the ratios (default {COSTS_AT_MOST})")
    parser.add_argument("--quick", action="store_true", help="small sizes, to check the harness")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print. Returns 1 when a row does not reach the limit."""
    options = _parser().parse_args(arguments)
    table = Table("what", "before ÷ now, by server CPU", "upper quartile", "reached", "now", "before")
    failed = False
    print(f"load {machine.load_average():.1f}", file=sys.stderr)
    with (
        bench(options.pairs, QUICK if options.quick else Sizes()) as run,
        _servers(run, [ROOT, _checkout(options.commit)]) as servers,
    ):
        jobs = [run.live_jobs(server) for server in servers]
        for name in options.rows or LOADS:
            run.say(f"{name} ...")
            loads = [LOADS[name](run, job_ids) for job_ids in jobs]
            now, before = run.alternate(
                *[partial(load.run, server) for load, server in zip(loads, servers, strict=True)]
            )
            costs = [[each.cpu_us for each in side] for side in (before, now)]
            found = ratios(*costs)
            quartile = statistics.quantiles(found, n=4)[2]
            failed |= quartile < options.limit
            reached = "yes" if quartile >= options.limit else "no"
            cells = (spread(costs[1], " µs"), spread(costs[0], " µs"))
            table.add_row(name, spread(found, " ×"), shown(quartile), reached, *cells)
    Console(width=None if sys.stdout.isatty() else 180).print(table)
    print(f"load {machine.load_average():.1f}", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
