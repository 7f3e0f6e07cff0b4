"""Pages of the log: the events after a position, encoded, as readers receive them.

Readers with equal filters at the same position share a page, and whatever bytes are made of it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

from jobstate_server.event_log.recent import ENTRY_BYTES, LogEntry

PAGE_EVENTS_MAX = 4_096
"""Events of one page: with ordinary events about as many as its bytes allow."""

PAGE_BYTES_MAX = 1024 * 1024
"""Payload of one page, a quarter of what gRPC clients accept by default."""

SHARED_BYTES_MAX = 16 * 1024 * 1024
"""Memory for pages that readers share: about five full ones, so that readers some pages apart still share them."""


class PageLimits(NamedTuple):
    """How large a page may be."""

    events: int = PAGE_EVENTS_MAX
    bytes: int = PAGE_BYTES_MAX
    """Of payload. The first event of a page may exceed it."""


class LogPosition(NamedTuple):
    """A place in the log: everything up to ``sequence`` has been looked at."""

    sequence: int
    check: int
    """The check of the event there."""


class Page:
    """The events after a position that pass a filter, in order. May have none."""

    __slots__ = ("_made", "cursor", "end", "entries")

    def __init__(self, entries: Sequence[LogEntry], end: LogPosition, cursor: str) -> None:
        self.entries = entries
        self.end = end
        self.cursor = cursor
        """The position at the end, as text."""
        self._made: dict[Callable[[Page], bytes], bytes] = {}

    @property
    def size(self) -> int:
        """About how many bytes the page takes once a message has been made of it."""
        payloads = sum([len(entry.event.payload) for entry in self.entries])
        return ENTRY_BYTES * (1 + len(self.entries)) + 3 * payloads

    def once(self, make: Callable[[Page], bytes]) -> bytes:
        """What ``make`` makes of this page. It is made for the first reader and shared by the others."""
        made = self._made.get(make)
        if made is None:
            made = self._made[make] = make(self)
        return made


class SharedPages:
    """The pages that were read last by readers who may share them, bounded in bytes."""

    def __init__(self, bytes_max: int = SHARED_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._pages: dict[tuple[Hashable, int], tuple[Page, int, bool]] = {}

    @property
    def bytes(self) -> int:
        """About how many bytes the pages take."""
        return self._bytes

    def get(self, key: tuple[Hashable, int], head: int) -> Page | None:
        """The page under this key, None if there is none or if the log has grown and it could now be longer.

        Args:
            key: who shares the page, and the position it begins after.
            head: where the log ends.
        """
        found = self._pages.get(key)
        if found is None:
            return None
        page, _, ended_early = found
        return page if ended_early or page.end.sequence >= head else None

    def put(self, key: tuple[Hashable, int], page: Page, head: int) -> None:
        """Keep a page, in place of the oldest ones if there is no room for all."""
        self._remove(key)
        size = page.size
        if size > self._bytes_max:
            return
        while self._bytes + size > self._bytes_max:
            self._remove(next(iter(self._pages)))
        self._pages[key] = page, size, page.end.sequence < head
        self._bytes += size

    def clear(self) -> None:
        """Forget all pages."""
        self._pages.clear()
        self._bytes = 0

    def _remove(self, key: tuple[Hashable, int]) -> None:
        found = self._pages.pop(key, None)
        if found is not None:
            self._bytes -= found[1]
