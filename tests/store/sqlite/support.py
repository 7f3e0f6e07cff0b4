"""The store at a path, opened by this process or by another."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import IO

import jobstate_server
from jobstate_server.clock import ManualClock
from jobstate_server.store.sqlite.store import SqliteStore

from ..support import PATIENCE_S


@contextmanager
def opened_at(path: Path) -> Iterator[SqliteStore]:
    """The store in this file, closed afterwards."""
    store = SqliteStore(path, ManualClock())
    try:
        yield store
    finally:
        store.close()


def environment() -> dict[str, str]:
    """Of a process that imports the server."""
    return {**os.environ, "PYTHONPATH": str(resources.files(jobstate_server).joinpath(".."))}


@contextmanager
def at_work(program: str, path: Path) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """Another process that has the store at ``path`` as ``store``; killed with -9 at the latest in the end."""
    head = (
        "import sys\nfrom pathlib import Path\n"
        "from jobstate_server.clock import ManualClock\n"
        "from jobstate_server.domain.job import Job\n"
        "from jobstate_server.store.records import ChangedJob, Changes, NewEvent\n"
        "from jobstate_server.store.sqlite.store import SqliteStore\n"
        "store = SqliteStore(Path(sys.argv[1]), ManualClock())\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", head + program, str(path)], stdout=subprocess.PIPE, text=True, env=environment()
    )
    assert process.stdout is not None
    with process, process.stdout:
        try:
            yield process, process.stdout
        finally:
            process.kill()
            process.wait(PATIENCE_S)
