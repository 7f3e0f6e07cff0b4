"""A watch without a network: a real store, feed, reader and committer, and a hand on every moment between them.

A test decides when something is committed, when it is published, when retention strikes and when time passes, and gets
a history to hold the promises to.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, cast

from jobstate.v1 import job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.clock import Clock
from jobstate_server.domain import commands as c
from jobstate_server.domain.caller import SERVER
from jobstate_server.domain.commands import Request
from jobstate_server.domain.durations import SECOND
from jobstate_server.domain.errors import JobStateError, StoreUnavailable
from jobstate_server.domain.events import EventType
from jobstate_server.domain.filters import EventFilter, JobFilter, Order
from jobstate_server.domain.groups import GroupPolicy
from jobstate_server.domain.job_types import JobTypes
from jobstate_server.domain.needs import Need, NeedCondition
from jobstate_server.domain.reads import Reads
from jobstate_server.domain.rules.decider import Decider
from jobstate_server.engine.acquires import Acquires
from jobstate_server.engine.batch import Batch
from jobstate_server.engine.committer import Committer
from jobstate_server.engine.outcomes import PauseOutcome
from jobstate_server.engine.readers import Readers
from jobstate_server.engine.writer import REQUEST_IDS_MAX
from jobstate_server.event_log.feed import EventFeed
from jobstate_server.event_log.reader import EventLog
from jobstate_server.event_log.recent import RecentEvents
from jobstate_server.event_log.stored_pages import StoredPages
from jobstate_server.rpc.errors import status_code
from jobstate_server.store.base import Reader, Store
from jobstate_server.store.event_check import event_check
from jobstate_server.store.records import StoredEvent
from jobstate_server.store.sqlite.check import check_file
from jobstate_server.store.sqlite.store import SqliteStore
from jobstate_server.watch.requests import Watch
from jobstate_server.watch.session import WatchSessions
from jobstate_server.watch.snapshots import Snapshots
from jobstate_server.wire.documents import merge_metadata
from jobstate_server.wire.jobs import encode_whole

from ..support.calls import struct
from ..support.clock import PATIENCE_S, WatchedClock
from ..support.waiting import until
from .history import (
    ANSWERED,
    REFUSED,
    UNKNOWN,
    Acquiring,
    Answer,
    Call,
    History,
    Pausing,
    Policy,
    Response,
    Stream,
    Watcher,
)
from .recording import Recorder, job_dict, make_archive, policy_of, state_name
from .relation_recount import recount

HEARTBEAT = 30 * SECOND

RECENT_BYTES = 1024 * 1024

SLICES_MAX = 100
"""What a test has done that is due takes fewer commits, and each of these serves as many jobs at most."""


class HookedReaders(Readers):
    """Readers that let a test in between two reads of one page."""

    def __init__(self, store: Store, threads: int = 1) -> None:
        super().__init__(store, threads)
        self.before_events: Callable[[], None] | None = None
        """Run once, on the reader's thread, right before the next page of events is read."""

    def run(self, read: Callable[[Reader], Any], *, is_short: bool = False) -> asyncio.Future[Any]:
        return super().run(lambda reader: read(cast(Reader, _HookedReader(self, reader))), is_short=is_short)


class _HookedReader:
    def __init__(self, readers: HookedReaders, reader: Reader) -> None:
        self._readers = readers
        self._reader = reader

    def __getattr__(self, name: str) -> Any:
        if name == "events" and self._readers.before_events is not None:
            hook, self._readers.before_events = self._readers.before_events, None
            hook()
        return getattr(self._reader, name)


