"""The figures of the last full measurements, row by row, and the page made of them.

Rows can be measured again one by one, each interleaved in itself, so every row says at which commit that was.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .processes import ROOT
from .samples import Finding, spread

FIGURES = Path(__file__).with_name("figures.json")
PAGE = ROOT / "docs" / "benchmarks.md"

TEMPLATE = Path(__file__).with_name("page.md")


def kept() -> dict[str, Any]:
    """The figures as they were last written."""
    if not FIGURES.exists():
        return {"rows": {}, "peers": {}}
    figures: dict[str, Any] = json.loads(FIGURES.read_text("utf-8"))
    return figures


def keep(figures: dict[str, Any], order: Sequence[str]) -> None:
    """Write the figures, and the page anew."""
    FIGURES.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(page(figures, order), encoding="utf-8")


def cells(finding: Finding) -> tuple[str, ...]:
    """A finding as a row of a table."""
    measured = spread(finding.values, finding.unit if finding.unit != "×" else " ×")
    reached = {None: "", True: "yes", False: "**no**"}[finding.reached]
    return finding.what, finding.reach or "stated", measured, reached, finding.ours, finding.theirs, finding.note


HEADS = ("what", "reach", "measured", "reached", "jobstate", "compared with", "how")


def table(rows: Sequence[Sequence[str]], heads: Sequence[str]) -> str:
    """As Markdown."""
    lines = ["| " + " | ".join(heads) + " |", "| " + " | ".join("---" for _ in heads) + " |"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def page(figures: dict[str, Any], order: Sequence[str]) -> str:
    """The whole page."""
    rows = [(name, figures["rows"][name]) for name in order if name in figures["rows"]]
    lines = [cells(Finding(**finding)) for _, row in rows for finding in row["findings"]]
    parts = {
        "{machine}": "\n".join(f"- {item}" for item in rows[0][1]["machine"]) if rows else "",
        "{measured}": _measured_at(rows) if rows else "Nothing has been measured yet.",
        "{figures}": table(lines, HEADS) if rows else "",
        "{profile}": _profile(figures.get("profiles", [])),
        "{peers}": figures["peers"].get("text", ""),
    }
    text = TEMPLATE.read_text("utf-8")
    for mark, part in parts.items():
        text = text.replace(mark, part)
    return text.rstrip() + "\n"


def _measured_at(rows: Sequence[tuple[str, dict[str, Any]]]) -> str:
    by_run: dict[str, list[str]] = {}
    for name, row in rows:
        by_run.setdefault(f"{row['at']}, commit {row['commit']}, {row['runs']} runs", []).append(f"`{name}`")
    if len(by_run) == 1:
        return f"All measured on {next(iter(by_run))}."
    return "\n".join(_wrapped(f"- on {run}: {', '.join(names)}", indent="  ") for run, names in by_run.items())


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(text, 100, subsequent_indent=indent, break_on_hyphens=False)


def _profile(runs: Sequence[dict[str, Any]]) -> str:
    """The profile of the committer's path as it was kept first, and as it is."""
    if not runs:
        return "Not measured yet."
    names = list(runs[-1]["columns"])
    parts = dict.fromkeys(part for run in runs for column in run["columns"].values() for part in column)
    lines = [
        [part, *[" → ".join(f"{run['columns'][name].get(part, 0.0):.1f}" for run in runs) for name in names]]
        for part in parts
    ]
    measured = ", then ".join(f"on {run['at']} at commit {run['commit']}" for run in runs)
    return f"{_wrapped(f'Measured {measured}.')}\n\n{table(lines, ['part', *names])}"
