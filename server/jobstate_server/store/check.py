"""Checks the store that a URL names, and corrects its counts."""

from __future__ import annotations

from pathlib import Path

from jobstate_server.store.checking import AnyMiscount, Checked
from jobstate_server.store.sqlite import check as sqlite
from jobstate_server.store.urls import is_postgres, postgres_driver


def check(url: str) -> Checked:
    """Check a store, which may be in use. Writes nothing.

    Raises:
        CannotOpen: the URL cannot be read, or PostgreSQL's driver is not installed.
    """
    if not is_postgres(url):
        return sqlite.check_file(_path(url))
    with postgres_driver():
        # The driver is installed only with PostgreSQL support.
        from jobstate_server.store.postgres.check import check_database  # noqa: PLC0415
    return check_database(url)


def correct_counts(url: str) -> list[AnyMiscount]:
    """Correct the counts of a store that is whole otherwise. Returns those that were wrong.

    A store in PostgreSQL may be in use.

    Raises:
        CannotOpen: a server uses the SQLite file.
        StoreError: the store cannot be read or written.
    """
    if not is_postgres(url):
        return sqlite.correct_counts(_path(url))
    with postgres_driver():
        from jobstate_server.store.postgres import check as postgres  # noqa: PLC0415
    return postgres.correct_counts(url)


def _path(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))
