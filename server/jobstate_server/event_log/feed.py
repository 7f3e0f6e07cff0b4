"""The hub: the bell. It says to waiting watchers that there is something for them, and where it begins.

A watcher that waits has seen everything up to the head, so the first event that matches is the next one it needs: it is
told that sequence and skips what lies between. Watchers are found by what they filter on, never by asking each.

Everything here happens on the event loop's thread without awaiting in between, so nothing can be published between a
watcher's last look and its going to wait. Between the end of its wait and its waking something can, and is told too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Sequence

from jobstate_server.clock import Clock
from jobstate_server.domain.errors import Draining, Overloaded
from jobstate_server.domain.filters import EventFilter
from jobstate_server.event_log.cursor import Cursor, encode_cursor
from jobstate_server.event_log.recent import RecentEvents
from jobstate_server.store.records import StoredEvent

FILTERS_BYTES_MAX = 32 * 1024 * 1024
"""What the filters of all watches may take of memory: 50 watches that name 1,000 jobs each, or thousands of others."""

_KEY_BYTES = 450
"""About what a key costs besides its text: itself, and its place in the index."""

RETRY_DELAY_S = 1.0

_EVERYTHING: Hashable = ("everything",)


class Waiter:
    """One watcher's place at the bell."""

    __slots__ = ("_future", "keys", "matched", "size", "wanted")

    def __init__(self, wanted: EventFilter) -> None:
        self.wanted = wanted
        self.keys = _keys(wanted)
        self.size = _filter_bytes(wanted)
        """What its filter takes of memory, about."""
        self.matched: int | None = None
        """The first sequence that matched since the watcher began to wait; None when something else woke it."""
        self._future: asyncio.Future[None] | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether the bell may ring for it."""
        return self._future is not None

    def wait(self) -> asyncio.Future[None]:
        """Begin to wait."""
        self.matched = None
        self._future = asyncio.get_running_loop().create_future()
        return self._future

    def wake(self, sequence: int | None = None) -> None:
        """End the wait, if there is one."""
        future, self._future = self._future, None
        if future is not None:
            self.matched = sequence
            if not future.done():
                future.set_result(None)

    def fall_silent(self) -> None:
        """End the wait because nothing came. The bell may still ring until the watcher has woken."""
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    def leave(self) -> None:
        """Wait no more, because the watcher has woken or gone."""
        self._future = None


class EventFeed:
    """The ring of newest events, and the watchers that wait for more."""

    def __init__(self, log_id: str, recent: RecentEvents, clock: Clock) -> None:
        self.recent = recent
        self.draining = False
        self.setbacks = 0
        """How often the log turned out to have lost events. Whoever saw them must have its position judged anew."""
        self._log_id = log_id
        self._clock = clock
        self._waiting: dict[Hashable, set[Waiter]] = {}
        self._watchers: set[Waiter] = set()
        self._filters_bytes = 0

    @property
    def head(self) -> int:
        """The newest sequence that has been published."""
        return self.recent.head

    @property
    def watchers(self) -> int:
        """How many watchers there are."""
        return len(self._watchers)

    def cursor(self, sequence: int, check: int) -> str:
        """The cursor of a position in this log."""
        return encode_cursor(Cursor(self._log_id, sequence, check))

    def head_cursor(self) -> str:
        """The cursor of the head."""
        return self.cursor(self.recent.head, self.recent.head_check)

    def join(self, wanted: EventFilter) -> Waiter:
        """Take a place. Raises Overloaded when the filters have no room, Draining when the server is stopping."""
        if self.draining:
            raise Draining(RETRY_DELAY_S)
        size = _filter_bytes(wanted)
        if self._filters_bytes + size > FILTERS_BYTES_MAX:
            raise Overloaded(f"the filters of all watches have {FILTERS_BYTES_MAX} bytes", RETRY_DELAY_S)
        waiter = Waiter(wanted)
        self._watchers.add(waiter)
        self._filters_bytes += size
        for key in waiter.keys:
            self._waiting.setdefault(key, set()).add(waiter)
        return waiter

    def leave(self, waiter: Waiter) -> None:
        """Give the place back."""
        waiter.leave()
        if waiter not in self._watchers:
            return
        self._watchers.discard(waiter)
        self._filters_bytes -= waiter.size
        for key in waiter.keys:
            self._forget(key, waiter)

    def _forget(self, key: Hashable, waiter: Waiter) -> None:
        bucket = self._waiting.get(key)
        if bucket is not None:
            bucket.discard(waiter)
            if not bucket:
                del self._waiting[key]

    async def wait(self, waiter: Waiter, silence: int) -> int | None:
        """Wait for an event that ``waiter`` wants; the watcher must have seen everything up to the head.

        Returns its sequence, or None after ``silence`` microseconds, or when the server begins to drain.
        """
        if self.draining:
            return None
        future = waiter.wait()
        timer = self._clock.call_later(silence, waiter.fall_silent)
        try:
            await future
        finally:
            timer.cancel()
            waiter.leave()
        return waiter.matched

    def publish(self, events: Sequence[StoredEvent]) -> None:
        """Take in the newest events, and ring for whoever wants one of them."""
        if events[0].sequence > self.head + 1:
            # A commit of unknown outcome was made after all, and nobody was told of its events: the log has them.
            self._wake_all()
        self.recent.append(events)
        waiting = self._waiting
        if not waiting:
            return
        for waiter in waiting.get(_EVERYTHING, ()):
            waiter.wake(events[0].sequence)
        for event in events if len(waiting) > (_EVERYTHING in waiting) else ():
            for key in (("job", event.job_id), ("source", event.source_id), ("job_type", event.job_type), event.type):
                bucket = waiting.get(key)
                if bucket is not None:
                    _wake_bucket(bucket, event)

    def skip_to(self, head: int, head_check: int) -> None:
        """Go on from a head beyond this one; what lies between is in the log."""
        self._wake_all()
        self.recent.skip_to(head, head_check)

    def go_back(self, head: int, head_check: int) -> None:
        """Go on from an earlier head: what was published after it is not in the log any more."""
        self.setbacks += 1
        self._wake_all()
        self.recent.skip_to(head, head_check)

    def _wake_all(self) -> None:
        for waiter in self._watchers:
            waiter.wake(self.head + 1)

    def drain(self) -> None:
        """Tell every watcher that the server is stopping, and take no more."""
        self.draining = True
        for waiter in list(self._watchers):
            waiter.wake()


def _wake_bucket(bucket: set[Waiter], event: StoredEvent) -> None:
    for waiter in bucket:
        if waiter.is_waiting and waiter.wanted.passes(
            event.job_id, event.job_type, event.source_id, event.type, event.principal
        ):
            waiter.wake(event.sequence)


def _filter_bytes(wanted: EventFilter) -> int:
    texts = (*wanted.job_ids, *wanted.job_types, *wanted.source_ids)
    return _KEY_BYTES + sum(_KEY_BYTES + len(text) for text in texts)


def _keys(wanted: EventFilter) -> tuple[Hashable, ...]:
    """Under which keys a watcher waits: those of its narrowest filter."""
    return (
        tuple(("job", job_id) for job_id in wanted.job_ids)
        or tuple(("source", source_id) for source_id in wanted.source_ids)
        or tuple(("job_type", job_type) for job_type in wanted.job_types)
        or tuple(int(type_) for type_ in wanted.types)
        or (_EVERYTHING,)
    )
