"""Servers for tests of this folder."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ..support.clock import WatchedClock
from ..support.server import Running, serving


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file of a store that is not there yet."""
    return tmp_path / "jobs.db"


@pytest.fixture
def clock() -> WatchedClock:
    return WatchedClock()


@pytest.fixture
async def running(path: Path, clock: WatchedClock) -> AsyncIterator[Running]:
    """A server whose time is ``clock``."""
    async with serving(path, clock) as running:
        yield running
