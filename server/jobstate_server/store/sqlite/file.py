"""The file of a SQLite store: locks it, and checks that it is still the file that was opened.

A lock on the file (on its inode, whatever name leads to it) keeps a second server away while this process lives. The
kernel drops it however the process ends. Nothing else in the process may open the file or its ``-shm``: closing any
descriptor of them drops all of SQLite's locks on them in this process. Checks use ``stat`` and the descriptors that are
kept open here.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
import stat
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from jobstate_server.store.errors import CannotOpen, StoreUnreachable
from jobstate_server.store.sqlite.path_checks import refuse_orphaned_wal, refuse_other_names, resolved, size_of
from jobstate_server.store.sqlite.wal import FRAME_HEADER, INDEX_BYTES, WAL_HEADER, WalState, frames, wal_state

log = logging.getLogger(__name__)

_MODE = 0o600
"""The mode of a new file. SQLite gives ``-wal`` and ``-shm`` the same mode."""

_FRAME_SALTS = 8

_CHECKPOINT_IS_NEAR = 0.75

_TICK_NS = 100_000_000
"""Two changes of a directory within one tick of the kernel's clock, at most 10 ms, can have the same time."""

_NAMES_EVERY_NS = 1_000_000_000
"""How often the names are checked even if the directory has not changed: something may be mounted over them."""

_held: set[tuple[int, int]] = set()
"""The store files that this process has open, by device and inode."""
_holding = threading.Lock()


class FileLost(StoreUnreachable):
    """The file is no longer the one that this server uses. The message says what was found."""


