"""Opens the store that a URL names."""

from __future__ import annotations

from pathlib import Path

from jobstate_server.clock import Clock, FollowingClock, SystemClock
from jobstate_server.store.base import Store
from jobstate_server.store.cache_sizes import CACHE_BYTES
from jobstate_server.store.sqlite.store import SqliteStore
from jobstate_server.store.urls import is_postgres, postgres_driver


def clock_for(url: str) -> Clock:
    """The clock for a store: the database's clock where servers share a store, otherwise the machine's."""
    return FollowingClock(SystemClock()) if is_postgres(url) else SystemClock()


def open_store(url: str, clock: Clock, cache_bytes: int = CACHE_BYTES) -> Store:
    """Open the store that the URL names. Creates it, or updates its tables, if necessary.

    Raises:
        CannotOpen: the message says what to change.
    """
    if not is_postgres(url):
        return SqliteStore(Path(url.removeprefix("sqlite:///")), clock, cache_bytes)
    with postgres_driver():
        # The driver is installed only with PostgreSQL support.
        from jobstate_server.store.postgres.store import PostgresStore  # noqa: PLC0415
    return PostgresStore(url, clock, cache_bytes)
