"""Lines of an exact width, whatever their texts: the building blocks of the live views."""

from __future__ import annotations

from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.text import Text

GAP = 1
"""Columns between two parts of a line."""


@dataclass(frozen=True, slots=True)
class Part:
    """A text, its width in columns, and its style."""

    text: str
    width: int
    style: str = ""
    right: bool = False
    """Whether it is aligned to the right."""
    middle: bool = False
    """Whether a text that is too long is cut in the middle instead of the end: the ends of ids differ most."""


def fitted(part: Part) -> str:
    """The text of a part, cut or filled to its width."""
    width = max(0, part.width)
    length = cell_len(part.text)
    if length <= width:
        blank = " " * (width - length)
        return blank + part.text if part.right else part.text + blank
    if width <= 1:
        return "…"[:width]
    if part.middle:
        tail = (width - 1) // 2
        end = part.text
        while cell_len(end) > tail:
            end = end[1:]
        return set_cell_size(part.text, width - 1 - cell_len(end)) + "…" + end
    return set_cell_size(part.text, width - 1) + "…"


def line(*parts: Part, gap: int = GAP) -> Text:
    """The parts side by side."""
    text = Text(no_wrap=True, overflow="crop")
    for index, part in enumerate(parts):
        if index:
            text.append(" " * gap)
        text.append(fitted(part), part.style)
    return text


def heading(title: str, note: str, width: int) -> Text:
    """The heading of a part of the screen: a title, a note, and a rule."""
    note = f" {note} " if note else " "
    rule = "─" * max(0, width - cell_len(title) - cell_len(note))
    return line(
        Part(title, min(width, cell_len(title)), "bold"), Part((note + rule)[1:], width - cell_len(title) - GAP, "dim")
    )


def bar(percent: int, width: int, style: str) -> tuple[Part, ...]:
    """A progress bar, as parts without a gap between them."""
    full = min(width, max(0, round(width * percent / 100)))
    return Part("━" * full, full, style), Part("─" * (width - full), width - full, "dim")
