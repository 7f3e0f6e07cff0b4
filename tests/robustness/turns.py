"""A promise about the turns of lanes over recorded histories."""

from __future__ import annotations

from collections.abc import Iterator

from .erasures import ForgottenLanes
from .history import LogEntry, Policy
from .in_hand import InHand
from .lanes import Counts, OfType, Replay
from .pauses import Pauses
from .world import HOLDS, World, is_hand_out, lane_of, microseconds


def by_turns(world: World) -> Iterator[str]:
    """P4: between two hand-outs of a lane, every other one that could have a turn, and had not more under way, had one.

    With one server this is exact: the lane with the fewest under way is next, and of these the one whose last turn was
    the longest ago. Replicas decide at once, so there a lane counts only if it could have its turn ever since
    the Acquire was called, by what somebody knew, and nobody else had one of its jobs in hand: of those that are ready,
    or were so meanwhile.
    """
    turns = _Turns(world)
    for entry in turns.replay.events():
        turns.forget(entry)
        if is_hand_out(entry):
            yield from turns.passed_over(entry)


class _Turns:
    def __init__(self, world: World) -> None:
        self.replay = Replay(world)
        self._world = world
        self._pauses = Pauses(world)
        self._in_hand = InHand(world)
        self._forgotten = ForgottenLanes(world)
        self._is_shared = world.history.store == "postgres"

    def forget(self, entry: LogEntry) -> None:
        """Forget the turns that a clean-up may have forgotten before an event, as one can run at any time.

        It deletes a lane without jobs, unless another waits that has had no turn since. Erase looks at no other. The
        empty lane has no turns to keep while it is alone.
        """
        job_type, sequence = entry.event.job_type, entry.event.sequence
        of_type, policies = self.replay.types[job_type], self._world.policies(job_type, sequence)
        waiting = [
            lane.turn
            for name, lane in of_type.lanes.items()
            if lane.now.ready and not self._pauses.perhaps(job_type, name, sequence)
            if all(lane.opens(policy.lane_rate) <= of_type.time for policy in policies)
        ]
        oldest = min(waiting, default=sequence)
        others_have_any = any(lane.now.has_any for name, lane in of_type.lanes.items() if name)
        for name, lane in of_type.lanes.items():
            is_late = oldest > lane.turn or self._forgotten.perhaps(job_type, name, sequence)
            if not others_have_any if name == "" else is_late and not lane.now.has_any:
                lane.kept_turn = 0

    def passed_over(self, entry: LogEntry) -> Iterator[str]:
        of_type = self.replay.types[entry.event.job_type]
        policies = self._world.policies(entry.event.job_type, entry.event.sequence)
        since = self._since(entry)
        if len(of_type.lanes) == 1 or len(policies) > 1 or since is None:
            return
        (policy,) = policies
        own = of_type.lanes[lane_of(entry)]
        key = _fewest(own.since(since), policy), own.kept_turn
        for name, lane in of_type.lanes.items():
            if lane is not own and lane.now.ready and self._can_have_turn(entry, of_type, name, since, policy):
                other = max(counts.under_way(policy) for counts in lane.since(since)), lane.turn
                # Which of two lanes that have had no turn is first, goes by their names.
                passed = other < key
                yield f"{entry}: lane {name!r} with {other} had its turn before {key}" if passed else HOLDS

    def _since(self, entry: LogEntry) -> int | None:
        """From which event on a lane must have been as it is to count. None: it cannot be told."""
        if not self._is_shared:
            return entry.event.sequence
        acquiring = self._world.acquiring.get(entry.job.get("worker", ""))
        return None if acquiring is None else self._world.known_at(acquiring.invoked)

    def _can_have_turn(self, entry: LogEntry, of_type: OfType, name: str, since: int, policy: Policy) -> bool:
        lane = of_type.lanes[name]
        if any(self._pauses.perhaps(entry.event.job_type, name, each) for each in (since, entry.event.sequence)):
            return False
        is_open = lane.opens(policy.lane_rate) <= entry.time
        is_free = all(_is_free(counts, policy) for counts in lane.since(since))
        return is_open and is_free and not self._may_be_missed(of_type, name, since, entry)

    def _may_be_missed(self, of_type: OfType, name: str, since: int, entry: LogEntry) -> bool:
        if not self._is_shared:
            return False
        acquiring = self._world.acquiring[entry.job["worker"]]
        return any(
            self._in_hand.may_be_missed(ready, microseconds(ready.job["ready_time"]), entry, acquiring)
            for ready in of_type.ready_since(name, since)
        )


def _is_free(counts: Counts, policy: Policy) -> bool:
    return counts.ready > 0 and counts.has_place(policy, returns=counts.returned > 0)


def _fewest(some: list[Counts], policy: Policy) -> int:
    return min(counts.under_way(policy) for counts in some)
