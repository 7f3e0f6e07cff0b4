"""How the setting ``cache_bytes`` is shared among what a server keeps in memory so that it need not be read."""

from __future__ import annotations

from typing import NamedTuple

CACHE_BYTES = 176 * 1024 * 1024

_PARTS = 11


class CacheSizes(NamedTuple):
    """Bytes that each cache may hold. A smaller one costs reads, never an answer."""

    writer_pages: int
    """Pages of a SQLite file that its writer keeps: those of its indexes, which nearly every commit changes."""
    reader_pages: int
    """Pages that each of the three readers keeps: the upper levels of the indexes. The system caches the file too."""
    jobs: int
    """Jobs changed last: by default some 20,000 ordinary ones, more than the workers of one machine have in hand."""
    recent_events: int
    """The newest events: by default some 40,000, which a watcher may lag behind before it reads from the log."""


def cache_sizes_of(cache_bytes: int = CACHE_BYTES) -> CacheSizes:
    """What each cache gets of so many bytes: by default 64, three times 16, 32 and 32 MiB."""
    part = cache_bytes // _PARTS
    return CacheSizes(writer_pages=4 * part, reader_pages=part, jobs=2 * part, recent_events=2 * part)
