"""Writes results: JSON for programs, coloured tables on a terminal, plain columns to a pipe."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from jobstate_client.cli.terminal import json_output
from jobstate_client.cli.terminal.styles import STATE_STYLES
from jobstate_client.core.states import State
from jobstate_client.views.text import safe

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

T = TypeVar("T")

GAP = 2
"""Terminal columns between two columns of a table."""

CUT_WIDTH_MIN = 8
"""Width of a column that is cut: less would say nothing."""

ROWS_AT_ONCE = 500
"""Rows that are laid out together. A listing may be endless, and its columns fit these rows."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table."""

    title: str
    right: bool = False
    """Whether its cells are aligned to the right, like numbers."""
    whole: bool = False
    """Whether it is never cut on a terminal, because a part would be useless."""
    rank: int = 0
    """If a terminal is too narrow, the columns of the highest rank are left out first; 0 is always shown."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A text with a style, as rich names it."""

    text: str
    style: str = ""


Row = Sequence[str | Cell]


def state_cell(state: State) -> Cell:
    """A state, in its colour."""
    return Cell(state.value, STATE_STYLES.get(state, ""))


class Output:
    """The standard output of a command."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    @property
    def is_terminal(self) -> bool:
        """Whether standard output is a terminal."""
        return sys.stdout.isatty()

    @cached_property
    def console(self) -> Console:
        """The rich console. It honours NO_COLOR, and reads the size of the terminal each time."""
        from rich.console import Console

        return Console(highlight=False, markup=False, emoji=False)

    def document(self, value: Any) -> None:
        """Write one JSON document on one line."""
        sys.stdout.write(json_output.line(json_output.plain(value)) + "\n")

    def text(self, *parts: str | Cell) -> None:
        """Write one line."""
        self._write([_cell(part) for part in parts], "")

    def fields(self, pairs: Iterable[tuple[str, str | Cell]]) -> None:
        """Write names and their values. Empty values are left out."""
        filled = [(name, _cell(value)) for name, value in pairs if _cell(value).text]
        width = max((len(name) for name, _ in filled), default=0)
        for name, value in filled:
            first, *others = value.text.split("\n")
            self._write([Cell(name.ljust(width), "dim"), Cell(first, value.style)], "  ")
            for other in others:
                self._write([Cell(" " * width), Cell(other, value.style)], "  ")

    def table(self, columns: Sequence[Column], rows: Iterable[Row]) -> None:
        """Write a table. The rows may be an endless iterator; the heading is written even without rows.

        On a terminal it is cut to the width; to a pipe it is written whole.
        """
        heading = [[Cell(column.title, "dim") for column in columns]]
        for some in _in_lists(ROWS_AT_ONCE, rows):
            cells = heading + [[Cell(safe(each.text), each.style) for each in map(_cell, row)] for row in some]
            widths = _widths(columns, cells)
            if self.is_terminal:
                kept = _kept(columns, widths, self.console.width)
                self._coloured(
                    [columns[i] for i in kept],
                    [[row[i] for i in kept] for row in cells],
                    _fitting([columns[i] for i in kept], [widths[i] for i in kept], self.console.width),
                )
            else:
                self._plain(columns, cells, widths)
            heading = []
            sys.stdout.flush()

    def _coloured(self, columns: Sequence[Column], rows: Sequence[Sequence[Cell]], widths: Sequence[int]) -> None:
        from jobstate_client.cli.terminal.layout import Part, line

        for row in rows:
            parts = [
                Part(cell.text, width, cell.style, right=column.right)
                for cell, column, width in zip(row, columns, widths, strict=True)
            ]
            text = line(*parts, gap=GAP)
            text.rstrip()
            self.console.print(text, no_wrap=True, crop=True)

    def _plain(self, columns: Sequence[Column], rows: Sequence[Sequence[Cell]], widths: Sequence[int]) -> None:
        from rich.cells import cell_len

        for row in rows:
            texts = []
            for cell, column, width in zip(row, columns, widths, strict=True):
                blank = " " * (width - cell_len(cell.text))
                texts.append(blank + cell.text if column.right else cell.text + blank)
            sys.stdout.write((" " * GAP).join(texts).rstrip() + "\n")

    def _write(self, parts: Sequence[Cell], between: str) -> None:
        if self.is_terminal:
            from rich.text import Text

            self.console.print(Text(between).join(_text(part) for part in parts), soft_wrap=True)
        else:
            sys.stdout.write(between.join(safe(part.text) for part in parts).rstrip() + "\n")


def _widths(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> list[int]:
    """The width that each column needs."""
    from rich.cells import cell_len

    return [max((cell_len(row[index].text) for row in rows), default=0) for index in range(len(columns))]


def _kept(columns: Sequence[Column], widths: Sequence[int], room: int) -> list[int]:
    """The columns that are shown, so that each has at least its minimal width."""
    kept = list(range(len(columns)))
    least = [width if columns[i].whole else min(width, CUT_WIDTH_MIN) for i, width in enumerate(widths)]
    while sum(least[i] + GAP for i in kept) - GAP > room:
        last = max(kept, key=lambda i: columns[i].rank)
        if columns[last].rank == 0:
            break
        kept.remove(last)
    return kept


def _fitting(columns: Sequence[Column], widths: Sequence[int], room: int) -> list[int]:
    """The widths after cutting, the widest column first, until all fit or none can be cut."""
    fitting = list(widths)
    excess = sum(fitting) + GAP * (len(fitting) - 1) - room
    while excess > 0:
        cut = [i for i, column in enumerate(columns) if not column.whole and fitting[i] > CUT_WIDTH_MIN]
        if not cut:
            break
        widest = max(cut, key=lambda i: fitting[i])
        fitting[widest] -= 1
        excess -= 1
    return fitting


def _cell(part: str | Cell) -> Cell:
    return Cell(part) if isinstance(part, str) else part


def _text(cell: Cell) -> Text:
    """The cell as rich draws it: safe for a terminal, and without markup."""
    from rich.text import Text

    return Text(safe(cell.text), cell.style)


def _in_lists(size: int, items: Iterable[T]) -> Iterator[list[T]]:
    """The items in lists of this size; at least one list."""
    iterator = iter(items)
    some = list(islice(iterator, size))
    yield some
    while some := list(islice(iterator, size)) if len(some) == size else []:
        yield some


def pretty(document: dict[str, Any] | None) -> str:
    """A document for people, on several lines; empty if there is none."""
    return json.dumps(document, indent=2, ensure_ascii=False) if document else ""


def note(text: str) -> None:
    """Write a note for people to standard error."""
    print(f"jobstate: {safe(text)}", file=sys.stderr)
