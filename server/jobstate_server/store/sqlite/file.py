"""The file of a SQLite store: which one it is, that nobody else serves it, and that it is still the one we opened.

A lock on the file itself (its inode, by whichever name it is reached) keeps a second server away for as long as this
process lives, however it dies. Nothing else in the process may open the file or its ``-shm``: closing any descriptor of
them drops every lock that SQLite holds on them in this process. What has to be known of them is asked with ``stat``, or
read from the descriptors that are kept here.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
import stat
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from jobstate_server.store.errors import CannotOpen, StoreUnreachable
from jobstate_server.store.sqlite.path_checks import refuse_orphaned_wal, refuse_other_names, resolved, size_of

log = logging.getLogger(__name__)

_MODE = 0o600
"""Of a file that is made here. SQLite gives ``-wal`` and ``-shm`` the mode of the file."""

_WAL_HEADER = 32
_FRAME_HEADER = 24
_FRAME_SALTS = 8

# The head of the index that SQLite keeps of the WAL, in ``-shm`` (https://sqlite.org/walformat.html).
_INDEX = struct.Struct("=16xI12x8s56xI")


class _WalState(NamedTuple):
    """What the WAL holds."""

    salts: bytes
    """Others each time that the WAL is begun anew."""
    copied: int
    """Frames that have been copied into the file."""
    frames: int


_CHECKPOINT_IS_NEAR = 0.75

_TICK_NS = 100_000_000
"""Two changes of a directory within a tick of the kernel's clock, 10 ms at most, may leave it with the same time."""

_NAMES_EVERY_NS = 1_000_000_000
"""How often the names are looked at though the directory has not changed: something may be mounted over them."""

_held: set[tuple[int, int]] = set()
"""The files that this process has open, by device and inode."""
_holding = threading.Lock()


class FileLost(StoreUnreachable):
    """The file is not, or not any more, what this server serves. The message says what was seen."""


