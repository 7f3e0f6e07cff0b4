"""A limit of what all connections may have open. Its last part is reserved for connections that have nothing open."""

from __future__ import annotations


class FairLimit:
    """Counts what is open. gRPC limits a single connection to CONNECTION_STREAMS_MAX; this prevents that several
    connections together take everything."""

    def __init__(self, limit: int, reserved_part: int) -> None:
        """
        Args:
            reserved_part: ``limit // reserved_part`` are reserved for connections that have none open.
        """
        self.limit = limit
        self._reserved_part = reserved_part
        self.held = 0
        self.by_connection: dict[str, int] = {}
        """How many each connection has open. Connections without any are not in it."""

    def take(self, connection: str) -> bool:
        """Count one more. Returns False, and does not count it, if there is no room."""
        held = self.by_connection.get(connection, 0)
        if self.held >= (self.limit - self.limit // self._reserved_part if held else self.limit):
            return False
        self.held += 1
        self.by_connection[connection] = held + 1
        return True

    def give_back(self, connection: str) -> None:
        """Count one less."""
        self.held -= 1
        left = self.by_connection[connection] - 1
        if left:
            self.by_connection[connection] = left
        else:
            del self.by_connection[connection]
