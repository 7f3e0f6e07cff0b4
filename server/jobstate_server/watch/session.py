"""One watcher's stream: open, catch up, SYNCED, then events as they happen, with heartbeats in the silence.

A watcher holds a position in the log, not a queue of events. However slow it is, it costs the same memory: its next
response is made from the ring or the log only when the last one has gone out.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from jobstate_server.domain.durations import SECOND
from jobstate_server.domain.errors import Draining, JobNotFound
from jobstate_server.domain.events import EventType
from jobstate_server.domain.filters import EventFilter, JobFilter, Position
from jobstate_server.event_log.feed import RETRY_DELAY_S, EventFeed, Waiter
from jobstate_server.event_log.pages import PAGE_BYTES_MAX, PAGE_EVENTS_MAX, CatchUp, Page
from jobstate_server.event_log.recent import Entry
from jobstate_server.store.event_check import event_check
from jobstate_server.store.records import StoredEvent
from jobstate_server.wire.events import listed_event
from jobstate_server.wire.watch import (
    carries_metadata,
    draining_response,
    events_response,
    heartbeat_response,
    snapshot_response,
    synced_response,
)

RECONNECT_SPREAD = 2 * SECOND
"""Over this much time the watchers of a stopping server are told to come back, so that they do not come all at once."""

_ENDING = frozenset({EventType.COMPLETED, EventType.PERMANENTLY_FAILED, EventType.CANCELLED, EventType.DELETED})


UNCOUNTED_BYTES_MAX = 8 * 1024
"""Events that may be sent without room being asked for: those of all watchers have some MiB."""


class Unread(Protocol):
    """What the unread responses of one stream hold of the memory that there is for those of all."""

    held: int
    unread_since: float | None

    async def take(self, size: int) -> None:
        """Hold this many bytes more, once there is room for them."""

    def resize(self, old: int, new: int) -> None:
        """Hold other bytes in place of some that were taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """What a watcher asked for."""

    wanted: EventFilter
    cursor: str = ""
    """Where to go on; empty begins at ``earliest`` or at the head."""
    earliest: bool = False
    snapshot: bool = False
    follow: bool = True
    until_final: bool = False
    latest_progress: bool = False
    heartbeat_interval: int = 30 * SECOND