class StoreFile:
    """The file of one store, locked. Open it before SQLite does, and close it after SQLite's last connection."""

    def __init__(self, path: Path, *, make: bool = True) -> None:
        """Lock the file. ``make``: make an empty one if there is none.

        Raises:
            CannotOpen: another process has it, it has more than one name, it is no file, or its ``-wal`` has lost it.
        """
        self._given = os.path.abspath(path)
        self.path = resolved(path)
        """The file's own name, without symbolic links: SQLite's companions stand beside it."""
        self._name, self._parent = str(self.path), str(self.path.parent)
        self._wal = f"{self.path}-wal"
        self._shm = f"{self.path}-shm"
        self._directory: tuple[int, ...] = ()
        self._named_at = 0
        self._damage = ""
        """What has been done to the content of the files, which nothing mends while they are open."""
        self._wal_descriptor: int | None = None
        self._shm_descriptor: int | None = None
        self._index: mmap.mmap | None = None
        with _holding:
            self._descriptor = self._open(make)
            try:
                found = os.fstat(self._descriptor)
                refuse_other_names(self.path, found)
                self._refuse_replaced(found)
                self._lock_wal()
                refuse_orphaned_wal(self.path, found.st_size)
            except BaseException:
                self._release()
                raise
            self._identity = _identity(found)
            _held.add(self._identity)

    def _open(self, make: bool) -> int:
        path = self.path
        if not path.parent.is_dir():
            raise CannotOpen(f"cannot use {path} as a store: there is no directory {path.parent}")
        try:
            found = path.stat()
        except OSError:
            # Told below, unless it is that there is no such file.
            refuse_orphaned_wal(path, 0)
        else:
            if _identity(found) in _held:
                raise _in_use(path)
            if not stat.S_ISREG(found.st_mode):
                raise CannotOpen(f"cannot use {path} as a store: it is not a regular file")
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if make else 0), _MODE)
        except OSError as error:
            what = "file and its directory" if path.exists() else "directory"
            raise CannotOpen(f"cannot use {path} as a store: the {what} must be writable ({error.strerror})") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if not isinstance(error, BlockingIOError):
                raise CannotOpen(f"cannot use {path} as a store: it cannot be locked ({error.strerror})") from error
            raise _in_use(path) from error
        return descriptor

    def _refuse_replaced(self, found: os.stat_result) -> None:
        path = self.path
        try:
            is_same = _identity(path.stat()) == _identity(found)
        except OSError:
            is_same = False
        if not is_same:
            raise CannotOpen(f"cannot use {path} as a store: it was replaced just now; start again")

    def _lock_wal(self) -> None:
        """A server whose file was replaced keeps its WAL, which must not be applied to the file that is there now."""
        try:
            descriptor = os.open(self._wal, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        except OSError as error:
            raise CannotOpen(f"cannot use {self.path} as a store: {error.strerror}: {self._wal}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise CannotOpen(
                f"another jobstate-server is using {self._wal}, though not {self.path}: the file was replaced under it;"
                " stop that server first"
            ) from error
        if self._wal_descriptor is not None:
            os.close(self._wal_descriptor)
        self._wal_descriptor = descriptor

    def watch(self, page_size: int, head_page: int) -> None:
        """Begin to look after the file, now that SQLite has it open and its tables are there.

        Args:
            head_page: number of the page that has the head of the log. It differs in any two states of the store.
        """
        self._page_size = page_size
        self._head_page = head_page
        self._lock_wal_of_sqlite()
        self._shm_descriptor = os.open(self._shm, os.O_RDONLY | os.O_CLOEXEC)
        self._index = mmap.mmap(self._shm_descriptor, _INDEX.size, prot=mmap.PROT_READ)
        assert self._wal_descriptor is not None
        self._wal_identity = _identity(os.fstat(self._wal_descriptor))
        self._shm_identity = _identity(os.fstat(self._shm_descriptor))
        self._wal_state = _wal_state(self._index)
        found = os.fstat(self._descriptor)
        self._remember(found)
        if found.st_mode & 0o077:
            log.warning("others may read the store: chmod 600 it", extra={"file": self._name})

    def _lock_wal_of_sqlite(self) -> None:
        held = self._wal_descriptor
        if held is None or _identity(os.fstat(held)) != _identity(os.stat(self._wal)):
            self._lock_wal()

    def _remember(self, found: os.stat_result) -> None:
        self._written = found.st_mtime_ns
        self._file_size = found.st_size
        self._head_bytes = self._read_head_page()

    def _read_head_page(self) -> bytes:
        return os.pread(self._descriptor, self._page_size, (self._head_page - 1) * self._page_size)

    def is_checkpoint_near(self, frames: int) -> bool:
        """Whether the next commit may copy the WAL, which SQLite does at this many frames, into the file."""
        assert self._index is not None
        return _wal_state(self._index).frames > frames * _CHECKPOINT_IS_NEAR

    def check(self) -> None:
        """Compare what stands under our names with what we have open. Some microseconds. By the writer's thread.

        Raises:
            FileLost: the file or one of its companions was removed, replaced or overwritten.
        """
        try:
            directory, file = os.stat(self._parent), os.stat(self._name)
        except OSError as error:
            raise _missing(error) from error
        if self._may_have_moved(directory):
            # Until it has succeeded it is repeated.
            self._directory = ()
            now = time.monotonic_ns()
            self.check_names()
            self._directory, self._named_at = (*_identity(directory), directory.st_mtime_ns), now
        if _identity(file) != self._identity:
            raise self._replaced(self._name)
        if self._damage:
            raise FileLost(self._damage)
        self._check_wal()
        self._check_content(file)

    def _may_have_moved(self, directory: os.stat_result) -> bool:
        """Whether our names may lead elsewhere since they were looked at, as the directory has changed.

        To ask for the WAL itself costs a tenth of a small commit: when its times were read, the next write has to store
        them anew.
        """
        return (
            self._directory != (*_identity(directory), directory.st_mtime_ns)
            or abs(time.time_ns() - directory.st_mtime_ns) < _TICK_NS
            or time.monotonic_ns() - self._named_at > _NAMES_EVERY_NS
            or self._given != self._name
        )

    def _check_wal(self) -> None:
        """See that what was the newest frame of the WAL at the last look is still there."""
        assert self._index is not None
        assert self._wal_descriptor is not None
        state = _wal_state(self._index)
        if not state.frames:
            return
        frame_size = _FRAME_HEADER + self._page_size
        known = self._wal_state.frames if state.salts == self._wal_state.salts else 1
        place = _WAL_HEADER + (max(known, 1) - 1) * frame_size + _FRAME_SALTS
        if os.pread(self._wal_descriptor, len(state.salts), place) != state.salts:
            self._damage = f"{self._wal} was overwritten or cut off by another program"
            raise FileLost(self._damage)

    def check_names(self) -> None:
        """See that our names still lead to what we have open.

        Raises:
            FileLost: they do not.
        """
        try:
            ours = {
                self._name: self._identity,
                self._given: self._identity,
                self._wal: self._wal_identity,
                self._shm: self._shm_identity,
            }
            for name, identity in ours.items():
                if _identity(os.stat(name)) != identity:
                    raise self._replaced(name)
        except OSError as error:
            raise _missing(error) from error

    def _replaced(self, name: str) -> FileLost:
        return FileLost(f"{name} leads to another file than the one that is served")

    def _check_content(self, file: os.stat_result) -> None:
        """SQLite writes to the file in checkpoints only. Whatever else was written there must have changed nothing."""
        assert self._index is not None
        if self._was_checkpointed():
            self._remember(file)
        elif file.st_mtime_ns != self._written or file.st_size != self._file_size:
            if file.st_size != self._file_size or self._read_head_page() != self._head_bytes:
                self._damage = f"{self._name} was overwritten by another program"
                raise FileLost(self._damage)
            self._written = file.st_mtime_ns

    def _was_checkpointed(self) -> bool:
        """Whether SQLite has written to the file since the last look, for us or for anybody."""
        assert self._index is not None
        salts, copied, frames = self._wal_state
        self._wal_state = _wal_state(self._index)
        if self._wal_state.salts != salts:
            # A WAL is begun anew only when all of it is in the file.
            return copied < frames or self._wal_state.copied > 0
        return self._wal_state.copied > copied

    def is_intact(self) -> bool:
        """Whether the file under its name is ours and as SQLite wrote it, whatever has become of its companions.

        Raises:
            OSError: it cannot be told.
        """
        return self._holds(lambda: self._check_content(self._ours()))

    def is_whole(self) -> bool:
        """Whether the file is intact, and so is what SQLite has open of the WAL, by whichever name. Raises OSError."""
        return not self._damage and self._holds(self._check_wal) and self.is_intact()

    def _ours(self) -> os.stat_result:
        found = self.path.stat()
        if _identity(found) != self._identity:
            raise self._replaced(self._name)
        return found

    @staticmethod
    def _holds(check: Callable[[], None]) -> bool:
        try:
            check()
        except (FileNotFoundError, FileLost):
            return False
        return True

    def set_wal_aside(self) -> str | None:
        """Rename a WAL that does not belong to the file beside it, which the next start would apply to that file.

        Returns the new name, None when there was nothing to be done. Where the file is gone altogether the WAL stays:
        it keeps a start from making a new store in its place.

        Raises:
            OSError: it could not be renamed.
        """
        if not self.path.exists() or not size_of(self._wal):
            return None
        wal = os.stat(self._wal)
        if (_identity(wal) == self._wal_identity) == self.is_intact():
            return None
        aside = f"{self._wal}.aside-{os.getpid()}-{wal.st_ino}"
        os.rename(self._wal, aside)
        return aside

    def close(self) -> None:
        """Give back the lock."""
        with _holding:
            _held.discard(self._identity)
            self._release()

    def _release(self) -> None:
        if self._index is not None:
            self._index.close()
        for descriptor in (self._shm_descriptor, self._wal_descriptor, self._descriptor):
            if descriptor is not None:
                os.close(descriptor)


def _wal_state(index: mmap.mmap) -> _WalState:
    frames, salts, copied = _INDEX.unpack_from(index)
    return _WalState(salts, copied, frames)


def _missing(error: OSError) -> FileLost:
    return FileLost(f"{error.filename} cannot be found any more ({error.strerror})")


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _in_use(path: Path) -> CannotOpen:
    return CannotOpen(f"another jobstate-server is using {path}; one SQLite file serves one server")
