"""Reads the log in the store for readers that are behind the recent events, and checks their cursors.

Readers that want the same page at the same moment share one read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from typing import Any

from jobstate_server.domain.errors import CursorExpired, CursorUnknown
from jobstate_server.domain.filters import EventFilter
from jobstate_server.engine.readers import Readers
from jobstate_server.event_log.cursor import Cursor, decode_cursor, encode_cursor
from jobstate_server.event_log.feed import passes
from jobstate_server.event_log.pages import LogPosition, Page, PageLimits
from jobstate_server.event_log.recent import LogEntry
from jobstate_server.store.base import Reader
from jobstate_server.store.event_check import event_check


class StoredPages:
    """Reads with ``Readers`` of its own, so that a reader that is far behind delays no Get."""

    def __init__(self, readers: Readers, log_id: str) -> None:
        self._readers = readers
        self._log_id = log_id
        self._under_way: dict[Hashable, asyncio.Future[Page]] = {}

    async def page(self, after: int, wanted: EventFilter, limits: PageLimits, erasures: int = 0) -> Page:
        """The page after a position. Readers share a read if they know of the same number of ``erasures``.

        Raises:
            CursorExpired: retention has removed events after the position.
        """
        key = (after, wanted, erasures)
        future = self._under_way.get(key)
        if future is None:
            future = self._readers.run(lambda reader: self._read_page(reader, after, wanted, limits))
            self._under_way[key] = future
            future.add_done_callback(lambda done: self._read(key, done))
        # Shielded: a reader that goes away must not cancel the read for the others.
        return await asyncio.shield(future)

    def _read(self, key: Hashable, done: asyncio.Future[Any]) -> None:
        self._under_way.pop(key, None)
        if not done.cancelled():
            # If all who waited have gone, asyncio would log the error as one that nobody retrieved.
            done.exception()

    def _read_page(self, reader: Reader, after: int, wanted: EventFilter, limits: PageLimits) -> Page:
        events, scanned, check, horizon, horizon_check = reader.events(after, wanted, *limits)
        # Where retention has removed events the page may have a gap.
        if after < horizon:
            raise CursorExpired(self._cursor(horizon, horizon_check))
        if wanted.labels:
            events = [event for event in events if passes(wanted, event)]
        return Page(list(map(LogEntry, events)), LogPosition(scanned, check), self._cursor(scanned, check))

    def _cursor(self, sequence: int, check: int) -> str:
        return encode_cursor(Cursor(self._log_id, sequence, check))

    async def resume(self, cursor: str) -> LogPosition:
        """The position of a cursor.

        Raises:
            CursorExpired: retention has removed events after it.
            CursorUnknown: this log did not make it, or no longer has the event it was made from.
        """
        return await self._readers.run(lambda reader: self._check(reader, cursor), is_short=True)

    def _check(self, reader: Reader, text: str) -> LogPosition:
        cursor = decode_cursor(text)
        event = reader.event(cursor.sequence) if cursor is not None else None
        state = reader.log_state()
        oldest = self._cursor(state.horizon, state.horizon_check)
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
            check = event_check(event) if event is not None else -1
        if check != cursor.check:
            raise CursorUnknown("the log has another history, it may have been restored from a backup", oldest)
        return LogPosition(cursor.sequence, check)

    async def earliest(self) -> LogPosition:
        """The position before the oldest event that is kept."""
        state = await self._readers.run(lambda reader: reader.log_state(), is_short=True)
        return LogPosition(state.horizon, state.horizon_check)
