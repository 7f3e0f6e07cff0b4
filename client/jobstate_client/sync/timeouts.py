"""Cancels calls that take too long. A gRPC stream that is read in a thread has no read timeout of its own."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Timeout:
    """The limit of one wait."""

    def __init__(self, cancel: Callable[[], object], deadline: float) -> None:
        self.cancel = cancel
        self.deadline = deadline
        self.has_expired = False
        """Whether the deadline passed, and ``cancel`` was called."""


class _RunningTimeouts:
    """The timeouts of a client that are running, and the thread that calls ``cancel`` when one expires."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running: dict[Timeout, None] = {}
        self._wakes_at = float("inf")
        """When the thread wakes next."""
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def add(self, timeout: Timeout) -> None:
        with self._changed:
            self._running[timeout] = None
            if self._thread is None and not self._is_closed:
                self._thread = threading.Thread(target=self._serve, name="jobstate-timeouts", daemon=True)
                self._thread.start()
            elif timeout.deadline < self._wakes_at:
                self._changed.notify()

    def remove(self, timeout: Timeout) -> None:
        # The thread is not notified: it wakes at the old deadline and looks for the next one.
        with self._changed:
            self._running.pop(timeout, None)

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify()

    def _serve(self) -> None:
        while True:
            with self._changed:
                now = time.monotonic()
                expired = [timeout for timeout in self._running if timeout.deadline <= now]
                for timeout in expired:
                    del self._running[timeout]
                    timeout.has_expired = True
                if not expired:
                    if self._is_closed or not self._running:
                        self._thread, self._wakes_at = None, float("inf")
                        return
                    self._wakes_at = min(timeout.deadline for timeout in self._running)
                    self._changed.wait(self._wakes_at - now)
            for timeout in expired:
                timeout.cancel()


class Timeouts:
    """Limits how long the calls of a client may be silent. While any limit runs, a thread watches over it."""

    def __init__(self) -> None:
        self._running = _RunningTimeouts()
        # The thread references only the running timeouts, so that it does not keep the client alive.
        weakref.finalize(self, self._running.close)

    @contextmanager
    def limit(self, call: Any, limit_s: float) -> Iterator[Timeout]:
        """Cancel ``call`` if the block takes longer than this."""
        timeout = self.start(call.cancel, time.monotonic() + limit_s)
        try:
            yield timeout
        finally:
            self.stop(timeout)

    def start(self, cancel: Callable[[], object], deadline: float) -> Timeout:
        """Call ``cancel`` at ``deadline``, in time of ``time.monotonic``, unless the timeout is stopped before."""
        timeout = Timeout(cancel, deadline)
        self._running.add(timeout)
        return timeout

    def stop(self, timeout: Timeout) -> None:
        """Stop a timeout: what it limited is done."""
        self._running.remove(timeout)

    def close(self) -> None:
        """Start no more timeouts; those that run still expire."""
        self._running.close()
