"""``python -m tests.bench``: measure every number the project means to reach, print it, and write the page."""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from . import figures, h2load, machine
from .bench import QUICK, Bench, Sizes, bench
from .processes import ROOT
from .rows import ROWS
from .samples import Finding

_RUNS = 5
_BUSY = 0.5


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rows", nargs="*", choices=list(ROWS), metavar="NAME", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--runs", type=int, default=None, help=f"samples of each side (default {_RUNS}, quick: 2)")
    parser.add_argument("--quick", action="store_true", help="small sizes, to check the harness; writes no page")
    parser.add_argument("--page", action="store_true", help="only write the page anew, from the figures kept")
    return parser


def _measured(
    names: Sequence[str], run: Bench, keep: Callable[[str, list[Finding]], None]
) -> tuple[dict[str, list[Finding]], list[str]]:
    """Measure these rows. Each is kept as soon as it is there: a run takes long, and may be broken off."""
    found: dict[str, list[Finding]] = {}
    failed = []
    for name in names:
        began = time.monotonic()
        run.say(f"{name} ...")
        try:
            found[name] = ROWS[name](run)
            keep(name, found[name])
        except Exception:
            traceback.print_exc()
            failed.append(name)
        run.say(f"... {name}: {time.monotonic() - began:.0f} s")
    return found, failed


def _print(found: dict[str, list[Finding]]) -> None:
    shown = Table(*figures.HEADS[:6])
    for findings in found.values():
        for finding in findings:
            shown.add_row(*(cell.replace("**", "") for cell in figures.cells(finding)[:6]))
    Console(width=None if sys.stdout.isatty() else 200).print(shown)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write. Returns 1 when something could not be measured."""
    options = _parser().parse_args(arguments)
    if options.page:
        figures.keep(figures.kept(), list(ROWS))
        return 0
    if not h2load.is_installed():
        print(h2load.MISSING, file=sys.stderr)
        return 1
    busy = machine.load_average()
    if busy > _BUSY:
        print(f"The machine is busy (load {busy:.1f}): rates and p99 will be off, ratios by CPU less.", file=sys.stderr)
    runs = options.runs or (2 if options.quick else _RUNS)
    with bench(runs, QUICK if options.quick else Sizes()) as run:
        about = {
            "at": machine.today(),
            "commit": machine.commit(),
            "runs": runs,
            "machine": machine.described(run.folder),
        }

        def keep(name: str, findings: list[Finding]) -> None:
            if not options.quick:
                kept: dict[str, Any] = figures.kept()
                kept["rows"][name] = {**about, "findings": [finding.as_json() for finding in findings]}
                figures.keep(kept, list(ROWS))

        found, failed = _measured(options.rows or list(ROWS), run, keep)
        print(f"{run.witnessed:,} events were answered, and found in the stores; {run.commits:,} commits")
    _print(found)
    if not options.quick:
        print(f"written to {figures.PAGE.relative_to(ROOT)}")
    if failed:
        print(f"not measured: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
