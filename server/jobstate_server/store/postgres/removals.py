"""The writes of a PostgreSQL transaction that remove what is stored: retention, and Erase."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import psycopg

from jobstate_server.store.base import TRIM_BYTES_MAX
from jobstate_server.store.erasing import ErasedEvent, ErasedLane, StoredKey, UsedRequest, of_gone_jobs
from jobstate_server.store.event_check import event_check
from jobstate_server.store.lane_rows import forget_hold_reason_text, forget_lane_text
from jobstate_server.store.postgres import statements as sql
from jobstate_server.store.postgres.binary_arrays import Kind, array
from jobstate_server.store.postgres.connection import Postgres, one_row, raise_store_error
from jobstate_server.store.postgres.notifier import ERASED
from jobstate_server.store.reading.reader import SqlReader

_LOCK_HORIZON = b"SELECT 1 FROM horizon FOR UPDATE"
_TRIM_EVENTS = b"DELETE FROM event WHERE sequence <= %(through)s"
_MOVE_HORIZON = b"UPDATE horizon SET sequence = %(through)s, event_check = %(event_check)s, bytes = bytes + %(bytes)s"
_TRIM_REQUESTS = (
    b"DELETE FROM request WHERE ctid = ANY(ARRAY("
    b"SELECT ctid FROM request WHERE time < %(older_than)s ORDER BY time LIMIT %(limit)s FOR UPDATE SKIP LOCKED))"
)
_ERASABLE = (
    b"SELECT event.sequence, octet_length(event.payload) FROM unnest(%(sequences)s::int8[]) AS wanted(sequence)"
    b" JOIN event ON event.sequence = wanted.sequence"
    b" LEFT JOIN job ON job.id = event.job_id AND job.create_sequence <= event.sequence"
    b" WHERE job.id IS NULL AND NOT (event.source_id = '' AND substr(event.payload, 1, 1) = '\\x40'::bytea)"
)
"""Those whose jobs are gone, and that are not erased."""

_ERASE_EVENTS = (
    b"UPDATE event SET source_id = '', payload = new.payload"
    b" FROM unnest(%(sequences)s::int8[], %(payloads)s::bytea[]) AS new(sequence, payload)"
    b" WHERE event.sequence = new.sequence"
)
_COUNT_ERASURE = b"UPDATE log SET bytes = bytes + %(added)s, erasures = erasures + 1"
_STORED = b"SELECT id, create_sequence, create_time FROM job WHERE id = ANY(%(ids)s::text[])"
_DELETE_REQUESTS = (
    b"DELETE FROM request USING unnest(%(principals)s::text[], %(request_ids)s::text[]) AS gone(principal, request_id)"
    b" WHERE request.principal = gone.principal AND request.request_id = gone.request_id"
)
_FORGET_HOLD_REASON = forget_hold_reason_text("%({})s".format).encode()
_FORGET_LANE = forget_lane_text("%({})s".format).encode()


class Removals:
    """Part of a transaction."""

    now: int
    requests_stored: int | None
    _database: Postgres
    _channel: str
    _execute: Callable[..., psycopg.Cursor[Any]]
    _pipeline: Callable[[], AbstractContextManager[psycopg.Connection[Any]]]
    _lock_log: Callable[[], None]

    def trim_events(self, older_than: int, bytes_max: int, limit: int) -> int:
        self._execute(_LOCK_HORIZON)
        reader = SqlReader(self._database, raise_store_error)
        state = reader.log_state()
        count, through, size = reader.trimmable(state, older_than, bytes_max, limit, TRIM_BYTES_MAX)
        if count:
            last = reader.event(through)
            assert last is not None
            with self._pipeline():
                self._execute(_TRIM_EVENTS, through=through)
                self._execute(_MOVE_HORIZON, through=through, event_check=event_check(last), bytes=size)
        return count

    def trim_requests(self, older_than: int, limit: int) -> int:
        return self._count_forgotten(self._execute(_TRIM_REQUESTS, older_than=older_than, limit=limit).rowcount)

    def _count_forgotten(self, count: int) -> int:
        counted = self._execute(sql.ADVANCE_LOG, events=0, bytes=0, requests=-count, now=self.now)
        _, self.requests_stored, _ = one_row(counted)
        return count

    def erase_events(self, events: Sequence[ErasedEvent]) -> int:
        if not events:
            return 0
        # Retention removes events under this lock, so those that are found here stay.
        self._execute(_LOCK_HORIZON)
        self._lock_log()
        sequences = array(Kind.INT8, [event.sequence for event in events])
        sizes: dict[int, int] = dict(self._execute(_ERASABLE, sequences=sequences))
        left = [event for event in events if event.sequence in sizes]
        if left:
            numbers, payloads = zip(*left, strict=True)
            self._execute(_ERASE_EVENTS, sequences=array(Kind.INT8, numbers), payloads=array(Kind.BYTEA, payloads))
            self._execute(_COUNT_ERASURE, added=sum(map(len, payloads)) - sum(sizes.values()))
            self._execute(sql.NOTIFY, channel=self._channel, written=f" {ERASED}")
        return len(left)

    def erase_requests(self, requests: Sequence[tuple[UsedRequest, str]]) -> int:
        if not requests:
            return 0
        rows = self._execute(_STORED, ids=array(Kind.TEXT, [job_id for _, job_id in requests]))
        keys = of_gone_jobs(requests, {job_id: StoredKey(*key) for job_id, *key in rows})
        if not keys:
            return 0
        principals, request_ids = (array(Kind.TEXT, part) for part in zip(*keys, strict=True))
        return self._count_forgotten(
            self._execute(_DELETE_REQUESTS, principals=principals, request_ids=request_ids).rowcount
        )

    def erase_lanes(self, lanes: Sequence[ErasedLane]) -> None:
        self._lock_log()
        for lane in lanes:
            values = lane._asdict()
            if lane.hold_reason:
                self._execute(_FORGET_HOLD_REASON, **values)
            self._execute(_FORGET_LANE, **values)
