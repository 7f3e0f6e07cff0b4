"""A promise about pauses over recorded histories, and when a type or lane was paused."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator

from .history import ANSWERED, REFUSED, UNKNOWN, Pausing
from .world import HOLDS, IN_HAND_S, World, is_hand_out, lane_of

Key = tuple[str, str | None]
"""A type, and one of its lanes or all."""

Span = tuple[float, float]
"""The events after the first sequence, up to the other one."""


class Pauses:
    """When what was paused: for sure, or perhaps."""

    def __init__(self, world: World) -> None:
        self._world = world
        made: dict[Key, list[Pausing]] = defaultdict(list)
        for pausing in sorted(world.history.pauses, key=lambda each: each.invoked):
            if pausing.outcome != REFUSED:
                made[pausing.job_type, pausing.lane].append(pausing)
        self.job_types = {job_type for job_type, _ in made}
        self._surely = {key: sorted(self._sure(some)) for key, some in made.items()}
        self._maybe = {key: sorted(self._possible(some)) for key, some in made.items()}

    def _sure(self, made: list[Pausing]) -> Iterator[Span]:
        """From the answer of a Pause until the next Unpause."""
        for pausing in made:
            if not pausing.paused or pausing.outcome != ANSWERED:
                continue
            others = [each for each in made if not each.paused and _may_end(each) > pausing.invoked]
            first = min(others, key=lambda each: each.invoked, default=None)
            if first is None:
                yield pausing.head, math.inf
            elif first.invoked >= pausing.returned:
                is_answered = first.outcome == ANSWERED
                yield pausing.head, first.head if is_answered else self._world.known_at(first.invoked)

    def _possible(self, made: list[Pausing]) -> Iterator[Span]:
        """From a Pause, whether or not it was answered, until an Unpause that was surely carried out after it."""
        for pausing in made:
            if pausing.paused:
                is_answered = pausing.outcome == ANSWERED
                since = pausing.head if is_answered else self._world.known_at(pausing.invoked)
                ends = (
                    each.head
                    for each in made
                    if not each.paused and each.outcome == ANSWERED and each.invoked >= _may_end(pausing)
                )
                yield since, min(ends, default=math.inf)

    def surely(self, job_type: str, lane: str, sequence: int) -> Span | None:
        """The pause of a type or lane that surely was in force at an event."""
        return _covering(self._surely, job_type, lane, sequence)

    def perhaps(self, job_type: str, lane: str, sequence: int) -> Span | None:
        """The pause of a type or lane that may have been in force at an event."""
        return _covering(self._maybe, job_type, lane, sequence)

    def first_within(self, job_type: str, lane: str, after: int, through: float) -> float:
        """The sequence after which something may have been paused in a stretch of the log; ``through`` if nothing."""
        begun = (
            since
            for key in ((job_type, None), (job_type, lane))
            for since, until in self._maybe.get(key, ())
            if since < through and until > after
        )
        return min((max(since, after) for since in begun), default=through)


def _may_end(pausing: Pausing) -> float:
    """When a call was carried out at the latest, if it was."""
    return pausing.returned + (IN_HAND_S if pausing.outcome == UNKNOWN else 0.0)


def _covering(spans: dict[Key, list[Span]], job_type: str, lane: str, sequence: int) -> Span | None:
    for key in ((job_type, None), (job_type, lane)):
        some = spans.get(key, [])
        for since, until in some[: bisect_right(some, (sequence, -math.inf))]:
            if since < sequence <= until:
                return since, until
    return None


def paused(world: World) -> Iterator[str]:
    """P7: of a type or lane that is paused nothing is handed out after the head that Pause told, until Unpause."""
    pauses = Pauses(world)
    for entry in world.history.log:
        if is_hand_out(entry) and entry.event.job_type in pauses.job_types:
            span = pauses.surely(entry.event.job_type, lane_of(entry), entry.event.sequence)
            yield HOLDS if span is None else f"{entry} was handed out, and was paused after {span[0]} through {span[1]}"
