"""Stores a cursor in a file, so that the next watch continues where this one stopped."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

import click

CURSOR_BYTES_MAX = 4_096
"""A cursor has a few dozen bytes. A longer file is something else, and must not be overwritten."""


class CursorFile:
    """A file with a cursor. It is replaced atomically: a reader finds the old cursor or the new one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stored = ""

    def read(self) -> str:
        """The stored cursor; empty if there is no file yet."""
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
            raise click.UsageError(f"{self._path} does not contain a cursor; name another --cursor-file.")
        self._stored = text
        return text

    def write(self, cursor: str) -> None:
        """Store this cursor durably: it is found even after a power failure."""
        if not cursor or cursor == self._stored:
            return
        try:
            self._replace(cursor + "\n")
        except OSError as error:
            raise click.UsageError(f"cannot store the cursor in {self._path}: {error.strerror}") from error
        self._stored = cursor

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
