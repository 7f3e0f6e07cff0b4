"""How fast jobs may be handed out: so many in a period, and so many at once.

A rate is kept with one stored time, that of the next hand-out if they came evenly (the generic cell rate algorithm).
It may be ahead of the clock by what the burst allows. In any half-open period at most ``count + burst - 1`` are handed
out, in whatever order hand-outs of slightly different times are committed.
"""

from __future__ import annotations

from dataclasses import dataclass

from jobstate_server.domain.durations import DAY, SECOND

RATE_PER_SECOND_MAX = 10_000
"""More hand-outs than a server commits. With it the rounding of an interval to microseconds is at most 1 %."""

RATE_PERIOD_MIN = 1 * SECOND
RATE_PERIOD_MAX = 7 * DAY
"""A longer period is a quota, not a rate."""


@dataclass(frozen=True, slots=True)
class PerTime:
    """A rate as it is configured: so many in a period of microseconds."""

    count: int
    period: int


@dataclass(frozen=True, slots=True)
class Rate:
    """``count`` hand-outs in each ``period`` of microseconds, of which ``burst`` may come at once."""

    count: int
    period: int
    burst: int

    def __str__(self) -> str:
        return f"{self.count:,} in {self.period / SECOND:g} s"

    @property
    def interval(self) -> int:
        """The time that one hand-out uses up. Rounded up, so that there are never more than ``count``."""
        return -(-self.period // self.count)

    @property
    def tolerance(self) -> int:
        """How far ahead of the clock the stored time may be for another hand-out."""
        return (self.burst - 1) * self.interval

    def opens(self, next_even: int) -> int:
        """The earliest time of the next hand-out."""
        return next_even - self.tolerance

    def allowed(self, next_even: int, now: int) -> int:
        """How many hand-outs may come at once now."""
        return max(0, (now + self.tolerance - max(next_even, now)) // self.interval + 1)

    def after(self, next_even: int, now: int, count: int = 1) -> int:
        """The stored time after ``count`` hand-outs now."""
        return max(next_even, now) + count * self.interval if count else next_even


def default_burst(count: int) -> int:
    """The burst of a rate that names none."""
    return max(1, count // 10)
