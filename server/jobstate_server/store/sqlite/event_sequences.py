"""Gives the events of a transaction their sequences, and notices when another program has written to the log."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence

from jobstate_server.store.records import NewEvent
from jobstate_server.store.sqlite.file import FileLost


class EventSequences:
    """The head of the log within one transaction."""

    def __init__(self, connection: sqlite3.Connection, advance_log: str, heads: Collection[int]) -> None:
        """
        Args:
            advance_log: the statement that advances the head.
            heads: the possible heads of the log; one, unless the outcome of the last commit is unknown.
        """
        self.heads = heads
        self.requests_stored: int | None = None
        """How many request ids are stored; None until this transaction has counted."""
        self._connection = connection
        self._advance_log = advance_log

    def take(self, events: Sequence[NewEvent], now: int, *, requests: int) -> int:
        """Advance the head by these events, and count request ids that are added or removed.

        Returns the sequence of the first event; the others follow without a gap.

        Raises:
            FileLost: another program has changed the store.
        """
        size = sum(len(event.payload) for event in events)
        values = {"count": len(events), "bytes": size, "requests": requests, "now": now}
        cursor = self._connection.execute(self._advance_log, values)
        head, self.requests_stored = cursor.fetchone()
        cursor.close()
        before = int(head) - len(events)
        self.check(before)
        self.heads = (int(head),)
        return before + 1

    def check(self, head: int) -> None:
        """Raise FileLost unless this server left the log at ``head``."""
        if head not in self.heads:
            raise FileLost(
                f"the log ends at event {head}, but this server left it at event {max(self.heads)}: another program has"
                " changed the store"
            )
