"""Reads and writes of a SQLite transaction about lanes."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any

from jobstate_server.domain.dispatch_order import score
from jobstate_server.domain.plan import TypePause
from jobstate_server.domain.reads import FoundPlace, LaneRange, StateOf
from jobstate_server.domain.turns import TypeState
from jobstate_server.domain.waiting import Priority
from jobstate_server.store.lane_rows import (
    DISPATCH_VALUES,
    LANE_VALUES,
    add_lanes,
    forget_lanes_text,
    forget_types_text,
    lanes_text,
    reopen_lanes_text,
    states_from,
    sums_text,
    update_dispatch_text,
    update_lanes_text,
)
from jobstate_server.store.models import IS_READY, IS_UNCLAIMED
from jobstate_server.store.records import Changes
from jobstate_server.store.sqlite.many_rows import ManyRows

_IN_NAMES = "IN (SELECT value FROM json_each(:names))"
_STORED = f"SELECT job_type FROM dispatch WHERE job_type {_IN_NAMES}"
_SUMS = sums_text(_IN_NAMES)
_LANES = lanes_text("running", _IN_NAMES, ":{}".format)
_LANES_OF_JOBS = lanes_text("(running + resting)", _IN_NAMES, ":{}".format)


def _places(index: str, condition: str) -> str:
    """Reads the first jobs of each of some lanes and priorities: of each, the same number."""
    return (
        "SELECT wanted.key, found.id, found.ready_time, found.create_sequence, found.attempt, found.level"
        " FROM json_each(:ranges) AS wanted CROSS JOIN job AS found WHERE found.create_sequence IN ("
        f"SELECT create_sequence FROM job INDEXED BY {index} WHERE job_type = json_extract(wanted.value, '$[0]')"
        " AND lane = json_extract(wanted.value, '$[1]') AND level = json_extract(wanted.value, '$[2]')"
        f" AND {condition}"
        " ORDER BY ready_time, create_sequence LIMIT :limit)"
    )


_READY = _places("job_ready", IS_READY.sql)
_RETURNED = _places("job_returned", IS_UNCLAIMED.sql)


def _many(text: str, values: Sequence[str]) -> ManyRows:
    return ManyRows(text, len(values))


def _column(values: Sequence[str], name: str) -> str:
    return f"new.column{values.index(name) + 1}"


_insert_dispatch = ManyRows("INSERT INTO dispatch (job_type) {rows} ON CONFLICT DO NOTHING", 1)
_insert_lanes = ManyRows("INSERT INTO lane (job_type, lane) {rows} ON CONFLICT DO NOTHING", 2)
_update_dispatch = _many(
    update_dispatch_text("({rows}) AS new", lambda name: _column(DISPATCH_VALUES, name), "MAX"), DISPATCH_VALUES
)
_update_lanes = _many(update_lanes_text("({rows}) AS new", lambda name: _column(LANE_VALUES, name), "MAX"), LANE_VALUES)
_FORGET_LANES = forget_lanes_text(":{}".format)
_FORGET_TYPES = forget_types_text(":{}".format)
_REOPEN_LANES = reopen_lanes_text(":{}".format)
_PAUSE_TYPE = "UPDATE dispatch SET paused = ?, pause_reason = ? WHERE job_type = ?"
_PAUSE_LANE = "UPDATE lane SET paused = ?, pause_reason = ? WHERE job_type = ? AND lane = ?"


class LaneReads:
    """The reads of one transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def states(self, wanted: Sequence[StateOf], now: int) -> dict[str, TypeState]:
        """The states of those of these types that have any."""
        stored = {name for (name,) in self._rows(_STORED, names=json.dumps([some.job_type for some in wanted]))}
        present = [some for some in wanted if some.is_limited or some.job_type in stored]
        if not present:
            return {}
        states = states_from(self._rows(_SUMS, names=json.dumps([some.job_type for some in present])), present)
        for some in present:
            if some.job_type in stored:
                text = _LANES_OF_JOBS if some.holds_jobs else _LANES
                values = {**some._asdict(), "now": now, "names": json.dumps(["", *some.lanes])}
                del values["lanes"]
                add_lanes(states[some.job_type], self._rows(text, **values), some)
        return states

    def places(self, ranges: Sequence[LaneRange]) -> list[FoundPlace]:
        """The first ready jobs of these lanes."""
        found: dict[str, FoundPlace] = {}
        by_limit: dict[int, list[tuple[LaneRange, int]]] = {}
        returned: dict[int, list[tuple[LaneRange, int]]] = {}
        for some in ranges:
            # Limits of few sizes, so that there are few statements.
            limit = 1 << (some.limit - 1).bit_length()
            for groups in (by_limit, returned) if some.holds_jobs else (by_limit,):
                groups.setdefault(limit, []).extend((some, level) for level in Priority)
        for text, wanted in ((_RETURNED, returned), (_READY, by_limit)):
            for limit, group in wanted.items():
                keys = json.dumps([(some.job_type, some.lane, level) for some, level in group])
                for number, job_id, ready_time, sequence, attempt, level in self._rows(text, ranges=keys, limit=limit):
                    some = group[number][0]
                    place = score(ready_time, level, some.step)
                    found[job_id] = FoundPlace(some.job_type, some.lane, place, sequence, job_id, attempt)
        return list(found.values())

    def _rows(self, text: str, **values: Any) -> list[tuple[Any, ...]]:
        return self._connection.execute(text, values).fetchall()


def write_lanes(connection: sqlite3.Connection, changes: Changes) -> None:
    """Write what changes about lanes and types."""
    now = changes.now
    types = dict.fromkeys(change[0] for change in (*changes.dispatch, *changes.lanes, *changes.pauses))
    _insert_dispatch.run(connection, [(name,) for name in types])
    if changes.dispatch:
        _update_dispatch.run(connection, [(*change, now) for change in changes.dispatch])
    if changes.lanes:
        _insert_lanes.run(connection, [change[:2] for change in changes.lanes])
        _update_lanes.run(connection, [(*change, now) for change in changes.lanes])
    for pause in changes.pauses:
        _pause(connection, pause)


def forget_idle_lanes(connection: sqlite3.Connection, now: int, limit: int) -> int:
    """See ``Transaction.forget_idle_lanes``."""
    count = connection.execute(_FORGET_LANES, {"now": now, "limit": limit}).rowcount
    connection.execute(_FORGET_TYPES, {"now": now})
    return count


def reopen_lanes(connection: sqlite3.Connection, now: int) -> None:
    """See ``Transaction.reopen_lanes``."""
    connection.execute(_REOPEN_LANES, {"now": now})


def _pause(connection: sqlite3.Connection, pause: TypePause) -> None:
    if pause.lane is None:
        connection.execute(_PAUSE_TYPE, (pause.paused, pause.reason, pause.job_type))
    else:
        _insert_lanes.run(connection, [(pause.job_type, pause.lane)])
        connection.execute(_PAUSE_LANE, (pause.paused, pause.reason, pause.job_type, pause.lane))
