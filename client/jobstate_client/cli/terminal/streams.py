"""Standard input, output and error, which whoever starts a command may have closed."""

from __future__ import annotations

import io
import os
import sys


def ensure_streams() -> None:
    """Let those that are closed lead nowhere.

    Python has None in their place. And the next file that was opened would get their number: what some library then
    writes to standard error would go into it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stdin is None:
        sys.stdin = _text(0, "r")
    if sys.stdout is None:
        sys.stdout = _text(1, "w")
    if sys.stderr is None:
        sys.stderr = _text(2, "w")


def _text(descriptor: int, mode: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.FileIO(descriptor, mode, closefd=False), encoding="utf-8", write_through=True)
