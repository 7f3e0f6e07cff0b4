"""Picks the ready jobs of the store that a batch may hand out, before it decides.

How many rows are read depends on how many jobs are wanted, not on how many lanes are full, held or paused.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping, Sequence

from jobstate_server.domain.job import INT64_MAX, Job
from jobstate_server.domain.job_types import JobTypes
from jobstate_server.domain.reads import Ready, StateOf
from jobstate_server.domain.turns import Limits, TypeState
from jobstate_server.engine.batch import Batch
from jobstate_server.engine.limited_pick import LimitedPick
from jobstate_server.engine.wanted import Wanted, ending
from jobstate_server.store.base import Transaction
from jobstate_server.store.errors import TransactionConflict

OPEN_LANES_READ_MAX = 1_000
"""Lanes that one pick reads of a type if many of them are open but their rate is in force, as after a start. There are
hardly ever more. Then nothing of the type is handed out until the next pick, which reads others."""


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
        found.states.update(self._past_stale(transaction, selected, found.states, batch.now))
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
        found.states.update(self._past_stale(transaction, selected, found.states, batch.now))
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
        ends = [job for job in ending(wanted.commands, batch, self._job_types) if job.job_type in states]
        ready = LimitedPick(self._job_types, transaction, batch, wanted, states, turns, ends).take(limit, known)
        _offer(batch, ready.jobs, known)
        return ready.is_complete and not any(state.is_cut for state in states.values())

    def _past_stale(
        self, transaction: Transaction, selected: Iterable[StateOf], states: Mapping[str, TypeState], now: int
    ) -> dict[str, TypeState]:
        """The states of types of which lanes were read that are open, but not by their rate, with others behind them.

        The transaction closes those lanes.
        """
        read: dict[str, TypeState] = {}
        for some in selected:
            state = states.get(some.job_type)
            closed, lanes_max = 0, some.lanes_max
            while state is not None and (stale := self._close_stale(state, now)) > closed:
                if lanes_max >= OPEN_LANES_READ_MAX:
                    state.is_cut = True
                    break
                closed, lanes_max = stale, min(some.lanes_max + 2 * stale, OPEN_LANES_READ_MAX)
                again = transaction.hand_out_states([some._replace(lanes_max=lanes_max)], takes_turns=False)
                read[some.job_type] = state = again.states[some.job_type]
        return read

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


def _offer(batch: Batch, jobs: Iterable[Job], known: Container[str]) -> None:
    """Offer the batch those of these jobs that it does not have already."""
    offered: set[str] = set()
    for job in jobs:
        # Combinations of types may have types in common.
        if job.id not in offered and job.id not in known:
            offered.add(job.id)
            batch.offer(job)


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
