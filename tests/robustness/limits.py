"""Promises about limits over recorded histories: how many run at once, and how many are handed out in a time."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator

from .erasures import ForgottenLanes
from .history import LogEntry, Policy, Rate
from .lanes import Counts, Replay
from .world import HOLDS, World, is_hand_out, lane_of


def within_limits(world: World) -> Iterator[str]:
    """P5: before each hand-out fewer attempts of its type, and of its lane, are claimed than may be, at all servers.

    While servers are restarted with other limits, one of these holds.
    """
    replay = Replay(world)
    for entry in replay.events():
        if not is_hand_out(entry):
            continue
        policies = world.policies(entry.event.job_type, entry.event.sequence)
        if any(policy.concurrency or policy.lane_concurrency for policy in policies):
            of_type = replay.types[entry.event.job_type]
            counts, in_lane = of_type.all.now, of_type.lanes[lane_of(entry)].now
            holds = any(_allows(policy, entry, counts, in_lane) for policy in policies)
            yield HOLDS if holds else f"{entry} was handed out beside {counts}, in its lane {in_lane}, with {policies}"


def _allows(policy: Policy, entry: LogEntry, of_type: Counts, in_lane: Counts) -> bool:
    is_below = not policy.concurrency or of_type.running < policy.concurrency
    # A job that comes back to its place goes first, and comes to be counted as running.
    return is_below and in_lane.has_place(policy, returns=entry.event.type == "CLAIMED")


def within_rates(world: World) -> Iterator[str]:
    """P6: in every half-open period at most count + burst - 1 are handed out, of a type and of a lane of it.

    A lane that Erase has forgotten begins anew.
    """
    forgotten = ForgottenLanes(world)
    times: dict[tuple[int, str, str | None, int], list[int]] = defaultdict(list)
    rates: dict[tuple[int, str, str | None, int], Rate] = {}
    for entry in world.history.log:
        if is_hand_out(entry):
            job_type, sequence = entry.event.job_type, entry.event.sequence
            policies, stretch = world.policies(job_type, sequence), world.stretch(sequence)
            if len(policies) == 1:
                for lane, rate in ((None, policies[0].rate), (lane_of(entry), policies[0].lane_rate)):
                    if rate is None or (lane is not None and forgotten.perhaps(job_type, lane, sequence)):
                        continue
                    life = 0 if lane is None else forgotten.count(job_type, lane, sequence)
                    times[stretch, job_type, lane, life].append(entry.time)
                    rates[stretch, job_type, lane, life] = rate
    for key, some in times.items():
        yield from _too_many(key, sorted(some), rates[key])


def _too_many(key: tuple[int, str, str | None, int], times: list[int], rate: Rate) -> Iterator[str]:
    for first, time in enumerate(times):
        count = bisect_left(times, time + rate.period) - first
        holds = count <= rate.count + rate.burst - 1
        yield HOLDS if holds else f"{count} of {key[1:3]} were handed out in {rate.period} µs from {time}: {rate}"
