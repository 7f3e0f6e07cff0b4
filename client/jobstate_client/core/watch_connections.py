"""Over which connection of a client the next watch goes."""

from __future__ import annotations

import threading

WATCHES_PER_CONNECTION_MAX = 90
"""Watches of one connection: servers and proxies take some hundred streams of it, and the next would wait without a
word. The rest is for calls."""


class WatchConnections:
    """Counts the watches of each connection. Any thread may call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: list[int] = []

    def take(self) -> int:
        """The number of a connection with room for one more, beginning at 0; a further one if there is no room."""
        with self._lock:
            for connection, count in enumerate(self._open):
                if count < WATCHES_PER_CONNECTION_MAX:
                    self._open[connection] += 1
                    return connection
            self._open.append(1)
            return len(self._open) - 1

    def give_back(self, connection: int) -> None:
        """A watch has ended."""
        with self._lock:
            self._open[connection] -= 1
