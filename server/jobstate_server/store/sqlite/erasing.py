"""The writes of Erase on a SQLite file."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

from jobstate_server.store.erasing import ErasedEvent, ErasedLane, StoredKey, UsedRequest, of_gone_jobs
from jobstate_server.store.lane_rows import forget_hold_reason_text, forget_lane_text
from jobstate_server.store.sqlite.event_sequences import EventSequences
from jobstate_server.store.sqlite.many_rows import ManyRows
from jobstate_server.store.sqlite.statements import Statements

_ERASABLE = (
    "SELECT event.sequence, length(event.payload) FROM json_each(:sequences) AS wanted"
    " CROSS JOIN event ON event.sequence = wanted.value"
    " LEFT JOIN job ON job.id = event.job_id AND job.create_sequence <= event.sequence"
    " WHERE job.id IS NULL AND NOT (event.source_id = '' AND substr(event.payload, 1, 1) = x'40')"
)
"""Those whose jobs are gone, and that are not erased."""

_erase_events = ManyRows(
    "UPDATE event SET source_id = '', payload = new.column2 FROM ({rows}) AS new WHERE event.sequence = new.column1", 2
)
_COUNT_ERASURE = "UPDATE log SET bytes = bytes + :added, erasures = erasures + 1"
_STORED = "SELECT id, create_sequence, create_time FROM job WHERE id IN (SELECT value FROM json_each(:ids))"
_FORGET_HOLD_REASON = forget_hold_reason_text(":{}".format)
_FORGET_LANE = forget_lane_text(":{}".format)


class Erasing:
    """Part of a transaction."""

    now: int
    sequences: EventSequences
    _connection: sqlite3.Connection
    _statements: Statements

    def erase_events(self, events: Sequence[ErasedEvent]) -> int:
        sequences = json.dumps([event.sequence for event in events])
        sizes = dict(self._connection.execute(_ERASABLE, {"sequences": sequences}).fetchall())
        left = [event for event in events if event.sequence in sizes]
        if left:
            _erase_events.run(self._connection, left)
            added = sum(len(event.payload) for event in left) - sum(sizes.values())
            self._connection.execute(_COUNT_ERASURE, {"added": added})
        return len(left)

    def erase_requests(self, requests: Sequence[tuple[UsedRequest, str]]) -> int:
        ids = json.dumps([job_id for _, job_id in requests])
        rows = self._connection.execute(_STORED, {"ids": ids}).fetchall()
        keys = of_gone_jobs(requests, {job_id: StoredKey(*key) for job_id, *key in rows})
        count = self._statements.delete_requests.run(self._connection, keys)
        if count:
            self.sequences.take((), self.now, requests=-count)
        return count

    def erase_lanes(self, lanes: Sequence[ErasedLane]) -> None:
        for lane in lanes:
            values = lane._asdict()
            if lane.hold_reason:
                self._connection.execute(_FORGET_HOLD_REASON, values)
            self._connection.execute(_FORGET_LANE, values)
