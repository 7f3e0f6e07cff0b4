"""Ends calls that are silent for too long. Reading a stream of gRPC's in a thread knows no timeout of its own."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Timeout:
    """Somebody waits for the next message of a call."""

    def __init__(self, cancel: Callable[[], object], until: float) -> None:
        self.cancel = cancel
        self.until = until
        self.is_over = False
        """Whether it took too long, and the call was cancelled for it."""


class _PendingTimeouts:
    """All waits of a client, and the thread that ends those that take too long."""

    def __init__(self) -> None:
        self._news = threading.Condition()
        self._waits: dict[Timeout, None] = {}
        self._looks_at = float("inf")
        """When the thread looks next."""
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def add(self, wait: Timeout) -> None:
        with self._news:
            self._waits[wait] = None
            if self._thread is None and not self._is_closed:
                self._thread = threading.Thread(target=self._look, name="jobstate-silence", daemon=True)
                self._thread.start()
            elif wait.until < self._looks_at:
                self._news.notify()

    def remove(self, wait: Timeout) -> None:
        # The thread is not told: it looks when this one would have been over, and finds the next.
        with self._news:
            self._waits.pop(wait, None)

    def close(self) -> None:
        with self._news:
            self._is_closed = True
            self._news.notify()

    def _look(self) -> None:
        while True:
            with self._news:
                now = time.monotonic()
                over = [wait for wait in self._waits if wait.until <= now]
                for wait in over:
                    del self._waits[wait]
                    wait.is_over = True
                if not over:
                    if self._is_closed or not self._waits:
                        self._thread, self._looks_at = None, float("inf")
                        return
                    self._looks_at = min(wait.until for wait in self._waits)
                    self._news.wait(self._looks_at - now)
            for wait in over:
                wait.cancel()


class Timeouts:
    """Limits how long the calls of a client may be silent. A thread of its own looks, while anybody waits."""

    def __init__(self) -> None:
        self._waits = _PendingTimeouts()
        # The thread knows the waits alone, so that it does not keep a client that nobody has any more.
        weakref.finalize(self, self._waits.close)

    @contextmanager
    def limited(self, call: Any, limit_s: float) -> Iterator[Timeout]:
        """Cancel ``call`` if the block takes longer."""
        wait = self.begin(call.cancel, time.monotonic() + limit_s)
        try:
            yield wait
        finally:
            self.end(wait)

    def begin(self, cancel: Callable[[], object], until: float) -> Timeout:
        """Call ``cancel`` at this time, of ``time.monotonic``, if the wait has not ended by then."""
        wait = Timeout(cancel, until)
        self._waits.add(wait)
        return wait

    def end(self, wait: Timeout) -> None:
        """What was waited for has come."""
        self._waits.remove(wait)

    def close(self) -> None:
        """Limit nothing any more."""
        self._waits.close()
