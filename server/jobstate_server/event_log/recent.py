"""The ring: the newest events of the log, kept in memory for whoever is near its head.

A cache and nothing more: it holds a contiguous stretch up to the head, bounded in bytes; what is older is read from the
log.
"""

from __future__ import annotations

from collections.abc import Sequence

from jobstate_server.store.event_check import event_check
from jobstate_server.store.records import StoredEvent
from jobstate_server.wire.events import listed_event

_OVERHEAD = 256
"""About what an entry costs besides its bytes."""


class Entry:
    """An event in the ring, and its encoding, made when the first watcher wants it and shared by all."""

    __slots__ = ("_listed", "event")

    def __init__(self, event: StoredEvent) -> None:
        self.event = event
        self._listed: bytes | None = None

    @property
    def listed(self) -> bytes:
        """The complete event as an entry of a response."""
        if self._listed is None:
            self._listed = listed_event(self.event.payload, self.event.sequence)
        return self._listed


class RecentEvents:
    """The newest events."""

    def __init__(self, head: int, head_check: int, bytes_max: int) -> None:
        """Empty, of a log whose newest event is ``head``."""
        self.head = head
        self._head_check = head_check
        self._bytes_max = bytes_max
        self._bytes = 0
        self._entries: list[Entry] = []
        self._dropped = 0
        """Entries at the front of the list that no longer count; cut off now and then, because that moves the rest."""

    @property
    def tail(self) -> int:
        """The newest sequence that is no longer here: a reader at or after it needs no log."""
        return self.head - (len(self._entries) - self._dropped)

    @property
    def head_check(self) -> int:
        """The check of the event at the head."""
        return self.check_at(self.head)

    def append(self, events: Sequence[StoredEvent]) -> None:
        """Add events beyond the head. Where they do not follow it at once the ring begins anew with them."""
        if events[0].sequence <= self.head:
            raise ValueError(f"event {events[0].sequence} is not beyond the head {self.head}")
        if events[0].sequence > self.head + 1:
            self._entries, self._bytes, self._dropped = [], 0, 0
        self._entries += map(Entry, events)
        self._bytes += sum(map(_size, events))
        self.head = events[-1].sequence
        self._head_check = event_check(events[-1].payload)
        self._drop_oldest()

    def skip_to(self, head: int, head_check: int) -> None:
        """Begin anew, empty, at another head."""
        self._entries, self._bytes, self._dropped = [], 0, 0
        self.head, self._head_check = head, head_check

    def _drop_oldest(self) -> None:
        while self._bytes > self._bytes_max and self._dropped < len(self._entries):
            self._bytes -= _size(self._entries[self._dropped].event)
            self._dropped += 1
        if self._dropped * 2 > len(self._entries):
            del self._entries[: self._dropped]
            self._dropped = 0

    def check_at(self, sequence: int) -> int:
        """The check of an event at the head or in the ring."""
        if sequence == self.head:
            return self._head_check
        return event_check(self._entries[self._dropped + sequence - self.tail - 1].event.payload)

    def after(self, sequence: int, limit: int) -> list[Entry]:
        """At most ``limit`` entries that follow a sequence at or after the tail."""
        start = self._dropped + sequence - self.tail
        return self._entries[start : start + limit]


def _size(event: StoredEvent) -> int:
    """What an event costs in memory once it has been encoded for a watcher."""
    return 2 * len(event.payload) + _OVERHEAD
