"""Picks the ready jobs of the store that a batch may hand out, before it decides.

How many rows are read depends on how many jobs are wanted, not on how many lanes are full, held or paused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TypeVar

from jobstate_server.domain.commands import (
    Cancel,
    Command,
    Complete,
    Fail,
    MarkStale,
    Release,
    Retry,
    ReturnUndelivered,
    ServeDue,
)
from jobstate_server.domain.dispatch_order import ReadyJobs
from jobstate_server.domain.job import INT64_MAX, Job
from jobstate_server.domain.job_types import JobTypes
from jobstate_server.domain.lane_moves import LaneMoves
from jobstate_server.domain.lanes import NOTHING_COUNTED, counts_of
from jobstate_server.domain.reads import LaneRange, Reads, Ready, StateOf
from jobstate_server.domain.turns import Limits, TypeState, turns_of
from jobstate_server.domain.waiting import is_ready
from jobstate_server.engine.batch import Batch
from jobstate_server.store.base import Transaction
from jobstate_server.store.errors import TransactionConflict
from jobstate_server.store.records import ReadyFound

_ENDING = (Complete, Fail, Release, Cancel, MarkStale, ReturnUndelivered)
"""Commands that end an attempt. Those that are due are decided with ServeDue."""

_ENDING_REST = (Cancel, Retry)
"""Commands after which a job no longer rests. Those that are due are resumed with ServeDue."""

PICKS_MAX = 4
"""How often jobs are selected in place of those that others have locked."""


@dataclass(slots=True)
class Wanted:
    """What a batch wants to hand out."""

    jobs: dict[tuple[str, ...], int] = field(default_factory=dict)
    """How many jobs, by the types that are asked for together."""
    pauses: set[tuple[str, str | None]] = field(default_factory=set)
    """The types and lanes that are paused in the batch, or go on."""
    commands: Sequence[Command] = ()
    """Those of the batch that come after the pick. Some may end attempts, so that others can have their places."""
    whole_batch: Sequence[Command] = ()
    """All commands of the batch."""

    @property
    def job_types(self) -> set[str]:
        """All types that are named."""
        return {name for types in self.jobs for name in types} | {name for name, _ in self.pauses}


class Picker:
    """Picks for one server."""

    def __init__(self, job_types: JobTypes) -> None:
        self._job_types = job_types

    def pick(self, transaction: Transaction, batch: Batch, wanted: Wanted, *, may_wait: bool, log_first: bool) -> bool:
        """Offer the batch the jobs that it may hand out. True if all were found that are wanted.

        Args:
            may_wait: whether to wait for another server that hands out jobs of one of the types.
            log_first: whether nothing may come between what is read and what is written.
        """
        lanes, paused = _lanes_of(batch.jobs.values()), _paused_lanes(wanted.pauses)
        names = sorted(wanted.job_types)
        limit = sum(wanted.jobs.values()) + sum(map(is_ready, batch.jobs.values()))
        selected = [
            self.state_of(name, limit, paused.get(name, ()), wanted.pauses)._replace(
                ready_lanes=frozenset(lanes.get(name, ()))
            )
            for name in names
        ]
        found = transaction.hand_out_states(selected, may_wait=may_wait, log_first=log_first)
        if any(name not in found.turns for name, _ in wanted.pauses):
            raise TransactionConflict("another server hands out jobs of a type that is to be paused or to go on")
        turns = [name for name in names if name in found.turns]
        if batch.handing_out.turns is not None:
            batch.handing_out.turns.update(turns)
        batch.handing_out.know(found.states.get(name) or TypeState(name) for name in turns)
        batch.handing_out.count_changes(name for name, _ in wanted.pauses)
        if not wanted.jobs:
            return True
        if found.states:
            ready = self._take(transaction, batch, wanted, found.states, turns, limit)
        else:
            picks = [self._together(types, turns, limit) for types in wanted.jobs]
            ready = transaction.ready_jobs([pick for pick in picks if pick.steps])
        offered: set[str] = set()
        for job in ready.jobs:
            # Combinations of types may have types in common.
            if job.id not in offered:
                offered.add(job.id)
                batch.offer(job)
        # What is closed by this transaction was read in the place of others.
        stale = sum(self._close_stale(state, batch.now) for state in found.states.values())
        return ready.is_complete and len(turns) == len(names) and not stale

    def _close_stale(self, state: TypeState, now: int) -> int:
        """Let the rows be written of lanes that are open, but not by their rate. Returns how many there are."""
        limits = Limits(self._job_types.policy(state.job_type))
        stale = [
            lane.lane
            for lane in state.lanes.values()
            if lane.lane and lane.counts.ready and lane.held_until <= now < limits.lane_opens(lane)
            if lane.lane not in state.closed and lane.is_open
        ]
        state.closed = (*state.closed, *stale)
        return len(stale)

    def state_of(
        self, job_type: str, limit: int, lanes: Collection[str], pauses: Collection[tuple[str, str | None]] = ()
    ) -> StateOf:
        """What must be known of a type to hand out up to ``limit`` jobs of it."""
        policy = self._job_types.policy(job_type)
        is_limited = policy.is_limited or any(name == job_type for name, _ in pauses)
        under_way_max = policy.lane_concurrency or INT64_MAX
        return StateOf(job_type, limit, under_way_max, policy.holds_jobs, is_limited, frozenset(lanes))

    def _together(self, types: Iterable[str], turns: Collection[str], limit: int) -> Ready:
        return Ready(tuple((name, self._step(name)) for name in types if name in turns), limit)

    def _step(self, job_type: str) -> int:
        return self._job_types.policy(job_type).priority_step

    def _take(
        self,
        transaction: Transaction,
        batch: Batch,
        wanted: Wanted,
        states: Mapping[str, TypeState],
        turns: Collection[str],
        limit: int,
    ) -> ReadyFound:
        """Take the jobs that will be handed out, and others in place of those that other replicas have locked."""
        seen: dict[str, None] = {}
        taken: list[Job] = []
        for _ in range(PICKS_MAX):
            chosen = self._chosen(transaction, batch, wanted, states, turns, limit + len(seen) - len(taken))
            new = [job_id for job_id in chosen if job_id not in seen]
            if not new:
                break
            seen.update(dict.fromkeys(new))
            taken += transaction.take_ready(new).jobs
            if len(taken) == len(seen):
                break
        return ReadyFound(taken, len(taken) == len(seen))

    def _chosen(
        self,
        transaction: Transaction,
        batch: Batch,
        wanted: Wanted,
        states: Mapping[str, TypeState],
        turns: Collection[str],
        limit: int,
    ) -> list[str]:
        """The ids of the jobs that will be handed out, as far as it is known before the batch is decided."""
        ends = [job for job in ending(wanted.commands, batch, self._job_types) if job.job_type in states]
        freed = _freed(self._job_types, ends, states)
        enough = Enough(limit, limit + len(ends), {(job.job_type, job.lane) for job in ends})
        goes_on = {name for name, _ in wanted.pauses}
        ready = ReadyJobs(self._job_types, freed)
        ranges: list[LaneRange] = []
        # Commands of the batch may take these away.
        in_batch = Counter((job.job_type, job.lane) for job in batch.jobs.values() if is_ready(job))
        unsure = _changing(wanted, batch)
        for name in turns:
            state = states.get(name)
            if state is None:
                ranges.append(LaneRange(name, "", self._step(name), limit, holds_jobs=False))
                unsure.discard(name)
                continue
            if name in goes_on:
                lanes = {lane: replace(each, paused=False) for lane, each in state.lanes.items()}
                state = replace(state, paused=False, lanes=lanes)
            ready.know(state)
            ranges += self._ranges(state, freed, in_batch, enough, batch.now)
            if ends and freed.limits(name).rate is not None:
                # Which lanes use up the rate is known when the batch is decided.
                freed.limits(name).rate = None
                unsure.add(name)
        lane_of: dict[str, tuple[str, str]] = {}
        for found in transaction.ready_places(ranges):
            ready.add_place(*found)
            lane_of[found.job_id] = found.job_type, found.lane
        ids: dict[str, None] = {}
        for types in wanted.jobs:
            names = [name for name in types if name in turns]
            # Jobs that the rate may stop do not take the place of those of other types. And a job that becomes ready in
            # the batch may bring the turn of its lane forward: its type is not passed over because the first lane's job
            # has a later place than those of other types.
            merged = [name for name in names if name not in unsure]
            for together in (merged, *([name] for name in names if name in unsure)):
                places = ready.places_in_order(together, lambda _place: True, batch.now)
                ids.update((place.job_id, None) for place in enough.of(places, lambda place: lane_of[place.job_id]))
        return list(ids)

    def _ranges(
        self, state: TypeState, freed: LaneMoves, in_batch: Mapping[tuple[str, str], int], enough: Enough, now: int
    ) -> list[LaneRange]:
        """Where to look for jobs of a type that has limits or lanes."""
        name = state.job_type
        limits, move = freed.limits(name), freed.of_type(name)
        room = limits.room(state) - move.counts.running
        if room <= 0 or state.paused or limits.type_opens(state) > now:
            return []
        freed_in = {lane: -limits.under_way(each.counts) for lane, each in move.lanes.items()}
        turns = islice(turns_of(state, freed_in, limits, now), min(room, INT64_MAX))
        counts = Counter(enough.of(turns, lambda lane: (name, lane)))
        for job_type, lane in in_batch:
            if job_type == name and (lane in counts or lane in state.lanes):
                counts[lane] = counts.get(lane, 0) + in_batch[job_type, lane]
        step, lanes = self._step(name), state.lanes
        return [
            LaneRange(name, lane, step, count, limits.holds_jobs, lane in lanes and lanes[lane].counts.ready <= count)
            for lane, count in counts.items()
        ]


def _changing(wanted: Wanted, batch: Batch) -> set[str]:
    """The types of which the batch may make jobs ready, or change turns, if jobs of several types are wanted together.

    Not all is known at the pick. What may change is assumed to.
    """
    if all(len(types) == 1 for types in wanted.jobs):
        return set()
    named = Reads()
    for command in wanted.whole_batch:
        command.add_reads(named)
    return named.job_types | {job.job_type for job in batch.jobs.values()}


_T = TypeVar("_T")


class Enough:
    """How many places are read before a batch is decided that is to end some attempts.

    A command that is to end an attempt may be refused. Then its lane is as far back in the order as it is stored to be,
    and its places may go to others. So places count only of lanes in which no attempt is to end, and each refused
    command sends back one place at most.
    """

    def __init__(self, wanted: int, most: int, unsure: Container[tuple[str, str]]) -> None:
        """
        Args:
            wanted: how many places are enough of those that are certain.
            most: how many are enough in all.
            unsure: the types and lanes in which an attempt is to end.
        """
        self._wanted = wanted
        self._most = most
        self._unsure = unsure

    def of(self, places: Iterable[_T], lane_of: Callable[[_T], tuple[str, str]]) -> Iterator[_T]:
        """As many of these places, in their order, as are enough."""
        if self._most == self._wanted:
            return islice(places, self._wanted)
        return self._counted(places, lane_of)

    def _counted(self, places: Iterable[_T], lane_of: Callable[[_T], tuple[str, str]]) -> Iterator[_T]:
        certain = 0
        for place in islice(places, self._most):
            yield place
            certain += lane_of(place) not in self._unsure
            if certain == self._wanted:
                return


def _freed(job_types: JobTypes, ends: Iterable[Job], states: Mapping[str, TypeState]) -> LaneMoves:
    """What it adds to the counts, as far as they are known, when all these jobs have given up their places."""
    freed = LaneMoves(job_types)
    for job in ends:
        of_type = freed.of_type(job.job_type)
        given_up = NOTHING_COUNTED.minus(counts_of(job))
        moves = (of_type, of_type.lane(job.lane)) if job.lane in states[job.job_type].lanes else (of_type,)
        for move in moves:
            move.counts = move.counts.plus(given_up)
    return freed


def ending(commands: Sequence[Command], batch: Batch, job_types: JobTypes) -> list[Job]:
    """The jobs of a batch that these commands may take from the places that they have: of a limit, or in a turn.

    A running attempt has one. Where jobs hold their places, so has a job that rests.
    """
    named: set[str] = set()
    named_at_rest: set[str] = set()
    serves_due = False
    for each in commands:
        if isinstance(each, _ENDING):
            named.add(each.job_id)
        if isinstance(each, _ENDING_REST):
            named_at_rest.add(each.job_id)
        serves_due = serves_due or type(each) is ServeDue
    found = []
    for job in batch.jobs.values():
        counts = counts_of(job)
        if counts.running or (counts.resting and job_types.policy(job.job_type).holds_jobs):
            is_due = serves_due and job.due_time is not None and job.due_time <= batch.now
            if is_due or job.id in (named if counts.running else named_at_rest):
                found.append(job)
    return found


def _lanes_of(jobs: Iterable[Job]) -> dict[str, set[str]]:
    """The lanes of these jobs, by type."""
    lanes: dict[str, set[str]] = {}
    for job in jobs:
        if job.lane:
            lanes.setdefault(job.job_type, set()).add(job.lane)
    return lanes


def _paused_lanes(pauses: Iterable[tuple[str, str | None]]) -> dict[str, set[str]]:
    """The lanes that are paused or go on, by type."""
    lanes: dict[str, set[str]] = {}
    for job_type, lane in pauses:
        if lane is not None:
            lanes.setdefault(job_type, set()).add(lane)
    return lanes
