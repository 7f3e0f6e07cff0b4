"""Checks that the path of a SQLite store leads to its write-ahead log too, which SQLite looks for beside the file."""

from __future__ import annotations

import os
from pathlib import Path

from jobstate_server.store.errors import CannotOpen


def refuse_misplaced(path: Path) -> None:
    """Refuse to read a file without its WAL: many committed changes would be missing.

    Raises:
        CannotOpen: the message gives the reason.
    """
    path = resolved(path)
    found = path.stat()
    refuse_other_names(path, found)
    refuse_orphaned_wal(path, found.st_size)


def refuse_other_names(path: Path, found: os.stat_result) -> None:
    """Refuse a file that has another path, beside which its WAL is missing. Raises CannotOpen."""
    if found.st_nlink > 1:
        raise CannotOpen(
            f"cannot use {path} as a store: the file has {found.st_nlink} names (hard links), and SQLite keeps its"
            " write-ahead log beside one name: changes committed under that name are missing under the others; remove"
            " the other names, and use a symbolic link instead"
        )
    if str(path) in _mount_points():
        raise CannotOpen(
            f"cannot use {path} as a store: it is mounted as a single file, without its write-ahead log; mount its"
            " directory instead"
        )


def refuse_orphaned_wal(path: Path, size: int) -> None:
    """Refuse an empty or missing file beside a WAL: SQLite would delete the WAL and everything committed to it."""
    wal = f"{path}-wal"
    if size == 0 and size_of(wal) > 0:
        raise CannotOpen(
            f"cannot use {path} as a store: the file is {'empty' if path.exists() else 'missing'}, but {wal} has"
            " changes that belong to it; restore the file, or move that log away to start a new store"
        )


def resolved(path: Path) -> Path:
    """The path without symbolic links. Raises CannotOpen."""
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:
        raise CannotOpen(f"cannot use {path} as a store: {error}") from error


def size_of(name: str) -> int:
    """The size of the file; 0 when it does not exist."""
    try:
        return os.stat(name).st_size
    except OSError:
        return 0


def _mount_points() -> set[str]:
    """The mount points that this process sees. Empty on systems without /proc."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
            escaped = [line.split(" ")[4] for line in lines]
    except (OSError, IndexError):
        return set()
    return {
        name.encode("ascii", "surrogateescape").decode("unicode_escape") if "\\" in name else name for name in escaped
    }
