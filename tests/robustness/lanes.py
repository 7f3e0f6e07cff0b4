"""The log replayed by lanes: how many jobs of each are where, its turn, and until when it is closed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import takewhile
from typing import NamedTuple

from .history import LogEntry, Policy, Rate
from .world import World, claims, is_group, is_hand_out, is_ready, lane_of, span

AT_REST = {"FAILED", "RETRYING"}


class Counts(NamedTuple):
    """How many jobs of a lane, or of all lanes of a type, are where after an event."""

    sequence: int = 0
    ready: int = 0
    returned: int = 0
    """Of the ready ones, those that have had an attempt."""
    running: int = 0
    resting: int = 0

    @property
    def has_any(self) -> bool:
        """Whether there is any job that counts."""
        return bool(self.ready or self.running or self.resting)

    def under_way(self, policy: Policy) -> int:
        """How many use a place of the lane."""
        return self.running + (self.resting if policy.holds_jobs else 0)

    def has_place(self, policy: Policy, *, returns: bool) -> bool:
        """Whether the limit of the lane allows a hand-out: of a job that comes back to its place, or of another."""
        taken = self.under_way(policy)
        if policy.holds_jobs and not returns:
            taken += self.returned
        return not policy.lane_concurrency or taken < policy.lane_concurrency


@dataclass(slots=True)
class Lane:
    """A lane, or all lanes of a type."""

    counts: list[Counts] = field(default_factory=lambda: [Counts()])
    """As they were after each event that changed them."""
    turn: int = 0
    """The sequence of its latest hand-out."""
    kept_turn: int = 0
    """That of its latest one that is surely stored: a type without lanes keeps none, and a clean-up forgets some."""
    held_until: int = 0
    next_even: int = 0
    """When the next hand-out were if all came evenly."""

    @property
    def now(self) -> Counts:
        """The latest counts."""
        return self.counts[-1]

    @property
    def is_known(self) -> bool:
        """Whether a job of it has ever been counted. One that waits for its time or its needs is not."""
        return len(self.counts) > 1

    def add(self, sequence: int, kind: str, returned: bool, by: int) -> None:
        """Count a job where it is, or no longer."""
        counts = self.now
        changed = {kind: getattr(counts, kind) + by}
        if returned and kind == "ready":
            changed["returned"] = counts.returned + by
        changed["sequence"] = sequence
        new = counts._replace(**changed)
        if counts.sequence == sequence:
            self.counts[-1] = new
        else:
            self.counts.append(new)

    def opens(self, rate: Rate | None) -> int:
        """From when on its rate and its hold allow a hand-out."""
        even = 0 if rate is None else self.next_even - (rate.burst - 1) * interval(rate)
        return max(even, self.held_until)

    def use(self, rate: Rate | None, now: int) -> None:
        """An attempt was claimed."""
        if rate is not None:
            self.next_even = max(self.next_even, now) + interval(rate)

    def since(self, sequence: int) -> list[Counts]:
        """The counts as they were after an event, and all later ones."""
        found = []
        for counts in reversed(self.counts):
            found.append(counts)
            if counts.sequence <= sequence:
                break
        return found


def interval(rate: Rate) -> int:
    """The time that one hand-out uses up."""
    return -(-rate.period // rate.count)


@dataclass(slots=True)
class OfType:
    """The lanes of a type."""

    all: Lane = field(default_factory=Lane)
    lanes: dict[str, Lane] = field(default_factory=lambda: defaultdict(Lane))
    ready: dict[str, dict[str, LogEntry]] = field(default_factory=lambda: defaultdict(dict))
    """By lane and job: the event that made it ready."""
    left: dict[str, list[tuple[int, LogEntry]]] = field(default_factory=lambda: defaultdict(list))
    """By lane: the events after which a job was no longer ready, each with the event that had made it so."""
    time: int = 0
    """Of the latest event."""

    def ready_since(self, name: str, sequence: int) -> Iterator[LogEntry]:
        """What made those jobs of a lane ready that are so now, or were so after an event."""
        yield from self.ready[name].values()
        for _, made_ready in takewhile(lambda left: left[0] > sequence, reversed(self.left[name])):
            yield made_ready


class Replay:
    """The lanes of all types, before each event."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.types: dict[str, OfType] = defaultdict(OfType)
        self._where: dict[str, tuple[str, bool]] = {}

    def events(self) -> Iterator[LogEntry]:
        """Every event. While one is looked at, everything is as it was before it."""
        for entry in self._world.history.log:
            yield entry
            self._apply(entry)

    def _apply(self, entry: LogEntry) -> None:
        sequence, job_id = entry.event.sequence, entry.event.job_id
        of_type, name = self.types[entry.event.job_type], lane_of(entry)
        lane, of_type.time = of_type.lanes[name], entry.time
        both = (of_type.all, lane)
        before, after = self._where.pop(job_id, None), _where(entry)
        if before != after:
            for each in both:
                if before is not None:
                    each.add(sequence, *before, -1)
                if after is not None:
                    each.add(sequence, *after, 1)
        if after is not None:
            self._where[job_id] = after
        if after is None or after[0] != "ready":
            made_ready = of_type.ready[name].pop(job_id, None)
            if made_ready is not None:
                of_type.left[name].append((sequence, made_ready))
        elif before is None or before[0] != "ready" or of_type.ready[name][job_id].attempt != entry.attempt:
            of_type.ready[name][job_id] = entry
        # Of several policies the slowest is gone by.
        policies = self._world.policies(entry.event.job_type, sequence)
        if claims(entry):
            _use(of_type.all, [policy.rate for policy in policies], entry.time)
            _use(lane, [policy.lane_rate for policy in policies], entry.time)
        if is_hand_out(entry):
            lane.turn = sequence
            has_lanes = any(each.is_known for other, each in of_type.lanes.items() if other)
            lane.kept_turn = sequence if has_lanes else 0
        if entry.event.type == "RELEASED" and "hold_lane" in entry.detail:
            lane.held_until = max(lane.held_until, entry.time + span(entry.detail["hold_lane"]))


def _use(lane: Lane, rates: list[Rate | None], now: int) -> None:
    lane.use(max(filter(None, rates), key=interval, default=None), now)


def _where(entry: LogEntry) -> tuple[str, bool] | None:
    """Where a job is counted, and whether it has had an attempt before the one that it waits for."""
    if entry.event.type == "DELETED" or is_group(entry):
        return None
    if is_ready(entry):
        return "ready", entry.attempt > 0
    if entry.event.state == "PROCESSING":
        return "running", False
    return ("resting", False) if entry.event.state in AT_REST else None