class StoreFile:
    """The locked file of one store. Open it before SQLite does, and close it after SQLite's last connection."""

    def __init__(self, path: Path, *, make: bool = True) -> None:
        """Lock the file. With ``make``, create an empty one if it does not exist.

        Raises:
            CannotOpen: another process has it, it has several names, it is not a file, or its ``-wal`` belongs to
                another file.
        """
        self._given = os.path.abspath(path)
        self.path = resolved(path)
        """The file's own path, without symbolic links. SQLite puts ``-wal`` and ``-shm`` beside it."""
        self._name, self._parent = str(self.path), str(self.path.parent)
        self._wal = f"{self.path}-wal"
        self._shm = f"{self.path}-shm"
        self._directory: tuple[int, ...] = ()
        self._named_at = 0
        self._damage = ""
        """How another program damaged the files. Nothing repairs that while they are open."""
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
            # Reported below, unless the file does not exist.
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
            raise CannotOpen(f"cannot use {path} as a store: it was replaced just now; try again")

    def _lock_wal(self) -> None:
        """Lock the WAL. A server whose file was replaced still holds its WAL, which does not belong to the new file."""
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
                f"another jobstate-server is using {self._wal}, but not {self.path}: the file was replaced while it was"
                " running; stop that server first"
            ) from error
        if self._wal_descriptor is not None:
            os.close(self._wal_descriptor)
        self._wal_descriptor = descriptor

    def watch(self, page_size: int, head_page: int) -> None:
        """Start to check the file, once SQLite has opened it and its tables exist.

        Args:
            head_page: the number of the page with the head of the log, which is different in any two states of the
                store.
        """
        self.page_size = page_size
        self._head_page = head_page
        self._lock_wal_of_sqlite()
        self._shm_descriptor = os.open(self._shm, os.O_RDONLY | os.O_CLOEXEC)
        self._index = mmap.mmap(self._shm_descriptor, INDEX_BYTES, prot=mmap.PROT_READ)
        assert self._wal_descriptor is not None
        self._wal_identity = _identity(os.fstat(self._wal_descriptor))
        self._shm_identity = _identity(os.fstat(self._shm_descriptor))
        self._wal_state = wal_state(self._index)
        found = os.fstat(self._descriptor)
        self._remember(found)
        if found.st_mode & 0o077:
            log.warning("other users can read the store; run chmod 600 on it", extra={"file": self._name})

    def _lock_wal_of_sqlite(self) -> None:
        held = self._wal_descriptor
        if held is None or _identity(os.fstat(held)) != _identity(os.stat(self._wal)):
            self._lock_wal()

    def _remember(self, found: os.stat_result) -> None:
        self._written = found.st_mtime_ns
        self._file_size = found.st_size
        self._head_bytes = self._read_head_page()

    @property
    def wal_state(self) -> WalState:
        """The state of the WAL now."""
        assert self._index is not None
        return wal_state(self._index)

    def read_wal(self, offset: int, size: int) -> bytes:
        """Bytes of the WAL."""
        assert self._wal_descriptor is not None
        return os.pread(self._wal_descriptor, size, offset)

    def read(self, offset: int, size: int) -> bytes:
        """Bytes of the file. Fewer at its end."""
        return os.pread(self._descriptor, size, offset)

    def zero(self, places: Iterable[tuple[int, int]]) -> None:
        """Overwrite these bytes, given by their offsets and sizes, with zeros."""
        try:
            for offset, size in places:
                if os.pwrite(self._descriptor, bytes(size), offset) != size:
                    raise StoreUnreachable(f"{self._name} cannot be written")
        except OSError as error:
            raise StoreUnreachable(f"{self._name} cannot be written ({error.strerror})") from error
        finally:
            self._remember(os.fstat(self._descriptor))

    def sync(self) -> None:
        """Have what was overwritten on disk."""
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            raise StoreUnreachable(f"{self._name} cannot be written ({error.strerror})") from error

    def _read_head_page(self) -> bytes:
        return os.pread(self._descriptor, self.page_size, (self._head_page - 1) * self.page_size)

    def is_checkpoint_near(self, frames: int) -> bool:
        """Whether the next commit may start a checkpoint, which SQLite does at this many frames."""
        return self.wal_state.frames > frames * _CHECKPOINT_IS_NEAR

    def check(self) -> None:
        """Compare the files at our paths with the open ones. Takes some microseconds. Called by the writer's thread.

        Raises:
            FileLost: the file, ``-wal`` or ``-shm`` was removed, replaced or overwritten.
        """
        try:
            directory, file = os.stat(self._parent), os.stat(self._name)
        except OSError as error:
            raise _missing(error) from error
        if self._may_have_moved(directory):
            # Repeated until it succeeds.
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
        """Whether our paths may lead elsewhere since the last check, because the directory has changed.

        A ``stat`` of the WAL itself would cost a tenth of a small commit: after its times are read, the next write has
        to store them again.
        """
        return (
            self._directory != (*_identity(directory), directory.st_mtime_ns)
            or abs(time.time_ns() - directory.st_mtime_ns) < _TICK_NS
            or time.monotonic_ns() - self._named_at > _NAMES_EVERY_NS
            or self._given != self._name
        )

    def _check_wal(self) -> None:
        """Check that the newest frame of the WAL at the last check is still there."""
        assert self._index is not None
        assert self._wal_descriptor is not None
        state = wal_state(self._index)
        if not state.frames:
            return
        frame_size = FRAME_HEADER + self.page_size
        known = self._wal_state.frames if state.salts == self._wal_state.salts else 1
        place = WAL_HEADER + (max(known, 1) - 1) * frame_size + _FRAME_SALTS
        if os.pread(self._wal_descriptor, len(state.salts), place) != state.salts:
            self._damage = f"{self._wal} was overwritten or cut off by another program"
            raise FileLost(self._damage)

    def check_names(self) -> None:
        """Check that our paths still lead to the open files.

        Raises:
            FileLost: a path leads elsewhere.
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
        return FileLost(f"{name} leads to another file than the one that this server opened")

    def _check_content(self, file: os.stat_result) -> None:
        """Check the file's content. Any write except a checkpoint must not have changed it."""
        assert self._index is not None
        if self._was_checkpointed():
            self._remember(file)
        elif file.st_mtime_ns != self._written or file.st_size != self._file_size:
            is_changed = file.st_size != self._file_size or self._read_head_page() != self._head_bytes
            if is_changed and not self._is_half_checkpointed(file):
                self._damage = f"{self._name} was overwritten by another program"
                raise FileLost(self._damage)
            self._remember(file)

    def _is_half_checkpointed(self, file: os.stat_result) -> bool:
        """Whether a checkpoint that did not end, because the disk was full for example, can have changed the file so.

        It has copied some pages of the WAL, the one with the head among the first. All of them are still in the WAL.
        """
        state = self._wal_state
        if state.attempted <= state.copied:
            return False
        head, size, is_of_wal = self._read_head_page(), self._file_size, False
        for frame in frames(self.read_wal, self.page_size, state.frames):
            size = max(size, frame.size)
            is_of_wal = is_of_wal or (frame.page == self._head_page and frame.read() == head)
        return is_of_wal and file.st_size <= size

    def _was_checkpointed(self) -> bool:
        """Whether a checkpoint, of any process, has written to the file since the last check."""
        assert self._index is not None
        seen = self._wal_state
        self._wal_state = wal_state(self._index)
        if self._wal_state.salts != seen.salts:
            # SQLite restarts the WAL only when all of it is in the file.
            return seen.copied < seen.frames or self._wal_state.copied > 0
        return self._wal_state.copied > seen.copied

    def is_intact(self) -> bool:
        """Whether the file at its path is ours and unchanged, whatever happened to ``-wal`` and ``-shm``.

        Raises:
            OSError: the file cannot be checked.
        """
        return self._holds(lambda: self._check_content(self._ours()))

    def is_whole(self) -> bool:
        """Whether the file and the WAL that SQLite has open are intact. Raises OSError."""
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
        """Rename a WAL that does not belong to the file beside it; the next start would apply it to that file.

        Returns the new name, or None when there was nothing to do. When the file is gone the WAL stays: it prevents
        a start from creating a new store in its place.

        Raises:
            OSError: the rename failed.
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
        """Release the lock."""
        with _holding:
            _held.discard(self._identity)
            self._release()

    def _release(self) -> None:
        if self._index is not None:
            self._index.close()
        for descriptor in (self._shm_descriptor, self._wal_descriptor, self._descriptor):
            if descriptor is not None:
                os.close(descriptor)


def _missing(error: OSError) -> FileLost:
    return FileLost(f"{error.filename} cannot be found ({error.strerror})")


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _in_use(path: Path) -> CannotOpen:
    return CannotOpen(f"another jobstate-server is using {path}; one SQLite file serves one server")
