"""The queue between the event loop and the thread that writes, and its limits."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from jobstate_server.domain.commands import Acquire, Command
from jobstate_server.domain.errors import JobStateError
from jobstate_server.domain.job import Job
from jobstate_server.engine.fair_queue import FairQueue
from jobstate_server.engine.outcomes import Outcome, Verdict
from jobstate_server.engine.parked_acquires import WaitingAcquire
from jobstate_server.store.base import Store, Transaction

BATCH_ROWS_MAX = 1_024
"""Commands of one transaction, about as many as one BatchCreate has. A commit of 512 takes a tenth more per row. With
2,048 it is no cheaper, and the first command waits longer for the last."""

BATCH_BYTES_MAX = 4 * 1024 * 1024
"""Request bytes of one transaction, so that large metadata cannot make a commit slow for the other commands."""

BYTES_OF_ROW = BATCH_BYTES_MAX // BATCH_ROWS_MAX
"""Bytes of a request that cost as much to write as a row."""

LARGE_BYTES = 1024 * 1024
"""A call with more bytes counts as one, not by its rows, in ``waiting``. So the thread does not get it before it needs
it, and the others that arrive until then come first. The pause between two batches is short beside such a one."""

QUEUE_ROWS_MAX = 8_192
"""Commands that may wait: half a second of work. A caller that would wait longer gets an error at once instead."""

QUEUE_BYTES_MAX = 32 * 1024 * 1024
"""Request bytes that may wait: the memory that the queue may take."""


class QueuedCommands:
    """Commands and the future of the call that waits for them."""

    __slots__ = ("commands", "future", "is_many", "rows", "since", "size")

    def __init__(
        self,
        commands: Sequence[Command],
        future: asyncio.Future[Any],
        rows: int,
        size: int,
        since: int,
        is_many: bool,
    ) -> None:
        # One is made for every call. Arguments by name would take three times as long.
        self.commands = commands
        self.future = future
        self.rows = rows
        self.size = size
        self.since = since
        """The turn of the watchdog in which they were queued."""
        self.is_many = is_many
        """Whether the call waits for a list of verdicts."""

    @property
    def waiting(self) -> int:
        """How much it adds to what waits."""
        return self.rows if self.size <= LARGE_BYTES else 1

    @property
    def weight(self) -> int:
        """How many rows they may change, for the limit of a batch."""
        return self.rows

    def resolve(self, verdicts: Iterator[Verdict]) -> Sequence[Job]:
        """Take the next verdicts, which belong to these commands, and give them to the call.

        Returns jobs that were handed out and cannot be delivered, because nobody waits for the answer any more.

        Raises:
            StopIteration: there are too few, which only a defect can cause. The call gets nothing.
        """
        own = [next(verdicts) for _ in self.commands] if self.is_many else next(verdicts)
        if not self.future.done():
            resolve(self.future, own)
            return ()
        return undelivered_jobs(self.commands, own if isinstance(own, list) else [own])

    def fail(self, error: JobStateError) -> None:
        """Answer with an error that says that the outcome of these commands is unknown."""
        if not self.future.done():
            resolve(self.future, [error] * len(self.commands) if self.is_many else error)


class QueuedAcquire(QueuedCommands):
    """A call of Acquire that may wait."""

    __slots__ = ("call",)

    def __init__(self, call: WaitingAcquire, size: int, since: int) -> None:
        QueuedCommands.__init__(self, (call.command,), call.future, 1, size, since, False)
        self.call = call

    @property
    def weight(self) -> int:
        return self.call.command.max_jobs

    def resolve(self, verdicts: Iterator[Verdict]) -> Sequence[Job]:
        verdict = next(verdicts)
        # A call that waits is answered by the batch that has jobs for it, which may have been this one.
        return () if self.call.number else self.call.finish(verdict)


class QueuedWork:
    """Work in a transaction of its own: what maintenance does in the store besides commands."""

    __slots__ = ("future", "run", "run_apart")

    waiting = 1

    def __init__(
        self,
        run: Callable[[Transaction], Any],
        future: asyncio.Future[Any],
        run_apart: Callable[[Store], Any] | None = None,
    ) -> None:
        self.run = run
        self.future = future
        self.run_apart = run_apart
        """Run instead of ``run``, while there is no transaction. None for work in one."""

    def done(self, in_transaction: Callable[[Callable[[Transaction], Any]], Any], store: Store) -> Any:
        """Do it, on the committer's thread. Returns what it returns, or the error that was raised."""
        if self.run_apart is None:
            return in_transaction(self.run)
        try:
            return self.run_apart(store)
        except Exception as error:
            return error


