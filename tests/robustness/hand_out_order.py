"""Promises about the order of hand-outs over recorded histories.

Between lanes there are turns; this is the order within one. With one server the log alone tells what was ready at a
hand-out. Replicas decide at once, so there a job counts only when somebody knew that it was ready before the Acquire
was called, and nobody else had it in hand meanwhile.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from .history import Acquiring, LogEntry, Policy
from .in_hand import InHand
from .world import HOLDS, World, is_hand_out, is_ready, lane_of, microseconds

LEVELS = {name: level for level, name in enumerate(("BACKGROUND", "LOW", "NORMAL", "HIGH", "URGENT"), start=1)}

Score = tuple[bool, int, int]


@dataclass(frozen=True, slots=True)
class Place:
    """A ready job."""

    entry: LogEntry
    """The event that made it ready."""
    ready_time: int
    level: int
    created: int
    """The sequence of its creation."""

    def __str__(self) -> str:
        """Enough to find it."""
        return f"{self.entry} with ready_time {self.ready_time} and level {self.level}"

    @property
    def rank(self) -> Rank:
        """With which others it is in order."""
        return Rank(lane_of(self.entry), self.level, self.entry.attempt > 0)

    @property
    def key(self) -> tuple[int, int, str]:
        """Its place among these."""
        return self.ready_time, self.created, self.entry.event.job_id

    def score(self, policy: Policy) -> Score:
        """By this the jobs of a lane go: first those that come back to the place that they have in it."""
        returns = policy.holds_jobs and self.entry.attempt > 0
        return not returns, self.ready_time - self.level * policy.priority_step, self.created


class Rank(NamedTuple):
    """Jobs of a type that come in the order in which they became ready."""

    lane: str
    level: int
    has_begun: bool


class Ready:
    """The ready jobs of a type. Thousands may be ready at each of thousands of hand-outs, so they are kept in order."""

    def __init__(self) -> None:
        self._places: dict[str, Place] = {}
        self._ranks: dict[Rank, list[tuple[int, int, str]]] = defaultdict(list)

    def get(self, job_id: str) -> Place | None:
        """The place of a job. None if it is not ready."""
        return self._places.get(job_id)

    def put(self, place: Place) -> None:
        """Add a job, or move it to another place."""
        self.remove(place.entry.event.job_id)
        self._places[place.entry.event.job_id] = place
        insort(self._ranks[place.rank], place.key)

    def remove(self, job_id: str) -> None:
        """Remove a job, if it is there."""
        place = self._places.pop(job_id, None)
        if place is not None:
            rank = self._ranks[place.rank]
            del rank[bisect_left(rank, place.key)]

    def before(self, own: Score, policy: Policy, lane: str | None) -> Iterator[Place]:
        """Those with a smaller score.

        Args:
            lane: the lane of which they are. None: of any.
        """
        for rank, keys in self._ranks.items():
            comes_anew = not (policy.holds_jobs and rank.has_begun)
            if (lane is None or rank.lane == lane) and comes_anew <= own[0]:
                place = bisect_left(keys, (own[1] + rank.level * policy.priority_step, own[2]))
                for *_, job_id in keys[: place if comes_anew == own[0] else None]:
                    yield self._places[job_id]

    def since(self, ready_time: int, lane: str) -> Iterator[Place]:
        """Those of a lane that became ready earlier."""
        for rank, keys in self._ranks.items():
            if rank.lane == lane:
                for *_, job_id in keys[: bisect_left(keys, (ready_time,))]:
                    yield self._places[job_id]


@dataclass(frozen=True, slots=True)
class HandOut:
    """An attempt that was handed out, and what it went before."""

    entry: LogEntry
    place: Place | None
    """None: it was not ready."""
    policy: Policy
    first: list[Place]
    """Those that were ready too, and come first in the order."""
    longer: list[Place]
    """Those of its lane that were ready too, and had waited longer."""


class Order:
    """The log, replayed to each hand-out."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._is_shared = world.history.store == "postgres"
        self._in_hand = InHand(world)
        self._laned = {entry.event.job_type for entry in world.history.log if lane_of(entry)}
        self._laned |= {pausing.job_type for pausing in world.history.pauses}
        self._stopped = {
            (entry.event.job_id, entry.job.get("update_time"))
            for entry in world.history.log
            if entry.event.type == "CANCELLED" and entry.job.get("cancel_cause") == "CANCEL_CAUSE_GROUP"
        }
        """The members of stopped groups that were cancelled, and when."""

    def hand_outs(self) -> Iterator[HandOut]:
        """Each hand-out, with all other jobs that were ready and have to be counted."""
        ready: dict[str, Ready] = defaultdict(Ready)
        created: dict[str, int] = {}
        for entry in self._world.history.log:
            event = entry.event
            if event.type == "QUEUED":
                created[event.job_id] = event.sequence
            place = ready[event.job_type].get(event.job_id)
            now_ready = is_ready(entry)
            if is_hand_out(entry):
                yield self._hand_out(entry, place, ready)
            if not now_ready:
                ready[event.job_type].remove(event.job_id)
            elif place is None or place.entry.attempt != entry.attempt:
                level = LEVELS[entry.job.get("priority", "PRIORITY_NORMAL").removeprefix("PRIORITY_")]
                found = Place(entry, microseconds(entry.job["ready_time"]), level, created[event.job_id])
                ready[event.job_type].put(found)

    def _hand_out(self, entry: LogEntry, place: Place | None, ready: Mapping[str, Ready]) -> HandOut:
        policies = self._world.policies(entry.event.job_type, entry.event.sequence)
        hand_out = HandOut(entry, place, policies[0], [], [])
        acquiring = self._world.acquiring.get(entry.job.get("worker", ""))
        if place is None or len(policies) > 1 or (self._is_shared and acquiring is None):
            return hand_out
        own, lane = place.score(policies[0]), lane_of(entry)
        for name in self._types_of(entry, acquiring):
            (policy,) = self._world.policies(name, entry.event.sequence)
            is_of_type = name == entry.event.job_type
            first = ready[name].before(own, policy, lane if is_of_type else None)
            longer = ready[name].since(place.ready_time, lane) if is_of_type else iter(())
            hand_out.first.extend(self._counted(first, entry, acquiring))
            hand_out.longer.extend(self._counted(longer, entry, acquiring))
        return hand_out

    def _counted(self, places: Iterable[Place], entry: LogEntry, acquiring: Acquiring | None) -> Iterator[Place]:
        """Those that could be handed out."""
        for place in places:
            # The Acquire that met a member of a stopped group has cancelled it, in the same commit.
            is_stopped = (place.entry.event.job_id, entry.job.get("update_time")) in self._stopped
            if not is_stopped and not self._may_be_missed(place, entry, acquiring):
                yield place

    def _types_of(self, entry: LogEntry, acquiring: Acquiring | None) -> Iterable[str]:
        """The types of which the next job is known. Replicas take turns at a type, so there it is the own one alone.

        What is next of a type with lanes, limits or pauses depends on these.
        """
        yield entry.event.job_type
        if acquiring is not None and not self._is_shared:
            for name in acquiring.job_types:
                policies = self._world.policies(name, entry.event.sequence)
                is_plain = name not in self._laned and len(policies) == 1 and not policies[0].is_limited
                if is_plain and name != entry.event.job_type:
                    yield name

    def _may_be_missed(self, place: Place, entry: LogEntry, acquiring: Acquiring | None) -> bool:
        if not self._is_shared or acquiring is None:
            return False
        is_missed = self._in_hand.may_be_missed(place.entry, place.ready_time, entry, acquiring)
        return is_missed or self._in_hand.may_be_lost(place.entry, entry, acquiring)


def in_turn(world: World) -> Iterator[str]:
    """P2: what is handed out was ready, and no job that was ready too has a smaller ready_time - level * step."""
    for hand_out in Order(world).hand_outs():
        if hand_out.place is None:
            yield f"{hand_out.entry} was handed out, and was not ready"
        elif hand_out.first:
            yield f"{hand_out.entry} was handed out, at {hand_out.place}; before it came {hand_out.first[0]}"
        else:
            yield HOLDS


def aged(world: World) -> Iterator[str]:
    """P3: a job is overtaken only by jobs that became ready less than the difference of levels * step after it."""
    for hand_out in Order(world).hand_outs():
        place, policy = hand_out.place, hand_out.policy
        for other in hand_out.longer:
            if place is None or (policy.holds_jobs and place.entry.attempt and not other.entry.attempt):
                # Who comes back to the place that he has overtakes nobody.
                continue
            worth = (place.level - other.level) * policy.priority_step
            holds = place.ready_time - other.ready_time <= worth
            yield HOLDS if holds else f"{other} has waited too long when {hand_out.entry} was handed out"
