"""A limit of what all connections may have open, whose last part is kept for connections that have nothing open."""

from __future__ import annotations


class FairLimit:
    """Counts what is open. gRPC keeps a single connection to CONNECTION_STREAMS_MAX; this keeps many of them from
    taking everything."""

    def __init__(self, limit: int, kept_part: int) -> None:
        """
        Args:
            kept_part: one in so many is kept for connections that have none open.
        """
        self.limit = limit
        self._kept_part = kept_part
        self.held = 0
        self.by_connection: dict[str, int] = {}
        """How many each connection has open. Those that have none are not in it."""

    def take(self, connection: str) -> bool:
        """Count one more. Returns whether there is room for it; it is not counted otherwise."""
        held = self.by_connection.get(connection, 0)
        if self.held >= (self.limit - self.limit // self._kept_part if held else self.limit):
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