QueuedWrite = QueuedCommands | QueuedWork


@dataclass(slots=True)
class WriteBatch:
    """A batch for the thread: one transaction of commands, and optionally some work in another one."""

    commands: list[QueuedCommands] = field(default_factory=list)
    rows: int = 0
    """Rows of the commands."""
    size: int = 0
    """Bytes of their requests."""
    work: QueuedWork | None = None
    since: int = 0
    """The turn of the watchdog in which the thread could begin it."""


class WriteQueue:
    """What waits to be written, within limits, and fair between connections. Call it on the event loop's thread."""

    def __init__(self) -> None:
        self.rows = 0
        """Rows of commands that wait or are being written."""
        self.waiting = 0
        """What the thread does not have yet: rows of commands, large calls and pieces of work."""
        self.size = 0
        self._work = 0
        """Pieces of work that wait or are being done."""
        self._queued: FairQueue[QueuedWrite] = FairQueue()
        self._waiting_for_room: deque[asyncio.Future[None]] = deque()

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits and nothing is being written."""
        return not (self.rows or self._work)

    @property
    def queued_commands(self) -> list[QueuedCommands]:
        """The commands that the thread does not have yet."""
        return [item for item in self._queued if isinstance(item, QueuedCommands)]

    def has_room(self, rows: int, size: int, share: float) -> bool:
        """Whether this much more fits into this share of the queue."""
        has_rows = self.rows + rows <= QUEUE_ROWS_MAX * share
        return has_rows and self.size + size <= QUEUE_BYTES_MAX * share

    async def room(self) -> None:
        """Wait until something has been written, which makes room."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting_for_room.append(future)
        await future

    def put(self, item: QueuedWrite, connection: str) -> None:
        """Add to the queue, whether or not there is room. ``connection``: of the caller. Empty for the server's own."""
        self.waiting += item.waiting
        if isinstance(item, QueuedWork):
            self._work += 1
            self._queued.put(item, connection, 1)
        else:
            self.rows += item.rows
            self.size += item.size
            self._queued.put(item, connection, item.rows + item.size // BYTES_OF_ROW)

    def take(self) -> WriteBatch:
        """Take the next batch."""
        batch = WriteBatch()
        weight = 0
        while self._queued and batch.work is None:
            item = self._queued.first
            if isinstance(item, QueuedWork):
                batch.work = item
            else:
                size = batch.size + item.size
                weight += item.weight
                if batch.commands and (weight > BATCH_ROWS_MAX or size > BATCH_BYTES_MAX):
                    break
                batch.commands.append(item)
                batch.rows, batch.size = batch.rows + item.rows, size
            self._queued.take()
            self.waiting -= item.waiting
        return batch

    def done(self, batch: WriteBatch) -> int:
        """The thread has written this batch: release its room. Returns the number of its commands and work."""
        work = int(batch.work is not None)
        self.rows -= batch.rows
        self._work -= work
        self.size -= batch.size
        return batch.rows + work

    def notify_waiting(self) -> None:
        """Wake the calls that wait for room, so that they check again."""
        while self._waiting_for_room:
            waiting = self._waiting_for_room.popleft()
            if not waiting.done():
                waiting.set_result(None)


def undelivered_jobs(commands: Sequence[Command], verdicts: Sequence[Verdict]) -> list[Job]:
    """The jobs that these commands were handed, except those that are kept for a repeat."""
    return [
        job
        for command, verdict in zip(commands, verdicts, strict=True)
        if type(command) is Acquire and command.request is None and isinstance(verdict, Outcome)
        for job in verdict.jobs
    ]


def resolve(future: asyncio.Future[Any], value: Any) -> None:
    """Set the result, or the error, of a future that is not done."""
    if isinstance(value, Exception):
        future.set_exception(value)
    else:
        future.set_result(value)
