"""Divides the setting ``cache_bytes`` among the caches of a server."""

from __future__ import annotations

from typing import NamedTuple

CACHE_BYTES = 176 * 1024 * 1024

_PARTS = 11


class CacheSizes(NamedTuple):
    """The maximum bytes of each cache. A smaller cache costs more reads, and never changes a response."""

    writer_pages: int
    """Pages of the SQLite file that the writer keeps: mostly index pages, which nearly every commit changes."""
    reader_pages: int
    """Pages that each of the three readers keeps: the upper levels of the indexes. The kernel caches the file too."""
    jobs: int
    """The most recently changed jobs: by default about 20,000, more than the workers of one machine run."""
    recent_events: int
    """The newest events: by default about 40,000. A watcher that lags further behind reads from the log."""


def cache_sizes_of(cache_bytes: int = CACHE_BYTES) -> CacheSizes:
    """Divide these bytes among the caches: by default 64, three times 16, 32 and 32 MiB."""
    part = cache_bytes // _PARTS
    return CacheSizes(writer_pages=4 * part, reader_pages=part, jobs=2 * part, recent_events=2 * part)
