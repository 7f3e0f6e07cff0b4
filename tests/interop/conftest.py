"""A server process for each test in this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobstate_client import Client

from .support import InteropServer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[InteropServer]:
    """A server on a free port of loopback, with its own file. It can be restarted, paused and resumed."""
    server = InteropServer(tmp_path)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def client(server: InteropServer) -> Iterator[Client]:
    """A client of that server, which waits while the server is away."""
    with Client(server.address, wait_for_ready=True) as client:
        yield client
