"""Reads outside the event loop: a few threads, each with a reader. Gets that wait together are read together.

The caller limits the rows of a read. Here its time is limited: a call that has waited or read for too long gets an
error. A read for which no caller waits any more is dropped, or interrupted if it has begun.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

from jobstate_server.domain.errors import Draining, InternalError, JobNotFound, Overloaded, StoreUnavailable
from jobstate_server.domain.groups import Group
from jobstate_server.domain.job import Job
from jobstate_server.domain.reach import EVERYTHING, Reach
from jobstate_server.engine.batching import Batcher
from jobstate_server.engine.read_queue import QueuedRead, ReadQueue
from jobstate_server.store.base import Reader, Store
from jobstate_server.store.errors import ConnectionLost, ReadInterrupted, StoreError, StoreUnreachable
from jobstate_server.store.records import LogState

log = logging.getLogger(__name__)

READER_THREADS = 2
"""One may read a long page while the other answers Gets. More threads would only compete for the interpreter."""

READS_WAITING_MAX = 4_096
"""Reads that may wait: some tenths of a second of work."""

GETS_AT_ONCE_MAX = 256
"""Jobs that one statement reads."""

WAIT_TURNS_MAX = 30
"""Seconds that a caller waits for the store. The caller then gets an error."""

READ_TURNS_MAX = 10
"""Seconds that one read may take. The largest page takes a tenth of a second; longer reads delay all others."""

DISCONNECT_TURNS = 15
"""Seconds after which the connection that a read waits for is closed, if the store has connections."""

STOP_WAIT_S = 0.1
"""How long a stop waits for a thread before it interrupts it again."""

STOP_TRIES_MAX = 5
"""How often a stop interrupts the threads. A store that does not answer must not delay it further."""

_RETRY_DELAY_S = 0.5

T = TypeVar("T")


class FoundJob(NamedTuple):
    """A job that was read."""

    job: Job
    group: Group | None = None
    """The counts of one that is a group."""


_Get = tuple[str, Reach, asyncio.Future[FoundJob], int]
"""The job's id, the caller's reach, the future of the answer, and the turn in which it was queued."""


class Readers:
    """Runs reads for the event loop. Call its methods on the event loop's thread."""

    def __init__(self, store: Store, threads: int = READER_THREADS, name: str = "reader") -> None:
        """``name``: the prefix of the threads' names."""
        self._store = store
        self._name = name
        self._queue = ReadQueue(threads)
        self._gets: deque[_Get] = deque()
        self._batcher = Batcher(self._hand_over_gets, GETS_AT_ONCE_MAX)
        self._waiting = 0
        self._turn = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self._running: dict[Reader, QueuedRead] = {}
        """The current read of each thread."""
        self.store_problem: str | None = None
        """Why the last read could not read the store, as a sentence. None if it could."""
        self._threads = [self._thread(index) for index in range(threads)]

    def _thread(self, index: int) -> threading.Thread:
        return threading.Thread(target=self._run, name=f"{self._name}-{index}", daemon=True)

    def start(self) -> None:
        """Start the threads. Results are delivered on the running event loop."""
        self._loop = asyncio.get_running_loop()
        for thread in self._threads:
            thread.start()

    async def stop(self) -> bool:
        """Refuse the waiting reads, interrupt the current ones and end the threads.

        False if the store does not answer, so that a thread is still reading.
        """
        for read in self._queue.close():
            read.fail(Draining(_RETRY_DELAY_S))
        for _ in range(STOP_TRIES_MAX):
            # Repeated, because an interrupt between two statements has no effect.
            self._interrupt(lambda read: True)
            for thread in self._threads:
                await asyncio.to_thread(thread.join, STOP_WAIT_S)
            if not any(thread.is_alive() for thread in self._threads):
                return True
        return False

    def turn(self) -> None:
        """A second has passed in which this process ran: end reads that have waited or run for too long.

        Called by the watchdog, so that time in which the process was frozen does not count.
        """
        self._turn += 1
        self._drop_gets()
        for read in self._queue.drop(lambda read: not read.is_wanted or self._turn - read.since > WAIT_TURNS_MAX):
            self._refuse(read, _unanswered())
        self._interrupt(lambda read: not read.is_wanted or self._turn - read.since > READ_TURNS_MAX)
        self._disconnect_silent()
        with self._lock:
            stuck = [read for read in self._running.values() if self._turn - read.since > WAIT_TURNS_MAX]
        for read in stuck:
            # The thread cannot be ended from here, but its callers need not wait for it.
            read.fail(_unanswered())

    def _refuse(self, read: QueuedRead, error: Exception) -> None:
        """Refuse a read that no thread has begun."""
        self._ended(read)
        read.fail(error)

    def _ended(self, read: QueuedRead) -> None:
        """Release the room of the read. After a batch of Gets the next one may start."""
        self._waiting -= len(read.futures)
        if read.is_batch:
            self._batcher.returned(len(read.futures), len(self._gets))

    def _interrupt(self, is_over: Callable[[QueuedRead], bool]) -> None:
        with self._lock:
            for reader, read in self._running.items():
                if is_over(read):
                    reader.interrupt()

    def _disconnect_silent(self) -> None:
        """Close connections that have not answered for long."""
        with self._lock:
            for reader, read in self._running.items():
                if (age := self._turn - read.since) and age % DISCONNECT_TURNS == 0:
                    reader.disconnect()

    @property
    def silence(self) -> int:
        """For how many seconds, in which this process ran, the store has not answered a read of a few rows."""
        with self._lock:
            return max((self._turn - read.since for read in self._running.values() if read.is_short), default=0)

    @property
    def dead(self) -> list[str]:
        """The names of threads that have ended without a stop."""
        return [thread.name for thread in self._threads if thread.ident is not None and not thread.is_alive()]

    def restart(self) -> None:
        """Replace every thread that has died."""
        for index, thread in enumerate(self._threads):
            if thread.ident is not None and not thread.is_alive():
                self._threads[index] = self._thread(index)
                self._threads[index].start()

    def run(self, read: Callable[[Reader], T], *, is_short: bool = False) -> asyncio.Future[T]:
        """Run ``read`` on a thread. Cancelling the future drops the read, or interrupts it.

        Args:
            is_short: it reads a few rows by their keys. Such reads do not wait behind pages and sums.

        Raises (also through the future):
            Overloaded: too many reads are waiting, or this one took too long.
            StoreUnavailable: the store cannot be read at the moment.
        """
        future: asyncio.Future[T] = self._admit()
        self._queue.put(QueuedRead(lambda reader: (read(reader),), (future,), is_short, False, self._turn))
        return future

    def probe(self) -> asyncio.Future[LogState]:
        """Read one row. It fails like any read if the store cannot be read."""
        return self.run(lambda reader: reader.log_state(), is_short=True)

    def get(self, job_id: str, reach: Reach = EVERYTHING) -> asyncio.Future[FoundJob]:
        """One job, read in one batch with the other waiting Gets. Raises JobNotFound and what ``run`` raises."""
        future: asyncio.Future[FoundJob] = self._admit()
        self._gets.append((job_id, reach, future, self._turn))
        self._batcher.arrived(len(self._gets))
        return future

    def _hand_over_gets(self) -> None:
        wanted = [self._gets.popleft() for _ in range(min(len(self._gets), GETS_AT_ONCE_MAX))]
        futures = [get[2] for get in wanted]
        read = QueuedRead(lambda reader: _read_jobs(reader, wanted), futures, True, True, self._turn)
        try:
            self._queue.put(read)
        except Exception as error:
            self._refuse(read, _unforeseen(error))

    def _drop_gets(self) -> None:
        """End queued Gets that have waited too long or whose caller no longer waits."""
        remaining: deque[_Get] = deque()
        for get in self._gets:
            _, _, future, since = get
            if not future.done() and self._turn - since <= WAIT_TURNS_MAX:
                remaining.append(get)
                continue
            self._waiting -= 1
            if not future.done():
                future.set_exception(_unanswered())
        self._gets = remaining

    def _admit(self) -> asyncio.Future[Any]:
        if self._waiting >= READS_WAITING_MAX:
            raise Overloaded("too many reads are waiting; repeat the call later", _RETRY_DELAY_S)
        assert self._loop is not None
        future: asyncio.Future[Any] = self._loop.create_future()
        self._waiting += 1
        return future

    def _deliver(self, read: QueuedRead, results: Sequence[Any]) -> None:
        self._ended(read)
        try:
            read.resolve(results)
        except Exception as error:
            read.fail(_unforeseen(error))

    # The methods below run on the readers' threads.

    def _run(self) -> None:
        reader = self._store.open_reader()
        try:
            while (read := self._queue.take()) is not None:
                self._serve(reader, read)
        except BaseException:
            # The watchdog only notices that the thread has ended; the reason must be logged here.
            log.exception("a reader's thread has died")
        finally:
            reader.close()

    def _serve(self, reader: Reader, read: QueuedRead) -> None:
        results: Sequence[Any] = [InternalError(secrets.token_hex(8))] * len(read.futures)
        try:
            results = self._results(reader, read)
        finally:
            self._queue.done(read)
            assert self._loop is not None
            with suppress(RuntimeError):
                # RuntimeError: the loop is closed, because the server did not wait for a store that did not answer.
                self._loop.call_soon_threadsafe(self._deliver, read, results)

    def _results(self, reader: Reader, read: QueuedRead) -> Sequence[Any]:
        with self._lock:
            reader.resume()
            read.since = self._turn
            self._running[reader] = read
        try:
            results = _read(reader, read.run)
        except Exception as failure:
            if isinstance(failure, StoreError) and not isinstance(failure, ReadInterrupted):
                self.store_problem = f"the store cannot be read: {failure}"
            return [_explained(failure)] * len(read.futures)
        else:
            self.store_problem = None
            return results
        finally:
            with self._lock:
                del self._running[reader]


