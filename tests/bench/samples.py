"""What a measurement is: samples, and findings made of pairs of them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


def percentile(values: Sequence[float], share: float) -> float:
    """The value that ``share`` (from 0 to 1) of the values stay within."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass
class Sample:
    """One stretch of load on one server."""

    ops: int
    """What was done and answered well, in the unit of the row."""
    seconds: float
    server_cpu: float = 0.0
    """Seconds of processor time, user and system, that the server took meanwhile."""
    client_cpu: float = 0.0
    """The same of the load generator; 0 when it was not measured."""
    began: list[float] = field(default_factory=list)
    """When each call was sent, in seconds of the monotonic clock."""
    took: list[float] = field(default_factory=list)
    """How long each took to be answered, in seconds, in the same order."""

    @property
    def rate(self) -> float:
        """Operations per second."""
        return self.ops / self.seconds

    @property
    def cpu_us(self) -> float:
        """Processor time of the server per operation, in microseconds."""
        return self.server_cpu / self.ops * 1e6

    def took_at(self, share: float, within: tuple[float, float] | None = None) -> float:
        """A percentile of the time to the answer in seconds, of the calls sent ``within`` two moments."""
        took = self.took
        if within is not None:
            took = [span for at, span in zip(self.began, self.took, strict=True) if within[0] <= at < within[1]]
        return percentile(took, share)


@dataclass
class Finding:
    """One line of the table: a ratio, or a plain number, measured several times."""

    what: str
    reach: str
    """The number to reach in words; empty when the figure is only stated."""
    values: list[float]
    limit: float | None = None
    at_least: bool = True
    """Whether the limit is to be reached from below or not to be passed."""
    unit: str = "×"
    ours: str = ""
    """What was measured of this server, as text."""
    theirs: str = ""
    """The same of what it is compared with."""
    note: str = ""

    @property
    def median(self) -> float:
        """The measured figure."""
        return statistics.median(self.values)

    @property
    def reached(self) -> bool | None:
        """Whether the number is reached; None when there is none to reach."""
        if self.limit is None:
            return None
        return self.median >= self.limit if self.at_least else self.median <= self.limit

    def as_json(self) -> dict[str, Any]:
        """For keeping between runs."""
        return dict(self.__dict__)


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Ratio by ratio of figures that were taken one right after the other."""
    return [mine / other for mine, other in zip(ours, theirs, strict=True)]


def shown(value: float) -> str:
    """A figure with about three digits."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def spread(values: Sequence[float], unit: str = "", scale: float = 1.0) -> str:
    """A median and, in brackets, the least and the greatest."""
    scaled = [value * scale for value in values]
    text = f"{shown(statistics.median(scaled))}{unit}"
    return text if len(scaled) == 1 else f"{text} [{shown(min(scaled))}–{shown(max(scaled))}]"
