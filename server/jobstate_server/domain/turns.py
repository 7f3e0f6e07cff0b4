"""Turns between the lanes of a job type: which lane is next, within the limits.

The lane with the fewest jobs under way is next, and of these the one whose last turn was the longest ago. A lane that
is full, paused, held, or over its rate is passed over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from heapq import heapify, heappop, heapreplace
from typing import NamedTuple

from jobstate_server.domain.job import INT64_MAX
from jobstate_server.domain.job_types import JobType
from jobstate_server.domain.lanes import NOTHING_COUNTED, LaneCounts

TurnKey = tuple[int, int, str]
"""Jobs under way, the last turn, the name. It compares as lanes have their turns."""


@dataclass(slots=True)
class LaneState:
    """A lane in one transaction."""

    lane: str
    counts: LaneCounts = NOTHING_COUNTED
    turn_time: int = 0
    """When the lane last had a turn. It is a little ahead of the clock when there are many at once."""
    next_even_time: int = 0
    """See ``rates``."""
    held_until: int = 0
    """Until when a Release holds the lane."""
    paused: bool = False
    is_open: bool = True
    """Whether its row is among those that can have a turn."""


@dataclass(slots=True)
class TypeState:
    """What the hand-out of a job type goes by in one transaction, as far as it is not in the policy."""

    job_type: str
    is_stored: bool = False
    """Whether the type has a row of its own. Without one it has no lanes, and nothing of it is paused or held."""
    paused: bool = False
    counts: LaneCounts = NOTHING_COUNTED
    """Of all lanes together."""
    turn_time: int = 0
    """The latest turn of any lane."""
    next_even_time: int = 0
    lanes: dict[str, LaneState] = field(default_factory=dict)
    """The lanes that can be next, and those that were asked for."""
    closed: tuple[str, ...] = ()
    """Those of the lanes whose time has come again, so that their rows must be written."""
    opens: int | None = None
    """When the next lane opens that is closed now."""
    is_cut: bool = False
    """Whether lanes that can be next may not have been read, so that nothing can be handed out now."""


def turns_of(state: TypeState, freed: Mapping[str, int], limits: Limits, now: int) -> Iterator[str]:
    """The known lanes as they have their turns: each as often as it has ready jobs and its rate allows.

    Args:
        freed: how many attempts end in some of the lanes, besides what is stored.
    """
    heap = [
        (limits.under_way(lane.counts) - freed.get(lane.lane, 0), lane.turn_time, lane.lane, count)
        for lane in state.lanes.values()
        if not lane.paused and (count := limits.lane_allowed(lane, now)) > 0
    ]
    heapify(heap)
    # Later than any that is stored.
    turn = INT64_MAX
    while heap:
        under_way, _, name, count = heap[0]
        if under_way >= limits.lane_concurrency:
            heappop(heap)
            continue
        yield name
        turn += 1
        if count > 1:
            heapreplace(heap, (under_way + 1, turn, name, count - 1))
        else:
            heappop(heap)


class LimitUse(NamedTuple):
    """The most that others may use, if what was decided is to stay within a limit. Checked again when it is written."""

    running_max: int = INT64_MAX
    next_even_max: int = INT64_MAX


NO_LIMIT = LimitUse()


class Limits:
    """The limits of a policy, ready to be compared with."""

    __slots__ = ("concurrency", "has_any", "has_lane_limits", "holds_jobs", "lane_concurrency", "lane_rate", "rate")

    def __init__(self, policy: JobType) -> None:
        self.concurrency = policy.concurrency or INT64_MAX
        self.rate = policy.hand_out_rate
        self.lane_concurrency = policy.lane_concurrency or INT64_MAX
        self.lane_rate = policy.lane_hand_out_rate
        self.holds_jobs = policy.holds_jobs
        self.has_lane_limits = bool(policy.lane_concurrency or policy.lane_rate)
        self.has_any = self.has_lane_limits or bool(policy.concurrency or policy.rate)

    def under_way(self, counts: LaneCounts) -> int:
        """How many jobs of a lane are under way. Those that come back have their place, but do not use it now."""
        return counts.running + counts.resting if self.holds_jobs else counts.running

    def key(self, state: LaneState) -> TurnKey:
        """The place of a lane in the order of turns."""
        return self.under_way(state.counts), state.turn_time, state.lane

    def type_opens(self, state: TypeState) -> int:
        """From when on the rate of the type allows a hand-out."""
        return 0 if self.rate is None else self.rate.opens(state.next_even_time)

    def lane_opens(self, state: LaneState) -> int:
        """From when on the rate of the lane, and its hold, allow a hand-out."""
        even = 0 if self.lane_rate is None else self.lane_rate.opens(state.next_even_time)
        return max(even, state.held_until)

    def lane_allowed(self, state: LaneState, now: int) -> int:
        """How many of the ready jobs of the lane its rate and its hold allow to be handed out at once."""
        if state.held_until > now:
            return 0
        ready = state.counts.ready
        return ready if self.lane_rate is None else min(ready, self.lane_rate.allowed(state.next_even_time, now))

    def room(self, state: TypeState) -> int:
        """How many more attempts of the type may be claimed."""
        return 0 if state.paused or state.is_cut else max(0, self.concurrency - state.counts.running)

    def has_place(self, counts: LaneCounts, *, returns: bool) -> bool:
        """Whether the limit of the lane allows a hand-out: of a job that comes back to its place, or of another one."""
        taken = self.under_way(counts)
        if self.holds_jobs and not returns:
            taken += counts.returned
        return taken < self.lane_concurrency
