"""Exponential backoff: how long a failed job waits before its next attempt."""

from __future__ import annotations


def backoff_delay(base: int, longest: int, retry_count: int, *, jitter: float, random: float) -> int:
    """Microseconds to wait: ``base``, doubled with every retry before, up to ``longest``, plus jitter.

    Args:
        retry_count: retries before this one, from 0.
        jitter: largest random part added, as a fraction of the wait.
        random: a number from 0 up to 1 that picks the point within the jitter.
    """
    # Doubling more often than the span has bits cannot change the minimum, but would build enormous integers.
    delay = min(longest, base << min(retry_count, 64))
    return delay + int(delay * jitter * random)
