"""Ends a command on a signal as an exception, so that it restores the terminal and gives back what it holds."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn


@contextmanager
def exit_on_signals() -> Iterator[None]:
    """Within the block SIGTERM and SIGHUP raise SystemExit, unless they are ignored, as nohup has it."""

    def leave(number: int, frame: Any) -> NoReturn:
        raise SystemExit(128 + number)

    with _handling(leave):
        yield


@contextmanager
def stopping_on_signals(stop: Callable[[], object]) -> Iterator[None]:
    """Within the block SIGTERM and SIGHUP call this, unless they are ignored."""
    with _handling(lambda _number, _frame: stop()):
        yield


@contextmanager
def _handling(handle: Callable[[int, Any], Any]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heeded = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
