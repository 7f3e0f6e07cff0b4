"""Checks the file of a SQLite store after every commit, and stops all use of a file that is lost.

It is an outage when the file was removed, replaced or changed by another program. The outage ends when the file is back
at its path, unchanged. Until then the store reads, writes and creates nothing.
"""

from __future__ import annotations

import ctypes
import logging

from peewee import PeeweeException, SqliteDatabase

from jobstate_server.store.errors import OutcomeUnknown, StoreUnreachable
from jobstate_server.store.sqlite.file import FileLost, StoreFile

log = logging.getLogger(__name__)


class FileMonitor:
    """Checks the file of one open store. Used by the writer's thread, except for ``raise_if_lost``."""

    def __init__(self, file: StoreFile, database: SqliteDatabase, checkpoint_at: int) -> None:
        """The tables must exist. ``checkpoint_at``: frames of the WAL at which SQLite starts a checkpoint."""
        self.lost = ""
        """Why the file cannot be used at the moment; empty while it can."""
        self._file = file
        self._database = database
        self._checkpoint_at = checkpoint_at
        ((page_size,),) = database.execute_sql("PRAGMA page_size")
        ((head_page,),) = database.execute_sql("SELECT rootpage FROM sqlite_schema WHERE name = 'log'")
        file.watch(page_size, head_page)

    def check_before_transaction(self) -> None:
        """Check before a transaction whose commit may start a checkpoint, which would hide what others wrote.

        Raises:
            FileLost: the file is lost, or was lost and is not back yet.
        """
        if self.lost or self._file.is_checkpoint_near(self._checkpoint_at):
            self._file.check()

    def check_after_commit(self) -> None:
        """Check after a commit, before any caller gets a response.

        Raises:
            OutcomeUnknown: the commit went to a lost file.
        """
        try:
            self._file.check()
        except FileLost as error:
            self.mark_lost(error)
            raise OutcomeUnknown(str(error)) from error
        if self.lost:
            log.info("the store file is back and unchanged; using it again")
            self.lost = ""

    def mark_lost(self, error: FileLost) -> None:
        """Stop all use of the file, and save what can be saved without overwriting the files of others.

        If only the WAL was removed, everything committed to it is copied into the file.
        """
        if self.lost:
            return
        self.lost = str(error)
        try:
            if self._file.is_whole():
                self._database.execute_sql("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            aside = self._file.set_wal_aside()
        except (OSError, PeeweeException):
            log.exception("could not save the write-ahead log; it is left as it is")
        else:
            if aside is not None:
                log.warning("renamed a write-ahead log that does not belong to the file", extra={"to": aside})

    def raise_if_lost(self) -> None:
        """Raise StoreUnreachable with the reason if the file is lost."""
        if self.lost:
            raise StoreUnreachable(self.lost)

    def close(self) -> None:
        """Close the last connection and release the lock."""
        if self.lost:
            # Closing the connection would write the WAL into a file that is not ours, and remove what may be the WAL of
            # another server. So the connection and the lock live as long as the process.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._database.connection()))
            return
        self._database.close()
        self._file.close()
