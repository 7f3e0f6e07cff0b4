"""Opens standard input, output and error if they were closed when the command was started."""

from __future__ import annotations

import io
import os
import sys


def ensure_streams() -> None:
    """Open /dev/null for those that are closed.

    Python has None instead of a closed stream. And the next file to be opened would get its number: what a library
    writes to standard error would go into that file.
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
