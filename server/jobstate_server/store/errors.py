"""The errors of a store. The class tells the caller whether to retry."""

from __future__ import annotations


class StoreError(Exception):
    """The store refused the change. Nothing of the transaction was kept, and a retry will fail too."""


class StoreUnreachable(StoreError):
    """The store cannot be used at the moment (disk full, I/O error, connection lost). Nothing was kept."""


class TransactionConflict(StoreUnreachable):
    """The transaction conflicted with another writer (deadlock, lock timeout, duplicate row). A retry may succeed."""


class ConnectionLost(TransactionConflict):
    """The connection to the store broke. Nothing was kept. The next attempt makes a new connection."""


class OutcomeUnknown(StoreUnreachable):
    """The connection was lost during the commit. All of the transaction was kept, or none of it."""


class ReadInterrupted(StoreError):
    """The read was stopped by ``Reader.interrupt``."""


class CannotOpen(StoreError):
    """The store cannot be opened. The message says what to change."""
