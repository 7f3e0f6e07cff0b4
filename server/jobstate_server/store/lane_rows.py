"""The statements about lanes that both backends have in common, and what their rows mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from jobstate_server.domain.job import JobState
from jobstate_server.domain.lanes import LaneCounts, lane_counts
from jobstate_server.domain.reads import StateOf
from jobstate_server.domain.statistics import Measure
from jobstate_server.domain.turns import LaneState, TypeState
from jobstate_server.store.lane_models import HAS_TURN, IS_CLOSED
from jobstate_server.store.records import DispatchChange, LaneChange

CLOSED_READ_MAX = 1_000
"""Lanes that one pick opens again. More of them are opened by the next one."""

_NEXT, _OPENED, _NAMED, _OPENS = range(4)

_SUMS = ("ready", "returned", "running", "resting", "turn_time", "next_even_time")
_OWN = -1
"""In place of a measure: a column of ``dispatch``, by its place in ``_SUMS``. The last is whether it is paused."""

COUNTED = (Measure.STORED, Measure.HELD, Measure.UNCLAIMED, Measure.GROUPS)
"""The measures that say how many jobs of a type are ready, run or rest."""

_COLUMNS = "lane, ready, returned, running, resting, turn_time, next_even_time, held_until, paused, closed_until"


def sums_text(names: str) -> str:
    """Reads the tallies and the row of some types, as of one moment. ``names``: a subquery or array of them."""
    measures = ", ".join(str(int(measure)) for measure in COUNTED)
    parts = [
        f"SELECT job_type, measure, bucket, value FROM tally WHERE job_type {names} AND measure IN ({measures})",
        *(
            f"SELECT job_type, {_OWN}, {number}, {name} FROM dispatch WHERE job_type {names}"
            for number, name in enumerate(_SUMS)
        ),
        f"SELECT job_type, {_OWN}, {len(_SUMS)}, CASE WHEN paused THEN 1 ELSE 0 END FROM dispatch"
        f" WHERE job_type {names}",
    ]
    return " UNION ALL ".join(parts)


def lanes_text(under_way: str, among: Callable[[str], str], mark: Callable[[str], str]) -> str:
    """Reads the lanes of a type that can be next, those that open again, those named, and when the next one opens.

    Args:
        under_way: how many jobs are under way in a lane: an expression that is indexed.
        among: how the statement says that a name is among those of a parameter.
        mark: how the statement names a parameter.
    """
    of_type = f"FROM lane WHERE job_type = {mark('job_type')}"
    parts = [
        f"SELECT {_NEXT} AS kind, {_COLUMNS} {of_type} AND {HAS_TURN.sql} AND {under_way} < {mark('under_way_max')}"
        f" ORDER BY {under_way}, turn_time, lane LIMIT {mark('lanes_max')}",
        f"SELECT {_OPENED} AS kind, {_COLUMNS} {of_type} AND {IS_CLOSED.sql} AND closed_until <= {mark('now')}"
        f" ORDER BY closed_until LIMIT {CLOSED_READ_MAX}",
        f"SELECT {_NAMED} AS kind, {_COLUMNS} {of_type} AND lane {among('lanes')}",
        f"SELECT {_NAMED} AS kind, {_COLUMNS} {of_type} AND lane {among('ready_lanes')} AND ready > 0",
        f"SELECT {_OPENS} AS kind, {_COLUMNS} {of_type} AND {IS_CLOSED.sql} AND closed_until > {mark('now')}"
        " ORDER BY closed_until LIMIT 1",
    ]
    return " UNION ALL ".join(f"SELECT * FROM ({part}) AS part{number}" for number, part in enumerate(parts))


def dispatch_rows(job_type: str, values: Iterable[Any]) -> list[tuple[Any, ...]]:
    """The rows of ``sums_text`` for a row of ``dispatch``: the columns of ``_SUMS``, then ``paused``."""
    return [(job_type, _OWN, number, int(value)) for number, value in enumerate(values)]


def states_from(rows: Iterable[tuple[Any, ...]], wanted: Iterable[StateOf]) -> dict[str, TypeState]:
    """The states in rows of ``sums_text``, without their lanes but the empty one."""
    values: dict[str, dict[tuple[int, int], int]] = {}
    for job_type, measure, bucket, value in rows:
        values.setdefault(job_type, {})[measure, bucket] = value
    return {some.job_type: _state(some.job_type, values.get(some.job_type, {})) for some in wanted}


def _state(job_type: str, values: dict[tuple[int, int], int]) -> TypeState:
    def of(measure: int, bucket: int = 0) -> int:
        return values.get((measure, bucket), 0)

    held = sum(value for (measure, _), value in values.items() if measure == Measure.HELD)
    returned = of(Measure.UNCLAIMED)
    everything = LaneCounts(
        of(Measure.STORED, JobState.QUEUED) - held + returned,
        returned,
        of(Measure.STORED, JobState.PROCESSING) - returned - of(Measure.GROUPS),
        of(Measure.STORED, JobState.RETRYING) + of(Measure.STORED, JobState.FAILED),
    )
    named = LaneCounts(*(of(_OWN, number) for number in range(4)))
    turn_time, next_even_time, paused = (of(_OWN, number) for number in range(4, 7))
    state = TypeState(job_type, (_OWN, 0) in values, bool(paused), everything, turn_time, next_even_time)
    state.lanes[""] = LaneState("", everything.minus(named))
    return state


def add_lanes(state: TypeState, rows: Iterable[tuple[Any, ...]], wanted: StateOf) -> None:
    """Add the lanes in rows of ``lanes_text``."""
    opened = []
    empty = state.lanes[""].counts
    for row in rows:
        kind, name, ready, returned, running, resting, turn_time, next_even_time, held_until, paused, closed_until = row
        if kind == _OPENS:
            state.opens = closed_until
            continue
        if kind == _OPENED:
            opened.append(name)
        # The counts of the empty lane are not in its row.
        counts = lane_counts((ready, returned, running, resting)) if name else empty
        state.lanes[name] = LaneState(
            name, counts, turn_time, next_even_time, held_until, bool(paused), not closed_until
        )
    state.closed = tuple(opened)
    for name in wanted.lanes:
        state.lanes.setdefault(name, LaneState(name))


_HAS_NOTHING = "ready = 0 AND running = 0 AND resting = 0"

# What ``_state`` computes: the ready jobs of the type, less those of its named lanes.
_EMPTY_LANE_READY = (
    f"(SELECT COALESCE(SUM(CASE WHEN measure = {int(Measure.HELD)} THEN -value ELSE value END), 0) FROM tally"
    f" WHERE tally.job_type = dispatch.job_type AND (measure IN ({int(Measure.HELD)}, {int(Measure.UNCLAIMED)})"
    f" OR (measure = {int(Measure.STORED)} AND bucket = {int(JobState.QUEUED)}))) - dispatch.ready"
)


def forget_lane_text(mark: Callable[[str], str]) -> str:
    """Deletes a lane that has nothing and is not paused, with its hold and what its rate has counted."""
    return (
        f"DELETE FROM lane WHERE job_type = {mark('job_type')} AND lane = {mark('lane')} AND lane > ''"
        f" AND {_HAS_NOTHING} AND NOT paused"
    )


def forget_hold_reason_text(mark: Callable[[str], str]) -> str:
    """Forgets why a lane is held, if that is the reason."""
    return (
        f"UPDATE lane SET hold_reason = '' WHERE job_type = {mark('job_type')} AND lane = {mark('lane')}"
        f" AND hold_reason = {mark('hold_reason')}"
    )


def forget_lanes_texts(mark: Callable[[str], str]) -> tuple[str, str, str]:
    """Deletes some lanes that have nothing, are not paused, and whose hold and rate are over, and types without lanes.

    A lane whose row is gone has its next turn before all others. So a row stays while another lane waits that has not
    had a turn since. The first statement deletes at most ``limit`` lanes. The others then delete the rows of the empty
    lane and of types that have no other lanes: the empty lane of such a type has no turns to take.
    """
    now = mark("now")
    is_open = f"NOT paused AND held_until <= {now} AND next_even_time <= {now}"
    waiting = " UNION ALL ".join(
        (
            f"SELECT job_type, turn_time FROM lane WHERE {HAS_TURN.sql}",
            f"SELECT job_type, turn_time FROM lane WHERE {IS_CLOSED.sql} AND closed_until <= {now}",
            "SELECT dispatch.job_type, COALESCE(lane.turn_time, 0) FROM dispatch"
            f" LEFT JOIN lane ON lane.job_type = dispatch.job_type AND lane.lane = '' WHERE {_EMPTY_LANE_READY} > 0",
        )
    )
    first = f"SELECT job_type AS of_type, MIN(turn_time) AS first_turn FROM ({waiting}) AS waiting GROUP BY job_type"
    has_others = "EXISTS (SELECT 1 FROM lane AS other WHERE other.job_type = {}.job_type AND other.lane > '')"
    return (
        "DELETE FROM lane WHERE (job_type, lane) IN"
        f" (SELECT job_type, lane FROM lane LEFT JOIN ({first}) AS first ON of_type = job_type"
        f" WHERE lane > '' AND {_HAS_NOTHING} AND {is_open}"
        f" AND (turn_time = 0 OR first_turn IS NULL OR first_turn > turn_time) LIMIT {mark('limit')})",
        f"DELETE FROM lane WHERE lane = '' AND {is_open} AND NOT {has_others.format('lane')}",
        f"DELETE FROM dispatch WHERE {_HAS_NOTHING} AND NOT paused AND next_even_time <= {now}"
        " AND NOT EXISTS (SELECT 1 FROM lane WHERE lane.job_type = dispatch.job_type)",
    )


def reopen_lanes_text(mark: Callable[[str], str]) -> str:
    """Opens the lanes that only their rate has closed. If the rate is still in force, the next pick closes them."""
    now = mark("now")
    return (
        f"UPDATE lane SET closed_until = CASE WHEN held_until > {now} THEN held_until ELSE 0 END"
        " WHERE closed_until > held_until"
    )


LANE_VALUES = (*LaneChange._fields, "now")
"""The values of a row that changes a lane, and of one that changes a type."""

DISPATCH_VALUES = (*DispatchChange._fields, "now")


def update_lanes_text(rows: str, new: Callable[[str], str], greatest: str) -> str:
    """Adds rows of ``LANE_VALUES``.

    Args:
        rows: the table of new values, with its name.
        new: the name of a value.
        greatest: the function for the greatest of some values.
    """
    even = _even("lane", new, greatest)
    held = f"{greatest}(lane.held_until, {new('held_until')})"
    opens = f"{greatest}({held}, CASE WHEN {new('tolerance')} >= 0 THEN {even} - {new('tolerance')} ELSE 0 END)"
    sets = {
        **{name: f"lane.{name} + {new(name)}" for name in LaneCounts._fields},
        "turn_time": f"{greatest}(lane.turn_time, {new('turn_time')})",
        "next_even_time": even,
        "held_until": held,
        "hold_reason": f"CASE WHEN {new('held_until')} > lane.held_until THEN {new('hold_reason')}"
        " ELSE lane.hold_reason END",
        "closed_until": f"CASE WHEN {opens} > {new('now')} THEN {opens} ELSE 0 END",
    }
    assigned = ", ".join(f"{name} = {value}" for name, value in sets.items())
    # Names come from our models; values are bound.
    return (
        f"UPDATE lane SET {assigned} FROM {rows} WHERE lane.job_type = {new('job_type')} AND lane.lane = {new('lane')}"
    )


def update_dispatch_text(rows: str, new: Callable[[str], str], greatest: str) -> str:
    """Adds rows of ``DISPATCH_VALUES``."""
    sets = {
        **{name: f"dispatch.{name} + {new(name)}" for name in LaneCounts._fields},
        "turn_time": f"{greatest}(dispatch.turn_time, {new('turn_time')})",
        "next_even_time": _even("dispatch", new, greatest),
    }
    assigned = ", ".join(f"{name} = {value}" for name, value in sets.items())
    return f"UPDATE dispatch SET {assigned} FROM {rows} WHERE dispatch.job_type = {new('job_type')}"


def _even(table: str, new: Callable[[str], str], greatest: str) -> str:
    """``next_even_time`` after the hand-outs: see ``Rate.after``."""
    stored, advance = f"{table}.next_even_time", new("advance")
    return f"CASE WHEN {advance} > 0 THEN {greatest}({stored}, {new('now')}) + {advance} ELSE {stored} END"
