"""A server process for each test of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .support import InteropServer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[InteropServer]:
    """A server on a free port of loopback and a file of its own. It can be restarted, paused and resumed."""
    server = InteropServer(tmp_path)
    try:
        yield server
    finally:
        server.close()
