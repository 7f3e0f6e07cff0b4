"""Reads of lanes, for operators: which there are, and what the hand-out of a job goes by."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from peewee import SQL, Field, Select, Tuple, Value

from jobstate_server.domain.lanes import LaneCounts
from jobstate_server.domain.reads import StateOf
from jobstate_server.domain.turns import LaneState, TurnKey
from jobstate_server.domain.waiting import Priority
from jobstate_server.store.lane_models import HAS_TURN, DispatchRow, LaneRow
from jobstate_server.store.lane_rows import COUNTED, dispatch_rows, states_from
from jobstate_server.store.models import IS_READY, JobRow, TallyRow
from jobstate_server.store.reading.connection import ReadConnection
from jobstate_server.store.records import LaneRecord, TypeRecord

_COLUMNS = (
    LaneRow.lane,
    LaneRow.ready,
    LaneRow.returned,
    LaneRow.running,
    LaneRow.resting,
    LaneRow.turn_time,
    LaneRow.next_even_time,
    LaneRow.held_until,
    LaneRow.hold_reason,
    LaneRow.closed_until,
    LaneRow.paused,
    LaneRow.pause_reason,
)
_DISPATCH = (
    DispatchRow.ready,
    DispatchRow.returned,
    DispatchRow.running,
    DispatchRow.resting,
    DispatchRow.turn_time,
    DispatchRow.next_even_time,
    DispatchRow.paused,
    DispatchRow.pause_reason,
)
_COUNTED = [int(measure) for measure in COUNTED]

_WITHOUT_TURN = SQL(f"NOT ({HAS_TURN.sql})")


class LaneReads(ReadConnection):
    """Reads types and lanes."""

    def type_record(self, job_type: str) -> TypeRecord:
        tallies = TallyRow.select(TallyRow.job_type, TallyRow.measure, TallyRow.bucket, TallyRow.value)
        rows = self._rows(tallies.where(TallyRow.job_type == job_type, TallyRow.measure.in_(_COUNTED)))
        own = self._rows(DispatchRow.select(*_DISPATCH).where(DispatchRow.job_type == job_type))
        if own:
            rows += dispatch_rows(job_type, own[0][:7])
        selected = StateOf(job_type, 0, 0, holds_jobs=False, is_limited=True)
        return TypeRecord(states_from(rows, [selected])[job_type], own[0][7] if own else "")

    def lane_record(self, job_type: str, lane: str) -> LaneRecord:
        rows = self._rows(LaneRow.select(*_COLUMNS).where(LaneRow.job_type == job_type, LaneRow.lane == lane))
        return _record(rows[0]) if rows else LaneRecord(LaneState(lane))

    def lanes_in_turn(self, job_type: str, after: TurnKey | None, limit: int, *, holds_jobs: bool) -> list[LaneRecord]:
        under_way = _under_way(holds_jobs=holds_jobs)
        query = LaneRow.select(*_COLUMNS).where(LaneRow.job_type == job_type, HAS_TURN)
        if after is not None:
            query = query.where(Tuple(under_way, LaneRow.turn_time, LaneRow.lane) > Tuple(*after))
        return list(map(_record, self._rows(query.order_by(under_way, LaneRow.turn_time, LaneRow.lane).limit(limit))))

    def lanes_without_turn(
        self, job_type: str, after: str, limit: int, now: int, *, holds_jobs: bool
    ) -> list[LaneRecord]:
        has_jobs = (LaneRow.ready > 0) | (_under_way(holds_jobs=holds_jobs) > 0)
        is_told = has_jobs | (LaneRow.closed_until > now) | LaneRow.paused
        query = LaneRow.select(*_COLUMNS).where(
            LaneRow.job_type == job_type, LaneRow.lane > after, _WITHOUT_TURN, is_told
        )
        return list(map(_record, self._rows(query.order_by(LaneRow.lane).limit(limit))))

    def lanes_before(self, job_type: str, key: TurnKey, limit: int, *, holds_jobs: bool) -> int:
        place = Tuple(_under_way(holds_jobs=holds_jobs), LaneRow.turn_time, LaneRow.lane)
        before = LaneRow.select(LaneRow.lane).where(LaneRow.job_type == job_type, HAS_TURN, place < Tuple(*key))
        return len(self._rows(before.limit(limit)))

    def oldest_ready_in(self, job_type: str, lanes: Collection[str]) -> dict[str, int]:
        named = [lane for lane in lanes if lane]
        rows: list[tuple[Any, ...]] = []
        if named:
            of_lanes = LaneRow.select(LaneRow.lane, *_oldest(job_type, LaneRow.lane))
            rows += self._rows(of_lanes.where(LaneRow.job_type == job_type, LaneRow.lane.in_(named)))
        if len(named) < len(lanes):
            # The empty one may have no row.
            rows += self._rows(Select(columns=[Value(""), *_oldest(job_type, "")]))
        found = ((lane, [time for time in times if time is not None]) for lane, *times in rows)
        return {lane: min(times) for lane, times in found if times}


def _oldest(job_type: str, lane: str | Field) -> list[Any]:
    """Since when the oldest ready job of a lane can be handed out, for each priority."""
    return [
        JobRow.select(JobRow.ready_time)
        .where(JobRow.job_type == job_type, JobRow.lane == lane, JobRow.level == int(level), IS_READY)
        .order_by(JobRow.ready_time)
        .limit(1)
        for level in Priority
    ]


def _under_way(*, holds_jobs: bool) -> Any:
    return SQL("(running + resting)") if holds_jobs else LaneRow.running


def _record(row: tuple[Any, ...]) -> LaneRecord:
    lane, ready, returned, running, resting, turn_time, even, held_until, hold_reason, closed, paused, reason = row
    counts = LaneCounts(ready, returned, running, resting)
    state = LaneState(lane, counts, turn_time, even, held_until, bool(paused))
    return LaneRecord(state, hold_reason, reason, closed)
