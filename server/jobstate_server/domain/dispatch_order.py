"""The order in which ready jobs are handed out.

Within a lane a job's place is its ready_time less what its priority is worth, then the order of creation. Nothing of
this changes while a job waits, so no job has to be sorted again, and a job is overtaken only by jobs that became ready
less than the difference of priorities later. Between the lanes of a type there are turns (``turns``). Of several types,
the one whose next job has waited longest comes first, priority included.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from heapq import heapify, heappop, heappush, heapreplace
from typing import NamedTuple

from jobstate_server.domain.job import INT64_MAX, Job
from jobstate_server.domain.job_types import JobTypes
from jobstate_server.domain.lane_moves import LaneMoves, Move, TypeMove
from jobstate_server.domain.lanes import LaneCounts
from jobstate_server.domain.turns import LaneState, Limits, TypeState
from jobstate_server.domain.waiting import is_ready


class Place(NamedTuple):
    """The place of a ready job in its lane. It compares as the jobs are handed out."""

    rank: int
    """0 for a job that comes back to the place that it holds in its lane, which goes before all others; else 1."""
    score: int
    create_sequence: int
    """INT64_MAX for a job of the current transaction, whose sequence is not known yet. It is later than all others."""
    number: int
    """Orders the jobs of the current transaction."""
    job_id: str
    attempt: int
    """With another attempt the job has another place."""


_place = partial(tuple.__new__, Place)
"""A Place of the values of all its fields, made in half the time."""

IsOpen = Callable[[Place], bool]
"""Whether a place is still that of a ready job."""


def score(ready_time: int, level: int, priority_step: int) -> int:
    """The time by which jobs are ordered: the smallest is handed out first."""
    return ready_time - level * priority_step


class _Queue:
    """The places of one lane, in order."""

    __slots__ = ("passed", "places")

    def __init__(self) -> None:
        self.places: list[Place] = []
        self.passed = 0
        """How many places, from the first, belong to jobs that are no longer ready."""

    def next(self, at: int, is_open: IsOpen) -> int:
        """The index of the first open place from ``at`` on. The number of places if there is none."""
        places = self.places
        begins = at
        while at < len(places) and not is_open(places[at]):
            at += 1
        if begins == self.passed:
            self.passed = at
        return at


class _OfType:
    """The ready jobs of one type, by lane."""

    __slots__ = ("limits", "queues", "state", "step", "turns")

    def __init__(self, step: int, limits: Limits) -> None:
        self.step = step
        self.limits = limits
        self.queues: dict[str, _Queue] = {}
        self.state: TypeState | None = None
        self.turns = _Turns(self.queues, limits)


class ReadyJobs:
    """The ready jobs of some types in one transaction: those the store found, and those that became ready since."""

    def __init__(self, job_types: JobTypes, moves: LaneMoves | None = None) -> None:
        """``moves``: what the transaction has added to the counts so far."""
        self._job_types = job_types
        self._moves = LaneMoves(job_types) if moves is None else moves
        self._types: dict[str, _OfType] = {}
        self._count = 0

    def know(self, state: TypeState) -> None:
        """What is stored of a type and its lanes, or of some more of its lanes."""
        of_type = self._of_type(state.job_type)
        if of_type.state is None:
            of_type.state = state
            of_type.turns.changed(of_type.queues)
        else:
            for name, lane in state.lanes.items():
                of_type.state.lanes.setdefault(name, lane)
            of_type.state.is_cut |= state.is_cut
            of_type.state.closed = tuple(dict.fromkeys((*of_type.state.closed, *state.closed)))
            of_type.turns.changed(state.lanes)
        if state.is_stored:
            self._moves.of_type(state.job_type)

    def state(self, job_type: str) -> TypeState | None:
        """What is known of a type."""
        of_type = self._types.get(job_type)
        return None if of_type is None else of_type.state

    def changed(self, job_type: str, lane: str) -> None:
        """What is known of a lane, or what has been added to it, is no longer what it was."""
        of_type = self._types.get(job_type)
        if of_type is not None:
            of_type.turns.changed((lane,))

    def unknown_lanes(self, job_type: str) -> set[str]:
        """The lanes with ready jobs of which nothing is known. Of a type of which nothing is known, all."""
        of_type = self._types.get(job_type)
        if of_type is None:
            return set()
        if of_type.state is None:
            return set(of_type.queues)
        known = of_type.state.lanes
        is_needed = of_type.state.is_stored or self._job_types.policy(job_type).is_limited
        return {name for name in of_type.queues if name not in known} if is_needed else set(of_type.queues) - {""}

    def add(self, job: Job) -> None:
        """Add a job that is ready now."""
        of_type = self._of_type(job.job_type)
        self.add_place(
            job.job_type,
            job.lane,
            score(job.ready_time, job.level, of_type.step),
            job.create_sequence or INT64_MAX,
            job.id,
            job.attempt,
        )

    def add_place(
        self, job_type: str, lane: str, place_score: int, create_sequence: int, job_id: str, attempt: int
    ) -> None:
        """Add the place of a ready job."""
        of_type = self._of_type(job_type)
        queue = of_type.queues.get(lane)
        if queue is None:
            queue = of_type.queues[lane] = _Queue()
        self._count += 1
        of_type.turns.changed((lane,))
        rank = 0 if attempt and of_type.limits.holds_jobs else 1
        place = _place((rank, place_score, create_sequence, self._count, job_id, attempt))
        places = queue.places
        # Most come in order: as the store has them, and after these as they are created.
        if not places or places[-1] < place:
            places.append(place)
        else:
            insort(places, place, lo=queue.passed)

    def _of_type(self, job_type: str) -> _OfType:
        of_type = self._types.get(job_type)
        if of_type is None:
            step = self._job_types.policy(job_type).priority_step
            of_type = self._types[job_type] = _OfType(step, self._moves.limits(job_type))
        return of_type

    def in_order(self, job_types: Iterable[str], jobs: Mapping[str, Job], now: int) -> Iterator[Job]:
        """The jobs of these types that can be handed out, the next one first.

        The limits and turns are those after all jobs before have been handed out.

        Args:
            jobs: the jobs as they are now. A job that is not ready any more is left out.
        """

        def is_open(place: Place) -> bool:
            job = jobs.get(place.job_id)
            return job is not None and job.attempt == place.attempt and is_ready(job)

        return (jobs[place.job_id] for place in self.places_in_order(job_types, is_open, now))

    def places_in_order(self, job_types: Iterable[str], is_open: IsOpen, now: int) -> Iterator[Place]:
        """Like ``in_order``, by places."""
        walks = [self._walk(of_type, name, is_open, now) for name in job_types if (of_type := self._types.get(name))]
        if len(walks) == 1:
            yield from walks[0]
            return
        heads = []
        for number, walk in enumerate(walks):
            place = next(walk, None)
            if place is not None:
                heads.append((place[1:], number, place, walk))
        heapify(heads)
        while heads:
            _, number, place, walk = heads[0]
            yield place
            following = next(walk, None)
            if following is None:
                heappop(heads)
            else:
                heapreplace(heads, (following[1:], number, following, walk))

    def _walk(self, of_type: _OfType, name: str, is_open: IsOpen, now: int) -> Iterator[Place]:
        state = of_type.state
        is_plain = (state is None or not state.is_stored) and not self._job_types.policy(name).is_limited
        if is_plain and len(of_type.queues) == 1 and name not in self._moves.held:
            (queue,) = of_type.queues.values()
            return _places(queue, is_open)
        return _turns(of_type, state or TypeState(name), self._moves.of_type(name), is_open, now)

    def job_ids(self, job_type: str) -> Iterator[str]:
        """The ids of the jobs of this type that have, or had, a place."""
        of_type = self._types.get(job_type)
        if of_type is not None:
            yield from (place.job_id for queue in of_type.queues.values() for place in queue.places)

    def has_any(self, job_type: str, jobs: Mapping[str, Job], now: int) -> bool:
        """Whether a job of this type can be handed out."""
        return next(self.in_order((job_type,), jobs, now), None) is not None

    def opens(self, job_type: str, now: int) -> int | None:
        """When a rate or hold will allow another hand-out of a type. None if none is in the way."""
        of_type = self._types[job_type]
        if of_type.state is None or not (of_type.state.is_stored or self._job_types.policy(job_type).is_limited):
            return None
        return _opens(of_type.state, self._moves.of_type(job_type), of_type.limits, of_type.queues, now)

    @property
    def known_types(self) -> Iterable[str]:
        """The types of which is known what is stored."""
        return [name for name, of_type in self._types.items() if of_type.state is not None]

    @property
    def job_types(self) -> Iterable[str]:
        """The types of which a job was ready at any time in this transaction."""
        return [name for name, of_type in self._types.items() if of_type.queues]


def _opens(state: TypeState, move: TypeMove, limits: Limits, queues: Iterable[str], now: int) -> int | None:
    """When a rate or hold will allow another hand-out."""
    if limits.rate is not None:
        opens = limits.rate.opens(limits.rate.after(state.next_even_time, now, move.claims))
        if opens > now:
            return opens
    times = [] if state.opens is None else [state.opens]
    for name in {*queues, *state.lanes} if limits.lane_rate is not None else _held(state, move, now):
        lane = state.lanes.get(name) or LaneState(name)
        added = move.lanes.get(name) or Move()
        opens = max(lane.held_until, added.held_until)
        if limits.lane_rate is not None:
            even = limits.lane_rate.after(lane.next_even_time, now, added.claims)
            opens = max(opens, limits.lane_rate.opens(even))
        if opens > now:
            times.append(opens)
    return min(times, default=None)


def _held(state: TypeState, move: TypeMove, now: int) -> Iterator[str]:
    """The lanes that a Release holds."""
    yield from (name for name, lane in state.lanes.items() if lane.held_until > now)
    yield from (name for name, added in move.lanes.items() if added.held_until > now)


def _places(queue: _Queue, is_open: IsOpen) -> Iterator[Place]:
    """The open places of a lane without limits."""
    at = queue.next(queue.passed, is_open)
    while at < len(queue.places):
        yield queue.places[at]
        at = queue.next(at + 1, is_open)


def _turns(of_type: _OfType, state: TypeState, move: TypeMove, is_open: IsOpen, now: int) -> Iterator[Place]:
    """The open places of a type, as the lanes have their turns, until a limit of the type is reached."""
    limits = of_type.limits
    room = limits.concurrency - state.counts.running - move.counts.running
    even = state.next_even_time
    if limits.rate is not None:
        even = limits.rate.after(even, now, move.claims)
    turn = max(now, state.turn_time + 1, move.turn_time + 1)
    lanes = of_type.turns.walk(state, move, is_open, now)
    while room > 0 and not (state.paused or state.is_cut) and (limits.rate is None or limits.rate.opens(even) <= now):
        place = lanes(turn)
        if place is None:
            return
        yield place
        room -= 1
        turn += 1
        if limits.rate is not None:
            even = limits.rate.after(even, now)


class _Entry(NamedTuple):
    """A lane in the order of turns. It compares as the lanes have their turns."""

    under_way: int
    turn_time: int
    lane: str
    at: int
    """The index of its next place."""
    counts: LaneCounts
    even: int
    """See ``LaneState.next_even_time``."""


_entry = partial(tuple.__new__, _Entry)
"""An _Entry of the values of all its fields, made in half the time."""


class _Turns:
    """The lanes of a type by their turns. Only those that have changed are looked at again."""

    def __init__(self, queues: Mapping[str, _Queue], limits: Limits) -> None:
        self._queues = queues
        self._limits = limits
        self._entries: dict[str, _Entry] = {}
        """The entry that counts of each lane that has any."""
        self._heap: list[_Entry] = []
        """All of these, and others that do not count any more."""
        self._changed: set[str] = set()
        self._walks = 0

    def changed(self, lanes: Iterable[str]) -> None:
        """These have other turns than before, or other jobs."""
        self._changed.update(lanes)

    def walk(self, state: TypeState, move: TypeMove, is_open: IsOpen, now: int) -> Callable[[int], Place | None]:
        """Begin with what is known now. Returns what takes the next place, with its turn. None if no lane can have one.

        What a walk takes is not yet handed out, so the next walk looks at those lanes again.
        """
        heap, entries = self._heap, self._entries
        for name in self._changed:
            entry = self._entry(name, state, move, is_open, now)
            if entry is not None:
                entries[name] = entry
                heappush(heap, entry)
            else:
                entries.pop(name, None)
        self._changed.clear()
        self._walks += 1
        return partial(self._take, self._walks, is_open, now)

    def _entry(self, name: str, state: TypeState, move: TypeMove, is_open: IsOpen, now: int) -> _Entry | None:
        """The entry of a lane. None if it can have no turn."""
        queue = self._queues.get(name)
        if queue is None:
            return None
        at = queue.next(queue.passed, is_open)
        if at == len(queue.places):
            return None
        lane = state.lanes.get(name) or LaneState(name)
        added = move.lanes.get(name)
        counts, turn, even, held = lane.counts, lane.turn_time, lane.next_even_time, lane.held_until
        if added is not None:
            counts, turn, held = counts.plus(added.counts), max(turn, added.turn_time), max(held, added.held_until)
            if self._limits.lane_rate is not None:
                even = self._limits.lane_rate.after(even, now, added.claims)
        if lane.paused or held > now:
            return None
        return _entry((self._limits.under_way(counts), turn, name, at, counts, even))

    def _take(self, walk: int, is_open: IsOpen, now: int, turn: int) -> Place | None:
        """Take the next place of the latest walk, with this turn."""
        assert walk == self._walks, "another walk has begun"
        limits, heap, entries = self._limits, self._heap, self._entries
        while heap:
            entry = heap[0]
            under_way, _, name, at, counts, even = entry
            if entries.get(name) is not entry:
                heappop(heap)
                continue
            queue = self._queues[name]
            place = queue.places[at]
            if limits.has_lane_limits:
                opens = 0 if limits.lane_rate is None else limits.lane_rate.opens(even)
                if opens > now or not limits.has_place(counts, returns=place.rank == 0):
                    self._changed.add(name)
                    del entries[heappop(heap).lane]
                    continue
                counts = counts.plus(LaneCounts(-1, -1 if place.attempt else 0, 1, 0))
                under_way = limits.under_way(counts) - 1
                if limits.lane_rate is not None:
                    even = limits.lane_rate.after(even, now)
            self._changed.add(name)
            at = queue.next(at + 1, is_open)
            if at == len(queue.places):
                del entries[heappop(heap).lane]
            else:
                entries[name] = following = _entry((under_way + 1, turn, name, at, counts, even))
                heapreplace(heap, following)
            return place
        return None
