"""Keeps the feed at the head of a log to which other replicas write too.

The log is the only source of events. A notification says how far it reaches. What this server has not written itself
is read from the log and published between its own events, in the order of sequences, but only while anybody reads here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from jobstate_server.domain.errors import Unavailable
from jobstate_server.domain.filters import EventFilter
from jobstate_server.engine.readers import Readers
from jobstate_server.engine.subscribers import Subscribers
from jobstate_server.event_log.feed import EventFeed
from jobstate_server.event_log.listener import NotificationListener
from jobstate_server.store.base import Notifier, Reader
from jobstate_server.store.event_check import event_check
from jobstate_server.store.records import Notification, StoredEvent

log = logging.getLogger(__name__)

HELD_EVENTS_MAX = 16_384
"""Own events held back until those before them have been read: some batches. More are read from the log as well."""

_EVERY_EVENT = EventFilter()


class Replication:
    """Publishes the events of a shared log. Its methods belong on the event loop's thread."""

    def __init__(
        self,
        notifier: Notifier,
        feed: EventFeed,
        readers: Readers,
        *,
        reopen: Callable[[], Notifier | None] = lambda: None,
    ) -> None:
        """
        Args:
            reopen: opens another notifier for a thread that takes the place of one that hangs in the first.
        """
        self.due_written: Subscribers[[int]] = Subscribers(lambda: log.exception("a due time cannot be passed on"))
        """Notified of the earliest due time that a commit of another replica wrote."""
        self.jobs_ready: Subscribers[[frozenset[str]]] = Subscribers(
            lambda: log.exception("jobs that became ready cannot be passed on")
        )
        """Notified of the job types of which another replica left ready jobs."""
        self.listener = NotificationListener(notifier, reopen, self._notified, self._look)
        self._feed = feed
        self._readers = readers
        self._target = 0
        """Everything up to here is to be published."""
        self._held: dict[int, Sequence[StoredEvent]] = {}
        """Own events that wait for those before them, by their first sequence."""
        self._held_count = 0
        self._reading: asyncio.Task[None] | None = None
        self._refreshing: list[tuple[int, asyncio.Future[None]]] = []
        self._erasures = 0
        """How often events had been erased when the log was last looked at."""
        self._looking: asyncio.Future[None] | None = None
        """The look at the log that is under way because no notification has come."""
        self._is_stopped = False

    def start(self) -> None:
        """Begin to listen."""
        self.listener.start()

    async def stop(self) -> None:
        """Listen and read no more."""
        self._is_stopped = True
        await self.listener.stop()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    def publish(self, events: Sequence[StoredEvent]) -> None:
        """Take this server's own events, which are durable, and publish them in their place."""
        head = self._feed.head
        if events[-1].sequence <= head:
            # Read from the log already, for a reader that may have gone since.
            return
        if events[0].sequence <= head + 1:
            self._publish(events[head + 1 - events[0].sequence :])
        elif not self._feed.watchers:
            self._publish(events)
        else:
            if self._held_count < HELD_EVENTS_MAX:
                self._held[events[0].sequence] = events
                self._held_count += len(events)
            self._publish_through(events[-1].sequence)

    async def refresh(self) -> None:
        """Have everything published that is committed at this moment, by whichever replica.

        Raises:
            Unavailable: the log cannot be read just now.
        """
        published = self._feed.head
        state = await self._readers.run(lambda reader: reader.log_state())
        if state.erasures > self._erasures:
            self._erasures = state.erasures
            self.forget()
        if state.head < published:
            await self._rewind()
        if state.head <= self._feed.head or not self._feed.watchers:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._refreshing.append((state.head, future))
        self._publish_through(state.head)
        await future

    def forget(self) -> None:
        """Forget what is in memory of the log, because events in it were erased."""
        self._held, self._held_count = {}, 0
        self._feed.forget()

    def _publish(self, events: Sequence[StoredEvent]) -> None:
        """Publish events that follow the head, and the held ones that then follow."""
        following: Sequence[StoredEvent] | None = events
        while following:
            self._feed.publish(following)
            following = self._held.pop(self._feed.head + 1, None)
            self._held_count -= len(following or ())
        self._head_moved()

    def _head_moved(self) -> None:
        """Drop held events that the head has passed, and answer those who waited for it to come this far."""
        head = self._feed.head
        for first in [first for first in self._held if first <= head]:
            passed = self._held.pop(first)
            self._held_count -= len(passed)
            self._publish_through(passed[-1].sequence)
        waiting, self._refreshing = self._refreshing, []
        for wanted, future in waiting:
            if wanted > head:
                self._refreshing.append((wanted, future))
            elif not future.done():
                future.set_result(None)

    def _publish_through(self, sequence: int) -> None:
        """See to it that everything up to a sequence is published, if anybody reads here."""
        self._target = max(self._target, sequence)
        is_behind = self._target > self._feed.head and self._feed.watchers > 0
        if is_behind and self._reading is None and not self._is_stopped:
            self._reading = asyncio.create_task(self._read_to_target())
            self._reading.add_done_callback(self._reading_ended)

    async def _read_to_target(self) -> None:
        while self._feed.head < self._target:
            if self._target - self._feed.head <= self._feed.page_limits.events:
                await self._read_page()
            else:
                # Readers that need what lies between read it from the log, page by page.
                await self._skip()

    async def _read_page(self) -> None:
        after, erasures = self._feed.head, self._feed.erasures
        page = await self._readers.run(lambda reader: reader.events(after, _EVERY_EVENT, *self._feed.page_limits))
        if erasures != self._feed.erasures:
            # It may have what was erased meanwhile.
            return
        events = page.events
        if page.horizon > after or (page.scanned > after and not events):
            # Retention was faster: a reader that still needs those events finds out from the log.
            await self._skip()
            return
        # Our own may have been published while the page was read.
        unpublished = events[self._feed.head - after :]
        if unpublished:
            self._publish(unpublished)
        elif not events:
            self._accept_end()

    async def _skip(self) -> None:
        """Leave out what lies between, and go on from the newest event."""
        head, check = await self._readers.run(_read_head)
        if head > self._feed.head:
            self._feed.skip_to(head, check)
            self._head_moved()
        else:
            self._accept_end()

    async def _rewind(self) -> None:
        """Follow a log that has lost published events: a database that was restored, or a fail-over to one behind."""
        head, check = await self._readers.run(_read_head)
        if head < self._feed.head:
            log.error("the log has lost events", extra={"published": self._feed.head, "head": head})
            self._held, self._held_count = {}, 0
            self._target = head
            self._feed.rewind(head, check)

    def _accept_end(self) -> None:
        """A notification was ahead of what can be read, as after a fail-over: wait for no more than the log has."""
        self._target = self._feed.head
        waiting, self._refreshing = self._refreshing, []
        for _, future in waiting:
            if not future.done():
                future.set_result(None)

    def _reading_ended(self, task: asyncio.Task[None]) -> None:
        self._reading = None
        error = None if task.cancelled() else task.exception()
        if error is None:
            self._publish_through(self._target)
            return
        if not isinstance(error, Unavailable):
            log.error("the log cannot be followed", exc_info=error)
        waiting, self._refreshing = self._refreshing, []
        for _, future in waiting:
            if not future.done():
                future.set_exception(error)

    def _notified(self, notification: Notification) -> None:
        if notification.has_erased:
            self.forget()
        self._publish_through(notification.head)
        if notification.next_due is not None:
            self.due_written.notify(notification.next_due)
        if notification.ready_types:
            self.jobs_ready.notify(notification.ready_types)

    def _look(self) -> None:
        """Look at the log, because no notification has come for a time."""
        if not self._feed.watchers or (self._looking is not None and not self._looking.done()):
            return
        # If the log cannot be read, the readers have logged why, and this is called again.
        self._looking = asyncio.ensure_future(self.refresh())
        self._looking.add_done_callback(lambda future: future.cancelled() or future.exception())


def _read_head(reader: Reader) -> tuple[int, int]:
    """The newest position of the log that can be read, and the check of the event there."""
    last = reader.event(reader.log_state().head)
    if last is not None:
        return last.sequence, event_check(last)
    state = reader.log_state()
    return state.horizon, state.horizon_check