class OpenWatch:
    """One stream of a watcher, read response by response."""

    def __init__(self, stage: Stage, stream: Stream, watch: Watch) -> None:
        self.stream = stream
        self._stage = stage
        self._responses = cast(AsyncGenerator[bytes, None], stage.watching.stream(watch))

    async def next(self) -> Response | None:
        """The next response; None when the stream has ended."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                encoded = await anext(self._responses)
        except StopAsyncIteration:
            self.stream.code = "OK"
            return None
        except JobStateError as error:
            self.stream.code, self.stream.reason = status_code(error).name, error.reason
            self.stream.oldest_cursor = self._stage.recorder.note_cursor(error.facts.get("oldest_cursor", ""))
            return None
        message = pb.WatchEventsResponse.FromString(encoded)
        self.stream.responses.append(self._stage.recorder.response(message, asyncio.get_running_loop().time()))
        return self.stream.responses[-1]

    async def through(self, sequence: int) -> list[int]:
        """Read until a cursor has reached this sequence. Returns every sequence the stream has delivered."""
        while (response := await self.next()) is not None:
            if response.cursor and self._stage.recorder.positions[response.cursor] >= sequence:
                break
        return self.sequences

    async def rest(self) -> list[int]:
        """Read to the end of the stream. Returns every sequence it has delivered."""
        while await self.next() is not None:
            pass
        return self.sequences

    @property
    def sequences(self) -> list[int]:
        """Every sequence the stream has delivered."""
        return [event.sequence for response in self.stream.responses for event in response.events]

    @property
    def cursor(self) -> str:
        """The cursor of the last response."""
        return self.stream.responses[-1].cursor

    async def leave(self) -> None:
        """Break off."""
        self.stream.code = self.stream.code or "LEFT"
        await self._responses.aclose()


def _now() -> float:
    return asyncio.get_running_loop().time()


class Stage:
    """The parts of a server that make a watch, put together by hand, and what is recorded of them."""

    is_shared = False
    """Whether there are others on its store."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        feed: EventFeed,
        readers: Readers,
        watching: WatchSessions,
        recorder: Recorder,
        *,
        events_written: Callable[[Sequence[StoredEvent]], None],
        decider: type[Decider] = Decider,
    ) -> None:
        self.recorder = recorder
        self.calls: list[Call] = []
        self.acquires: list[Acquiring] = []
        self.pauses: list[Pausing] = []
        self.watchers: list[Watcher] = []
        self.feed = feed
        self.readers = readers
        self.watching = watching
        self.decider = decider(JobTypes(), merge_metadata, lambda: 0.0)
        self.committer = Committer(store, self.decider, clock, restart_grace=0, is_shared=self.is_shared)
        self.committer.events_written.subscribe(events_written)
        self.hand_outs = Acquires(self.committer, clock)
        self._open_watches: list[OpenWatch] = []

    def start(self) -> None:
        """Begin to work."""
        self.committer.start()
        self.readers.start()

    async def call(self, command: c.JobCommand) -> None:
        """Have the committer make a change, and note its answer, or its refusal, which is raised."""
        call = Call(type(command).__name__, command.job_id, UNKNOWN, invoked=_now())
        # A group is closed without an event.
        call.changes = not isinstance(command, c.CloseGroup)
        self.calls.append(call)
        try:
            outcome = await self.committer.submit(command, 0)
        except JobStateError as error:
            call.outcome = UNKNOWN if isinstance(error, StoreUnavailable) else REFUSED
            call.code, call.reason = status_code(error).name, error.reason
            raise
        finally:
            call.returned = _now()
        job = outcome.jobs[0]
        call.outcome, call.job_id, call.version, call.attempt = ANSWERED, job.id, job.version, job.attempt
        call.state = state_name(job_pb2.JobState.ValueType(job.state))

    async def pause(self, job_type: str, lane: str | None = None, *, paused: bool = True) -> None:
        """Pause a type or lane, or let it go on, and note the answer."""
        pausing = Pausing(job_type, lane, paused, invoked=_now())
        self.pauses.append(pausing)
        outcome = await self.committer.submit(c.Pause(job_type, lane, paused=paused), 0)
        assert isinstance(outcome, PauseOutcome)
        pausing.outcome, pausing.head, pausing.returned = ANSWERED, outcome.head, _now()

    async def acquire(
        self, worker: str, *, wait: int = 0, request_id: str = "", max_jobs: int = 1, job_type: str = "default"
    ) -> list[str]:
        """Ask for jobs as this worker, and note the answer. Who has asked before repeats the call.

        Args:
            wait: how long to wait, by the clock of the stage.
        """
        known = [acquiring for acquiring in self.acquires if acquiring.worker == worker]
        if not known:
            asked = Acquiring(worker, (job_type,), max_jobs, wait / SECOND, request_id, invoked=_now())
            known = [asked]
            self.acquires.append(asked)
        acquiring, invoked = known[0], _now()
        acquiring.tries += 1
        request = Request("", request_id, "Acquire", b"") if request_id else None
        command = c.Acquire((job_type,), max_jobs, worker=worker, request=request)
        jobs = await self.hand_outs.acquire(command, 0, wait)
        acquiring.outcome, acquiring.returned = ANSWERED, _now()
        acquiring.answers.append(Answer(invoked, _now(), [(job.id, job.attempt) for job in jobs]))
        return [job.id for job in jobs]

    async def waiting(self, calls: int) -> None:
        """Wait until so many calls of Acquire wait."""
        await until(lambda: self.hand_outs.count == calls)

    def follow(self, watcher: Watcher | str = "watcher", resumed_from: Stream | None = None, **asked: Any) -> OpenWatch:
        """Open a watch; ``asked`` are fields of ``Watch``."""
        if isinstance(watcher, str):
            watcher = Watcher(watcher)
        if watcher not in self.watchers:
            self.watchers.append(watcher)
        watch = Watch(
            wanted=_filter(watcher),
            latest_progress=watcher.latest_progress,
            **{"heartbeat_interval": HEARTBEAT, **asked},
        )
        start = "CURSOR" if watch.cursor else "EARLIEST" if watch.earliest else "LATEST"
        kind = {name: getattr(watch, name) for name in ("follow", "snapshot", "until_final")}
        stream = Stream(start, watch.cursor, **kind, opened=_now())
        if resumed_from is not None:
            cursors = [response.cursor for response in resumed_from.responses]
            index = next(i for i, known in enumerate(watcher.streams) if known is resumed_from)
            stream.resumed_from = index, len(cursors) - 1 - cursors[::-1].index(watch.cursor)
        watcher.streams.append(stream)
        self._open_watches.append(OpenWatch(self, stream, watch))
        return self._open_watches[-1]

    async def stop(self) -> None:
        """End everything but the store."""
        for watch in self._open_watches:
            await watch.leave()
        await self.committer.stop()
        await self.readers.stop()


