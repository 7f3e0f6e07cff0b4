"""The queue between the event loop and the threads that read. Short reads come first, and one thread is reserved for
them."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jobstate_server.store.base import Reader


@dataclass(slots=True, eq=False)
class QueuedRead:
    """A read and the callers that wait for it."""

    run: Callable[[Reader], Sequence[Any]]
    """Returns a value or an error for each future."""
    futures: Sequence[asyncio.Future[Any]]
    is_short: bool
    """It reads a few rows by their keys."""
    is_batch: bool
    """It is a batch of Gets."""
    since: int
    """The turn of the watchdog in which it was queued, and later the one in which a thread began it."""

    def resolve(self, results: Sequence[Any]) -> None:
        """Give the results to the callers that still wait."""
        for future, result in zip(self.futures, results, strict=True):
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)

    def fail(self, error: Exception) -> None:
        """Give the error to all callers that still wait."""
        self.resolve([error] * len(self.futures))

    @property
    def is_wanted(self) -> bool:
        """Whether any caller still waits."""
        return any(not future.done() for future in self.futures)


class ReadQueue:
    """Gives reads to threads. Thread-safe."""

    def __init__(self, threads: int) -> None:
        self._changed = threading.Condition()
        self._short: deque[QueuedRead] = deque()
        self._long: deque[QueuedRead] = deque()
        self._long_running = 0
        self._long_running_max = max(1, threads - 1)
        """If there are several threads, one is reserved for short reads."""
        self._is_closed = False

    def put(self, read: QueuedRead) -> None:
        """Add a read."""
        with self._changed:
            (self._short if read.is_short else self._long).append(read)
            self._changed.notify()

    def take(self) -> QueuedRead | None:
        """Wait for the next read that this thread may begin. None if the queue is closed."""
        with self._changed:
            while not self._is_closed:
                if self._short:
                    return self._short.popleft()
                if self._long and self._long_running < self._long_running_max:
                    self._long_running += 1
                    return self._long.popleft()
                self._changed.wait()
            return None

    def done(self, read: QueuedRead) -> None:
        """The thread that took the read has ended it, with a result or an error."""
        if not read.is_short:
            with self._changed:
                self._long_running -= 1
                self._changed.notify()

    def drop(self, is_dropped: Callable[[QueuedRead], bool]) -> list[QueuedRead]:
        """Remove these reads from the queue, and return them."""
        with self._changed:
            dropped = [read for lane in (self._short, self._long) for read in lane if is_dropped(read)]
            if dropped:
                dropped_ids = set(map(id, dropped))
                self._short = deque(read for read in self._short if id(read) not in dropped_ids)
                self._long = deque(read for read in self._long if id(read) not in dropped_ids)
            return dropped

    def close(self) -> list[QueuedRead]:
        """End every thread after its current read. Returns the reads that no thread will begin."""
        with self._changed:
            self._is_closed = True
            left = [*self._short, *self._long]
            self._short.clear()
            self._long.clear()
            self._changed.notify_all()
            return left
