"""Which store a URL names, and how to open it."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from jobstate_server.domain.clock import Clock, FollowingClock, SystemClock
from jobstate_server.store.base import CannotOpen, Store
from jobstate_server.store.sqlite import SqliteStore

_PASSWORD = re.compile(r"([?&](?:ssl)?password=)[^&]*")
"""libpq takes passwords as parameters too."""


def is_postgres(url: str) -> bool:
    """Whether the URL names a PostgreSQL database."""
    return url.startswith(("postgresql://", "postgres://"))


def clock_for(url: str) -> Clock:
    """The clock that goes with a store: the database's where servers share one, the machine's where not."""
    return FollowingClock(SystemClock()) if is_postgres(url) else SystemClock()


def open_store(url: str, clock: Clock) -> Store:
    """Open the store that the URL names, made and brought up to date if need be.

    Raises:
        CannotOpen: with a sentence that says what to change.
    """
    if not is_postgres(url):
        return SqliteStore(Path(url.removeprefix("sqlite:///")), clock)
    try:
        # Only who uses PostgreSQL needs its driver.
        from jobstate_server.store.postgres import PostgresStore  # noqa: PLC0415
    except ImportError as error:
        raise CannotOpen(
            f"PostgreSQL's driver cannot be loaded ({error}); install it with: pip install 'jobstate[postgres]'"
        ) from error
    return PostgresStore(url, clock)


def shown(url: str) -> str:
    """The URL without its password, for logs."""
    parts = urlsplit(url)
    if parts.password is not None:
        user = f"{parts.username or ''}:***@"
        url = urlunsplit(parts._replace(netloc=user + parts.netloc.rpartition("@")[2]))
    return _PASSWORD.sub(r"\1***", url)
