"""Statements that write many rows.

sqlite3 releases the interpreter lock for each statement. With one row per statement, a busy event loop would take the
lock away at every row.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from jobstate_server.domain.job import JobState
from jobstate_server.domain.statistics import Measure

_ROWS_AT_ONCE = (256, 64, 16, 4, 1)
"""Rows per statement. There are few sizes, so that each statement is prepared once. The largest binds 10,000 values, a
third of SQLite's default limit."""

_NOTHING: dict[None, None] = {}

# For a value that is not exactly an int, float, str or bytearray, sqlite3 searches four places for an adapter, which
# costs more than binding the value. An adapter in the first place ends the search.
sqlite3.register_adapter(bytes, bytes)
sqlite3.register_adapter(bool, int)
sqlite3.register_adapter(JobState, int)
sqlite3.register_adapter(Measure, int)
sqlite3.register_adapter(type(None), _NOTHING.get)


class ManyRows:
    """One statement for many rows: ``text`` with VALUES (…), (…) in place of its ``{rows}``."""

    def __init__(self, text: str, columns: int, constants: Collection[int | str] = ()) -> None:
        """``constants``: the values of columns, behind the others, that are the same in every row. They are literals:
        to bind one value of one row takes some 50 ns."""
        literals = (str(value) if isinstance(value, int) else f"'{value}'" for value in constants)
        row = f"({', '.join([*'?' * columns, *literals])})"
        self._texts = {size: text.format(rows=f"VALUES {', '.join([row] * size)}") for size in _ROWS_AT_ONCE}

    def run(self, connection: sqlite3.Connection, rows: Sequence[tuple[Any, ...]]) -> int:
        """Write the rows. Returns how many were written."""
        return sum(cursor.rowcount for cursor in self._executed(connection, rows))

    def returned(self, connection: sqlite3.Connection, rows: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        """Write the rows. Returns what the statement's RETURNING says."""
        return [row for cursor in self._executed(connection, rows) for row in cursor.fetchall()]

    def _executed(self, connection: sqlite3.Connection, rows: Sequence[tuple[Any, ...]]) -> Iterator[sqlite3.Cursor]:
        start = 0
        for size, text in self._texts.items():
            while len(rows) - start >= size:
                yield connection.execute(text, list(chain.from_iterable(rows[start : start + size])))
                start += size


def insert(table: str, columns: tuple[str, ...], constants: Mapping[str, int | str] | None = None) -> ManyRows:
    """Inserts rows of these columns. Other columns may have the same value in every row."""
    same = constants or {}
    return ManyRows(f"INSERT INTO {table} ({', '.join((*columns, *same))}) {{rows}}", len(columns), same.values())


def update(table: str, columns: tuple[str, ...], key: str) -> ManyRows:
    """Sets these columns. Rows are their values, then the key."""
    # SQLite names the columns of VALUES column1, column2, …
    values = ", ".join(f"{column} = new.column{number}" for number, column in enumerate(columns, 1))
    last = len(columns) + 1
    # Names come from our models; values are bound.
    text = f"UPDATE {table} SET {values} FROM ({{rows}}) AS new WHERE {table}.{key} = new.column{last}"
    return ManyRows(text, last)
