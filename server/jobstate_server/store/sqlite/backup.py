"""Makes a backup of a SQLite store while a server uses it: consistent, checked, and there whole or not at all.

All pages are copied within one read transaction. SQLite's own shell begins anew whenever somebody writes in the
meantime, which on a busy store is for ever (sqlite.org/backup.html); a copy that holds its snapshot never does.
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

from jobstate_server.store.errors import CannotOpen, StoreError
from jobstate_server.store.sqlite.check import Checked, check_file
from jobstate_server.store.sqlite.path_checks import refuse_misplaced

PARTIAL_SUFFIX = ".partial"
"""Ends the name of a backup that is being made. No server opens a file of such a name."""

PAGES_AT_ONCE = 4_096
"""Pages between two reports of progress: 16 MiB, some tenths of a second."""

_BUSY_TIMEOUT_S = 5.0
"""Nobody locks a reader of a WAL out, but for a moment while the log of a crashed server is recovered."""

_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP}
"""What a file system answers that has no hard links."""


class CannotBackUp(StoreError):
    """No backup was made. The message tells an operator what to change."""


class BackedUp(NamedTuple):
    """A backup that was made and checked."""

    path: Path
    bytes: int
    jobs: int
    events: int


Progress = Callable[[int, int], None]
"""Is told how many bytes of how many are copied. What it raises ends the backup, and nothing is kept."""


def back_up(source: Path, destination: Path, on_progress: Progress) -> BackedUp:
    """Copy the store in ``source`` to ``destination``, which must not exist yet, and check the copy.

    A server may serve the store meanwhile: it is not slowed but by the disk, and its WAL grows by what it writes until
    the backup is done. The copy gets its name only when it is complete, checked and on disk; until then it is
    ``destination`` with ``.partial`` at its end, which is removed when the backup fails.

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
        raise CannotBackUp(f"{destination} exists: nothing is ever overwritten, choose another name")
    partial = destination.with_name(destination.name + PARTIAL_SUFFIX)
    with _held(partial):
        try:
            _copy(source, partial, on_progress)
            checked = _check(partial)
            size = _put_on_disk(partial)
            _give_name(partial, destination)
        except FileExistsError as error:
            raise CannotBackUp(f"{destination} has come to exist in the meantime: choose another name") from error
        except (sqlite3.Error, OSError) as error:
            raise CannotBackUp(f"{source} cannot be copied to {destination}: {error}") from error
        finally:
            for companion in ("", "-journal", "-wal", "-shm"):
                partial.with_name(partial.name + companion).unlink(missing_ok=True)
    return BackedUp(destination, size, checked.jobs, checked.events)


@contextmanager
def _held(partial: Path) -> Iterator[None]:
    """Make the file, for its owner alone, and keep other backups from it. What a killed backup left is taken over."""
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
        # After SQLite's last connection: closing a descriptor of a file drops all locks that the process has on it.
        os.close(descriptor)


def _locked(descriptor: int, partial: Path) -> bool:
    """Take the lock. False when another backup has it, or had it and has just taken the file away."""
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
        # A copy that fails is removed, and one that succeeds is brought to disk as a whole.
        copy.execute("PRAGMA journal_mode = off")
        copy.execute("PRAGMA synchronous = off")
        original.execute("PRAGMA query_only = 1")
        original.execute("BEGIN")
        # The first read takes the snapshot, which holds until the connection is closed.
        (page_size,) = original.execute("PRAGMA page_size").fetchone()
        original.execute("SELECT count(*) FROM sqlite_master").fetchone()

        def tell(_status: int, remaining: int, total: int) -> None:
            on_progress((total - remaining) * page_size, total * page_size)

        original.backup(copy, pages=PAGES_AT_ONCE, progress=tell)
        # A backup is one file: nothing beside it to forget. A server turns the WAL on again.
        copy.execute("PRAGMA journal_mode = delete")


def _check(partial: Path) -> Checked:
    checked = check_file(partial)
    if checked.problems:
        raise CannotBackUp(
            "the copy is not whole, so the store itself is damaged or holds none; run jobstate-server check on it: "
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
    """Give the file its name, so that it survives the loss of power. Raises FileExistsError when the name is taken."""
    try:
        # Unlike a rename, a link refuses a name that somebody has taken in the meantime.
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
