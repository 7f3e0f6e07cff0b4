"""Reads SQLite's WAL (https://sqlite.org/fileformat2.html#walformat) and its index, which is in ``-shm``."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

WAL_HEADER = 32
FRAME_HEADER = 24

_PAGE_AND_COUNT = struct.Struct(">II")

# The header of the index (https://sqlite.org/walformat.html).
_INDEX = struct.Struct("=16xI12x8s56xI28xI")
INDEX_BYTES = _INDEX.size


class WalState(NamedTuple):
    """The state of the WAL."""

    salts: bytes
    """Random values that change whenever SQLite restarts the WAL."""
    copied: int
    """Frames that are already copied into the file."""
    frames: int
    attempted: int
    """Frames that a checkpoint has begun to copy, or may have. More than ``copied`` if it goes on, or did not end."""


def wal_state(index: mmap.mmap) -> WalState:
    """The state of the WAL, from its index."""
    count, salts, copied, attempted = _INDEX.unpack_from(index)
    return WalState(salts, copied, count, attempted)


class Frame(NamedTuple):
    """A page as a transaction has written it."""

    page: int
    size: int
    """Of the file after the transaction, in bytes. 0 unless this is its last frame."""
    read: Callable[[], bytes]
    """Reads the page."""


def frames(read: Callable[[int, int], bytes], page_size: int, count: int, after: int = 0) -> Iterator[Frame]:
    """The first ``count`` frames without the first ``after``, the oldest first.

    Args:
        read: reads bytes of the WAL, given their offset and number.
    """
    for number in range(after, count):
        place = WAL_HEADER + number * (FRAME_HEADER + page_size)
        page, pages = _PAGE_AND_COUNT.unpack(read(place, _PAGE_AND_COUNT.size))
        yield Frame(page, pages * page_size, partial(read, place + FRAME_HEADER, page_size))
