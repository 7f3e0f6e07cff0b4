"""The follower: keeps a hub at the head of a log to which other replicas write too.

The log is the only source of events. The bell says how far it reaches. What this server has not written itself is read
from the log and published between its own, in the order of sequences; but only while anybody watches here.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence

from jobstate_server.domain.errors import Unavailable
from jobstate_server.domain.filters import EventFilter
from jobstate_server.engine.readers import Readers
from jobstate_server.event_log.feed import EventFeed
from jobstate_server.store.base import Notifier, Reader
from jobstate_server.store.errors import StoreError
from jobstate_server.store.event_check import event_check
from jobstate_server.store.records import Notification, StoredEvent

log = logging.getLogger(__name__)

NOTIFICATION_WAIT_S = 0.25
"""How long the bell is listened to at once: a stopping server waits no longer than this for it."""

SILENT_ROUNDS_MAX = 4
"""After so many rounds without a ring the log is looked at all the same, so that nothing depends on the bell alone."""

HANG_UP_TURNS = 15
"""Seconds in which PostgreSQL may leave the thread without an answer before its connection is ended."""

SILENT_TURNS_MAX = 3
"""Seconds without a round of the thread after which the log is looked at once a second instead."""

STUCK_TURNS = HANG_UP_TURNS + 5
"""Seconds after which a thread that a new connection has not helped is replaced."""

STOP_WAIT_S = 0.5
"""How long a stop waits for the thread: a database that does not answer must not hold it up."""

RETRY_S = 0.5
"""When to listen again after the bell could not be heard."""

AHEAD_EVENTS_MAX = 16_384
"""Own events kept until those before them have been read: some batches. More are read from the log as well."""

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
        self.on_due: Callable[[int], None] = lambda next_due: None
        """Told the earliest due time that a commit of another replica wrote."""
        self._notifier = notifier
        self._reopen = reopen
        self._feed = feed
        self._readers = readers
        self._target = 0
        self._ahead: dict[int, Sequence[StoredEvent]] = {}
        self._ahead_count = 0
        self._reading: asyncio.Task[None] | None = None
        self._refreshing: list[tuple[int, asyncio.Future[None]]] = []
        self._stopping = threading.Event()
        self._rounds = 0
        """How often the thread has listened."""
        self._rounds_seen = 0
        self._silent_turns = 0
        self._looking: asyncio.Future[None] | None = None
        """The look at the log that is under way because nothing was heard."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = self._new_thread()

    def _new_thread(self) -> threading.Thread:
        return threading.Thread(target=self._listen, name="notifier", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    @property
    def dead(self) -> list[str]:
        """The thread that listens, once it has ended though nobody told it to, or hangs."""
        has_died = self._thread.ident is not None and not self._thread.is_alive()
        is_gone = has_died or self._silent_turns > STUCK_TURNS
        return [self._thread.name] if is_gone and not self._stopping.is_set() else []

    def restart(self) -> None:
        """Listen again, and look at the log for what was missed meanwhile. A thread that hangs is left behind."""
        self._notifier.disconnect()
        self._notifier = self._reopen() or self._notifier
        self._silent_turns = 0
        self._thread = self._new_thread()
        self._thread.start()
        self._silent()

    def turn(self) -> None:
        """A second has passed: a database that does not answer is not waited for for ever. Called by the watchdog."""
        self._silent_turns = self._silent_turns + 1 if self._rounds == self._rounds_seen else 0
        self._rounds_seen = self._rounds
        if self._silent_turns and self._silent_turns % HANG_UP_TURNS == 0:
            self._notifier.disconnect()
        if self._silent_turns > SILENT_TURNS_MAX:
            self._silent()

    async def stop(self) -> None:
        """Listen no more."""
        self._stopping.set()
        await asyncio.to_thread(self._thread.join, STOP_WAIT_S)
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    def publish(self, events: Sequence[StoredEvent]) -> None:
        """Take this server's own events, which are durable, and publish them in their place."""
        head = self._feed.head
        if events[-1].sequence <= head:
            # Read from the log already, for a watcher that may have gone since.
            return
        if events[0].sequence <= head + 1:
            self._publish(events[head + 1 - events[0].sequence :])
        elif not self._feed.watchers:
            self._publish(events)
        else:
            if self._ahead_count < AHEAD_EVENTS_MAX:
                self._ahead[events[0].sequence] = events
                self._ahead_count += len(events)
            self._reach(events[-1].sequence)

    async def refresh(self) -> None:
        """Have everything published that is committed at this moment, by whichever replica.

        Raises:
            Unavailable: the log cannot be read just now.
        """
        published = self._feed.head
        state = await self._readers.run(lambda reader: reader.log_state())
        if state.head < published:
            await self._go_back()
        if state.head <= self._feed.head or not self._feed.watchers:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._refreshing.append((state.head, future))
        self._reach(state.head)
        await future

    def _publish(self, events: Sequence[StoredEvent]) -> None:
        """Publish events that follow the head, and whatever of our own now follows them."""
        following: Sequence[StoredEvent] | None = events
        while following:
            self._feed.publish(following)
            following = self._ahead.pop(self._feed.head + 1, None)
            self._ahead_count -= len(following or ())
        self._moved()

    def _moved(self) -> None:
        """The head has moved: forget what it has passed, and tell those who waited for it."""
        head = self._feed.head
        for first in [first for first, events in self._ahead.items() if events[0].sequence <= head]:
            passed = self._ahead.pop(first)
            self._ahead_count -= len(passed)
            self._reach(passed[-1].sequence)
        waiting, self._refreshing = self._refreshing, []
        for wanted, future in waiting:
            if wanted > head:
                self._refreshing.append((wanted, future))
            elif not future.done():
                future.set_result(None)

    def _reach(self, sequence: int) -> None:
        """See to it that everything up to a sequence is published, if anybody watches."""
        self._target = max(self._target, sequence)
        is_behind = self._target > self._feed.head and self._feed.watchers > 0
        if is_behind and self._reading is None and not self._stopping.is_set():
            self._reading = asyncio.create_task(self._read_on())
            self._reading.add_done_callback(self._read)

    async def _read_on(self) -> None:
        while self._feed.head < self._target:
            if self._target - self._feed.head <= self._feed.page_limits.events:
                await self._read_page()
            else:
                # Whoever needs what lies between reads it from the log, page by page.
                await self._skip()

    async def _read_page(self) -> None:
        after = self._feed.head
        page = await self._readers.run(lambda reader: reader.events(after, _EVERY_EVENT, *self._feed.page_limits))
        events = page.events
        if page.horizon > after or (page.scanned > after and not events):
            # Retention was faster: whoever still needs those events is told so by the log.
            await self._skip()
            return
        # Our own may have been published while the page was read.
        unpublished = events[self._feed.head - after :]
        if unpublished:
            self._publish(unpublished)
        elif not events:
            self._believe_the_log()

    async def _skip(self) -> None:
        """Leave out what lies between, and go on from the newest event."""
        head, check = await self._readers.run(_read_head)
        if head > self._feed.head:
            self._feed.skip_to(head, check)
            self._moved()
        else:
            self._believe_the_log()

    async def _go_back(self) -> None:
        """Follow a log that has lost what was published: a database that was restored, or a fail-over to one behind."""
        head, check = await self._readers.run(_read_head)
        if head < self._feed.head:
            log.error("the log has lost events", extra={"published": self._feed.head, "head": head})
            self._ahead, self._ahead_count = {}, 0
            self._target = head
            self._feed.rewind(head, check)

    def _believe_the_log(self) -> None:
        """The bell was ahead of what can be read, as after a fail-over: the log ends here, so nobody waits for more."""
        self._target = self._feed.head
        waiting, self._refreshing = self._refreshing, []
        for _, future in waiting:
            if not future.done():
                future.set_result(None)

    def _read(self, task: asyncio.Task[None]) -> None:
        self._reading = None
        error = None if task.cancelled() else task.exception()
        if error is None:
            self._reach(self._target)
            return
        if not isinstance(error, Unavailable):
            log.error("the log cannot be followed", exc_info=error)
        waiting, self._refreshing = self._refreshing, []
        for _, future in waiting:
            if not future.done():
                future.set_exception(error)

    def _notified(self, notification: Notification) -> None:
        self._reach(notification.head)
        if notification.next_due is not None:
            self.on_due(notification.next_due)

    def _silent(self) -> None:
        if not self._feed.watchers or (self._looking is not None and not self._looking.done()):
            return
        # A reader that fails has said why; the next silence looks again.
        self._looking = asyncio.ensure_future(self.refresh())
        self._looking.add_done_callback(lambda future: future.cancelled() or future.exception())

    # What follows runs on the bell's thread.

    def _listen(self) -> None:
        try:
            self._hear()
        except Exception:
            # The watchdog sees that the thread is gone; nobody else would hear why.
            log.exception("the notifier's thread has died")

    def _hear(self) -> None:
        notifier = self._notifier
        silent_rounds = 0
        is_heard = True
        while not self._stopping.is_set() and self._notifier is notifier:
            self._rounds += 1
            try:
                notification = notifier.wait(NOTIFICATION_WAIT_S)
            except StoreError as error:
                if is_heard:
                    log.warning("the bell cannot be heard", extra={"cause": str(error)})
                is_heard = False
                self._stopping.wait(RETRY_S)
                continue
            is_heard = True
            silent_rounds = 0 if notification is not None else silent_rounds + 1
            if notification is not None:
                self._call(self._notified, notification)
            elif silent_rounds >= SILENT_ROUNDS_MAX:
                silent_rounds = 0
                self._call(self._silent)
        notifier.close()

    def _call(self, told: Callable[..., None], *values: Notification) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(told, *values)


def _read_head(reader: Reader) -> tuple[int, int]:
    """The newest position of the log that can be read, and the check of the event there."""
    last = reader.event(reader.log_state().head)
    if last is not None:
        return last.sequence, event_check(last.payload)
    state = reader.log_state()
    return state.horizon, state.horizon_check
