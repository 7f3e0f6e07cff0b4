"""Picks the ready jobs of the store that a batch may hand out, before it decides.

How many rows are read depends on how many jobs are wanted, not on how many lanes are full, held or paused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

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
from jobstate_server.domain.lane_moves import LaneMoves, moved
from jobstate_server.domain.lanes import NOTHING_COUNTED, counts_of
from jobstate_server.domain.reads import FoundPlace, LaneRange, Reads, Ready, StateOf
from jobstate_server.domain.turns import Limits, TypeState, turns_of
from jobstate_server.domain.waiting import is_ready
from jobstate_server.engine.batch import Batch
from jobstate_server.engine.enough import Enough
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
    spare: int = 0
    """How many of the ready jobs that are found the commands of the batch may take away."""
    is_first: bool = True
    """Whether nothing of the batch has been decided yet, so that all is as it is stored."""

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
        names = sorted(wanted.job_types)
        limit = sum(wanted.jobs.values()) + wanted.spare
        selected = self._selected(batch, wanted, names, limit)
        found = transaction.hand_out_states(selected, may_wait=may_wait, log_first=log_first)
        if any(name not in found.turns for name, _ in wanted.pauses):
            raise TransactionConflict("another server hands out jobs of a type that is to be paused or to go on")
        turns = [name for name in names if name in found.turns]
        if batch.handing_out.turns is not None:
            batch.handing_out.turns.update(turns)
        batch.handing_out.know(found.states.get(name) or TypeState(name) for name in turns)
        batch.handing_out.count_changes(name for name, _ in wanted.pauses)
        batch.handing_out.picked.update(turns)
        if not wanted.jobs:
            return True
        if found.states:
            is_complete = self._offer(transaction, batch, wanted, found.states, turns, limit)
        else:
            picks = [self._together(types, turns, limit) for types in wanted.jobs]
            ready = transaction.ready_jobs([pick for pick in picks if pick.steps])
            _offer(batch, ready.jobs, batch.handing_out.has_picked(turns))
            is_complete = ready.is_complete
        return is_complete and len(turns) == len(names)

    def pick_again(self, transaction: Transaction, batch: Batch, wanted: Wanted) -> bool:
        """Like ``pick``, for types of which the batch has closed lanes, or opened some, since they were picked.

        What the first pick counted on may be closed. So the lanes behind it are read, which nobody has asked for yet.
        """
        names = sorted(wanted.job_types)
        limit = sum(wanted.jobs.values()) + wanted.spare
        selected = [some._replace(is_limited=True) for some in self._selected(batch, wanted, names, limit)]
        found = transaction.hand_out_states(selected, takes_turns=False)
        batch.handing_out.know(found.states.values())
        batch.handing_out.outdated.difference_update(names)
        # As the batch has left them.
        states = {name: state for name in names if (state := batch.handing_out.state(name)) is not None}
        return self._offer(transaction, batch, wanted, states, names, limit)

    def _selected(self, batch: Batch, wanted: Wanted, names: Sequence[str], limit: int) -> list[StateOf]:
        """What must be known of the types. ``limit``: up to how many jobs are to be found."""
        lanes, paused = _lanes_of(batch.jobs.values()), _paused_lanes(wanted.pauses)
        selected = []
        for name in names:
            # Lanes that the batch has changed may be read in the place of others, although they have no turn now.
            changed = 0 if wanted.is_first else len(batch.handing_out.moves.of_type(name).lanes)
            named = paused.get(name, ())
            state_of = self.state_of(name, limit + changed + len(named), named, wanted.pauses)
            selected.append(state_of._replace(ready_lanes=frozenset(lanes.get(name, ()))))
        return selected

    def _offer(
        self,
        transaction: Transaction,
        batch: Batch,
        wanted: Wanted,
        states: Mapping[str, TypeState],
        turns: Collection[str],
        limit: int,
    ) -> bool:
        """Offer the batch jobs of types that have limits or lanes. True if all were found that are wanted."""
        known = batch.handing_out.has_picked(turns)
        ready = self._take(transaction, batch, wanted, states, turns, limit, known)
        _offer(batch, ready.jobs, known)
        # What is closed by this transaction was read in the place of others.
        stale = sum(self._close_stale(state, batch.now) for state in states.values())
        return ready.is_complete and not stale

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
        known: Collection[str],
    ) -> ReadyFound:
        """Take the jobs that will be handed out, and others in place of those that other replicas have locked.

        ``known``: the ids of jobs that the batch has already.
        """
        seen: dict[str, None] = {}
        taken: list[Job] = []
        for _ in range(PICKS_MAX):
            chosen = self._chosen(transaction, batch, wanted, states, turns, limit + len(seen) - len(taken))
            new = [job_id for job_id in chosen if job_id not in seen and job_id not in known]
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
        moves = LaneMoves(self._job_types) if wanted.is_first else batch.handing_out.moves.copy(states)
        freed = _freed(moves, ends, states)
        enough = Enough(limit, limit + len(ends), {(job.job_type, job.lane) for job in ends})
        ready = ReadyJobs(self._job_types, freed)
        ranges: list[LaneRange] = []
        # Commands of the batch may take these away, or have done so.
        in_batch = Counter((job.job_type, job.lane) for job in batch.stored.values() if is_ready(job))
        gone = {} if wanted.is_first else _gone(batch)
        unsure = _changing(wanted, batch)
        for name in turns:
            state = states.get(name)
            if state is None:
                ranges.append(LaneRange(name, "", self._step(name), limit, holds_jobs=False))
                unsure.discard(name)
                continue
            ready.know(state)
            if not wanted.is_first:
                state = moved(state, freed.of_type(name), freed.limits(name), gone.get(name, {}), batch.now)
            ranges += self._ranges(state, freed, in_batch, enough, batch.now)
            if ends and freed.limits(name).rate is not None:
                # Which lanes use up the rate is known when the batch is decided.
                freed.limits(name).rate = None
                unsure.add(name)
        lane_of: dict[str, tuple[str, str]] = {}
        for found in transaction.ready_places(ranges):
            if not wanted.is_first and not _is_open(batch, found):
                continue
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


def _offer(batch: Batch, jobs: Iterable[Job], known: Container[str]) -> None:
    """Offer the batch those of these jobs that it does not have already."""
    offered: set[str] = set()
    for job in jobs:
        # Combinations of types may have types in common.
        if job.id not in offered and job.id not in known:
            offered.add(job.id)
            batch.offer(job)


def _gone(batch: Batch) -> dict[str, Counter[str]]:
    """How many stored jobs the batch has made other than ready, by type and lane."""
    gone: dict[str, Counter[str]] = {}
    for job in batch.stored.values():
        if is_ready(job) and not _is_still(batch.jobs.get(job.id), job.attempt):
            gone.setdefault(job.job_type, Counter())[job.lane] += 1
    return gone


def _is_open(batch: Batch, found: FoundPlace) -> bool:
    """Whether a place that is stored is still that of a ready job."""
    return found.job_id not in batch.stored or _is_still(batch.jobs.get(found.job_id), found.attempt)


def _is_still(job: Job | None, attempt: int) -> bool:
    return job is not None and job.attempt == attempt and is_ready(job)


def _freed(freed: LaneMoves, ends: Iterable[Job], states: Mapping[str, TypeState]) -> LaneMoves:
    """Add to the moves what it adds, as far as it is known, when all these jobs have given up their places."""
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
