"""Splits sequences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def chunks(values: Sequence[str], size: int) -> Iterable[Sequence[str]]:
    """Split ``values`` into pieces of at most ``size``."""
    for start in range(0, len(values), size):
        yield values[start : start + size]
