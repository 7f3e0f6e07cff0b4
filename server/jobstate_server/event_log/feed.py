"""The feed: takes in new events and wakes the readers that wait for one of them.

A reader that waits has seen everything up to the head, so the first event that passes its filter is the next one it
needs: it is given that sequence and skips what lies before. Readers with equal filters form a group. Groups are found
by what they filter on, and an event is held against each filter once, however many readers share it.

Everything here happens on the event loop's thread without awaiting in between, so nothing can be published between a
reader's last look and the start of its wait. Between the end of its wait and its waking something can, and counts too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterable, Sequence

from jobstate_server.clock import Clock
from jobstate_server.domain.errors import Draining, Overloaded
from jobstate_server.domain.events import EventType, is_erased
from jobstate_server.domain.filters import EventFilter
from jobstate_server.event_log.cursor import Cursor, encode_cursor
from jobstate_server.event_log.pages import PageLimits, SharedPages
from jobstate_server.event_log.recent import RecentEvents
from jobstate_server.store.records import StoredEvent
from jobstate_server.wire.events import has_labels, labels_in

FILTERS_BYTES_MAX = 32 * 1024 * 1024
"""What the filters of all watches may take of memory: 50 watches that name 1,000 jobs each, or thousands of others."""

_KEY_BYTES = 450
"""About what a key costs besides its text: itself, and its place in the index."""

RETRY_DELAY_S = 1.0

_EVERYTHING: Hashable = ("everything",)
_DELETED = int(EventType.DELETED)


class FilterGroup:
    """The readers that have equal filters."""

    __slots__ = ("keys", "members", "waiting", "wanted")

    def __init__(self, wanted: EventFilter) -> None:
        self.wanted = wanted
        self.keys = _keys(wanted)
        self.members = 0
        self.waiting: dict[Waiter, None] = {}
        """Those that wait, in the order in which they began to."""

    def wake(self, sequence: int | None) -> None:
        """End every wait."""
        waiting, self.waiting = self.waiting, {}
        for waiter in waiting:
            waiter.wake(sequence)


class Waiter:
    """One reader's place in the feed."""

    __slots__ = ("_future", "group", "matched", "size")

    def __init__(self, group: FilterGroup, size: int) -> None:
        self.group = group
        self.size = size
        """About how many bytes its filter takes."""
        self.matched: int | None = None
        """The first sequence that passed the filter since the wait began; None if something else ended the wait."""
        self._future: asyncio.Future[None] | None = None

    def wait(self) -> asyncio.Future[None]:
        """Begin to wait."""
        self.matched = None
        self._future = asyncio.get_running_loop().create_future()
        self.group.waiting[self] = None
        return self._future

    def wake(self, sequence: int | None) -> None:
        """End the wait. Called by the group, which has forgotten that this one waits."""
        future, self._future = self._future, None
        if future is not None:
            self.matched = sequence
            if not future.done():
                future.set_result(None)

    def time_out(self) -> None:
        """End the wait because nothing came. Until the reader has woken, an event still counts."""
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    def leave(self) -> None:
        """Wait no more, because the reader has woken or gone."""
        self._future = None
        self.group.waiting.pop(self, None)


