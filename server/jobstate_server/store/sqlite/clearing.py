"""Overwrites what a SQLite file no longer needs, in small steps between transactions, so that no byte of it is left.

A step looks at some pages, from the end of the file to its beginning, and once more at the pages that were written
since the step before: SQLite may have put there what it had of a page that was not looked at yet. A step changes only
bytes that hold nothing, whatever the moment at which it is interrupted.

It works on the file itself, so all of the WAL must be in it. Then nobody reads an older state, for whom these bytes may
hold something. The cached pages of the writer are dropped, or it would write back what they have of those bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from peewee import SqliteDatabase

from jobstate_server.store.erasing import CLEAR_FROM_END, Clearing
from jobstate_server.store.errors import StoreError
from jobstate_server.store.sqlite.file import StoreFile
from jobstate_server.store.sqlite.unused_space import NotUnderstood, Pages
from jobstate_server.store.sqlite.wal import WalState, frames

_READ_BYTES = 1024 * 1024
"""How much of the file is read at once."""

_TRUNCATE_WAIT_MS = 50
"""How long the WAL is waited for, with all calls behind it. New readers do not use it once all of it is in the file."""


class FileClearing:
    """Clears one file."""

    def __init__(self, file: StoreFile, database: SqliteDatabase, *, busy_ms: int, checkpoint_at: int) -> None:
        """The last two are those of the connection, and are set again afterwards."""
        self._file = file
        self._database = database
        self._busy_ms = busy_ms
        self._checkpoint_at = checkpoint_at
        self._seen = WalState(b"", 0, 0, 0)
        """The WAL at the step before."""
        self._written: set[int] = set()
        """Pages to look at once more."""

    def step(self, page: int, limit: int) -> Clearing:
        """Take one step. The arguments are those of ``Clears.clear_unused``.

        Raises:
            StoreError: the file is not as SQLite writes it.
        """
        if page == CLEAR_FROM_END:
            # Only these steps empty the WAL, so that each sees what was written since the one before.
            self._database.execute_sql("PRAGMA wal_autocheckpoint = 0")
            self._written.clear()
        elif not self._note_written():
            page = CLEAR_FROM_END
        self._seen = self._file.wal_state
        busy, frames, copied = self._database.execute_sql("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        if busy or frames != copied:
            return Clearing(page, is_blocked=True)
        # While this lasts nobody can write to the WAL.
        self._database.begin("IMMEDIATE")
        try:
            state = self._file.wal_state
            if state.copied != state.frames or state.frames != self._seen.frames:
                return Clearing(CLEAR_FROM_END, is_blocked=True)
            following = self._clear(page, limit)
        except (NotUnderstood, IndexError, struct.error) as error:
            raise StoreError(f"{error}: run jobstate-server check on the file") from error
        finally:
            self._database.rollback()
            self._database.execute_sql("PRAGMA shrink_memory")
        return Clearing(following) if following else self._finish()

    def _note_written(self) -> bool:
        """Note the pages that were written since the step before. False if they are not known."""
        state, seen = self._file.wal_state, self._seen
        if state.salts == seen.salts:
            begin = seen.frames
        elif _restarts(state) == _restarts(seen) + 1:
            # SQLite has begun the WAL anew, because all of it was in the file.
            begin = 0
        else:
            return False
        written = frames(self._file.read_wal, self._file.page_size, state.frames, begin)
        self._written.update(frame.page for frame in written)
        return True

    def _clear(self, page: int, limit: int) -> int:
        """Look at the pages. Returns where to go on: 0 at the end."""
        pages = Pages(self._file.read)
        written = [number for number in sorted(self._written) if number <= pages.count]
        self._file.zero(_found(pages, ((number, pages.page(number)) for number in written)))
        self._written.clear()
        if page == CLEAR_FROM_END:
            return pages.count
        last = min(page, pages.count)
        first = max(1, last - limit + 1)
        self._file.zero(_found(pages, self._read(pages, first, last)))
        return first - 1

    def _read(self, pages: Pages, first: int, last: int) -> Iterator[tuple[int, bytes]]:
        """These pages and their numbers."""
        at_once = max(1, _READ_BYTES // pages.size)
        for start in range(first, last + 1, at_once):
            count = min(at_once, last + 1 - start)
            content = self._file.read((start - 1) * pages.size, count * pages.size)
            for index in range(count):
                yield start + index, content[index * pages.size : (index + 1) * pages.size]

    def _finish(self) -> Clearing:
        """Cut off the WAL, once everything was looked at and nothing was written since."""
        self._file.sync()
        self._database.execute_sql(f"PRAGMA busy_timeout = {_TRUNCATE_WAIT_MS}")
        try:
            busy, _, _ = self._database.execute_sql("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        finally:
            self._database.execute_sql(f"PRAGMA busy_timeout = {self._busy_ms}")
        if busy:
            # Once more with the first page, and with what is written until then.
            return Clearing(1, is_blocked=True)
        self.stop()
        return Clearing(None)

    def stop(self) -> None:
        """Let commits empty the WAL again."""
        self._database.execute_sql(f"PRAGMA wal_autocheckpoint = {self._checkpoint_at}")


def _found(pages: Pages, contents: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, int]]:
    """Offsets and sizes in the file of what holds nothing and is not zero."""
    for number, content in contents:
        for begin, end in pages.unused(number, content):
            if content.count(0, begin, end) != end - begin:
                yield (number - 1) * pages.size + begin, end - begin


def _restarts(state: WalState) -> int:
    """A number that SQLite raises by one whenever it begins the WAL anew."""
    return int.from_bytes(state.salts[:4], "big")
