"""The committer: the process's only way to write. Many commands become one durable transaction.

Calls put commands into a bounded queue and wait. A thread takes what has gathered, decides the commands in order,
writes once, and wakes the event loop once for all of them: while one batch is being made durable, the next one gathers.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from jobstate_server.clock import Clock
from jobstate_server.domain.commands import BatchCreate, Command, UpdateProgress
from jobstate_server.domain.decide import Decider
from jobstate_server.domain.durations import MINUTE, SECOND
from jobstate_server.domain.errors import Draining, Overloaded
from jobstate_server.engine.batch import Outcome, Verdict
from jobstate_server.engine.batching import Batcher
from jobstate_server.engine.pending import DUE_CHECK, Handed, Item, Pending, Work, settle
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

BATCH_ROWS_MAX = 512
"""Commands of one transaction. Beyond this a commit is no cheaper per row, and the first waits for the last."""

BATCH_BYTES_MAX = 4 * 1024 * 1024
"""Request bytes of one transaction, so that large metadata cannot make a commit slow for its neighbours."""

QUEUE_ROWS_MAX = 8_192
"""Commands waiting: half a second of work. A caller who would wait longer is better told so."""

QUEUE_BYTES_MAX = 32 * 1024 * 1024
"""Request bytes waiting: what the queue may cost in memory."""

PROGRESS_SHARE = 0.9
"""Progress reports may fill the queue to this share; the rest is kept for changes of state."""

STREAM_SHARE = 0.5
"""Streams may fill the queue to this share: they can wait, a unary call can only be refused."""

WAIT_TURNS_MAX = 30
"""Seconds that a caller waits for a store that does not answer; whether the change is made they can then not know."""

HANG_UP_TURNS = 15
"""Seconds after which the connection that a commit waits on is ended, where the store is at the end of one."""

STOP_WAIT_S = 1.0
"""How long a stop waits for one commit, which takes milliseconds. A store that does not answer must not hold it up."""

LATENCIES_RECENT = 10 * MINUTE
"""How long a slow commit is held against the store."""

PROBE_INTERVAL = 2 * SECOND
"""How often a store that could not be written is tried again while nobody calls."""

T = TypeVar("T")


class Published(Protocol):
    """Whoever is told of events once they are durable."""

    def publish(self, events: Sequence[StoredEvent]) -> None:
        """Called on the event loop, in the order of sequences, before any of the calls that made them is answered."""


class Committer:
    """Has commands written. Its methods belong on the event loop's thread."""

    def __init__(
        self,
        store: Store,
        decider: Decider,
        clock: Clock,
        published: Published,
        *,
        restart_grace: int,
        request_ids_max: int = REQUEST_IDS_MAX,
        replica: str = "",
    ) -> None:
        """
        Args:
            restart_grace: microseconds by which limits that passed while the store was not served are put off at most.
            request_ids_max: how many request ids may be stored.
            replica: the name under which this server makes itself heard to others.
        """
        self.store_reachable = True
        self.store_problem = ""
        """Why the store cannot be used, empty while it can."""
        self.on_reachable: Callable[[bool], None] = lambda reachable: None
        """Told when the store can no longer be written and when it can again."""
        self.on_due: Callable[[int | None, int | None], None] = lambda next_due, served: None
        """Told the earliest due time a commit has written and how many due jobs it served."""
        self._writer = Writer(
            store,
            decider,
            clock,
            restart_grace=restart_grace,
            request_ids_max=request_ids_max,
            replica=replica,
        )
        self._store = store
        self._clock = clock
        self._published = published
        self._gathered: deque[Item] = deque()
        self._handed: queue.SimpleQueue[Handed | None] = queue.SimpleQueue()
        self._in_hand: deque[Handed] = deque()
        """What the thread was given and has not returned: the batch it works on and, at the most, the next."""
        self._turn = 0
        self._commits_seen = 0
        self._broken = ""
        """What of this part failed beyond mending, if anything did."""
        self._batcher = Batcher(self._hand_over, BATCH_ROWS_MAX)
        self._idle = asyncio.Event()
        self._idle.set()
        self._rows_waiting = 0
        self._bytes_waiting = 0
        self._rows_gathered = 0
        """Of the rows that wait, those that the thread has not been given."""
        self._wanting_room: deque[asyncio.Future[None]] = deque()
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="committer", daemon=True)

    @property
    def backlog(self) -> int:
        """Commands waiting or being committed."""
        return self._rows_waiting

    @property
    def counters(self) -> Counters:
        """What has been done since the process began."""
        return self._writer.counters

    @property
    def dead(self) -> list[str]:
        """The thread, once it has ended though nobody told it to, or what gives its results to callers."""
        if self._broken:
            return [self._broken]
        has_died = self._thread.ident is not None and not self._thread.is_alive() and not self._stopping
        return [self._thread.name] if has_died else []

    @property
    def silence(self) -> int:
        """For how many seconds, in which this process ran, the store has not answered."""
        return self._turn - self._in_hand[0].since if self._in_hand else 0

    def turn(self) -> None:
        """A second has passed in which this process ran: answer whoever has waited too long. Called by the watchdog."""
        self._turn += 1
        if self.silence and self.silence % HANG_UP_TURNS == 0:
            self._store.disconnect()
        for item in self._waiting_for_store():
            if self._turn - item.since > WAIT_TURNS_MAX:
                item.fail(unanswered(WAIT_TURNS_MAX))

    def _waiting_for_store(self) -> list[Pending]:
        in_hand = [item for handed in self._in_hand for item in handed.pending]
        return in_hand + [item for item in self._gathered if isinstance(item, Pending)]

    @property
    def commit_seconds(self) -> Iterable[float]:
        """How long the latest commits took, at most 1,000 and none older than ``LATENCIES_RECENT``."""
        since = self._clock.monotonic() - LATENCIES_RECENT
        return tuple(seconds for ended, seconds in tuple(self._writer.commit_seconds) if ended > since)

    @property
    def requests_surplus(self) -> int:
        """How many request ids more are stored than ``request_ids_max`` allows; negative while there is room."""
        return self._writer.requests_surplus

    @property
    def grace_until(self) -> int:
        """Until when this server has moved limits because of a pause."""
        return self._writer.grace_until

    def start(self) -> None:
        """Begin to commit, telling results to the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def submit(self, command: Command, size: int) -> asyncio.Future[Outcome]:
        """Have a command committed. ``size``: bytes of the request, for the bounds of the queue.

        The future resolves when the change is durable, or raises the refusal. Cancelling it drops the command if it has
        not been begun; otherwise it is done whole.

        Raises:
            Overloaded: the queue is full; nothing was begun.
            Draining: the server is stopping.
        """
        rows = len(command.creates) if isinstance(command, BatchCreate) else 1
        if not self._has_room(rows, size, PROGRESS_SHARE if isinstance(command, UpdateProgress) else 1.0):
            raise Overloaded("too many changes are waiting to be written; repeat the call later", RETRY_DELAY_S)
        return self._enqueue((command,), rows, size, is_many=False)

    async def submit_many(self, commands: Sequence[Command], size: int) -> asyncio.Future[list[Verdict]]:
        """Have several commands committed in order, once there is room for them.

        The future resolves to the verdict of each when all are durable. They are no transaction: each may be refused
        alone. Commands are at most a batch of the contract, so that they find room in an empty queue.

        Raises:
            Draining: the server is stopping.
        """
        while not self._has_room(len(commands), size, STREAM_SHARE) and self._rows_waiting and not self._stopping:
            assert self._loop is not None
            room: asyncio.Future[None] = self._loop.create_future()
            self._wanting_room.append(room)
            await room
        return self._enqueue(commands, len(commands), size, is_many=True)

    def submit_own(self, command: Command) -> asyncio.Future[Outcome]:
        """Have a command of the server's own committed. Never refused for load: its makers bound themselves."""
        return self._enqueue((command,), 1, 0, is_many=False)

    def _has_room(self, rows: int, size: int, share: float) -> bool:
        has_rows = self._rows_waiting + rows <= QUEUE_ROWS_MAX * share
        return has_rows and self._bytes_waiting + size <= QUEUE_BYTES_MAX * share

    def _enqueue(self, commands: Sequence[Command], rows: int, size: int, *, is_many: bool) -> asyncio.Future[Any]:
        future = self._future()
        self._rows_waiting += rows
        self._bytes_waiting += size
        self._gather(Pending(commands, future, rows=rows, size=size, is_many=is_many, since=self._turn))
        return future

    def run(self, work: Callable[[Transaction], T]) -> asyncio.Future[T]:
        """Have ``work`` done in a transaction of its own. It should take no more than about 20 ms."""
        future: asyncio.Future[T] = self._future()
        self._gather(Work(work, future))
        return future

    def probe(self) -> asyncio.Future[None]:
        """Begin and end a transaction that changes nothing: fails as any change would where the store is not there."""
        return self.run(lambda transaction: transaction.check())

    def _future(self) -> asyncio.Future[Any]:
        if self._stopping:
            raise Draining(RETRY_DELAY_S)
        assert self._loop is not None
        return self._loop.create_future()

    def ring_due(self) -> None:
        """Say that something may have fallen due."""
        if not self._stopping:
            self._gather(DUE_CHECK)

    async def stop(self) -> bool:
        """Commit what is waiting, take nothing more, end the thread.

        False when the store does not answer: whoever waits has been told so, and the thread still has it in hand.
        """
        self._stopping = True
        while not await self._becomes_idle():
            if not self.counters.commits > self._commits_seen:
                log.error("stopping without the store, which does not answer")
                for item in self._waiting_for_store():
                    item.fail(unanswered(self.silence))
                return False
        self._handed.put(None)
        await asyncio.to_thread(self._thread.join)
        return True

    async def _becomes_idle(self) -> bool:
        self._commits_seen = self.counters.commits
        idle = asyncio.ensure_future(self._idle.wait())
        await asyncio.wait((idle,), timeout=STOP_WAIT_S)
        idle.cancel()
        return self._idle.is_set()

    def _gather(self, item: Item) -> None:
        self._gathered.append(item)
        if isinstance(item, Pending):
            self._rows_gathered += item.rows
        self._idle.clear()
        self._batcher.came(self._rows_gathered, urgent=not isinstance(item, Pending))

    def _hand_over(self) -> None:
        handed = self._take()
        handed.since = self._turn
        self._in_hand.append(handed)
        self._handed.put(handed)

    def _take(self) -> Handed:
        """Take what belongs in one transaction off the front of the queue."""
        handed = Handed()
        rows = size = 0
        while self._gathered and handed.work is None:
            item = self._gathered[0]
            if isinstance(item, Pending):
                rows += item.rows
                size += item.size
                if handed.pending and (rows > BATCH_ROWS_MAX or size > BATCH_BYTES_MAX):
                    break
                handed.pending.append(item)
                self._rows_gathered -= item.rows
            elif isinstance(item, Work):
                handed.work = item
            else:
                handed.serve_due = True
            self._gathered.popleft()
        return handed

    def _run(self) -> None:
        try:
            self._serve()
        except BaseException:
            # The watchdog sees that the thread is gone; nobody else would hear why.
            log.exception("the committer's thread has died")

    def _serve(self) -> None:
        """The thread."""
        while (handed := self._handed.get()) is not None:
            # Whoever has gone is not served; from here on everything is done whole.
            wanted = [item for item in handed.pending if not item.future.done()]
            written = self._writer.commit([command for item in wanted for command in item.commands], handed.serve_due)
            worked = None if handed.work is None else self._work(handed.work)
            assert self._loop is not None
            self._loop.call_soon_threadsafe(self._deliver, handed, wanted, written, worked)

    def _work(self, work: Work) -> Any:
        try:
            return self._writer.work(work.run)
        except Exception as error:
            return error

    def _deliver(self, handed: Handed, wanted: Sequence[Pending], written: Written, worked: Any) -> None:
        """Back on the event loop, tell everybody. Callers are answered even when something of ours fails on the way."""
        self._take_back(handed)
        with self._survived():
            if wanted or written.due_served is not None:
                self._set_problem(written.problem)
        with self._survived():
            if written.events and not self._broken:
                self._published.publish(written.events)
        self._settle(wanted, iter(written.verdicts))
        if handed.work is not None:
            self._deliver_work(handed.work, worked)
        with self._survived():
            if written.next_due is not None or written.due_served is not None:
                self.on_due(written.next_due, written.due_served)
        while self._wanting_room:
            room = self._wanting_room.popleft()
            if not room.done():
                room.set_result(None)

    def _settle(self, wanted: Sequence[Pending], verdicts: Iterator[Verdict]) -> None:
        for item in wanted:
            try:
                item.settle(verdicts)
            except Exception:
                self._break()

    def _take_back(self, handed: Handed) -> None:
        """The thread has done this: make room, and let what has gathered go."""
        self._in_hand.popleft()
        if self._in_hand:
            self._in_hand[0].since = self._turn
        rows = sum(item.rows for item in handed.pending)
        self._rows_waiting -= rows
        self._bytes_waiting -= sum(item.size for item in handed.pending)
        if not self._gathered and not self._rows_waiting:
            self._idle.set()
        is_urgent = any(not isinstance(item, Pending) for item in self._gathered)
        self._batcher.returned(rows, self._rows_gathered, urgent=is_urgent)

    @contextmanager
    def _survived(self) -> Iterator[None]:
        """Go on after a failure of ours, which leaves this process unfit to serve: the watchdog ends it."""
        try:
            yield
        except Exception:
            self._break()

    def _break(self) -> None:
        self._broken = "delivery"
        log.exception("the results of a commit could not be delivered")

    def _deliver_work(self, work: Work, worked: Any) -> None:
        is_unreachable = isinstance(worked, StoreUnreachable)
        if is_unreachable:
            self._set_problem(str(worked))
        if not work.future.done():
            settle(work.future, unavailable(worked) if is_unreachable else worked)

    def _set_problem(self, problem: str) -> None:
        self.store_problem = problem
        reachable = not problem
        if reachable == self.store_reachable:
            return
        self.store_reachable = reachable
        self.on_reachable(reachable)
        if not reachable:
            self._clock.call_later(PROBE_INTERVAL, self._probe)

    def _probe(self) -> None:
        """Try the store again, for as long as it takes."""
        if self.store_reachable or self._stopping:
            return
        self.run(lambda transaction: transaction.probe()).add_done_callback(self._probed)

    def _probed(self, probe: asyncio.Future[None]) -> None:
        if probe.cancelled() or self._stopping:
            return
        if probe.exception() is None:
            self._set_problem("")
        else:
            self._clock.call_later(PROBE_INTERVAL, self._probe)
