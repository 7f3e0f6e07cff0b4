"""Statements that write many rows, with one array per column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from peewee import Model
from psycopg import Connection, Cursor

from jobstate_server.store.postgres.binary_arrays import Kind, array, kind_of

FIRST = "(SELECT head - %(events)s + 1 AS first FROM log) AS numbered"
"""The sequence of this transaction's first event, once the log's head has been moved."""


def kinds_of(model: type[Model], columns: Sequence[str]) -> dict[str, Kind]:
    """The types that these columns are sent as."""
    return {column: kind_of(getattr(model, column)) for column in columns}


class ManyRows:
    """A statement that reads any number of rows from a table ``new``."""

    def __init__(self, text: str, kinds: dict[str, Kind]) -> None:
        """``text`` has ``{rows}`` in place of the table."""
        self._kinds = tuple(kinds.items())
        arrays = ", ".join(f"%({name})s::{kind.type_name}[]" for name, kind in self._kinds)
        self._text = text.format(rows=f"unnest({arrays})").encode()

    def run(self, connection: Connection[Any], rows: Sequence[tuple[Any, ...]], **values: int | str) -> Cursor[Any]:
        """Write the rows, each in the order of the columns. Returns the statement's cursor."""
        columns = zip(self._kinds, zip(*rows, strict=True), strict=True)
        arrays = {name: array(kind, column) for (name, kind), column in columns}
        return connection.execute(self._text, {**arrays, **values}, prepare=True)
