"""Closes connections that reset most of their calls soon after making them.

A reset frees the client's place for another call at once, so its limit of open calls does not limit it, while the
server has had most of the work.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

RESETS_MAX = 200
"""Calls that a connection may reset within a second, if they are more than half of its calls: twice as many as it can
have open. A client that gives up everything that it waits for stays below."""

EARLY_S = 1.0
"""Seconds after its headers within which the reset of a call counts. A caller may give up on a slow server."""


class Resets:
    """Counts early resets by connection. Call it on the event loop's thread. The watchdog calls ``turn``."""

    def __init__(self, end: Callable[[str], None]) -> None:
        """``end``: closes the connection of a peer."""
        self._end = end
        self._reset: Counter[str] = Counter()
        """Calls that each connection has reset early since the last turn."""
        self._answered: Counter[str] = Counter()
        """Calls of these connections that have been answered since their first reset."""

    def turn(self) -> None:
        """A second has passed: count anew."""
        self._reset.clear()
        self._answered.clear()

    def answered(self, connection: str) -> None:
        """Count a call that has been answered, if the connection is one that resets calls."""
        if connection in self._reset:
            self._answered[connection] += 1

    def reset(self, connection: str) -> None:
        """Count a call that was reset early, and close the connection if there are too many."""
        self._reset[connection] = count = self._reset[connection] + 1
        if count > RESETS_MAX and count > self._answered[connection]:
            self._end(connection)
