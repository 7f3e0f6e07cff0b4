"""Replicas without a network: real stores, committers, replication and watches on one PostgreSQL, looking on command.

There are no notifications here. A test decides when a replica looks at what others have written (``Replica.look``) and
how far a transaction may go before it waits for others (``Gate``), and gets the history of all of them.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from jobstate_server.clock import Clock
from jobstate_server.domain import commands as c
from jobstate_server.domain.caller import SERVER
from jobstate_server.domain.reads import Reads, Ready
from jobstate_server.engine.due_timer import DUE_MAX
from jobstate_server.engine.readers import Readers
from jobstate_server.event_log.feed import EventFeed
from jobstate_server.event_log.reader import EventLog
from jobstate_server.event_log.replication import Replication
from jobstate_server.event_log.stored_pages import StoredPages
from jobstate_server.store.errors import StoreUnreachable
from jobstate_server.store.postgres.store import PostgresStore
from jobstate_server.store.postgres.transaction import PostgresTransaction
from jobstate_server.store.records import Changes, Loaded, Notification, ReadyFound
from jobstate_server.watch.session import WatchSessions
from jobstate_server.watch.snapshots import Snapshots

from ..support.clock import PATIENCE_S, WatchedClock
from ..support.postgres import postgres_server
from .database import Database
from .history import History
from .recording import Recorder
from .rig import Stage, feed_of, listed_rows, policies_of

LOADED, PICKED, WRITTEN = "loaded", "picked", "written"
"""Where a transaction can be held: what it read is locked; so are the ready jobs that it can hand out; what it wrote is
numbered, and not committed."""


class Gate:
    """Holds the next transaction that comes by."""

    def __init__(self) -> None:
        self._place = ""
        self._reached = threading.Event()
        self._opened = threading.Event()

    def close_at(self, place: str) -> None:
        """Hold the next one here."""
        self._place = place
        self._reached.clear()
        self._opened.clear()

    def open(self) -> None:
        """Let it go on."""
        self._opened.set()

    async def reached(self) -> None:
        """Wait until one is held."""
        assert await asyncio.to_thread(self._reached.wait, PATIENCE_S)

    def pass_by(self, place: str) -> None:
        """Wait, if this is the place. Called on the committer's thread."""
        if self._place == place:
            self._place = ""
            self._reached.set()
            assert self._opened.wait(PATIENCE_S)


class GatedTransaction(PostgresTransaction):
    """A transaction with a gate on its way."""

    gate: Gate
    url: str

    def load(self, reads: Reads) -> Loaded:
        loaded = super().load(reads)
        self.gate.pass_by(LOADED)
        return loaded

    def ready_jobs(self, wanted: Sequence[Ready]) -> ReadyFound:
        found = super().ready_jobs(wanted)
        self.gate.pass_by(PICKED)
        return found

    def take_ready(self, job_ids: Sequence[str]) -> ReadyFound:
        found = super().take_ready(job_ids)
        self.gate.pass_by(PICKED)
        return found

    def finish(self, changes: Changes) -> int:
        # In its own round trip, so that there is a moment between it and the commit.
        first = self.write(changes)
        self.gate.pass_by(WRITTEN)
        return first


class GatedStore(PostgresStore):
    """A store whose transactions are of a kind that a test chooses."""

    kind: type[GatedTransaction] = GatedTransaction

    def __init__(self, url: str, clock: Clock) -> None:
        super().__init__(url, clock)
        self.gate = Gate()
        self.url = url

    @contextmanager
    def transaction(self) -> Iterator[PostgresTransaction]:
        with super().transaction() as transaction:
            transaction.__class__ = self.kind
            assert isinstance(transaction, GatedTransaction)
            transaction.gate, transaction.url = self.gate, self.url
            yield transaction


class NoNotifier:
    """A notifier that is out of order."""

    def wait(self, timeout_s: float) -> Notification | None:
        raise StoreUnreachable(f"nothing came for {timeout_s} s, nor will be")

    def disconnect(self) -> None:
        """Nothing is waited for."""

    def close(self) -> None:
        """There is nothing to close."""


class Replica(Stage):
    """One of several servers."""

    is_shared = True

    def __init__(
        self,
        name: str,
        database: Database,
        clock: WatchedClock,
        recorder: Recorder,
        *,
        store: type[GatedStore] = GatedStore,
        replication: type[Replication] = Replication,
        feed: type[EventFeed] = EventFeed,
        refreshes: bool = True,
        **parts: Any,
    ) -> None:
        """``parts``: those that any stage may be made with."""
        self.name = name
        self.clock = clock
        self.store = store(database.url_of(name), clock)
        made, readers = feed_of(self.store, clock, feed), Readers(self.store, threads=1)
        self.replication = replication(NoNotifier(), made, readers)
        refresh = self.replication.refresh if refreshes else None
        event_log = EventLog(made, StoredPages(readers, self.store.log_id), refresh)
        watching = WatchSessions(event_log, Snapshots(readers))
        super().__init__(
            self.store,
            clock,
            made,
            readers,
            watching,
            recorder,
            events_written=self.replication.publish,
            **parts,
        )

    def start(self) -> None:
        super().start()
        self.replication.start()

    async def stop(self) -> None:
        await self.replication.stop()
        await super().stop()
        self.store.close()

    async def look(self) -> None:
        """Look at what others have written, as after a notification."""
        await self.replication.refresh()

    async def ask(self, command: c.JobCommand) -> None:
        """Have a change made, or be refused it; either way it is noted."""
        await asyncio.gather(self.call(command), return_exceptions=True)

    async def serve_due(self) -> None:
        """Have done what has fallen due, and wait until it is."""
        await self.committer.submit_own(c.ServeDue(caller=SERVER, limit=DUE_MAX))


class Replicas:
    """Two replicas on one store."""

    def __init__(self, **parts: Any) -> None:
        self.database = Database(postgres_server())
        self.clock = WatchedClock()
        self._recorder = Recorder()
        self.one, self.other = (
            Replica(name, self.database, self.clock, self._recorder, **parts) for name in ("one", "other")
        )

    async def done_or_held_up(self, work: asyncio.Task[Any], replica: Replica) -> bool:
        """Wait until this work is done, or waits for what another replica has locked. Tells whether it is done."""
        waits = asyncio.create_task(self.database.waits_for_a_lock(replica.name))
        await asyncio.wait({work, waits}, return_when=asyncio.FIRST_COMPLETED)
        waits.cancel()
        return work.done()

    def history(self) -> History:
        """What all of them did and told, and what is there now."""
        log, horizon = self._recorder.log(self.database.url)
        return History(
            store="postgres",
            policies=policies_of(self.one.decider),
            acquires=self.one.acquires + self.other.acquires,
            pauses=self.one.pauses + self.other.pauses,
            calls=self.one.calls + self.other.calls,
            watchers=self.one.watchers + [each for each in self.other.watchers if each not in self.one.watchers],
            log=log,
            horizon=horizon,
            rows=listed_rows(self.one.store),
            positions=self._recorder.positions,
        )


@asynccontextmanager
async def replicated(**parts: Any) -> AsyncIterator[Replicas]:
    """Two replicas at work, each made with these parts."""
    replicas = Replicas(**parts)
    both = (replicas.one, replicas.other)
    for replica in both:
        replica.start()
    try:
        yield replicas
    finally:
        for replica in both:
            replica.store.gate.open()
            await replica.stop()
