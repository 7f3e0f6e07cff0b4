"""The committer: the only writer of the process. It writes many commands in one durable transaction.

Calls put commands into a bounded queue and wait. A thread takes a batch from the queue, decides its commands in order,
writes once, and wakes the event loop once for all of them. While one batch is written, the next one gathers.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from jobstate_server.clock import Clock
from jobstate_server.domain.caller import SERVER
from jobstate_server.domain.commands import Acquire, Command, ReturnUndelivered
from jobstate_server.domain.durations import MINUTE
from jobstate_server.domain.errors import Draining, Overloaded
from jobstate_server.domain.job import Job
from jobstate_server.domain.rules.decider import Decider
from jobstate_server.engine.batching import Batcher
from jobstate_server.engine.outcomes import Outcome, Verdict
from jobstate_server.engine.parked_acquires import ParkedAcquires, WaitingAcquire
from jobstate_server.engine.store_state import StoreState
from jobstate_server.engine.subscribers import Subscribers
from jobstate_server.engine.write_queue import (
    BATCH_ROWS_MAX,
    QueuedAcquire,
    QueuedCommands,
    QueuedWork,
    QueuedWrite,
    WriteBatch,
    WriteQueue,
    resolve,
)
from jobstate_server.engine.writer import (
    REQUEST_IDS_MAX,
    RETRY_DELAY_S,
    Counters,
    Writer,
    Written,
    unanswered,
    unavailable,
)
from jobstate_server.store.base import Store, Transaction
from jobstate_server.store.errors import StoreUnreachable
from jobstate_server.store.records import StoredEvent

log = logging.getLogger(__name__)

PROGRESS_SHARE = 0.9
"""Progress reports may fill this share of the queue. The rest is reserved for changes of state."""

STREAM_SHARE = 0.5
"""Streams may fill this share of the queue: they can wait, while a unary call can only be refused."""

WAIT_TURNS_MAX = 30
"""Seconds that a caller waits for a store that does not answer, and is then told that the outcome is unknown."""

DISCONNECT_TURNS = 15
"""Seconds after which the connection that a commit waits for is closed, if the store has connections."""

STOP_WAIT_S = 1.0
"""How long a stop waits for one commit, which takes milliseconds: a store that does not answer must not delay it."""

LATENCIES_RECENT = 10 * MINUTE
"""How long a commit counts in ``commit_seconds``."""

T = TypeVar("T")


class Committer:
    """Writes commands. Call its methods on the event loop's thread."""

    events_written: Subscribers[[Sequence[StoredEvent]]]
    """Notified of events once they are durable, in the order of sequences, before their calls are answered."""
    due_written: Subscribers[[int]]
    """Notified of the earliest due time that a commit has written."""
    hand_out_opens: Subscribers[[int]]
    """Notified of the time at which a rate or hold will allow a hand-out for which a call of Acquire waits."""
    hand_out_unfinished: Subscribers[[]]
    """Notified when more jobs may be ready for the calls of Acquire that wait."""

    def __init__(
        self,
        store: Store,
        decider: Decider,
        clock: Clock,
        *,
        restart_grace: int,
        request_ids_max: int = REQUEST_IDS_MAX,
        replica: str = "",
        is_shared: bool = False,
    ) -> None:
        """
        Args:
            restart_grace: microseconds by which limits are postponed at most after a time in which no server ran.
            request_ids_max: how many request ids may be stored.
            replica: the name under which this server renews its lease.
            is_shared: whether other servers use the store too.
        """
        self.store_state = StoreState(clock, lambda: self.run(lambda store: store.probe()), self._fail_delivery)
        self.events_written = Subscribers(self._fail_delivery)
        self.due_written = Subscribers(self._fail_delivery)
        self.hand_out_unfinished = Subscribers(self._fail_delivery)
        self.hand_out_opens = Subscribers(self._fail_delivery)
        self.parked = ParkedAcquires()
        self._writer = Writer(
            store,
            decider,
            clock,
            restart_grace=restart_grace,
            request_ids_max=request_ids_max,
            replica=replica,
            is_shared=is_shared,
            parked=self.parked,
        )
        self._store = store
        self._clock = clock
        self._queue = WriteQueue()
        self._batches: queue.SimpleQueue[WriteBatch | None] = queue.SimpleQueue()
        """Gives batches to the thread. None ends it."""
        self._under_way: deque[WriteBatch] = deque()
        """The batches that the thread has: the current one and at most the next."""
        self._turn = 0
        self._commits_seen = 0
        self._delivery_failed = False
        """Whether results could not be delivered. The process must then end."""
        self._batcher = Batcher(self._hand_over, BATCH_ROWS_MAX)
        self._idle = asyncio.Event()
        self._idle.set()
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="committer", daemon=True)

    @property
    def backlog(self) -> int:
        """Commands that wait or are being committed."""
        return self._queue.rows

    @property
    def backlog_bytes(self) -> int:
        """Bytes of their requests."""
        return self._queue.size

    @property
    def counters(self) -> Counters:
        """Counts since the process started."""
        return self._writer.counters

    @property
    def dead(self) -> list[str]:
        """The thread if it has ended without a stop, or the delivery of results if that has failed."""
        if self._delivery_failed:
            return ["delivery"]
        is_running = self._thread.ident is None or self._thread.is_alive() or self._stopping
        return [] if is_running else [self._thread.name]

    @property
    def silence(self) -> int:
        """For how many seconds, in which this process ran, the store has not answered."""
        return self._turn - self._under_way[0].since if self._under_way else 0

    def turn(self) -> None:
        """Refuse calls that have waited too long. The watchdog calls it each second in which this process runs."""
        self._turn += 1
        self.store_state.turn()
        if self.silence and self.silence % DISCONNECT_TURNS == 0:
            self._store.disconnect()
        for item in self._waiting_for_store():
            if self._turn - item.since > WAIT_TURNS_MAX:
                item.fail(unanswered(WAIT_TURNS_MAX))

    def _waiting_for_store(self) -> list[QueuedCommands]:
        return [item for batch in self._under_way for item in batch.commands] + self._queue.queued_commands

    @property
    def commit_seconds(self) -> Iterable[float]:
        """The durations of the latest commits: at most 1,000, none older than ``LATENCIES_RECENT``."""
        since = self._clock.monotonic() - LATENCIES_RECENT
        return tuple(seconds for ended, seconds in tuple(self._writer.commit_seconds) if ended > since)

    @property
    def requests_surplus(self) -> int:
        """How many more request ids are stored than ``request_ids_max`` allows. Negative while there is room."""
        return self._writer.requests_surplus

    @property
    def grace_until(self) -> int:
        """Until when this server has postponed limits because of a pause."""
        return self._writer.grace_until

    def start(self) -> None:
        """Start the thread. Results are delivered on the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def submit(self, command: Command, size: int, connection: str = "") -> asyncio.Future[Outcome]:
        """Commit a command.

        Args:
            size: bytes of the request, for the limits of the queue.
            connection: on which it arrived. The queue is fair between connections.

        The future resolves when the change is durable, or raises the refusal. If it is cancelled before the thread
        takes the command, the command is dropped; otherwise it is carried out completely.

        Raises:
            Overloaded: the queue is full. Nothing was begun.
            Draining: the server is stopping.
        """
        rows = command.rows
        if not self._queue.has_room(rows, size, PROGRESS_SHARE if command.is_report else 1.0):
            raise Overloaded("too many changes are waiting to be written; repeat the call later", RETRY_DELAY_S)
        return self._enqueue((command,), rows, size, connection, is_many=False)

    async def submit_many(
        self, commands: Sequence[Command], size: int, connection: str = ""
    ) -> asyncio.Future[list[Verdict]]:
        """Commit several commands in order, after there is room for them in the queue.

        The future resolves to the verdict of each command when all are durable. They are not one transaction: each may
        be refused alone. There are at most as many commands as in a batch of the contract, so an empty queue has room.

        Raises:
            Draining: the server is stopping.
        """
        while self._queue.rows and not self._queue.has_room(len(commands), size, STREAM_SHARE) and not self._stopping:
            await self._queue.room()
        return self._enqueue(commands, len(commands), size, connection, is_many=True)

    def submit_acquire(
        self, command: Acquire, size: int, otherwise: Verdict | None = None, connection: str = ""
    ) -> WaitingAcquire:
        """Commit an Acquire. Its future resolves as that of ``submit``.

        Args:
            otherwise: the answer if it finds nothing. None lets it wait until ``parked.withdraw`` ends the wait.

        Raises:
            Overloaded, Draining
        """
        if not self._queue.has_room(1, size, 1.0):
            raise Overloaded("too many changes are waiting to be written; repeat the call later", RETRY_DELAY_S)
        call = WaitingAcquire(command, self._future(), otherwise)
        self._put(QueuedAcquire(call, size=size, since=self._turn), connection)
        return call

    def return_undelivered(self, jobs: Sequence[Job]) -> None:
        """Release jobs that were handed out to a caller who did not get them."""
        if not jobs or self._stopping:
            # Without a commit, their leases end.
            return
        commands = [ReturnUndelivered(job_id=job.id, caller=SERVER, attempt=job.attempt) for job in jobs]
        self._enqueue(commands, len(commands), 0, "", is_many=True)

    def submit_own(self, command: Command) -> asyncio.Future[Outcome]:
        """Commit a command of the server. It is never refused as overloaded: its parts limit how many they submit."""
        return self._enqueue((command,), 1, 0, "", is_many=False)

    def _enqueue(
        self, commands: Sequence[Command], rows: int, size: int, connection: str, *, is_many: bool
    ) -> asyncio.Future[Any]:
        self._put(QueuedCommands(commands, future := self._future(), rows, size, self._turn, is_many), connection)
        return future

    def run(self, work: Callable[[Transaction], T]) -> asyncio.Future[T]:
        """Run ``work`` in a transaction of its own. It should not take more than about 20 ms."""
        self._put(QueuedWork(work, future := self._future()), "")
        return future

    def run_apart(self, work: Callable[[Store], T]) -> asyncio.Future[T]:
        """Run ``work`` between two transactions, by itself. It should not take more than about 20 ms."""
        self._put(QueuedWork(lambda _: None, future := self._future(), work), "")
        return future

    def probe(self) -> asyncio.Future[None]:
        """Run a transaction that changes nothing. It fails like any change if the store is unreachable."""
        return self.run(lambda transaction: transaction.check())

    def _future(self) -> asyncio.Future[Any]:
        if self._stopping:
            raise Draining(RETRY_DELAY_S)
        assert self._loop is not None
        return self._loop.create_future()

    async def stop(self) -> bool:
        """Refuse new commands, commit the waiting ones and end the thread.

        False if the store does not answer. The callers then got an error, and the thread is still busy.
        """
        self._stopping = True
        self.store_state.stop()
        while not await self._becomes_idle():
            if not self.counters.commits > self._commits_seen:
                log.error("stopping although the store does not answer")
                for item in self._waiting_for_store():
                    item.fail(unanswered(self.silence))
                return False
        self._batches.put(None)
        await asyncio.to_thread(self._thread.join)
        return True

    async def _becomes_idle(self) -> bool:
        self._commits_seen = self.counters.commits
        idle = asyncio.ensure_future(self._idle.wait())
        await asyncio.wait((idle,), timeout=STOP_WAIT_S)
        idle.cancel()
        return self._idle.is_set()

    def _put(self, item: QueuedWrite, connection: str) -> None:
        self._queue.put(item, connection)
        self._idle.clear()
        self._batcher.arrived(self._queue.waiting)

    def _hand_over(self) -> None:
        try:
            batch = self._queue.take()
        except Exception:
            self._fail_delivery()
            return
        batch.since = self._turn
        self._under_way.append(batch)
        self._batches.put(batch)

    def _run(self) -> None:
        try:
            self._serve()
        except BaseException:
            # The watchdog only notices that the thread has ended; the reason must be logged here.
            log.exception("the committer's thread has died")

    def _serve(self) -> None:
        """Carry out batches, on the thread."""
        while (batch := self._batches.get()) is not None:
            # Cancelled commands are dropped here. The others are carried out, even if they are cancelled later.
            wanted = [item for item in batch.commands if not item.future.done()]
            calls = [item.call for item in wanted if isinstance(item, QueuedAcquire)]
            written = self._writer.commit([command for item in wanted for command in item.commands], calls)
            result = None if batch.work is None else batch.work.done(self._writer.work, self._store)
            assert self._loop is not None
            self._loop.call_soon_threadsafe(self._deliver, batch, wanted, written, result)

    def _deliver(self, batch: WriteBatch, wanted: Sequence[QueuedCommands], written: Written, result: Any) -> None:
        """Deliver the results, on the event loop. After a failure here this process is unfit to serve."""
        try:
            self._deliver_results(batch, wanted, written, result)
        except Exception:
            self._fail_delivery()

    def _deliver_results(
        self, batch: WriteBatch, wanted: Sequence[QueuedCommands], written: Written, result: Any
    ) -> None:
        self._batch_done(batch)
        if wanted:
            self.store_state.note(written.problem)
        if written.events and not self._delivery_failed:
            self.events_written.notify(written.events)
        verdicts = iter(written.verdicts)
        for item in wanted:
            try:
                self.return_undelivered(item.resolve(verdicts))
            except Exception:
                self._fail_delivery()
        for call, verdict in written.handed:
            self.return_undelivered(call.finish(verdict))
        if written.is_unfinished:
            self.hand_out_unfinished.notify()
        if written.opens is not None:
            self.hand_out_opens.notify(written.opens)
        if batch.work is not None:
            self._deliver_work(batch.work, result)
        if written.earliest_due is not None:
            self.due_written.notify(written.earliest_due)
        self._queue.notify_waiting()

    def _batch_done(self, batch: WriteBatch) -> None:
        """The thread has done this batch: release its room, and start the next."""
        self._under_way.popleft()
        if self._under_way:
            self._under_way[0].since = self._turn
        rows = self._queue.done(batch)
        if self._queue.is_empty:
            self._idle.set()
        self._batcher.returned(rows, self._queue.waiting)

    def _fail_delivery(self) -> None:
        """Note a defect that makes this process unfit. The watchdog ends it."""
        self._delivery_failed = True
        log.exception("a batch or its results could not be delivered")

    def _deliver_work(self, work: QueuedWork, result: Any) -> None:
        is_unreachable = isinstance(result, StoreUnreachable)
        if is_unreachable:
            self.store_state.note(str(result))
        if not work.future.done():
            resolve(work.future, unavailable(result) if is_unreachable else result)