class EventFeed:
    """The recent events, and the readers that wait for more."""

    def __init__(self, log_id: str, recent: RecentEvents, clock: Clock) -> None:
        self.recent = recent
        self.page_limits = PageLimits()
        self.is_draining = False
        self.rewinds = 0
        """How often the log turned out to have lost events. A reader's position must then be checked again."""
        self.shared = SharedPages()
        self.erasures = 0
        """How often events in the log were erased. A page that was read before must not be handed out."""
        self._log_id = log_id
        self._clock = clock
        self._groups: dict[EventFilter, FilterGroup] = {}
        self._index: dict[Hashable, dict[FilterGroup, None]] = {}
        self._waiters: set[Waiter] = set()
        self._filters_bytes = 0
        self._label_groups = 0
        """How many groups have labels in their filter. While there are none, no event is searched for labels."""

    @property
    def head(self) -> int:
        """The newest sequence that has been published."""
        return self.recent.head

    @property
    def watchers(self) -> int:
        """How many readers there are."""
        return len(self._waiters)

    def cursor(self, sequence: int, check: int) -> str:
        """The cursor of a position in this log."""
        return encode_cursor(Cursor(self._log_id, sequence, check))

    def join(self, wanted: EventFilter) -> Waiter:
        """Take a place. Raises Overloaded if there is no room for the filter, Draining if the server is stopping."""
        if self.is_draining:
            raise Draining(RETRY_DELAY_S)
        size = _filter_bytes(wanted)
        if self._filters_bytes + size > FILTERS_BYTES_MAX:
            raise Overloaded(f"the filters of all watches have {FILTERS_BYTES_MAX} bytes", RETRY_DELAY_S)
        group = self._groups.get(wanted)
        if group is None:
            group = self._groups[wanted] = FilterGroup(wanted)
            for key in group.keys:
                self._index.setdefault(key, {})[group] = None
            self._label_groups += bool(wanted.labels)
        group.members += 1
        waiter = Waiter(group, size)
        self._waiters.add(waiter)
        self._filters_bytes += size
        return waiter

    def leave(self, waiter: Waiter) -> None:
        """Give the place back."""
        waiter.leave()
        if waiter not in self._waiters:
            return
        self._waiters.discard(waiter)
        self._filters_bytes -= waiter.size
        waiter.group.members -= 1
        if not waiter.group.members:
            self._forget(waiter.group)

    def _forget(self, group: FilterGroup) -> None:
        del self._groups[group.wanted]
        self._label_groups -= bool(group.wanted.labels)
        for key in group.keys:
            found = self._index[key]
            del found[group]
            if not found:
                del self._index[key]

    async def wait(self, waiter: Waiter, max_wait: int) -> int | None:
        """Wait for an event that passes the filter. The reader must have seen everything up to the head.

        Returns its sequence, or None after ``max_wait`` microseconds, or when the server begins to drain.
        """
        if self.is_draining:
            return None
        future = waiter.wait()
        timer = self._clock.call_later(max_wait, waiter.time_out)
        try:
            await future
        finally:
            timer.cancel()
            waiter.leave()
        return waiter.matched

    def publish(self, events: Sequence[StoredEvent]) -> None:
        """Take in the newest events, and wake every reader that wants one of them."""
        if events[0].sequence > self.head + 1:
            # A commit of unknown outcome was made after all, and its events were never published: the log has them.
            self._wake_all()
        self.recent.append(events)
        index = self._index
        if not index:
            return
        for group in index.get(_EVERYTHING, ()):
            group.wake(events[0].sequence)
        for event in events if len(index) > (_EVERYTHING in index) else ():
            keys: Iterable[Hashable]
            keys = (("job", event.job_id), ("source", event.source_id), ("job_type", event.job_type), event.type)
            if self._label_groups:
                keys = (*keys, *[("label", *label) for label in labels_in(event.payload)])
            for key in keys:
                for group in index.get(key, ()):
                    if group.waiting and passes(group.wanted, event):
                        group.wake(event.sequence)
            if event.type == _DELETED and is_erased(event.payload):
                self._wake_sources(event)

    def _wake_sources(self, event: StoredEvent) -> None:
        """Wake those who watch sources or labels, for the deletion of a job of which they were erased."""
        for group in self._groups.values():
            if (group.wanted.source_ids or group.wanted.labels) and passes(group.wanted, event):
                group.wake(event.sequence)

    def skip_to(self, head: int, head_check: int) -> None:
        """Go on from a head beyond this one. What lies between is in the log."""
        self._wake_all()
        self.recent.reset(head, head_check)

    def rewind(self, head: int, head_check: int) -> None:
        """Go on from an earlier head: the log no longer has what was published after it."""
        self.rewinds += 1
        self._wake_all()
        self.recent.reset(head, head_check)

    def forget(self) -> None:
        """Forget what is in memory of the log, because events in it were erased. The log has what is left of them."""
        self.erasures += 1
        self.shared.clear()
        self.recent.reset(self.head, self.recent.head_check)

    def _wake_all(self) -> None:
        for group in self._groups.values():
            group.wake(self.head + 1)

    def drain(self) -> None:
        """Wake every reader because the server is stopping, and admit no more."""
        self.is_draining = True
        for group in self._groups.values():
            group.wake(None)


def passes(wanted: EventFilter, event: StoredEvent) -> bool:
    """Whether a filter passes an event."""
    of_any_source = event.type == _DELETED and is_erased(event.payload)
    names = event.job_id, event.job_type, event.source_id
    if not wanted.passes(*names, event.type, of_any_source=of_any_source):
        return False
    return of_any_source or not wanted.labels or has_labels(event.payload, wanted.labels)


def _filter_bytes(wanted: EventFilter) -> int:
    labels = (key + value for key, value in wanted.labels)
    texts = (*wanted.job_ids, *wanted.job_types, *wanted.source_ids, *labels)
    return _KEY_BYTES + sum(_KEY_BYTES + len(text) for text in texts)


def _keys(wanted: EventFilter) -> tuple[Hashable, ...]:
    """Under which keys a group is found: those of its narrowest condition."""
    return (
        tuple(("job", job_id) for job_id in wanted.job_ids)
        or tuple(("source", source_id) for source_id in wanted.source_ids)
        # All labels must be there, so one of them is enough to find it by.
        or tuple(("label", *label) for label in wanted.labels[:1])
        or tuple(("job_type", job_type) for job_type in wanted.job_types)
        or tuple(int(type_) for type_ in wanted.types)
        or (_EVERYTHING,)
    )
