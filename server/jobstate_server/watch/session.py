"""The stream of one watcher: open, catch up, SYNCED, then events as they happen, and heartbeats while nothing does.

A watcher has a position in the log, not a queue of events. However slow it is, it costs the same memory: its next
response is made from the recent events or the log only once the last one has been sent.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

from jobstate_server.domain.durations import SECOND
from jobstate_server.domain.errors import Draining, JobNotFound
from jobstate_server.domain.filters import Position
from jobstate_server.event_log.feed import RETRY_DELAY_S, passes
from jobstate_server.event_log.pages import PAGE_BYTES_MAX, Page
from jobstate_server.event_log.reader import EventLog, EventReader
from jobstate_server.watch.job_ends import JobEnds, with_ends
from jobstate_server.watch.progress import latest_progress
from jobstate_server.watch.requests import Unread, Watch
from jobstate_server.watch.snapshots import Snapshots
from jobstate_server.wire.events import without_members
from jobstate_server.wire.watch import (
    draining_response,
    events_response,
    heartbeat_response,
    snapshot_response,
    synced_response,
)

RECONNECT_SPREAD = 2 * SECOND
"""The watchers of a stopping server are told to come back within this time, so that they do not come all at once."""

UNCOUNTED_BYTES_MAX = 8 * 1024
"""Events that may be sent without taking room first: those of all watchers have some MiB."""


class WatchSessions:
    """Makes streams for watchers."""

    def __init__(self, event_log: EventLog, snapshots: Snapshots) -> None:
        self._log = event_log
        self._snapshots = snapshots

    async def stream(self, watch: Watch, unread: Unread | None = None) -> AsyncIterator[bytes]:
        """The encoded responses of one watch. What ``unread`` has no room for is not prepared.

        Raises:
            CursorExpired, CursorUnknown, JobNotFound: the watch cannot begin, or cannot go on.
            Draining: the server is stopping; DRAINING has been sent.
            Overloaded: there are too many watchers.
        """
        reader = self._log.reader(with_ends(watch.wanted) if watch.until_final else watch.wanted)
        session = WatchSession(self._log, self._snapshots, reader, watch, unread)
        loop = asyncio.get_running_loop()
        try:
            async for response in session.responses():
                if unread is None or not unread.held:
                    yield response
                    continue
                unread.resize(unread.held, len(response))
                unread.unread_since = loop.time()
                yield response
                unread.unread_since = None
                unread.resize(unread.held, 0)
        finally:
            reader.close()


class WatchSession:
    """One watcher's stream."""

    __slots__ = ("_ends", "_log", "_quiet_since", "_reader", "_snapshots", "_unread", "_watch")

    def __init__(
        self, event_log: EventLog, snapshots: Snapshots, reader: EventReader, watch: Watch, unread: Unread | None
    ) -> None:
        self._log = event_log
        self._snapshots = snapshots
        self._reader = reader
        self._watch = watch
        self._unread = unread
        self._ends = JobEnds(watch.wanted.job_ids) if watch.until_final else None
        self._quiet_since = asyncio.get_running_loop().time()
        """When something was last sent, or waited for."""

    async def responses(self) -> AsyncIterator[bytes]:
        """Everything this watcher is sent, in order."""
        # What any replica has answered by now is the past, and this watcher may know of it.
        await self._log.refresh()
        reader = self._reader
        await self._open()
        synced_at = reader.head
        if self._watch.snapshot and not self._watch.cursor:
            reader.start_at_head()
            async for response in self._snapshot():
                yield response
        is_synced = False
        while not (is_synced and self._is_over()):
            await reader.check_history()
            if reader.is_draining:
                yield _draining(reader.cursor)
                raise Draining(RETRY_DELAY_S)
            if reader.position >= synced_at and not is_synced:
                is_synced = True
                yield synced_response(reader.cursor)
                if not self._watch.follow:
                    return
                await self._look_for_ends()
            elif reader.is_behind:
                async for response in self._next():
                    yield response
            elif (heartbeat := await self._wait()) is not None:
                yield heartbeat

    async def _open(self) -> None:
        watch = self._watch
        if watch.cursor:
            await self._reader.resume(watch.cursor)
        elif watch.earliest:
            await self._reader.start_at_oldest()
        else:
            self._reader.start_at_head()
        if watch.until_final and not watch.cursor:
            found, _ = await self._snapshots.named(watch.wanted)
            for job_id in watch.wanted.job_ids:
                if job_id not in found:
                    raise JobNotFound(job_id)

    async def _snapshot(self) -> AsyncIterator[bytes]:
        after: Position | None = None
        has_more = True
        while has_more:
            await self._take_room()
            jobs, after, groups = await self._snapshots.page(self._watch.wanted, after)
            has_more = after is not None
            if self._reader.is_draining:
                yield _draining(cursor="")
                raise Draining(RETRY_DELAY_S)
            if jobs:
                yield snapshot_response(jobs, groups if self._watch.wanted.reach.sees_members else {})

    async def _next(self) -> AsyncIterator[bytes]:
        """Go on by one page."""
        reader = self._reader
        if not reader.is_next_small(UNCOUNTED_BYTES_MAX):
            await self._take_room()
        if reader.is_next_recent:
            page = await reader.next_page()
        else:
            reading = asyncio.ensure_future(reader.next_page())
            async for heartbeat in self._heartbeats_until(reading):
                yield heartbeat
            page = reading.result()
        response = None if page is None else self._response(page)
        if response is not None:
            self._quiet_since = asyncio.get_running_loop().time()
            yield response
        else:
            # Nothing of a whole page matched: let others have the loop before looking at the next one.
            await asyncio.sleep(0)

    async def _take_room(self) -> None:
        """Wait until there is room for a response."""
        if self._unread is not None and not self._unread.held:
            await self._unread.take(PAGE_BYTES_MAX)

    async def _heartbeats_until(self, reading: asyncio.Future[Page | None]) -> AsyncIterator[bytes]:
        """Heartbeats while the log is searched, so that a long search is not taken for a dead stream."""
        loop = asyncio.get_running_loop()
        interval = self._watch.heartbeat_interval / SECOND
        try:
            while not reading.done():
                left = self._quiet_since + interval - loop.time()
                if left <= 0:
                    self._quiet_since = loop.time()
                    yield heartbeat_response(self._reader.cursor)
                else:
                    await asyncio.wait({reading}, timeout=left)
        finally:
            reading.cancel()

    def _response(self, page: Page) -> bytes | None:
        """The response for a page, None if this watcher is sent none of it."""
        wanted = self._watch.wanted
        if self._ends is None and wanted.reach.sees_members:
            return page.once(_latest_progress_response if self._watch.latest_progress else _response)
        entries = page.entries
        if self._ends is not None:
            self._ends.note(entries)
            entries = [entry for entry in entries if passes(wanted, entry.event)]
        if self._watch.latest_progress:
            entries = latest_progress(entries)
        events = [entry.encoded for entry in entries]
        if not wanted.reach.sees_members:
            events = list(map(without_members, events))
        return events_response(events, page.cursor) if events else None

    async def _look_for_ends(self) -> None:
        """Find out which of the named jobs are final already."""
        if self._ends is not None:
            self._ends.look_at(*await self._snapshots.named(self._watch.wanted))

    def _is_over(self) -> bool:
        return self._ends is not None and self._ends.are_over(self._reader.position)

    async def _wait(self) -> bytes | None:
        """Wait for the next matching event; a heartbeat when none comes."""
        if self._unread is not None and self._unread.held:
            # Taken for a page of which nothing was to be sent.
            self._unread.resize(self._unread.held, 0)
        is_ready = await self._reader.wait(self._watch.heartbeat_interval)
        self._quiet_since = asyncio.get_running_loop().time()
        return None if is_ready or self._reader.is_draining else heartbeat_response(self._reader.cursor)


def _response(page: Page) -> bytes:
    return events_response([entry.encoded for entry in page.entries], page.cursor)


def _latest_progress_response(page: Page) -> bytes:
    return events_response([entry.encoded for entry in latest_progress(page.entries)], page.cursor)


def _draining(cursor: str) -> bytes:
    return draining_response(cursor, int(random.random() * RECONNECT_SPREAD))
