"""A server process that kills itself in the middle of an Erase: ``python -m tests.integration.killed_in_erase POINT
serve ...``.

It does so with a step half done: with a transaction written but not committed, or with a part of what was to be
overwritten in the file.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from jobstate_server import cli
from jobstate_server.maintenance import erase
from jobstate_server.store.postgres.transaction import PostgresTransaction
from jobstate_server.store.sqlite.file import StoreFile
from jobstate_server.store.sqlite.transaction import SqliteTransaction

AT_ONCE = 8
"""Jobs, rows and pages of a step, so that there are several of each."""

STEP = 3
"""The step in the middle of which the process ends."""


def die() -> None:
    """End this process as the kernel does when it has no memory left."""
    os.kill(os.getpid(), signal.SIGKILL)


def deletes_jobs(changes: Any) -> bool:
    """Whether these changes are of Erase's first part."""
    return bool(changes.deleted)


def die_after(owner: Any, method: str, is_step: Callable[[Any], bool] = bool) -> None:
    """End when this method has been called so often, with something to do."""
    original = getattr(owner, method)
    steps = 0

    def counted(self: Any, given: Any) -> Any:
        nonlocal steps
        done = original(self, given)
        steps += is_step(given)
        if steps == STEP:
            die()
        return done

    setattr(owner, method, counted)


def die_between_bytes() -> None:
    """End with half of a place overwritten."""
    original = StoreFile.zero
    steps = 0

    def zero(self: StoreFile, places: Any) -> None:
        nonlocal steps
        found = list(places)
        steps += bool(found)
        if steps == STEP:
            offset, size = max(found, key=lambda place: place[1])
            os.pwrite(self._descriptor, bytes(size // 2), offset)
            die()
        original(self, found)

    setattr(StoreFile, "zero", zero)  # noqa: B010 - mypy knows no method that may be replaced


def die_at(point: str) -> None:
    """Prepare the end at this point."""
    erase.JOBS_AT_ONCE = erase.ROWS_AT_ONCE = erase.PAGES_AT_ONCE = erase.PAGES_MIN = AT_ONCE
    match point:
        case "jobs":
            die_after(SqliteTransaction, "write", deletes_jobs)
            die_after(PostgresTransaction, "_write", deletes_jobs)
        case "request ids" | "events":
            for transaction in (SqliteTransaction, PostgresTransaction):
                die_after(transaction, "erase_events" if point == "events" else "erase_requests")
        case _:
            die_between_bytes()


def main() -> int:
    """Read the command line, and serve."""
    die_at(sys.argv[1])
    return cli.main(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
