"""Stores that are files, each at its path."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobstate_server.store.sqlite.store import SqliteStore

from ...support.ready_stores import make_ready
from .support import opened_at


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file of a store that does not exist yet."""
    return tmp_path / "jobs.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    make_ready(path)
    with opened_at(path) as store:
        yield store
