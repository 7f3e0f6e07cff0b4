"""A cursor in a file, so that the next watch goes on where this one stopped."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

import click

CURSOR_BYTES_MAX = 4_096
"""A cursor has some dozens. A longer file is something else, which is not to be overwritten."""


class CursorFile:
    """Where a cursor is kept. It is replaced whole: whoever reads it finds the old one or the new one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept = ""

    def read(self) -> str:
        """The cursor kept last; empty when there is no file yet."""
        try:
            with self._path.open("rb") as file:
                content = file.read(CURSOR_BYTES_MAX + 1)
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise click.UsageError(f"cannot read {self._path}: {error.strerror}") from error
        try:
            text = content.decode("ascii").strip()
        except UnicodeDecodeError:
            text = "\n"
        if len(content) > CURSOR_BYTES_MAX or any(character.isspace() for character in text):
            raise click.UsageError(f"{self._path} holds something else than a cursor; name another --cursor-file.")
        self._kept = text
        return text

    def keep(self, cursor: str) -> None:
        """Keep this cursor, so that it is found after a loss of power too."""
        if not cursor or cursor == self._kept:
            return
        try:
            self._replace(cursor + "\n")
        except OSError as error:
            raise click.UsageError(f"cannot keep the cursor in {self._path}: {error.strerror}") from error
        self._kept = cursor

    def _replace(self, content: str) -> None:
        number, name = tempfile.mkstemp(prefix=f".{self._path.name}.", dir=self._path.parent)
        try:
            with os.fdopen(number, "w", encoding="ascii") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, self._path)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(name)
            raise
