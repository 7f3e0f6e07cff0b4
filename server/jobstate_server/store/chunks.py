"""Sequences in pieces."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def chunks(values: Sequence[str], size: int) -> Iterable[Sequence[str]]:
    """``values`` in pieces of at most ``size``."""
    for start in range(0, len(values), size):
        yield values[start : start + size]
