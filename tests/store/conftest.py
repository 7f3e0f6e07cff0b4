"""One fixture chooses the backend of a test; all other fixtures depend on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from jobstate_server.clock import ManualClock
from jobstate_server.store.base import Reader, Store

from .support import BACKENDS, Backend, Home, opened, reading


@pytest.fixture(scope="session", params=sorted(BACKENDS))
def backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backend:
    return BACKENDS[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture
def home(backend: Backend) -> Home:
    return backend.new_home()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(home: Home, clock: ManualClock) -> Iterator[Store]:
    with opened(home, clock) as store:
        yield store


@pytest.fixture
def reader(store: Store) -> Iterator[Reader]:
    with reading(store) as reader:
        yield reader
