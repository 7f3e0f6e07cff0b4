"""Reads the log from a position on: the next page of encoded events that pass a filter, then waits for more.

WatchEvents is made of this. Whatever else sends events on, with a position of its own, reads them here too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from jobstate_server.domain.filters import EventFilter
from jobstate_server.event_log.feed import EventFeed, Waiter, passes
from jobstate_server.event_log.pages import LogPosition, Page
from jobstate_server.event_log.stored_pages import StoredPages
from jobstate_server.store.event_check import event_check


class EventLog:
    """The event log of a server: the recent events in memory, and all that is kept in the store."""

    def __init__(
        self, feed: EventFeed, stored: StoredPages, refresh: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """``refresh`` publishes everything that is committed by now; None where that is always so."""
        self.feed = feed
        self.stored = stored
        self._refresh = refresh

    async def refresh(self) -> None:
        """Have everything published that any replica has committed by now.

        Raises:
            Unavailable: the log cannot be read just now.
        """
        if self._refresh is not None:
            await self._refresh()

    def reader(self, wanted: EventFilter) -> EventReader:
        """A reader at the head, to be closed in the end.

        Raises:
            Overloaded: there is no room for its filter.
            Draining: the server is stopping.
        """
        return EventReader(self, self.feed.join(wanted))


class EventReader:
    """One reader: a position in the log and a filter. It holds no events, however far behind it is.

    Belongs on the event loop's thread, and to one task at a time. A position never goes back.
    """

    __slots__ = ("_cursor", "_feed", "_log", "_position", "_rewinds", "_skipped_to", "_waiter")

    def __init__(self, log: EventLog, waiter: Waiter) -> None:
        self._log = log
        self._feed = log.feed
        self._waiter = waiter
        self._rewinds = log.feed.rewinds
        self._position = LogPosition(0, 0)
        self._cursor: str | None = None
        self._skipped_to = 0
        """No event that passes lies between the position and here. The position stays where the check is known."""
        self.start_at_head()

    @property
    def wanted(self) -> EventFilter:
        """The filter, which readers with equal ones share."""
        return self._waiter.group.wanted

    @property
    def position(self) -> int:
        """Everything up to this sequence was handed out or did not pass the filter."""
        return self._position.sequence

    @property
    def cursor(self) -> str:
        """The position, as text to resume at."""
        if self._cursor is None:
            self._cursor = self._feed.cursor(*self._position)
        return self._cursor

    @property
    def head(self) -> int:
        """The newest sequence that has been published."""
        return self._feed.head

    @property
    def is_behind(self) -> bool:
        """Whether there is something to read without waiting."""
        return self.position < self._feed.head

    @property
    def is_draining(self) -> bool:
        """Whether the server is stopping."""
        return self._feed.is_draining

    def start_at_head(self) -> None:
        """Begin after the newest event that has been published."""
        self._move(LogPosition(self._feed.head, self._feed.recent.head_check))

    async def start_at_oldest(self) -> None:
        """Begin with the oldest event that is kept."""
        self._move(await self._log.stored.earliest())

    async def resume(self, cursor: str) -> None:
        """Begin after the position of a cursor.

        Raises:
            CursorExpired, CursorUnknown: the log does not have all events after it.
        """
        self._move(await self._log.stored.resume(cursor))

    def close(self) -> None:
        """Give the place in the feed back."""
        self._feed.leave(self._waiter)

    async def check_history(self) -> None:
        """If the log has lost events, make sure that it still has what was handed out here.

        Raises:
            CursorExpired, CursorUnknown: it does not.
        """
        while self._rewinds != self._feed.rewinds:
            rewinds = self._feed.rewinds
            self._skipped_to = (await self._log.stored.resume(self.cursor)).sequence
            self._rewinds = rewinds

    @property
    def is_next_recent(self) -> bool:
        """Whether the next page is in memory, so that ``next_page`` does not wait for the store."""
        return max(self._skipped_to, self.position) >= self._feed.recent.tail

    def is_next_small(self, size: int) -> bool:
        """Whether the next page certainly has at most this much payload."""
        if not self.is_next_recent:
            return False
        entries = self._feed.recent.after(max(self._skipped_to, self.position), 64)
        return sum(len(entry.event.payload) for entry in entries) <= size

    async def next_page(self) -> Page | None:
        """Go on by one page. None if nothing passed the filter; the position has moved all the same.

        Raises:
            CursorExpired: retention has removed events that were still to be read.
            CursorUnknown: the log has lost events that were handed out.
        """
        await self.check_history()
        after = self._skipped_to = max(self._skipped_to, self.position)
        if after >= self._feed.head:
            return None
        erasures = self._feed.erasures
        page = await self._page(after)
        if self._rewinds != self._feed.rewinds or page.end.sequence <= self.position:
            # Read while the log went back: it may be of either history.
            return None
        if erasures != self._feed.erasures:
            # Read while events were erased.
            return None
        self._move(page.end, page.cursor)
        return page if page.entries else None

    async def _page(self, after: int) -> Page:
        group = self._waiter.group
        if group.members == 1:
            return await self._own_page(after)
        key = ((group, self._rewinds), after)
        page = self._feed.shared.get(key, self._feed.head)
        if page is None:
            erasures = self._feed.erasures
            page = await self._own_page(after)
            if erasures == self._feed.erasures:
                self._feed.shared.put(key, page, self._feed.head)
        return page

    async def _own_page(self, after: int) -> Page:
        if after >= self._feed.recent.tail:
            return self._recent_page(after)
        return await self._log.stored.page(after, self.wanted, self._feed.page_limits, self._feed.erasures)

    def _recent_page(self, after: int) -> Page:
        events_max, bytes_max = self._feed.page_limits
        entries = self._feed.recent.after(after, events_max)
        size = 0
        for index, entry in enumerate(entries):
            size += len(entry.event.payload)
            if index and size > bytes_max:
                del entries[index:]
                break
        last = entries[-1].event
        end = LogPosition(last.sequence, event_check(last))
        wanted = self.wanted
        if not wanted.passes_all:
            entries = [entry for entry in entries if passes(wanted, entry.event)]
        return Page(entries, end, self._feed.cursor(*end))

    async def wait(self, max_wait: int) -> bool:
        """Wait until there is something to read. The reader must have read everything up to the head.

        Returns False after ``max_wait`` microseconds without an event that passes, with the position moved past those
        that do not, and False when the server begins to drain.

        Raises:
            CursorExpired, CursorUnknown: as ``next_page`` does.
        """
        if self._rewinds != self._feed.rewinds:
            # Something may be published during the check.
            await self.check_history()
            return True
        matched = await self._feed.wait(self._waiter, max_wait)
        if matched is not None:
            self._skipped_to = matched - 1
            return True
        # No event has passed the filter up to this moment. A page of the log may even have been ahead of what is
        # published, and a position never goes back.
        if not self._feed.is_draining and self.is_behind:
            self.start_at_head()
        return False

    def _move(self, position: LogPosition, cursor: str | None = None) -> None:
        self._position, self._cursor = position, cursor
