"""``python -m tests.bench.peers``: the same work by jobstate and by what else one would use, in turn."""

from __future__ import annotations

import argparse
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

from .. import figures, machine, messages
from ..bench import QUICK, Bench, Sizes, bench
from ..messages import LIFECYCLE_CALLS
from ..processes import ROOT
from ..rows import ROWS
from ..samples import ratios, spread
from ..workloads import Calls, Lifecycles, StreamLifecycles
from .scratch import NotInstalled, PeerFailed
from .systems import PEERS, Setting

_HEADS = ("system", "versions", "setting", "durable", "lifecycles/s", "× echo ÷ 6")
_QUICK_JOBS = 200


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.peers", description=__doc__)
    parser.add_argument("--peers", nargs="*", choices=list(PEERS), metavar="NAME", help=f"of {', '.join(PEERS)}")
    parser.add_argument("--runs", type=int, default=None, help="samples of each (default 5, quick: 1)")
    parser.add_argument("--quick", action="store_true", help="few jobs, to check the harness; writes no page")
    return parser


def _settings(names: Sequence[str], run: Bench, stack: ExitStack) -> list[Setting]:
    """Every peer at every setting, running until the stack ends. One that cannot be had is told, and left out."""
    settings = []
    for name in names:
        run.say(f"{name} ...")
        try:
            settings += PEERS[name](run.folder, stack, run.say)
        except (NotInstalled, PeerFailed, OSError, subprocess.SubprocessError) as error:
            run.say(f"  left out: {error}")
    return settings


def _ours(run: Bench, stack: ExitStack) -> tuple[list[Setting], Callable[[], float]]:
    """jobstate both ways, and the echo that all are held against: its calls per second, divided by six."""
    server, echo = stack.enter_context(run.server_and_echo())
    unary, stream = Lifecycles(run), StreamLifecycles(run)
    calls = Calls(run, ["any"], messages.progress_call)
    versions = f"{version('jobstate-grpc')}, SQLite {sqlite3.sqlite_version}"
    setting = "as shipped (synchronous FULL)"
    return [
        Setting("**jobstate**, `StreamUpdates`", versions, setting, "yes", lambda _: stream.run(server).rate, 0),
        Setting("**jobstate**, unary", versions, setting, "yes", lambda _: unary.run(server).rate, 0),
    ], lambda: calls.run(echo).rate / LIFECYCLE_CALLS


def _measured(settings: list[Setting], echo: Callable[[], float], run: Bench, *, quick: bool) -> list[tuple[str, ...]]:
    rates: list[list[float]] = [[] for _ in settings]
    echoes: list[list[float]] = [[] for _ in settings]
    for number in range(run.runs):
        run.say(f"round {number + 1} of {run.runs}")
        for index, setting in enumerate(settings):
            echoes[index].append(echo())
            rates[index].append(setting.run(_QUICK_JOBS if quick else setting.jobs))
    rows = [
        (one.system, one.version, one.setting, one.durable, spread(rate), spread(ratios(rate, bare), " ×"))
        for one, rate, bare in zip(settings, rates, echoes, strict=True)
    ]
    every_echo = [rate for bare in echoes for rate in bare]
    return [*rows, ("echo ÷ 6", "", "six empty calls", "", spread(every_echo), "1 ×")]


def _text(rows: list[tuple[str, ...]], runs: int) -> str:
    about = f"Measured on {machine.today()}, commit {machine.commit()}."
    page = Path(__file__).with_name("page.md").read_text("utf-8")
    marks = {"{runs}": str(runs), "{about}": about, "{table}": figures.table(rows, _HEADS)}
    for mark, part in marks.items():
        page = page.replace(mark, part)
    return page


def main(arguments: Sequence[str] | None = None) -> int:
    """Install, measure, print, write."""
    options = _parser().parse_args(arguments)
    runs = options.runs or (1 if options.quick else 5)
    with bench(runs, QUICK if options.quick else Sizes()) as run, ExitStack() as stack:
        ours, echo = _ours(run, stack)
        peers = _settings(options.peers if options.peers is not None else list(PEERS), run, stack)
        rows = _measured([*ours, *peers], echo, run, quick=options.quick)
    shown = Table(*_HEADS)
    for row in rows:
        shown.add_row(*(cell.replace("*", "") for cell in row))
    Console(width=None if sys.stdout.isatty() else 180).print(shown)
    if not options.quick:
        kept = figures.kept()
        kept["peers"] = {"text": _text(rows, runs)}
        figures.keep(kept, list(ROWS))
        print(f"written to {figures.PAGE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
