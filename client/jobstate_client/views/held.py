"""What the jobs of a type wait for besides a worker: pauses, limits and held lanes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from jobstate_client.views.lanes import rate_text
from jobstate_client.views.text import count, counted
from jobstate_client.views.work import work_of

if TYPE_CHECKING:
    from jobstate_client.core.inspection import JobType, Lane, Stats, TypeStatus

TYPES_MAX = 5
"""How many types are looked at: more would not fit on the line that tells of them."""

LANES_MAX = 20
"""How many lanes of a type are looked at. Some milliseconds for the server; there may be a hundred thousand."""


def waiting_types(stats: Stats) -> list[str]:
    """The types with jobs that wait for a worker, those with the most first."""
    waiting = {name: work.waiting for name, each in stats.job_types.items() if (work := work_of(each)) is not None}
    return sorted((name for name in waiting if waiting[name]), key=lambda name: (-waiting[name], name))[:TYPES_MAX]


def held_text(policy: JobType, running: int, status: TypeStatus, lanes: Sequence[Lane]) -> str:
    """What holds back the jobs of a type; empty if nothing does. Lanes beyond LANES_MAX are not counted."""
    if status.paused:
        return f"paused: {status.pause_reason}" if status.pause_reason else "paused"
    parts = []
    if policy.concurrency and running >= policy.concurrency:
        parts.append(f"{count(running)} of {count(policy.concurrency)} running")
    if status.held_until_time is not None:
        parts.append(f"at its rate of {rate_text(policy.rate)}")
    return ", ".join([*parts, *_lanes(policy, lanes)])


def _lanes(policy: JobType, lanes: Sequence[Lane]) -> Iterator[str]:
    waiting = [lane for lane in lanes[:LANES_MAX] if lane.ready]
    paused = sum(lane.paused for lane in waiting)
    held = sum(lane.held_until_time is not None and not lane.paused for lane in waiting)
    most = policy.lane_concurrency
    full = sum(bool(most) and lane.running >= most and not lane.paused for lane in waiting)
    at_least = "at least " if len(lanes) > LANES_MAX else ""
    for number, what in ((paused, "paused"), (held, "held"), (full, "full")):
        if number:
            yield f"{at_least}{counted(number, 'lane')} {what}"
