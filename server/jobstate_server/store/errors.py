"""What a store raises. Callers tell by the class whether to try again."""

from __future__ import annotations


class StoreError(Exception):
    """The store refused what it was told to keep. Nothing of the transaction was kept; trying again will not help."""


class StoreUnreachable(StoreError):
    """The store cannot be used just now (disk full, input/output error, connection lost). Nothing was kept."""


class TransactionConflict(StoreUnreachable):
    """Another writer was in the way (deadlock, lock timeout, a row it made first). Trying again may succeed."""


class ConnectionLost(TransactionConflict):
    """The connection to the store broke. Nothing was kept; the next try makes a new one, and fails if it cannot."""


class OutcomeUnknown(StoreUnreachable):
    """The connection was lost while committing: the transaction is kept whole or not at all, nobody knows which."""


class ReadInterrupted(StoreError):
    """The read was broken off by ``Reader.interrupt``."""


class CannotOpen(StoreError):
    """The store cannot be opened. The message tells an operator what to change."""
