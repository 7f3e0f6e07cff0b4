"""``python -m tests.bench.peers``: the same work by jobstate and by what else one would use, in turn."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from .. import figures, machine, messages
from ..bench import QUICK, Bench, Sizes, bench
from ..messages import LIFECYCLE_CALLS, PERCENTAGES
from ..processes import ROOT, Echo, stopping
from ..rows import ROWS
from ..samples import ratios, spread
from ..workloads import Calls
from .flows import bullmq_flow, celery_chord, jobstate_group
from .install import NotInstalled
from .ours import jobstate
from .services import PeerFailed
from .setting import REPORTS, Setting, Trial, Work
from .systems import bullmq, celery, graphile, procrastinate, river
from .temporal import temporal_on_file, temporal_on_postgres

PEERS: dict[str, Callable[[Trial], list[Setting]]] = {
    "bullmq": bullmq,
    "celery": celery,
    "procrastinate": procrastinate,
    "river": river,
    "graphile": graphile,
    "temporal-sqlite": temporal_on_file,
    "temporal-postgres": temporal_on_postgres,
}
"""Each installs its system and finds its quickest settings."""

FLOWS: dict[str, Callable[[Trial], list[Setting]]] = {"bullmq": bullmq_flow, "celery": celery_chord}
"""Those of the peers that have something like a group."""

_QUICK_JOBS = 200
_RUNS = 5
_REASON_MAX = 300
"""Characters of the page for why something is missing; all of it is printed."""
_FLOW_HEADS = ("system", "how", "durable", "members", "members/s")
_HEADS = ("system", "how", "durable", "jobs/s", "× echo ÷ 3", "with 3 reports: jobs/s", "× echo ÷ 6")


@dataclass
class Measured:
    """A setting and its samples, by how many reports each job made."""

    setting: Setting
    rates: dict[int, list[float]] = field(default_factory=lambda: {reports: [] for reports in REPORTS})
    echoes: dict[int, list[float]] = field(default_factory=lambda: {reports: [] for reports in REPORTS})
    """Of the echo right before each, in as many calls as such a job takes."""

    def cells(self) -> tuple[str, ...]:
        """A row of the table."""
        one = self.setting
        row = [one.system, one.way, one.durable]
        for reports, rates in self.rates.items():
            row += [spread(rates), spread(ratios(rates, self.echoes[reports]), " ×")] if rates else ["failed", ""]
        return tuple(row)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.peers", description=__doc__)
    parser.add_argument("--peers", nargs="*", choices=list(PEERS), metavar="NAME", help=f"of {', '.join(PEERS)}")
    parser.add_argument("--runs", type=int, default=None, help=f"samples of each (default {_RUNS}, quick: 1)")
    parser.add_argument("--quick", action="store_true", help="few jobs, to check the harness; writes no page")
    return parser


def _briefly(error: Exception) -> str:
    """The reason as a line of the page: its end, where programs say what went wrong."""
    line = " ".join(str(error).split())
    return line if len(line) <= _REASON_MAX else f"… {line[-_REASON_MAX:]}"


def _settings(
    systems: Mapping[str, Callable[[Trial], list[Setting]]], names: Sequence[str], trial: Trial
) -> tuple[list[Setting], dict[str, str]]:
    """Every setting of every peer; and why a peer is missing, by its name."""
    settings, missing = [], {}
    for name in filter(systems.__contains__, names):
        trial.say(f"{name} ...")
        try:
            settings += systems[name](trial)
        except (NotInstalled, PeerFailed, OSError, subprocess.SubprocessError) as error:
            missing[name] = _briefly(error)
            trial.say(f"  left out: {error}")
    return settings, missing


def _measure(every: list[Measured], echo: Callable[[], float], run: Bench, *, quick: bool) -> dict[str, str]:
    """Take the samples in turn. One that fails is left out, and the reason returned by the name of its setting."""
    failed: dict[str, str] = {}
    for number in range(run.runs):
        run.say(f"round {number + 1} of {run.runs}")
        for measured in every:
            for reports in REPORTS:
                bare = echo() / (LIFECYCLE_CALLS - len(PERCENTAGES) + reports)
                jobs = measured.setting.jobs // (2 if reports else 1)
                try:
                    rate = measured.setting.run(Work(_QUICK_JOBS if quick else jobs, reports))
                except PeerFailed as error:
                    run.say(f"  left out: {error}")
                    name = f"a sample of {measured.setting.system}, {measured.setting.way}, {reports} reports"
                    failed[name] = _briefly(error)
                    continue
                measured.echoes[reports].append(bare)
                measured.rates[reports].append(rate)
    return failed


def _measure_flows(settings: Sequence[Setting], run: Bench, *, quick: bool) -> list[tuple[str, ...]]:
    """Take the samples in turn. Returns the rows of the table."""
    rates: list[list[float]] = [[] for _ in settings]
    for number in range(run.runs):
        run.say(f"groups, round {number + 1} of {run.runs}")
        for setting, taken in zip(settings, rates, strict=True):
            try:
                taken.append(setting.run(Work(_QUICK_JOBS if quick else setting.jobs, 0)))
            except PeerFailed as error:
                run.say(f"  left out: {error}")
    return [
        (one.system, one.way, one.durable, f"{one.jobs:,}", spread(taken) if taken else "failed")
        for one, taken in zip(settings, rates, strict=True)
    ]


def _rows(every: list[Measured]) -> list[tuple[str, ...]]:
    last = ["echo", "empty calls", ""]
    for reports in REPORTS:
        last += [spread([bare for measured in every for bare in measured.echoes[reports]]), "1 ×"]
    return [*(measured.cells() for measured in every), tuple(last)]


def _text(
    rows: list[tuple[str, ...]], flows: list[tuple[str, ...]], every: list[Measured], missing: dict[str, str], runs: int
) -> str:
    versions = dict.fromkeys(measured.setting.versions for measured in every)
    marks = {
        "{runs}": str(runs),
        "{about}": f"Measured on {machine.today()}, commit {machine.commit()}.",
        "{table}": figures.table(rows, _HEADS),
        "{groups}": figures.table(flows, _FLOW_HEADS),
        "{versions}": "\n".join(f"- {one}" for one in versions),
        "{missing}": "\n".join(f"- Missing: **{name}**, because {why}" for name, why in missing.items())
        or "None is missing.",
    }
    page = Path(__file__).with_name("page.md").read_text("utf-8")
    for mark, part in marks.items():
        page = page.replace(mark, part)
    return page


def main(arguments: Sequence[str] | None = None) -> int:
    """Install, measure, print, write. Returns 1 when a peer is missing."""
    options = _parser().parse_args(arguments)
    runs = options.runs or (1 if options.quick else _RUNS)
    with bench(runs, QUICK if options.quick else Sizes()) as run, ExitStack() as stack:
        trial = Trial(run.folder, run.say, options.quick)
        names = options.peers if options.peers is not None else list(PEERS)
        peers, missing = _settings(PEERS, names, trial)
        flows, without = _settings(FLOWS, names, trial)
        empty = Echo(run.folder)
        stack.enter_context(stopping(empty))
        calls = Calls(run, ["any"], messages.progress_call)
        every = [Measured(setting) for setting in [*jobstate(run, stack, trial), *peers]]
        missing |= _measure(every, lambda: calls.run(empty).rate, run, quick=options.quick)
        flow_rows = _measure_flows([*jobstate_group(run, stack), *flows], run, quick=options.quick)
        missing |= {f"{name} with groups": why for name, why in without.items()}
    rows = _rows(every)
    for heads, shown_rows in ((_HEADS, rows), (_FLOW_HEADS, flow_rows)):
        shown = Table(*heads)
        for row in shown_rows:
            shown.add_row(*(cell.replace("*", "") for cell in row))
        Console(width=None if sys.stdout.isatty() else 180).print(shown)
    for name, why in missing.items():
        print(f"missing: {name}: {why}", file=sys.stderr)
    if not options.quick:
        kept = figures.kept()
        kept["peers"] = {"text": _text(rows, flow_rows, every, missing, runs)}
        figures.keep(kept, list(ROWS))
        print(f"written to {figures.PAGE.relative_to(ROOT)}")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
