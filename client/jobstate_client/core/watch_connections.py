"""Distributes the watches of a client, and its calls that wait at the server, over its connections."""

from __future__ import annotations

import threading

WATCHES_PER_CONNECTION_MAX = 90
"""Watches and waiting calls on one connection. Servers and proxies allow some hundred streams, and block the next one
silently. The difference is for other calls."""


class WatchConnections:
    """Counts the watches and waiting calls on each connection. Safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watches: list[int] = []

    def acquire(self) -> int:
        """The number, from 0, of a connection with room for another watch: a new one if all are full."""
        with self._lock:
            for connection, count in enumerate(self._watches):
                if count < WATCHES_PER_CONNECTION_MAX:
                    self._watches[connection] += 1
                    return connection
            self._watches.append(1)
            return len(self._watches) - 1

    def release(self, connection: int) -> None:
        """A watch or a waiting call on this connection has ended."""
        with self._lock:
            self._watches[connection] -= 1
