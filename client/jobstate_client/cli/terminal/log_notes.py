"""Shows what the library logs as notes for people."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Self

from jobstate_client.cli.terminal.output import note


class LogNotes(logging.Handler):
    """Within its block, each record of INFO and above is a note. Of an exception it has the last line."""

    def __init__(self, logger: logging.Logger) -> None:
        super().__init__(logging.INFO)
        self._logger = logger
        self._level = logger.level

    def __enter__(self) -> Self:
        self._logger.addHandler(self)
        self._logger.setLevel(logging.INFO)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._logger.removeHandler(self)
        self._logger.setLevel(self._level)

    def emit(self, record: logging.LogRecord) -> None:
        """Show a record."""
        error = record.exc_info[1] if record.exc_info else None
        lines = str(error).splitlines() if error is not None else []
        note(record.getMessage() + (f": {lines[-1]}" if lines else ""))
