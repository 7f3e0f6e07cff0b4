"""Standard input, output and error. The server may have been started with any of them closed."""

from __future__ import annotations

import io
import os
import sys


def ensure_streams() -> None:
    """Open /dev/null in place of each stream that is closed.

    Otherwise the next file to be opened, such as the store, would get the number of a standard stream, and what a
    library writes to standard error would go into that file. Python has None in place of a closed stream.
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
