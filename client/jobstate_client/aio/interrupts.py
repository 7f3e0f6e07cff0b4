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
    """Within the block the first SIGINT calls ``stop``; those after it go to who had them before.

    Nothing is changed outside the main thread, and where the program has a handler of its own.
    """
    previous = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not _is_nobodys(previous):
        yield
        return
    loop = asyncio.get_running_loop()

    def stop_in_order() -> None:
        log.warning("interrupted: the worker ends what it does; interrupt again to give that up")
        stop()

    def interrupted(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, previous)
        loop.call_soon_threadsafe(stop_in_order)

    signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is interrupted:
            signal.signal(signal.SIGINT, previous)


def _is_nobodys(handler: Any) -> bool:
    """Whether this is Python's own handler, or the one that asyncio.run puts in its place."""
    owner = getattr(getattr(handler, "func", None), "__self__", None)
    return handler is signal.default_int_handler or isinstance(owner, asyncio.Runner)
