"""Servers for tests of this folder."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from jobstate_server.maintenance.schedule import Schedule

from ..support.calls import create, start
from ..support.clock import WatchedClock
from ..support.postgres import postgres_server
from ..support.server import Running, rows, serving


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file of a store that does not exist yet."""
    return tmp_path / "jobs.db"


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a store of each kind in turn, with nothing in it."""
    return postgres_server().ready_store() if request.param == "postgres" else f"sqlite:///{tmp_path / 'jobs.db'}"


@pytest.fixture
def clock() -> WatchedClock:
    return WatchedClock()


@pytest.fixture
async def running(path: Path, clock: WatchedClock) -> AsyncIterator[Running]:
    """A server that runs on ``clock``."""
    async with serving(path, clock) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """A server with one running job, for tests that must not change it."""
    async with serving(tmp_path_factory.mktemp("shared") / "jobs.db", WatchedClock()) as running:
        await create(running)
        await start(running)
        yield running


@pytest.fixture
def stored(shared: Running) -> Iterator[Running]:
    """The same server. After the test its store must be as before."""
    before = rows(shared.path)

    yield shared

    assert rows(shared.path) == before


@pytest.fixture
def unscheduled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The schedule starts no runs by itself."""
    monkeypatch.setattr(Schedule, "_wake_later", lambda _: None)
