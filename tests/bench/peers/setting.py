"""What is measured of a system: its settings, each a way to take so many jobs through their lives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

REPORTS = (0, 3)
"""How often each job reports its progress: what every queue does, and what jobstate is for."""


@dataclass(frozen=True)
class Work:
    """What one sample does."""

    jobs: int
    reports: int


Run = Callable[[Work], float]
"""Takes these jobs through their lives, on servers of its own, and returns how many a second that was."""


@dataclass(frozen=True)
class Setting:
    """A system, set up one way."""

    system: str
    versions: str
    way: str
    """How it is set, and how the jobs are given to it."""
    durable: str
    """Whether what it has answered survives the loss of power."""
    run: Run
    jobs: int
    """Of one sample without reports: a few seconds' worth."""


@dataclass
class Trial:
    """Where the peers are set up, and how their quickest settings are found."""

    folder: Path
    say: Callable[[str], None]
    quick: bool
    _numbers: count[int] = field(default_factory=count)

    def new(self, name: str) -> Path:
        """A path for something that each sample has anew."""
        return self.folder / f"{name}-{next(self._numbers)}"

    def best(self, ways: Sequence[tuple[str, Run]], jobs: int) -> tuple[str, Run]:
        """Of several ways to run a peer the quickest for each kind of work, so that it is shown at its best."""
        if self.quick:
            return ways[0]
        chosen: dict[int, tuple[str, Run]] = {}
        for reports in REPORTS:
            rates = []
            for name, run in ways:
                rates.append(run(Work(jobs, reports)))
                self.say(f"    {name}, {reports} reports: {rates[-1]:,.0f}/s")
            chosen[reports] = ways[rates.index(max(rates))]
        names = dict.fromkeys(name for name, _ in chosen.values())
        return "; with reports ".join(names), lambda work: chosen[work.reports][1](work)
