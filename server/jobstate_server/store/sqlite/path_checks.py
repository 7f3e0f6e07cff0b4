"""Where the file of a SQLite store may stand: where its write-ahead log is found beside it, by the same name."""

from __future__ import annotations

import os
from pathlib import Path

from jobstate_server.store.errors import CannotOpen


def refuse_misplaced(path: Path) -> None:
    """Refuse to read a file whose WAL is not found beside it: much of what was committed would be missing.

    Raises:
        CannotOpen: with the reason.
    """
    path = resolved(path)
    found = path.stat()
    refuse_other_names(path, found)
    refuse_orphaned_wal(path, found.st_size)


def refuse_other_names(path: Path, found: os.stat_result) -> None:
    """Refuse a file that can be reached by a name beside which its WAL is missing. Raises CannotOpen."""
    if found.st_nlink > 1:
        raise CannotOpen(
            f"cannot use {path} as a store: the file has {found.st_nlink} names (hard links), and SQLite keeps its"
            " write-ahead log by name: what was committed under one is missing under another; remove the other names,"
            " and use a symbolic link instead"
        )
    if str(path) in _mount_points():
        raise CannotOpen(
            f"cannot use {path} as a store: it is mounted as a single file, without the write-ahead log that belongs"
            " beside it; mount its directory"
        )


def refuse_orphaned_wal(path: Path, size: int) -> None:
    """Refuse an empty or missing file beside a WAL, which SQLite would remove with all that was committed to it."""
    wal = f"{path}-wal"
    if size == 0 and size_of(wal) > 0:
        raise CannotOpen(
            f"cannot use {path} as a store: the file is {'empty' if path.exists() else 'missing'}, but {wal} has"
            " changes that belong to it; put the file back, or move that one away to begin anew"
        )


def resolved(path: Path) -> Path:
    """The path without symbolic links. Raises CannotOpen."""
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:
        raise CannotOpen(f"cannot use {path} as a store: {error}") from error


def size_of(name: str) -> int:
    """How large the file is, 0 when there is none."""
    try:
        return os.stat(name).st_size
    except OSError:
        return 0


def _mount_points() -> set[str]:
    """Where anything is mounted, as this process sees it. Empty where the system does not tell."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
            escaped = [line.split(" ")[4] for line in lines]
    except (OSError, IndexError):
        return set()
    return {
        name.encode("ascii", "surrogateescape").decode("unicode_escape") if "\\" in name else name for name in escaped
    }
