"""Reads, off the event loop: a few threads with a reader each. Gets that wait together are read together."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from jobstate_server.domain.errors import JobNotFound, Overloaded, StoreUnavailable
from jobstate_server.domain.job import Job
from jobstate_server.engine.gathering import Gathering
from jobstate_server.store.base import ConnectionLost, Reader, Store, StoreUnreachable

log = logging.getLogger(__name__)

READER_THREADS = 2
"""One may be busy with a long page while the other answers Gets; more would only contend for the interpreter."""

READS_WAITING_MAX = 4_096
"""Reads waiting, some tenths of a second of work."""

GETS_AT_ONCE_MAX = 256
"""Jobs read by one statement."""

_RETRY_DELAY_S = 0.5

T = TypeVar("T")


_Get = tuple[str, str | None, asyncio.Future[Job]]
"""The job's id, the principal who asks, and who waits for it."""

_Told = tuple[asyncio.Future[Any], Any, Exception | None]
"""Who waits, and what they are told: a value or an error."""


class Readers:
    """Runs reads for the event loop. Its methods belong on the event loop's thread."""

    def __init__(self, store: Store, threads: int = READER_THREADS) -> None:
        self._store = store
        self._queue: queue.SimpleQueue[tuple[Callable[[Reader], Any], asyncio.Future[Any] | None] | None] = (
            queue.SimpleQueue()
        )
        self._gets: deque[_Get] = deque()
        self._gathering = Gathering(self._hand_over_gets, GETS_AT_ONCE_MAX)
        self._waiting = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._threads = [
            threading.Thread(target=self._run, name=f"reader-{index}", daemon=True) for index in range(threads)
        ]

    def start(self) -> None:
        """Begin to read, telling results to the running event loop."""
        self._loop = asyncio.get_running_loop()
        for thread in self._threads:
            thread.start()

    async def stop(self) -> None:
        """Finish what is waiting and end the threads."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    def run(self, read: Callable[[Reader], T]) -> asyncio.Future[T]:
        """Have ``read`` done by a reader.

        Raises (also through the future):
            Overloaded: too many reads are waiting.
            StoreUnavailable: the store cannot be read just now.
        """
        future: asyncio.Future[T] = self._admit()
        self._queue.put((read, future))
        return future

    def get(self, job_id: str, principal: str | None) -> asyncio.Future[Job]:
        """One job, read together with the others wanted at this moment. Raises JobNotFound besides ``run``'s errors."""
        future: asyncio.Future[Job] = self._admit()
        self._gets.append((job_id, principal, future))
        self._gathering.came(len(self._gets))
        return future

    def _hand_over_gets(self) -> None:
        wanted = [self._gets.popleft() for _ in range(min(len(self._gets), GETS_AT_ONCE_MAX))]
        self._queue.put((lambda reader: self._read_gets(reader, wanted), None))

    def _admit(self) -> asyncio.Future[Any]:
        if self._waiting >= READS_WAITING_MAX:
            raise Overloaded("too many reads are waiting; repeat the call later", _RETRY_DELAY_S)
        assert self._loop is not None
        future: asyncio.Future[Any] = self._loop.create_future()
        self._waiting += 1
        return future

    # What follows runs on the readers' threads.

    def _run(self) -> None:
        reader = self._store.open_reader()
        try:
            while (item := self._queue.get()) is not None:
                read, future = item
                try:
                    value, error = _read(reader, read), None
                except Exception as failure:
                    value, error = None, _explained(failure)
                if future is not None:
                    self._tell([(future, value, error)])
        finally:
            reader.close()

    def _read_gets(self, reader: Reader, wanted: Sequence[_Get]) -> None:
        results: list[_Told] = []
        try:
            found = _read(reader, lambda reader: reader.jobs({job_id for job_id, _, _ in wanted}, None))
        except Exception as failure:
            error = _explained(failure)
            results = [(future, None, error) for _, _, future in wanted]
        else:
            for job_id, principal, future in wanted:
                job = found.get(job_id)
                if job is None or (principal is not None and job.principal != principal):
                    results.append((future, None, JobNotFound(job_id)))
                else:
                    results.append((future, job, None))
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._deliver_gets, results)

    def _tell(self, results: list[_Told]) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._deliver, results)

    # And this on the event loop again.

    def _deliver_gets(self, results: list[_Told]) -> None:
        self._gathering.returned(len(results), len(self._gets))
        self._deliver(results)

    def _deliver(self, results: list[_Told]) -> None:
        self._waiting -= len(results)
        for future, value, error in results:
            if future.cancelled():
                continue
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)


def _read(reader: Reader, read: Callable[[Reader], T]) -> T:
    try:
        return read(reader)
    except ConnectionLost:
        # It may have broken while nobody used it. A read changes nothing, so it is begun anew on the next connection.
        return read(reader)


def _explained(failure: Exception) -> Exception:
    if isinstance(failure, StoreUnreachable):
        log.error("the store cannot be read", extra={"cause": str(failure)})
        return StoreUnavailable("the store cannot be read just now", _RETRY_DELAY_S)
    return failure