def feed_of(
    store: Store,
    clock: Clock,
    feed: type[EventFeed] = EventFeed,
    recent: type[RecentEvents] = RecentEvents,
    recent_bytes: int = RECENT_BYTES,
) -> EventFeed:
    """A feed at the head of a log."""
    with closing(store.open_reader()) as reader:
        state = reader.log_state()
        last = reader.event(state.head)
    head_check = state.horizon_check if last is None else event_check(last)
    return feed(store.log_id, recent(state.head, head_check, recent_bytes), clock)


def policies_of(decider: Decider) -> dict[str, Policy]:
    """The policies that a decider goes by."""
    return {each.name: policy_of(each) for each in decider.context.job_types.all()}


def listed_rows(store: Store) -> dict[str, dict[str, Any]]:
    """Every job of a store."""
    with closing(store.open_reader()) as reader:
        jobs = reader.list_jobs(JobFilter(), Order.OLDEST_FIRST, None, 100_000, 2**40).jobs
        groups = reader.group_counts(jobs)
    return {job.id: job_dict(job_pb2.Job.FromString(encode_whole(job, groups.get(job.id)))) for job in jobs}


class Rig(Stage):
    """One server on a file, and a hand on every moment between commit and publish."""

    def __init__(
        self,
        path: Path,
        *,
        store: type[SqliteStore] = SqliteStore,
        stored_pages: type[StoredPages] = StoredPages,
        feed: type[EventFeed] = EventFeed,
        recent: type[RecentEvents] = RecentEvents,
        recent_bytes: int = RECENT_BYTES,
        decider: type[Decider] = Decider,
    ) -> None:
        self.path = path
        self.clock = WatchedClock()
        self.unpublished: list[StoredEvent] = []
        self.store = store(path, self.clock)
        self.has_ended = False
        self.is_settled = False
        """Whether everything was done that was due."""
        make_archive(path)
        self.hooked = HookedReaders(self.store)
        made = feed_of(self.store, self.clock, feed, recent, recent_bytes)
        event_log = EventLog(made, stored_pages(self.hooked, self.store.log_id))
        self.snapshots = Snapshots(self.hooked)
        watching = WatchSessions(event_log, self.snapshots)
        super().__init__(
            self.store,
            self.clock,
            made,
            self.hooked,
            watching,
            Recorder(),
            events_written=made.publish,
            decider=decider,
        )

    def commit(self, *commands: c.Command) -> int:
        """Make these changes durable, and tell nobody yet. Returns the newest sequence."""
        wanted = Reads()
        for command in commands:
            command.add_reads(wanted)
        with self.store.transaction() as transaction:
            loaded = transaction.load(wanted)
            batch = Batch(self.decider, transaction.now, loaded, REQUEST_IDS_MAX)
            for command in commands:
                batch.decide(command)
            first, events = batch.write(transaction, is_last=True)
        refusals = [verdict for verdict in batch.verdicts(first) if isinstance(verdict, JobStateError)]
        assert not refusals, refusals
        self.unpublished += [StoredEvent(first + index, *event) for index, event in enumerate(events)]
        return self.unpublished[-1].sequence

    def publish(self) -> None:
        """Tell what was committed."""
        self.feed.publish(self.unpublished)
        self.unpublished = []

    def write(self, *commands: c.Command) -> int:
        """Commit and publish. Returns the newest sequence."""
        newest = self.commit(*commands)
        self.publish()
        return newest

    def trim(self, through: int) -> None:
        """Let retention remove everything up to a sequence."""
        with closing(self.store.open_reader()) as reader:
            count = through - reader.log_state().horizon
        with self.store.transaction() as transaction:
            assert transaction.trim_events(2**62, 0, count) == count

    async def settle(self) -> None:
        """Have everything done that is due by the clock."""
        self.is_settled = True
        for _ in range(SLICES_MAX):
            due = await self.committer.run(lambda transaction: transaction.next_due())
            assert not isinstance(due, Exception)
            if due is None or due > self.clock.now():
                return
            await self.committer.submit_own(c.ServeDue(caller=SERVER, limit=SLICES_MAX))

    def _rows(self) -> dict[str, dict[str, Any]]:
        if not self.has_ended:
            return listed_rows(self.store)
        with closing(SqliteStore(self.path, self.clock)) as store:
            return listed_rows(store)

    def history(self) -> History:
        """What happened so far, and what is there now; after the end, what the next server finds."""
        log, horizon = self.recorder.log(self.path)
        return History(
            policies=policies_of(self.decider),
            calls=self.calls,
            acquires=self.acquires,
            pauses=self.pauses,
            watchers=self.watchers,
            log=log,
            settled=log[-1].event.sequence if self.is_settled else 0,
            horizon=horizon,
            rows=self._rows(),
            recounted=check_file(self.path).problems + recount(self.path),
            positions=self.recorder.positions,
        )


