"""The rows of lanes and types that a batch writes, and what its hand-outs rely on when they are written."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from jobstate_server.domain.job import INT64_MAX
from jobstate_server.domain.lane_moves import Move, TypeMove
from jobstate_server.domain.lanes import NOTHING_COUNTED
from jobstate_server.domain.turns import NO_LIMIT, Limits
from jobstate_server.engine.handing_out import HandingOut
from jobstate_server.store.records import Changes, DispatchChange, LaneChange, LaneGuard, TypeGuard

_lane_change = partial(tuple.__new__, LaneChange)
"""A LaneChange of the values of all its fields, made in half the time."""


def add_lane_changes(handing_out: HandingOut, changes: Changes, now: int) -> None:
    """Add the rows to ``changes``. Types without lanes, rates and pauses have none."""
    changes.now = now
    for job_type, move in handing_out.moves:
        limits = handing_out.moves.limits(job_type)
        state = handing_out.state(job_type)
        has_lanes = (state is not None and state.is_stored) or any(move.lanes.keys() - {""})
        lanes = list(_lanes(job_type, move, limits, has_lanes=has_lanes))
        changes.lanes += lanes
        advance = 0 if limits.rate is None else move.claims * limits.rate.interval
        if lanes or advance:
            # All but the empty one.
            named = move.counts.minus(move.lanes[""].counts) if "" in move.lanes else move.counts
            changes.dispatch.append(DispatchChange(job_type, *named, move.turn_time if has_lanes else 0, advance))
    closed = handing_out.closed_lanes()
    written = {change[:2] for change in changes.lanes} if closed else ()
    for job_type, name in closed:
        if (job_type, name) not in written:
            limits = handing_out.moves.limits(job_type)
            changes.lanes.append(_lane(job_type, name, Move(), limits, has_turn=False))
    if handing_out.turns is not None:
        _add_guards(handing_out, changes)


def _lanes(job_type: str, move: TypeMove, limits: Limits, *, has_lanes: bool) -> Iterator[LaneChange]:
    for name, lane in move.lanes.items():
        is_counted = bool(name) and lane.counts != NOTHING_COUNTED
        advances = lane.claims > 0 and limits.lane_rate is not None
        has_turn = has_lanes and lane.turn_time > 0
        if is_counted or advances or has_turn or lane.held_until:
            yield _lane(job_type, name, lane, limits, has_turn=has_turn)


def _lane(job_type: str, name: str, lane: Move, limits: Limits, *, has_turn: bool) -> LaneChange:
    advance, tolerance = 0, -1
    if limits.lane_rate is not None:
        advance, tolerance = lane.claims * limits.lane_rate.interval, limits.lane_rate.tolerance
    # What the empty lane has is not counted in its row.
    counts = lane.counts if name else NOTHING_COUNTED
    turn_time = lane.turn_time if has_turn else 0
    return _lane_change((job_type, name, *counts, turn_time, advance, tolerance, lane.held_until, lane.hold_reason))


def _add_guards(handing_out: HandingOut, changes: Changes) -> None:
    moves = dict(handing_out.moves)
    for job_type in sorted({job_type for job_type, _ in handing_out.acquired}):
        use = moves[job_type].use if job_type in moves else None
        changes.type_guards.append(TypeGuard(job_type, *(use or NO_LIMIT)))
    for job_type, name in sorted(handing_out.acquired):
        lane = moves[job_type].lanes.get(name) if job_type in moves else None
        use = NO_LIMIT if lane is None or lane.use is None else lane.use
        holds_jobs = handing_out.moves.limits(job_type).holds_jobs and use.running_max != INT64_MAX
        changes.lane_guards.append(LaneGuard(job_type, name, use.running_max, holds_jobs, use.next_even_max))
