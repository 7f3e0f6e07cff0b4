"""Ids for jobs that are created without an id."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable

_COUNTER_BITS = 10
"""The counter of the ids of one microsecond. After 1,024 ids the next microsecond is used early."""

_RANDOM_BITS = 62 - _COUNTER_BITS
"""Distinguishes the ids of two servers that have the same microsecond and the same counter."""


class JobIds:
    """Makes ids that sort in the order in which they were made: UUIDs of version 7 (RFC 9562, section 5.7).

    The 12 bits that follow the milliseconds are the microseconds within them (section 6.2, method 3), the next 10 count
    the ids of one microsecond (method 1), the rest is random. The order holds within a process whatever the clock does,
    and between processes as well as their clocks agree. Any thread may call.
    """

    def __init__(self, now: Callable[[], int]) -> None:
        """``now`` returns the time in microseconds."""
        self._now = now
        self._latest = 0
        """Microseconds and counter of the id made last, as one number."""
        self._lock = threading.Lock()

    def __call__(self) -> str:
        """A new id, greater than all before."""
        with self._lock:
            self._latest = latest = max(self._latest + 1, self._now() << _COUNTER_BITS)
        time, count = latest >> _COUNTER_BITS, latest & ((1 << _COUNTER_BITS) - 1)
        milliseconds, micros = divmod(time, 1_000)
        last = 2 << 62 | count << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS)
        digits = f"{milliseconds << 80 | 7 << 76 | micros << 64 | last:032x}"
        return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
