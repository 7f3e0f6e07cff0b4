"""The newest events of the log, kept in memory for readers near its head.

A cache and nothing more: it holds the last events up to the head without a gap, bounded in bytes. Older events are read
from the log.
"""

from __future__ import annotations

from collections.abc import Sequence

from jobstate_server.store.event_check import event_check
from jobstate_server.store.records import StoredEvent
from jobstate_server.wire.events import complete_event

ENTRY_BYTES = 416
"""About what an entry costs besides its payload: itself, the columns, and what the complete event has of them."""


class LogEntry:
    """An event of the log, and its encoding, which is made for the first reader and shared by all."""

    __slots__ = ("_encoded", "event")

    def __init__(self, event: StoredEvent) -> None:
        self.event = event
        self._encoded: bytes | None = None

    @property
    def encoded(self) -> bytes:
        """The complete ``jobstate.v1.Event``."""
        if self._encoded is None:
            sequence, time, job_id, job_type, source_id, _, event_type, payload = self.event
            self._encoded = complete_event(sequence, time, job_id, job_type, source_id, event_type, payload)
        return self._encoded


class RecentEvents:
    """The newest events."""

    def __init__(self, head: int, head_check: int, bytes_max: int) -> None:
        """Empty, of a log whose newest event is ``head``."""
        self.head = head
        self._head_check = head_check
        self._bytes_max = bytes_max
        self._bytes = 0
        self._entries: list[LogEntry] = []
        self._dropped = 0
        """Entries at the front that no longer count. Cutting them off moves the rest, so it is done now and then."""

    @property
    def tail(self) -> int:
        """The newest sequence that is no longer here. A reader at or after it does not need the log."""
        return self.head - (len(self._entries) - self._dropped)

    @property
    def head_check(self) -> int:
        """The check of the event at the head."""
        return self._head_check

    def append(self, events: Sequence[StoredEvent]) -> None:
        """Add events after the head. If they do not follow it directly, the earlier entries are dropped."""
        if events[0].sequence <= self.head:
            raise ValueError(f"event {events[0].sequence} is not beyond the head {self.head}")
        if events[0].sequence > self.head + 1:
            self._entries, self._bytes, self._dropped = [], 0, 0
        self._entries += map(LogEntry, events)
        self._bytes += sum(map(_size, events))
        self.head = events[-1].sequence
        self._head_check = event_check(events[-1])
        self._drop_oldest()

    def reset(self, head: int, head_check: int) -> None:
        """Drop everything and go on at another head."""
        self._entries, self._bytes, self._dropped = [], 0, 0
        self.head, self._head_check = head, head_check

    def _drop_oldest(self) -> None:
        while self._bytes > self._bytes_max and self._dropped < len(self._entries):
            self._bytes -= _size(self._entries[self._dropped].event)
            self._dropped += 1
        if self._dropped * 2 > len(self._entries):
            del self._entries[: self._dropped]
            self._dropped = 0

    def after(self, sequence: int, limit: int) -> list[LogEntry]:
        """At most ``limit`` entries that follow a sequence at or after the tail."""
        start = self._dropped + sequence - self.tail
        return self._entries[start : start + limit]


def _size(event: StoredEvent) -> int:
    """The bytes that an event takes in memory once it has been encoded for a reader."""
    return 2 * len(event.payload) + ENTRY_BYTES
