"""Reads and writes of a SQLite transaction about lanes."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from functools import partial
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
    forget_lanes_texts,
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

_found_place = partial(tuple.__new__, FoundPlace)
"""A FoundPlace of the values of all its fields, made in half the time."""


def _among(name: str) -> str:
    return f"IN (SELECT value FROM json_each(:{name}))"


_IN_NAMES = _among("names")
_STORED = f"SELECT job_type FROM dispatch WHERE job_type {_IN_NAMES}"
_SUMS = sums_text(_IN_NAMES)
_LANES = lanes_text("running", _among, ":{}".format)
_LANES_OF_JOBS = lanes_text("(running + resting)", _among, ":{}".format)


def _places(index: str, condition: str, *, is_all: bool = False) -> str:
    """Reads the first jobs of some lanes of a type: of each lane and priority, or of lanes of which they are all, of
    each lane, the same number."""
    levels = f"(VALUES {', '.join(f'({int(level)})' for level in Priority)})"
    of_lane = "job_type = :job_type AND lane = wanted.value"
    first = "" if is_all else " ORDER BY ready_time, create_sequence"
    return (
        "SELECT wanted.key, found.id, found.ready_time, found.create_sequence, found.attempt, found.level"
        f" FROM json_each(:lanes) AS wanted{'' if is_all else f' CROSS JOIN {levels} AS priority'}"
        f" CROSS JOIN job AS found WHERE found.create_sequence IN (SELECT create_sequence FROM job INDEXED BY {index}"
        f" WHERE {of_lane}{'' if is_all else ' AND level = priority.column1'} AND {condition}{first} LIMIT :limit)"
    )


_ALL = _places("job_ready", IS_READY.sql, is_all=True)
_READY = _places("job_ready", IS_READY.sql)
_RETURNED = _places("job_returned", IS_UNCLAIMED.sql)


def _many(text: str, values: Sequence[str]) -> ManyRows:
    return ManyRows(text, len(values))


def _column(values: Sequence[str], name: str) -> str:
    return f"new.column{values.index(name) + 1}"


_insert_dispatch = ManyRows("INSERT INTO dispatch (job_type) {rows} ON CONFLICT DO NOTHING", 1)
_insert_lanes = ManyRows("INSERT INTO lane (job_type, lane) {rows} ON CONFLICT DO NOTHING RETURNING job_type, lane", 2)
_update_dispatch = _many(
    update_dispatch_text("({rows}) AS new", lambda name: _column(DISPATCH_VALUES, name), "MAX"), DISPATCH_VALUES
)
_update_lanes = _many(update_lanes_text("({rows}) AS new", lambda name: _column(LANE_VALUES, name), "MAX"), LANE_VALUES)
_FORGET_LANES, *_FORGET_TYPES = forget_lanes_texts(":{}".format)
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
                names = {"lanes": json.dumps(["", *some.lanes]), "ready_lanes": json.dumps(list(some.ready_lanes))}
                values = {**some._asdict(), "now": now, **names}
                add_lanes(states[some.job_type], self._rows(text, **values), some)
        return states

    def places(self, ranges: Sequence[LaneRange]) -> list[FoundPlace]:
        """The first ready jobs of these lanes."""
        found: dict[str, FoundPlace] = {}
        groups: dict[tuple[str, str, int], list[LaneRange]] = {}
        for some in ranges:
            # Limits of few sizes, so that there are few statements.
            limit = 1 << (some.limit - 1).bit_length()
            texts = (_ALL,) if some.is_all else (_RETURNED, _READY) if some.holds_jobs else (_READY,)
            for text in texts:
                groups.setdefault((text, some.job_type, limit), []).append(some)
        for (text, job_type, limit), group in groups.items():
            lanes = json.dumps([some.lane for some in group])
            rows = self._rows(text, job_type=job_type, lanes=lanes, limit=limit)
            for number, job_id, ready_time, sequence, attempt, level in rows:
                some = group[number]
                place = score(ready_time, level, some.step)
                found[job_id] = _found_place((job_type, some.lane, place, sequence, job_id, attempt))
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
        _write_changed(connection, [(*change, now) for change in changes.lanes])
    for pause in changes.pauses:
        _pause(connection, pause)


def _write_changed(connection: sqlite3.Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    """Add rows of ``LANE_VALUES``. Most lanes have a row already, so those that have none are looked for only then."""
    if _update_lanes.run(connection, rows) == len(rows):
        return
    new = set(_insert_lanes.returned(connection, [row[:2] for row in rows]))
    _update_lanes.run(connection, [row for row in rows if row[:2] in new])


def forget_idle_lanes(connection: sqlite3.Connection, now: int, limit: int) -> int:
    """See ``Transaction.forget_idle_lanes``."""
    count = connection.execute(_FORGET_LANES, {"now": now, "limit": limit}).rowcount
    for text in _FORGET_TYPES:
        connection.execute(text, {"now": now})
    return count


def reopen_lanes(connection: sqlite3.Connection, now: int) -> None:
    """See ``Transaction.reopen_lanes``."""
    connection.execute(_REOPEN_LANES, {"now": now})


def _pause(connection: sqlite3.Connection, pause: TypePause) -> None:
    if pause.lane is None:
        connection.execute(_PAUSE_TYPE, (pause.paused, pause.reason, pause.job_type))
    else:
        _insert_lanes.returned(connection, [(pause.job_type, pause.lane)])
        connection.execute(_PAUSE_LANE, (pause.paused, pause.reason, pause.job_type, pause.lane))
