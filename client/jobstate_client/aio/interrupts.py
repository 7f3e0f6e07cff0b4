"""Ctrl-C, while a worker runs on an event loop."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

log = logging.getLogger("jobstate_client")


@contextmanager
def stopping_on_interrupt(stop: Callable[[], None]) -> Iterator[None]:
    """Within the block the first SIGINT calls ``stop``; later ones go to the previous handler.

    Nothing changes outside the main thread, or if the program has its own handler.
    """
    previous = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not _is_default_handler(previous):
        yield
        return
    loop = asyncio.get_running_loop()

    def stop_gracefully() -> None:
        log.warning("interrupted: the worker finishes the running jobs; interrupt again to give them up")
        stop()

    def interrupted(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, previous)
        loop.call_soon_threadsafe(stop_gracefully)

    signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is interrupted:
            signal.signal(signal.SIGINT, previous)


def _is_default_handler(handler: Any) -> bool:
    """Whether this is Python's own handler, or the one that asyncio.run installs instead."""
    owner = getattr(getattr(handler, "func", None), "__self__", None)
    return handler is signal.default_int_handler or isinstance(owner, asyncio.Runner)
