"""What a SQLite store does about its file: look after every commit, and serve nothing from a file that is lost.

A file that was removed, replaced or written to by others is an outage. It ends when the file is back under its name as
we left it, and until then nothing is read, written or made.
"""

from __future__ import annotations

import ctypes
import logging

from peewee import PeeweeException, SqliteDatabase

from jobstate_server.store.errors import OutcomeUnknown, StoreUnreachable
from jobstate_server.store.sqlite.file import FileLost, StoreFile

log = logging.getLogger(__name__)


class FileMonitor:
    """Looks after the file of one open store. Used by the thread that writes, but for ``raise_if_lost``."""

    def __init__(self, file: StoreFile, database: SqliteDatabase, checkpoint_at: int) -> None:
        """``checkpoint_at``: frames of the WAL at which SQLite copies them into the file. The tables are there."""
        self.lost = ""
        """Why the file is not served just now, empty while it is."""
        self._file = file
        self._database = database
        self._checkpoint_at = checkpoint_at
        ((page_size,),) = database.execute_sql("PRAGMA page_size")
        ((head_page,),) = database.execute_sql("SELECT rootpage FROM sqlite_schema WHERE name = 'log'")
        file.watch(page_size, head_page)

    def check_before_transaction(self) -> None:
        """Look before a transaction whose commit may make a checkpoint: in that, what others wrote would not be seen.

        Raises:
            FileLost: the file is lost, or has been and is not back yet.
        """
        if self.lost or self._file.is_checkpoint_near(self._checkpoint_at):
            self._file.check()

    def check_after_commit(self) -> None:
        """Look after a commit, before anybody is told of it.

        Raises:
            OutcomeUnknown: the commit went to a file that is lost.
        """
        try:
            self._file.check()
        except FileLost as error:
            self.mark_lost(error)
            raise OutcomeUnknown(str(error)) from error
        if self.lost:
            log.info("the file of the store is as it was left: serving it again")
            self.lost = ""

    def mark_lost(self, error: FileLost) -> None:
        """Serve nothing more, and save what can be saved without writing over what others have put there.

        A file that has only lost its WAL gets everything that was committed to it.
        """
        if self.lost:
            return
        self.lost = str(error)
        try:
            if self._file.is_whole():
                self._database.execute_sql("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            aside = self._file.set_wal_aside()
        except (OSError, PeeweeException):
            log.exception("the write-ahead log is left as it is")
        else:
            if aside is not None:
                log.warning("a write-ahead log that does not belong to the file was renamed", extra={"to": aside})

    def raise_if_lost(self) -> None:
        """Raise StoreUnreachable with the reason, while the file is lost."""
        if self.lost:
            raise StoreUnreachable(self.lost)

    def close(self) -> None:
        """Close the last connection, and give back the lock."""
        if self.lost:
            # Closing it would write the WAL into a file that is not ours, and remove by its name what may be the WAL of
            # another server. So connection and lock end with the process.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._database.connection()))
            return
        self._database.close()
        self._file.close()
