"""Stores that are schemas of one database, each with its URL."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from jobstate_server.store.postgres.store import PostgresStore

from ...support.postgres import postgres_server
from .support import opened_at


@pytest.fixture
def url() -> str:
    """The URL of a store with nothing in it."""
    return postgres_server().ready_store()


@pytest.fixture
def store(url: str) -> Iterator[PostgresStore]:
    with opened_at(url) as store:
        yield store


@pytest.fixture
def other(url: str, store: PostgresStore) -> Iterator[PostgresStore]:
    """The same store, opened by a second replica."""
    with opened_at(url) as other:
        yield other
