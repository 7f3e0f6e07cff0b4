"""Reads and writes of a PostgreSQL transaction about lanes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import psycopg

from jobstate_server.domain.dispatch_order import score
from jobstate_server.domain.plan import TypePause
from jobstate_server.domain.reads import FoundPlace, LaneRange, StateOf
from jobstate_server.domain.turns import TypeState
from jobstate_server.domain.waiting import Priority
from jobstate_server.store.lane_rows import add_lanes, states_from
from jobstate_server.store.postgres import statements as sql
from jobstate_server.store.postgres.binary_arrays import Kind, array
from jobstate_server.store.records import Changes

Pipeline = Callable[[], AbstractContextManager[Any]]


class LaneReads:
    """The reads of one transaction."""

    def __init__(self, execute: Any, pipeline: Pipeline) -> None:
        """
        Args:
            execute: executes a statement of the transaction.
            pipeline: sends the statements of its block together.
        """
        self._execute = execute
        self._pipeline = pipeline

    def states(self, wanted: Sequence[StateOf], stored: set[str], now: int) -> dict[str, TypeState]:
        """The states of those of these types that have any. ``stored``: those that have a row of their own."""
        present = [some for some in wanted if some.is_limited or some.job_type in stored]
        if not present:
            return {}
        with self._pipeline():
            sums = self._execute(sql.SUMS, names=array(Kind.TEXT, [some.job_type for some in present]))
            lanes = [(some, self._lanes(some, now)) for some in present if some.job_type in stored]
        states = states_from(sums.fetchall(), present)
        for some, rows in lanes:
            add_lanes(states[some.job_type], rows.fetchall(), some)
        return states

    def _lanes(self, wanted: StateOf, now: int) -> psycopg.Cursor[Any]:
        cursor: psycopg.Cursor[Any] = self._execute(
            sql.LANES_OF_JOBS if wanted.holds_jobs else sql.LANES,
            job_type=wanted.job_type,
            under_way_max=wanted.under_way_max,
            lanes_max=wanted.lanes_max,
            now=now,
            lanes=array(Kind.TEXT, ["", *wanted.lanes]),
            # The empty one is read anyway: an array has at least one value.
            ready_lanes=array(Kind.TEXT, ["", *wanted.ready_lanes]),
        )
        return cursor

    def places(self, ranges: Sequence[LaneRange]) -> list[FoundPlace]:
        """The first ready jobs of these lanes."""
        levels = [(number, some, int(level)) for number, some in enumerate(ranges) for level in Priority]
        returned = [each for each in levels if each[1].holds_jobs]
        with self._pipeline():
            cursors = [
                self._execute(
                    text,
                    names=array(Kind.TEXT, [some.job_type for _, some, _ in wanted]),
                    lanes=array(Kind.TEXT, [some.lane for _, some, _ in wanted]),
                    levels=array(Kind.INT8, [level for _, _, level in wanted]),
                    limits=array(Kind.INT8, [some.limit for _, some, _ in wanted]),
                    numbers=array(Kind.INT8, [number for number, _, _ in wanted]),
                )
                for text, wanted in ((sql.PICK_RETURNED, returned), (sql.PICK_PLACES, levels))
                if wanted
            ]
        found: dict[str, FoundPlace] = {}
        for cursor in cursors:
            for number, job_id, ready_time, sequence, attempt, level in cursor:
                some = ranges[number]
                place = score(ready_time, level, some.step)
                found[job_id] = FoundPlace(some.job_type, some.lane, place, sequence, job_id, attempt)
        return list(found.values())


def check_guards(execute: Any, changes: Changes) -> None:
    """Fail the transaction unless what its hand-outs rely on still holds. The log is locked."""
    types, lanes = changes.type_guards, changes.lane_guards
    if not types:
        return
    for pause in changes.pauses:
        if not pause.paused:
            # What goes on in this transaction may be handed out by it.
            _set_paused(execute, pause)
    execute(
        sql.CHECK_TYPES,
        job_types=array(Kind.TEXT, [guard.job_type for guard in types]),
        running=array(Kind.INT8, [guard.running_max for guard in types]),
        even=array(Kind.INT8, [guard.next_even_max for guard in types]),
    )
    execute(
        sql.CHECK_LANES,
        job_types=array(Kind.TEXT, [guard.job_type for guard in lanes]),
        lanes=array(Kind.TEXT, [guard.lane for guard in lanes]),
        running=array(Kind.INT8, [guard.under_way_max for guard in lanes]),
        holds=array(Kind.BOOL, [guard.holds_jobs for guard in lanes]),
        even=array(Kind.INT8, [guard.next_even_max for guard in lanes]),
        now=changes.now,
    )


def write_lanes(connection: psycopg.Connection[Any], execute: Any, changes: Changes) -> None:
    """Write what changes about lanes and types. The log is locked, so nobody else does."""
    now = changes.now
    types = dict.fromkeys(change[0] for change in (*changes.dispatch, *changes.lanes, *changes.pauses))
    if not types:
        return
    sql.insert_dispatch.run(connection, [(name,) for name in types])
    if changes.dispatch:
        sql.update_dispatch.run(connection, [(*change, now) for change in changes.dispatch])
    if changes.lanes:
        sql.insert_lanes.run(connection, [change[:2] for change in changes.lanes])
        sql.update_lanes.run(connection, [(*change, now) for change in changes.lanes])
    for pause in changes.pauses:
        if pause.lane is not None:
            sql.insert_lanes.run(connection, [(pause.job_type, pause.lane)])
        _set_paused(execute, pause)


def _set_paused(execute: Any, pause: TypePause) -> None:
    values = pause._asdict()
    if pause.lane is None:
        del values["lane"]
    execute(sql.PAUSE_TYPE if pause.lane is None else sql.PAUSE_LANE, **values)
