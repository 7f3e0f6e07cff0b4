"""Promises about the order of hand-outs over recorded histories.

With one server the log alone tells what was ready at a hand-out. Replicas decide at once, so there a job counts only
when somebody knew that it was ready before the Acquire was called, and nobody else had it in hand meanwhile.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from .history import UNKNOWN, Acquiring, LogEntry, Policy
from .world import HOLDS, World, is_hand_out, is_ready, microseconds

LEVELS = {name: level for level, name in enumerate(("BACKGROUND", "LOW", "NORMAL", "HIGH", "URGENT"), start=1)}

IN_HAND_S = 10.0
"""How long a transaction can be open whose call was given up: PostgreSQL ends it when its server has been frozen for
5 s, or waited for a lock for 3 s."""

LOOKED_AT_S = 1.0
"""How long the transaction of a due timer is open. When it meets a job that another replica's timer has just made
ready, PostgreSQL locks the row for it as it is now, although the job is no longer due."""

SEEN_LATE_S = 7.0
"""What a replica made ready with an early place, others see 5 s late."""

LATE_US = 1_000_000
"""How much earlier than its event a ready_time is that counts as early."""


@dataclass(frozen=True, slots=True)
class Place:
    """A ready job."""

    entry: LogEntry
    """The event that made it ready."""
    ready_time: int
    level: int
    created: int
    """The sequence of its creation."""
    step: int

    def __str__(self) -> str:
        """Enough to find it."""
        return f"{self.entry} with ready_time {self.ready_time} and level {self.level}"

    @property
    def score(self) -> tuple[int, int]:
        """By this the jobs go."""
        return self.ready_time - self.level * self.step, self.created


@dataclass(frozen=True, slots=True)
class HandOut:
    """An attempt that was handed out, and what it went before."""

    entry: LogEntry
    place: Place | None
    """None: it was not ready."""
    others: list[Place]
    """Those that were ready too, and had waited longer or come first in the order."""


class Order:
    """The log, replayed to each hand-out."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._is_shared = world.history.store == "postgres"
        self._default = Policy()

    def hand_outs(self) -> Iterator[HandOut]:
        """Each hand-out, with all other jobs that were ready and have to be counted."""
        ready: dict[str, dict[str, Place]] = defaultdict(dict)
        created: dict[str, int] = {}
        for entry in self._world.history.log:
            event = entry.event
            if event.type == "QUEUED":
                created[event.job_id] = event.sequence
            place = ready[event.job_type].get(event.job_id)
            now_ready = is_ready(entry)
            if is_hand_out(entry):
                yield HandOut(entry, place, self._others(entry, ready))
            if not now_ready:
                ready[event.job_type].pop(event.job_id, None)
            elif place is None or place.entry.attempt != entry.attempt:
                ready[event.job_type][event.job_id] = self._place(entry, created[event.job_id])

    def _place(self, entry: LogEntry, created: int) -> Place:
        step = self._world.history.policies.get(entry.event.job_type, self._default).priority_step
        level = LEVELS[entry.job.get("priority", "PRIORITY_NORMAL").removeprefix("PRIORITY_")]
        return Place(entry, microseconds(entry.job["ready_time"]), level, created, step)

    def _others(self, entry: LogEntry, ready: dict[str, dict[str, Place]]) -> list[Place]:
        acquiring = self._world.acquiring.get(entry.job.get("worker", ""))
        if self._is_shared and acquiring is None:
            return []
        job_types: tuple[str, ...] = (entry.event.job_type,)
        if acquiring is not None and not self._is_shared:
            # Replicas take turns at a type, so that only with one server the order over several types is exact.
            job_types = acquiring.job_types
        own = ready[entry.event.job_type].get(entry.event.job_id)
        if own is None:
            return []
        return [
            place
            for name in job_types
            for place in ready[name].values()
            if place.score < own.score or place.ready_time < own.ready_time
            if not (self._is_shared and acquiring is not None and self._may_be_missed(place, entry, acquiring))
        ]

    def _may_be_missed(self, place: Place, entry: LogEntry, acquiring: Acquiring) -> bool:
        known = self._world.known_by[place.entry.event.sequence]
        is_late = place.entry.time - place.ready_time > LATE_US
        if known + (SEEN_LATE_S if is_late else 0.0) >= acquiring.invoked:
            return True
        until = self._world.known_by[entry.event.sequence]
        windows = self._in_hand.get(place.entry.event.job_id, ())
        if any(began <= until and ended >= acquiring.invoked for began, ended in windows):
            return True
        # A due timer had it in hand: that of another replica than made it ready, or before it expired.
        if place.entry.actor == "server" and known + LOOKED_AT_S >= acquiring.invoked:
            return True
        following = next(e for e in [*self._world.by_job[place.entry.event.job_id], entry] if _is_after(e, place.entry))
        return following.actor == "server" and following.event.type == "CANCELLED"

    @cached_property
    def _in_hand(self) -> dict[str, list[tuple[float, float]]]:
        """When calls that name a job may have had its row in hand."""
        found: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for call in self._world.history.calls:
            is_over = call.outcome != UNKNOWN and call.tries == 1
            ended = call.returned + (0.0 if is_over else IN_HAND_S)
            for job_id in call.job_ids or (call.job_id,):
                found[job_id].append((call.invoked, ended))
        for acquiring in self._world.history.acquires:
            if acquiring.tries > 1 or acquiring.outcome == UNKNOWN:
                for entry in self._world.hand_outs.get(acquiring.worker, ()):
                    found[entry.event.job_id].append((acquiring.invoked, acquiring.returned + IN_HAND_S))
        return found


def _is_after(entry: LogEntry, place: LogEntry) -> bool:
    return entry.event.sequence > place.event.sequence


def in_turn(world: World) -> Iterator[str]:
    """P2: what is handed out was ready, and no job that was ready too has a smaller ready_time - level * step."""
    for hand_out in Order(world).hand_outs():
        place = hand_out.place
        if place is None:
            yield f"{hand_out.entry} was handed out, and was not ready"
            continue
        first = min((other for other in hand_out.others if other.score < place.score), key=_score, default=None)
        yield HOLDS if first is None else f"{hand_out.entry} was handed out, at {place}; before it came {first}"


def _score(place: Place) -> tuple[int, int]:
    return place.score


def aged(world: World) -> Iterator[str]:
    """P3: a job is overtaken only by jobs that became ready less than the difference of levels * step after it."""
    for hand_out in Order(world).hand_outs():
        place = hand_out.place
        for other in hand_out.others:
            if place is None or other.entry.event.job_type != place.entry.event.job_type:
                continue
            if other.ready_time < place.ready_time:
                worth = (place.level - other.level) * place.step
                holds = place.ready_time - other.ready_time <= worth
                yield HOLDS if holds else f"{other} has waited too long when {hand_out.entry} was handed out"