@asynccontextmanager
async def rigged(path: Path, **parts: Any) -> AsyncIterator[Rig]:
    """A rig at work."""
    rig = Rig(path, **parts)
    rig.start()
    try:
        yield rig
    finally:
        await rig.stop()
        rig.store.close()
        rig.has_ended = True


def _filter(watcher: Watcher) -> EventFilter:
    return EventFilter(
        job_ids=frozenset(watcher.job_ids),
        job_types=frozenset(watcher.job_types),
        source_ids=frozenset(watcher.source_ids),
        types=frozenset(EventType[name] for name in watcher.types),
        labels=tuple((key, value) for key, _, value in (label.partition("=") for label in watcher.labels)),
    )


def create(job_id: str, **fields: Any) -> c.Create:
    """Create a job."""
    return c.Create(**{"job_id": job_id, "job_type": "default", **fields})


def related(
    job_id: str,
    needs: Mapping[str, NeedCondition] | None = None,
    group_id: str = "",
    group: GroupPolicy | None = None,
    **fields: Any,
) -> c.Create:
    """Create a job that is related to others. What it needs is in its metadata too, for the judge."""
    told = {"needs": {each: condition.name for each, condition in needs.items()}} if needs else {}
    relations = c.Relations(tuple(Need(*need) for need in (needs or {}).items()), group_id, group)
    return create(job_id, relations=relations, metadata=struct(**told).SerializeToString(), **fields)


def close(group_id: str) -> c.CloseGroup:
    """Close a group."""
    return c.CloseGroup(job_id=group_id)


def start(job_id: str) -> c.Start:
    """Start it."""
    return c.Start(job_id=job_id)


def progress(job_id: str, value: int = 1, **fields: Any) -> c.UpdateProgress:
    """Report progress."""
    return c.UpdateProgress(job_id=job_id, progress=value, **fields)


def fail(job_id: str) -> c.Fail:
    """Fail it."""
    return c.Fail(job_id=job_id)


def complete(job_id: str) -> c.Complete:
    """Complete it."""
    return c.Complete(job_id=job_id)


def cancel(job_id: str) -> c.Cancel:
    """Cancel it."""
    return c.Cancel(job_id=job_id)


def release(job_id: str, attempt: int, **fields: Any) -> c.Release:
    """Give an attempt back."""
    return c.Release(job_id=job_id, attempt=attempt, **fields)


def delete_oldest() -> c.DeleteFinished:
    """Remove the job that ended first, as cleanup does."""
    return c.DeleteFinished(caller=SERVER, before=2**62, after=None, limit=1)


def several(count: int, prefix: str = "job") -> list[c.Create]:
    """Create this many jobs: as many events."""
    return [create(f"{prefix}-{index}") for index in range(count)]