def _read(reader: Reader, read: Callable[[Reader], T]) -> T:
    try:
        return read(reader)
    except ConnectionLost:
        # The connection may have broken while it was idle. A read changes nothing, so it is repeated on a new one.
        return read(reader)


def _read_jobs(reader: Reader, wanted: Sequence[_Get]) -> list[FoundJob | JobNotFound]:
    found = reader.jobs({get[0] for get in wanted})
    groups = reader.group_counts(found.values())
    return [_visible(found.get(job_id), job_id, reach, groups) for job_id, reach, _, _ in wanted]


def _visible(job: Job | None, job_id: str, reach: Reach, groups: Mapping[str, Group]) -> FoundJob | JobNotFound:
    if job is None or not (reach is EVERYTHING or reach.admits(job.job_type, job.source_id)):
        return JobNotFound(job_id)
    return FoundJob(job, groups.get(job_id))


def _unanswered() -> StoreUnavailable:
    return StoreUnavailable(f"the store has not answered for {WAIT_TURNS_MAX} s", _RETRY_DELAY_S)


def _unforeseen(error: Exception) -> InternalError:
    """What callers get whose read failed on its way to a thread or back. The others are served on."""
    call_id = secrets.token_hex(8)
    log.error("a read could not be delivered", exc_info=error, extra={"call_id": call_id})
    return InternalError(call_id)


def _explained(failure: Exception) -> Exception:
    if isinstance(failure, ReadInterrupted):
        return Overloaded(f"the read took longer than {READ_TURNS_MAX} s; ask for less at once", _RETRY_DELAY_S)
    if isinstance(failure, StoreUnreachable):
        log.error("the store cannot be read", extra={"cause": str(failure)})
        return StoreUnavailable("the store cannot be read at the moment", _RETRY_DELAY_S)
    return failure
