"""Servers and clients for tests of this folder."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings

from jobstate_client import AsyncClient, Client
from jobstate_client.testing import JobstateServer

from ..support.ports import ReservedPort
from ..support.ready_stores import make_ready

# A slow machine is no failure.
settings.register_profile("client", deadline=None)
settings.load_profile("client")


@pytest.fixture
def server() -> Iterator[JobstateServer]:
    """A server in its own thread. The test moves its clock."""
    with ReservedPort() as port, TemporaryDirectory(prefix="jobstate-test-") as folder:
        make_ready(Path(folder) / "jobs.db")
        server = JobstateServer(Path(folder), job_types={"resting": {"auto_retry": False}}, listen=port.address)
        try:
            yield server
        finally:
            server.close()


@pytest.fixture
def client(server: JobstateServer) -> Client:
    return server.client()


@pytest.fixture
async def async_client(server: JobstateServer) -> AsyncIterator[AsyncClient]:
    async with server.async_client() as client:
        yield client


@pytest.fixture(params=["sync", "asyncio"])
def either(request: pytest.FixtureRequest) -> Client | AsyncClient:
    """Each client in turn. Pass what it returns through ``done`` and ``items`` of support.py."""
    chosen: Client | AsyncClient = request.getfixturevalue("client" if request.param == "sync" else "async_client")
    return chosen
