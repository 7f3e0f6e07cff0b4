"""Runs the queries of a reader, and stops them when another thread asks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from peewee import Database, ModelCompoundSelectQuery, ModelSelect, PeeweeException, Select

from jobstate_server.store.errors import ReadInterrupted


class ReadConnection:
    """A peewee database to read from. Backends open, isolate and close it."""

    def __init__(self, database: Database, translate: Callable[[PeeweeException], NoReturn]) -> None:
        """``translate`` raises the store error that stands for an error of peewee."""
        self._database = database
        self._translate = translate
        self._texts: dict[tuple[str, int], str] = {}
        self._is_interrupted = False

    def interrupt(self) -> None:
        self._is_interrupted = True
        self._stop_statement()

    def _stop_statement(self) -> None:
        """Stop the running statement, from another thread. By default the read ends before its next statement."""

    def resume(self) -> None:
        self._is_interrupted = False

    def disconnect(self) -> None:
        pass

    def close(self) -> None:
        self._database.close()

    def _rows(self, query: ModelSelect[Any] | ModelCompoundSelectQuery | Select) -> list[tuple[Any, ...]]:
        return self._execute(*self._database.get_sql_context().sql(query).query())

    def _execute(self, text: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        if self._is_interrupted:
            raise ReadInterrupted("the read was interrupted")
        try:
            rows: list[tuple[Any, ...]] = self._database.execute_sql(text, values).fetchall()
        except Exception as error:
            if self._is_interrupted:
                raise ReadInterrupted("the read was interrupted") from error
            if not isinstance(error, PeeweeException):
                raise
            self._translate(error)
        return rows
