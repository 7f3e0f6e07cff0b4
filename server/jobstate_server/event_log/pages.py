"""Catch-up: reading the log for watchers that are behind the ring, and judging their cursors.

Watchers that want the same page at the same moment share one read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, TypeVar

from jobstate_server.domain.errors import CursorExpired, CursorUnknown
from jobstate_server.domain.filters import EventFilter, JobFilter, Order, Position
from jobstate_server.domain.job import Job
from jobstate_server.engine.readers import Readers
from jobstate_server.event_log.cursor import Cursor, decode_cursor, encode_cursor
from jobstate_server.store.base import Reader
from jobstate_server.store.event_check import event_check
from jobstate_server.store.records import JobPage, StoredEvent

PAGE_EVENTS_MAX = 4_096
"""Events of one response: with ordinary events about as many as its bytes allow."""

PAGE_BYTES_MAX = 1024 * 1024
"""Payload of one response, a quarter of what gRPC clients accept by default."""

SNAPSHOT_JOBS_MAX = 200
"""Jobs of one snapshot page: some milliseconds of the interpreter, which callers wait for meanwhile."""

T = TypeVar("T")


class Page(NamedTuple):
    """Events after a position, in order."""

    events: list[StoredEvent]
    position: int
    """Everything up to here has been looked at."""
    check: int
    """The check of the event at ``position``."""


class CatchUp:
    """Reads the log with readers of its own, so that a watcher far behind delays no Get."""

    def __init__(self, readers: Readers, log_id: str) -> None:
        self._readers = readers
        self._log_id = log_id
        self._under_way: dict[Hashable, asyncio.Future[Any]] = {}

    async def page(self, after: int, wanted: EventFilter) -> Page:
        """The wanted events after a position.

        Raises:
            CursorExpired: retention has removed events after the position.
        """
        return await self._shared((after, wanted), lambda reader: self._read_page(reader, after, wanted))

    async def _shared(self, key: Hashable, read: Callable[[Reader], T]) -> T:
        future: asyncio.Future[T] | None = self._under_way.get(key)
        if future is None:
            future = self._readers.run(read)
            self._under_way[key] = future
            future.add_done_callback(lambda done: self._has_read(key, done))
        # Shielded: a watcher that goes away must not cancel the read for the others.
        return await asyncio.shield(future)

    def _has_read(self, key: Hashable, done: asyncio.Future[Any]) -> None:
        self._under_way.pop(key, None)
        if not done.cancelled():
            # Where everybody who waited has gone an error is nobody's, and no news for the log either.
            done.exception()

    def _read_page(self, reader: Reader, after: int, wanted: EventFilter) -> Page:
        page = reader.events(after, wanted, PAGE_EVENTS_MAX, PAGE_BYTES_MAX)
        # A page that retention has cut is void, never short.
        if after < page.horizon:
            raise CursorExpired(self._oldest_cursor(page.horizon, page.horizon_check))
        return Page(page.events, page.scanned, page.check)

    def _oldest_cursor(self, horizon: int, check: int) -> str:
        return encode_cursor(Cursor(self._log_id, horizon, check))

    async def resume(self, text: str) -> Page:
        """The empty page at a cursor.

        Raises:
            CursorExpired: retention has removed events after it.
            CursorUnknown: this log did not make it, or no longer has what it was made from.
        """
        return await self._readers.run(lambda reader: self._judge(reader, text), is_short=True)

    def _judge(self, reader: Reader, text: str) -> Page:
        cursor = decode_cursor(text)
        event = reader.event(cursor.sequence) if cursor is not None else None
        state = reader.log_state()
        oldest = self._oldest_cursor(state.horizon, state.horizon_check)
        if cursor is None:
            raise CursorUnknown("it is not a cursor", oldest)
        if cursor.log_id != self._log_id:
            raise CursorUnknown("it was made by another store", oldest)
        if cursor.sequence > state.head:
            raise CursorUnknown("it is ahead of the log, which may have been restored from a backup", oldest)
        if cursor.sequence < state.horizon:
            raise CursorExpired(oldest)
        if cursor.sequence == state.horizon:
            check = state.horizon_check
        else:
            check = event_check(event.payload) if event is not None else -1
        if check != cursor.check:
            raise CursorUnknown("the log has another history, it may have been restored from a backup", oldest)
        return Page([], cursor.sequence, check)

    async def earliest(self) -> Page:
        """The empty page before the oldest event kept."""
        state = await self._readers.run(lambda reader: reader.log_state(), is_short=True)
        return Page([], state.horizon, state.horizon_check)

    async def snapshot_page(self, wanted: JobFilter, after: Position | None) -> JobPage:
        """The next jobs of a snapshot."""
        return await self._readers.run(
            lambda reader: reader.list_jobs(wanted, Order.OLDEST_FIRST, after, SNAPSHOT_JOBS_MAX, PAGE_BYTES_MAX)
        )

    async def jobs(self, job_ids: frozenset[str], principal: str | None) -> tuple[dict[str, Job], int]:
        """Those of the named jobs that exist, and a head of the log that is no older than what was read."""
        return await self._readers.run(lambda reader: (reader.jobs(job_ids, principal), reader.log_state().head))