class Watching:
    """Makes streams for watchers."""

    def __init__(
        self, feed: EventFeed, catch_up: CatchUp, refresh: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """``refresh`` has everything published that is committed by now; None where that is always so."""
        self.feed = feed
        self.refresh = refresh
        self._catch_up = catch_up
        self._shared: tuple[int, int, bytes] = (-1, -1, b"")
        """The last response for watchers of everything: after, position, bytes. Most of them are at the same place."""

    async def stream(self, watch: Watch, unread: Unread | None = None) -> AsyncIterator[bytes]:
        """The encoded responses of one watch. What ``unread`` has no room for is not prepared.

        Raises:
            CursorExpired, CursorUnknown, JobNotFound: the watch cannot begin, or cannot go on.
            Draining: the server is stopping; DRAINING has been sent.
            Overloaded: there are too many watchers.
        """
        watcher = _Watcher(self, self.feed, self._catch_up, watch, unread)
        loop = asyncio.get_running_loop()
        try:
            async for response in watcher.responses():
                if unread is None or not unread.held:
                    yield response
                    continue
                unread.resize(unread.held, len(response))
                unread.unread_since = loop.time()
                yield response
                unread.unread_since = None
                unread.resize(unread.held, 0)
        finally:
            self.feed.leave(watcher.waiter)

    def live_response(self, entries: Sequence[Entry], after: int) -> bytes:
        """The response with all of these events, shared by all who are at the same place."""
        position = entries[-1].event.sequence
        if self._shared[:2] != (after, position):
            cursor = self.feed.cursor(position, event_check(entries[-1].event.payload))
            self._shared = (after, position, events_response([entry.listed for entry in entries], cursor))
        return self._shared[2]


class _Watcher:
    """The course of one stream."""

    def __init__(
        self, watching: Watching, feed: EventFeed, catch_up: CatchUp, watch: Watch, unread: Unread | None = None
    ) -> None:
        self._unread = unread
        self._watching = watching
        self._feed = feed
        self._catch_up = catch_up
        self._watch = watch
        self._seen = watch.wanted
        if watch.until_final:
            # The end of a named job must be seen even where it is not to be sent.
            types = watch.wanted.types and watch.wanted.types | _ENDING
            self._seen = EventFilter(job_ids=watch.wanted.job_ids, types=types, principal=watch.wanted.principal)
        self.waiter: Waiter = feed.join(self._seen)
        self._position = 0
        self._check = 0
        self._setbacks = feed.setbacks
        self._quiet_since = asyncio.get_running_loop().time()
        """When something was last sent, while the log is read."""
        self._skip_to = 0
        """Nothing that matches lies between the position and here. The cursor stays where the check is known."""
        self._unfinished: dict[str, int | None] = {}
        """Under until_final: the named jobs, each with the position of its end once that is known."""

    @property
    def _cursor(self) -> str:
        return self._feed.cursor(self._position, self._check)

    def _move(self, position: int, check: int) -> None:
        self._position, self._check = position, check

    async def responses(self) -> AsyncIterator[bytes]:
        """Everything this watcher is sent, in order."""
        if self._watching.refresh is not None:
            # What any replica has answered by now is the past, and this watcher may know of it.
            await self._watching.refresh()
        await self._open()
        synced_at = self._feed.head
        if self._watch.snapshot and not self._watch.cursor:
            self._move(synced_at, self._feed.recent.head_check)
            async for response in self._snapshot():
                yield response
        synced = False
        while not (synced and self._is_done()):
            await self._stand_setbacks()
            if self._feed.draining:
                yield _draining(self._cursor)
                raise Draining(RETRY_DELAY_S)
            if self._position >= synced_at and not synced:
                synced = True
                yield synced_response(self._cursor)
                if not self._watch.follow:
                    return
                await self._look_for_ends()
            elif self._position < self._feed.head:
                async for response in self._next():
                    yield response
            elif (heartbeat := await self._wait()) is not None:
                yield heartbeat

    async def _open(self) -> None:
        watch = self._watch
        if watch.cursor:
            page = await self._catch_up.resume(watch.cursor)
        elif watch.earliest:
            page = await self._catch_up.earliest()
        else:
            page = Page([], self._feed.head, self._feed.recent.head_check)
        self._move(page.position, page.check)
        if watch.until_final and not watch.cursor:
            found, _ = await self._catch_up.jobs(watch.wanted.job_ids, watch.wanted.principal)
            for job_id in watch.wanted.job_ids:
                if job_id not in found:
                    raise JobNotFound(job_id)

    async def _stand_setbacks(self) -> None:
        """After the log has lost events: go on only where it still has what this watcher has seen."""
        if self._setbacks != self._feed.setbacks:
            self._setbacks = self._feed.setbacks
            page = await self._catch_up.resume(self._cursor)
            self._skip_to = page.position

    async def _snapshot(self) -> AsyncIterator[bytes]:
        wanted = JobFilter(
            job_ids=tuple(self._watch.wanted.job_ids),
            job_types=tuple(self._watch.wanted.job_types),
            source_ids=tuple(self._watch.wanted.source_ids),
            principal=self._watch.wanted.principal,
        )
        after: Position | None = None
        has_more = True
        while has_more:
            await self._take_room()
            jobs, has_more = await self._catch_up.snapshot_page(wanted, after)
            if not jobs:
                return
            if self._feed.draining:
                yield _draining(cursor="")
                raise Draining(RETRY_DELAY_S)
            yield snapshot_response(jobs)
            after = Position(jobs[-1].create_time, jobs[-1].id)

    async def _next(self) -> AsyncIterator[bytes]:
        """Go on by one page, from the ring where it reaches back far enough and from the log where it does not."""
        self._skip_to = max(self._skip_to, self._position)
        if self._is_much():
            await self._take_room()
            if self._setbacks != self._feed.setbacks or self._skip_to >= self._feed.head:
                # The log was set back meanwhile: begin anew.
                return
        if self._skip_to >= self._feed.recent.tail:
            response = self._from_ring()
        else:
            reading = asyncio.ensure_future(self._from_log())
            async for heartbeat in self._heartbeats_until(reading):
                yield heartbeat
            response = reading.result()
        if response is not None:
            self._quiet_since = asyncio.get_running_loop().time()
            yield response
        else:
            # Nothing of a whole page matched: let others have the loop before looking at the next one.
            await asyncio.sleep(0)

    def _is_much(self) -> bool:
        """Whether the next response may be large."""
        recent = self._feed.recent
        if self._skip_to < recent.tail:
            return True
        return sum(len(entry.event.payload) for entry in recent.after(self._skip_to, 64)) > UNCOUNTED_BYTES_MAX

    async def _take_room(self) -> None:
        """Wait until there is room for a response."""
        if self._unread is not None and not self._unread.held:
            await self._unread.take(PAGE_BYTES_MAX)

    async def _heartbeats_until(self, reading: asyncio.Future[bytes | None]) -> AsyncIterator[bytes]:
        """Heartbeats while the log is searched, so that a long search is not taken for a dead stream."""
        loop = asyncio.get_running_loop()
        interval = self._watch.heartbeat_interval / SECOND
        try:
            while not reading.done():
                left = self._quiet_since + interval - loop.time()
                if left <= 0:
                    self._quiet_since = loop.time()
                    yield heartbeat_response(self._cursor)
                else:
                    await asyncio.wait({reading}, timeout=left)
        finally:
            reading.cancel()

    def _from_ring(self) -> bytes | None:
        after = self._skip_to
        entries: list[Entry] = []
        size = 0
        for entry in self._feed.recent.after(after, PAGE_EVENTS_MAX):
            size += len(entry.event.payload)
            if entries and size > PAGE_BYTES_MAX:
                break
            entries.append(entry)
        last = entries[-1].event
        self._move(last.sequence, event_check(last.payload))
        if self._watch.wanted.passes_all and not self._watch.latest_progress:
            return self._watching.live_response(entries, after)
        seen = [entry for entry in entries if _passes(self._seen, entry.event)]
        kept = self._sendable([entry.event for entry in seen])
        listed = [entry.listed for entry in seen if entry.event.sequence in kept]
        return events_response(listed, self._cursor) if listed else None

    async def _from_log(self) -> bytes | None:
        events, position, check = await self._catch_up.page(self._skip_to, self._seen)
        self._move(position, check)
        kept = self._sendable(events)
        listed = [listed_event(event.payload, event.sequence) for event in events if event.sequence in kept]
        return events_response(listed, self._cursor) if listed else None

    def _sendable(self, events: Sequence[StoredEvent]) -> set[int]:
        """Note the ends of jobs among these events, and choose the sequences that are to be sent."""
        for event in events:
            if event.type in _ENDING and event.job_id in self._unfinished:
                self._unfinished[event.job_id] = event.sequence
        wanted = events
        if self._watch.until_final:
            wanted = [event for event in events if _passes(self._watch.wanted, event)]
        if self._watch.latest_progress:
            wanted = latest_progress(wanted)
        return {event.sequence for event in wanted}

    async def _look_for_ends(self) -> None:
        """Find out which of the named jobs are final already, and up to where their events must be sent first."""
        if not self._watch.until_final:
            return
        self._unfinished = dict.fromkeys(self._watch.wanted.job_ids)
        found, head = await self._catch_up.jobs(self._watch.wanted.job_ids, self._watch.wanted.principal)
        for job_id in self._watch.wanted.job_ids:
            job = found.get(job_id)
            if job is None:
                # Deleted: its last event is somewhere up to the head as it was after this read.
                self._unfinished[job_id] = head
            elif job.state.is_final:
                self._unfinished[job_id] = job.version

    def _is_done(self) -> bool:
        if not self._watch.until_final:
            return False
        ends = self._unfinished.values()
        return all(end is not None and end <= self._position for end in ends)

    async def _wait(self) -> bytes | None:
        """Wait for the next matching event; a heartbeat when none comes."""
        if self._unread is not None and self._unread.held:
            # Taken for a page of which nothing was to be sent.
            self._unread.resize(self._unread.held, 0)
        matched = await self._feed.wait(self.waiter, self._watch.heartbeat_interval)
        self._quiet_since = asyncio.get_running_loop().time()
        if matched is not None:
            self._skip_to = matched - 1
            return None
        if self._feed.draining:
            return None
        # The bell did not ring up to this moment: everything up to the head was sent or did not match. A page of the
        # log may even have been ahead of what is published, and a cursor never goes back.
        if self._feed.head > self._position:
            self._move(self._feed.head, self._feed.recent.head_check)
        return heartbeat_response(self._cursor)


def _passes(wanted: EventFilter, event: StoredEvent) -> bool:
    return wanted.passes(event.job_id, event.job_type, event.source_id, event.type, event.principal)


def _draining(cursor: str) -> bytes:
    return draining_response(cursor, int(random.random() * RECONNECT_SPREAD))


def latest_progress(events: Sequence[StoredEvent]) -> list[StoredEvent]:
    """The events without progress that a later one of the same job supersedes.

    Progress that carries metadata is superseded only by progress that carries it too, because the later event does not
    tell what the earlier one set.
    """
    kept = []
    superseded: dict[str, bool] = {}
    """Jobs of which later progress is kept, and whether some of it carries metadata."""
    for event in reversed(events):
        if event.type == EventType.PROGRESS:
            has_metadata = carries_metadata(event.type, event.payload)
            later = superseded.get(event.job_id)
            if later is not None and (later or not has_metadata):
                continue
            superseded[event.job_id] = has_metadata or bool(later)
        kept.append(event)
    kept.reverse()
    return kept
