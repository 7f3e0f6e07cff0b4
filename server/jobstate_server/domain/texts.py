"""How values of callers are shown in messages."""

from __future__ import annotations

_QUOTED_MAX = 60
"""Characters of a value that an error quotes."""


def quoted(value: str) -> str:
    """A value as an error shows it. Long values are cut."""
    return repr(value) if len(value) <= _QUOTED_MAX else repr(value[:_QUOTED_MAX]) + "…"
