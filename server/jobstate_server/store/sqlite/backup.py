"""Backs up a SQLite store while a server uses it. The backup is consistent, checked and complete.

One read transaction copies all pages. The backup of SQLite's own shell starts again at every write, so on a busy store
it never ends (sqlite.org/backup.html). A copy that holds its snapshot does not start again.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from jobstate_server.store.checking import Checked
from jobstate_server.store.errors import CannotOpen, StoreError
from jobstate_server.store.sqlite.check import check_file
from jobstate_server.store.sqlite.path_checks import refuse_misplaced

PARTIAL_SUFFIX = ".partial"
"""The suffix of an unfinished backup. No server opens a file with it."""

PAGES_AT_ONCE = 4_096
"""Pages between two progress reports: 16 MiB, some tenths of a second."""

_BUSY_TIMEOUT_S = 5.0
"""A reader waits for a lock only while the WAL of a crashed server is recovered."""

_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP}
"""The errors of a file system without hard links."""


class CannotBackUp(StoreError):
    """No backup was made. The message says what to change."""


class BackedUp(NamedTuple):
    """A finished and checked backup."""

    path: Path
    bytes: int
    jobs: int
    events: int


Progress = Callable[[int, int], None]
"""Called with the copied and the total bytes. An exception ends the backup, and nothing is kept."""


def back_up(source: Path, destination: Path, on_progress: Progress) -> BackedUp:
    """Copy the store in ``source`` to ``destination``, which must not exist yet, and check the copy.

    A server may use the store meanwhile. Only the shared disk slows it, and its WAL grows until the backup is done. The
    copy gets its name when it is complete, checked and on disk. Until then it is called ``destination`` plus
    ``.partial``, and it is removed when the backup fails.

    Raises:
        CannotBackUp: nothing was kept.
    """
    if not source.is_file():
        raise CannotBackUp(f"there is no store in {source}")
    try:
        refuse_misplaced(source)
    except CannotOpen as error:
        raise CannotBackUp(str(error)) from error
    if destination.exists():
        raise CannotBackUp(f"{destination} already exists and is never overwritten; choose another name")
    partial = destination.with_name(destination.name + PARTIAL_SUFFIX)
    with _held(partial):
        try:
            _copy(source, partial, on_progress)
            checked = _check(partial)
            size = _put_on_disk(partial)
            _give_name(partial, destination)
        except FileExistsError as error:
            raise CannotBackUp(f"{destination} was created in the meantime; choose another name") from error
        except (sqlite3.Error, OSError) as error:
            raise CannotBackUp(f"{source} cannot be copied to {destination}: {error}") from error
        finally:
            for companion in ("", "-journal", "-wal", "-shm"):
                partial.with_name(partial.name + companion).unlink(missing_ok=True)
    return BackedUp(destination, size, checked.jobs, checked.events)


@contextmanager
def _held(partial: Path) -> Iterator[None]:
    """Create the file for its owner only, and lock it. Reuses the file of a backup that was killed."""
    try:
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CannotBackUp(f"{partial} cannot be written: {error.strerror}") from error
    try:
        if not _locked(descriptor, partial):
            raise CannotBackUp(f"another backup to {partial} is under way")
        os.truncate(descriptor, 0)
        yield
    finally:
        # After SQLite's last connection: closing a descriptor drops all locks of the process on that file.
        os.close(descriptor)


def _locked(descriptor: int, partial: Path) -> bool:
    """Take the lock. False when another backup has it, or has just removed the file."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(descriptor), partial.stat())
    except (BlockingIOError, FileNotFoundError):
        return False


def _copy(source: Path, partial: Path, on_progress: Progress) -> None:
    name = f"file:{quote(str(source.resolve()))}?mode=rw"
    with (
        closing(sqlite3.connect(name, uri=True, timeout=_BUSY_TIMEOUT_S, isolation_level=None)) as original,
        closing(sqlite3.connect(partial, isolation_level=None)) as copy,
    ):
        # A failed copy is removed, and a successful one is synced as a whole.
        copy.execute("PRAGMA journal_mode = off")
        copy.execute("PRAGMA synchronous = off")
        original.execute("PRAGMA query_only = 1")
        original.execute("BEGIN")
        # The first read takes the snapshot, which lasts until the connection is closed.
        (page_size,) = original.execute("PRAGMA page_size").fetchone()
        original.execute("SELECT count(*) FROM sqlite_master").fetchone()

        def tell(_status: int, remaining: int, total: int) -> None:
            on_progress((total - remaining) * page_size, total * page_size)

        original.backup(copy, pages=PAGES_AT_ONCE, progress=tell)
        # A backup is a single file, with no WAL to forget. A server switches WAL mode on again.
        copy.execute("PRAGMA journal_mode = delete")


def _check(partial: Path) -> Checked:
    checked = check_file(partial)
    if checked.problems:
        raise CannotBackUp(
            "the copy is damaged, so the store itself is damaged or is not a store; run jobstate-server check on it: "
            + "; ".join(checked.problems)
        )
    return checked


def _put_on_disk(partial: Path) -> int:
    descriptor = os.open(partial, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


def _give_name(partial: Path, destination: Path) -> None:
    """Rename the file durably. Raises FileExistsError when the name is taken."""
    try:
        # Unlike a rename, a link fails when the name was taken in the meantime.
        os.link(partial, destination)
        partial.unlink()
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        partial.rename(destination)
    descriptor = os.open(destination.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
