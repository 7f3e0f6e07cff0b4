"""Ten ways to break a server on purpose, five that only replicas show, and the validator that catches each.

Every scenario is run twice, as the server is and with the defect put in: what goes red then shows that the promise is
held by the code and not by luck, and that its validator looks.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest

from jobstate_server.domain import commands as c
from jobstate_server.domain.clock import HOUR, MINUTE
from jobstate_server.domain.decide import Decider
from jobstate_server.domain.decision import Decision
from jobstate_server.domain.errors import CursorExpired, InvalidField, TransitionNotAllowed
from jobstate_server.domain.filters import EventFilter
from jobstate_server.domain.job import Job, JobState
from jobstate_server.rpc import update_batch
from jobstate_server.store import postgres_statements as sql
from jobstate_server.store.base import Changes, Reader, StoredEvent
from jobstate_server.store.sqlite import SqliteStore, SqliteTransaction
from jobstate_server.watch.catch_up import PAGE_BYTES_MAX, PAGE_EVENTS_MAX, CatchUp, Page
from jobstate_server.watch.cursor import event_check
from jobstate_server.watch.follower import Follower
from jobstate_server.watch.hub import Hub, Waiter
from jobstate_server.watch.ring import Entry, Ring

from ..support.clock import PATIENCE_S
from ..support.server import serving
from .clients import Shared, Stubs
from .history import History, Watcher
from .poison import POISONS, PoisonedClient
from .recording import Recorder
from .replica_rig import LOADED, WRITTEN, GatedStore, GatedTransaction, Replicas, replicated
from .rig import HEARTBEAT, Rig, create, fail, rigged, several, start
from .validators import broken, validate


class CommitsLater(SqliteStore):
    """Publish before commit: says that a transaction is durable, and makes it so only when the next one begins."""

    @contextmanager
    def transaction(self) -> Iterator[SqliteTransaction]:
        if self._database.connection().in_transaction:
            super()._commit()
        with super().transaction() as transaction:
            yield transaction

    def _commit(self) -> None:
        """Later."""


class ResumesInclusive(CatchUp):
    """Resume inclusive: begins with the event that the cursor names."""

    async def resume(self, text: str) -> Page:
        page = await super().resume(text)
        return page._replace(position=page.position - 1)


class ForgetsTheBell(Hub):
    """Forget the bell between read and wait: what rings after the last look and before the wait is not heard."""

    async def wait(self, waiter: Waiter, silence: int) -> int | None:
        await asyncio.sleep(0)
        return await super().wait(waiter, silence)


class DropsWhenFull(Ring):
    """Drop on a full buffer: who is behind the ring goes on with what is still in it."""

    @property
    def tail(self) -> int:
        return 0

    def after(self, sequence: int, limit: int) -> list[Entry]:
        kept = self._entries[self._dropped :]
        return [entry for entry in kept if entry.event.sequence > sequence][:limit]


class BeatsAhead(Hub):
    """Heartbeat ahead of an unsent event: what is published between the end of the wait and the waking is passed."""

    async def wait(self, waiter: Waiter, silence: int) -> int | None:
        waiter.__class__ = _Deaf
        return await super().wait(waiter, silence)


class _Deaf(Waiter):
    __slots__ = ()

    def fall_silent(self) -> None:
        self.ring()


class GoesByTheWallClock(SqliteStore):
    """Time as the wall clock has it, whatever was stored before."""

    @contextmanager
    def transaction(self) -> Iterator[SqliteTransaction]:
        with super().transaction() as transaction:
            transaction.now = self._clock.now() - self._clock.ahead()
            yield transaction


class LooksAtTheHorizonFirst(CatchUp):
    """Horizon checked before the page: what retention removes in between is missing from it in silence."""

    def _read_page(self, reader: Reader, after: int, wanted: EventFilter) -> Page:
        state = reader.log_state()
        if after < state.horizon:
            raise CursorExpired(self._oldest_cursor(state))
        events, scanned, _ = reader.events(after, wanted, PAGE_EVENTS_MAX, PAGE_BYTES_MAX)
        last = reader.event(scanned)
        return Page(events, scanned, state.horizon_check if last is None else event_check(last.payload))


class HurriesWaitingJobs(Decider):
    """The clocks of a retry run while it waits for a worker."""

    def _mark_stale(self, job: Job, command: c.MarkStale, now: int) -> Decision | None:
        return super()._mark_stale(job.evolve(claimed=True, claim_time=now), command, now)


class HandsOutTwice(Decider):
    """Whoever asks for an attempt is given it, though another has it."""

    def _start(self, job: Job, command: c.Start, now: int) -> Decision:
        return super()._start(job.evolve(claimed=False), command, now)


async def is_killed_after_telling(rig: Rig) -> None:
    """A change is answered and seen, then the server is gone."""
    follower = rig.follow()
    await follower.next()

    await rig.call(create("job"))
    await follower.through(1)


async def is_resumed_at_each_cursor(rig: Rig) -> None:
    """A watch is broken off after every response, and resumed."""
    watcher = Watcher("watcher")
    follower = rig.follow(watcher)
    await follower.next()
    for index in range(3):
        newest = rig.write(create(f"job-{index}"))
        await follower.through(newest)
        earlier = follower
        await earlier.leave()
        follower = rig.follow(watcher, earlier.stream, cursor=earlier.cursor)
    newest = rig.write(create("last"))
    await follower.through(newest)


async def is_told_right_after_a_look(rig: Rig) -> None:
    """Something is published in the moment after a watcher has caught up."""
    follower = rig.follow()
    await follower.next()

    reading = asyncio.create_task(follower.through(2))
    await asyncio.sleep(0)
    rig.write(create("while it turns to wait"))
    await rig.clock.armed(HEARTBEAT)
    rig.write(create("when it waits"))
    await reading


async def is_overrun(rig: Rig) -> None:
    """More is written than the ring holds while a watcher is busy with one response."""
    follower = rig.follow()
    await follower.next()

    for index in range(10):
        rig.write(*several(3, f"batch-{index}"))
    await follower.through(30)


async def is_silent_until_something_comes(rig: Rig) -> None:
    """The silence ends with a heartbeat due, and an event in the same moment."""
    follower = rig.follow()
    await follower.next()

    reading = asyncio.create_task(follower.through(2))
    await rig.clock.armed(HEARTBEAT)
    rig.clock.advance(HEARTBEAT)
    rig.write(create("in the same moment"))
    await asyncio.sleep(0)
    rig.write(create("later"))
    await reading


async def is_compacted_under_the_reader(rig: Rig) -> None:
    """Retention removes what a page is about to be read from."""
    follower = rig.follow(earliest=True)
    await follower.through(rig.write(*several(2)))
    await follower.leave()

    rig.write(*several(8, "more"))
    rig.hooked.before_events = lambda: rig.trim(6)
    await rig.follow(cursor=follower.cursor, follow=False).rest()


async def is_set_back(rig: Rig) -> None:
    """The wall clock is set back between two changes."""
    rig.write(create("before"))
    rig.clock.step(-MINUTE)
    follower = rig.follow(earliest=True)
    await follower.through(rig.write(create("after")))


async def is_worked_by_nobody(rig: Rig) -> None:
    """A retry falls due, and for hours nobody is there to take it."""
    for command in (create("job"), start("job"), fail("job")):
        await rig.call(command)
    rig.clock.advance(HOUR)
    rig.committer.ring_due()
    job = await rig.readers.get("job", None)
    while job.state is not JobState.PROCESSING:
        job = await rig.readers.get("job", None)
    rig.clock.advance(6 * HOUR)
    heard = job.heard_time
    await rig.committer.submit_own(
        c.MarkStale(job_id="job", actor=c.SERVER_ACTOR, attempt=job.attempt, heard_time=heard)
    )


async def is_asked_twice_for_an_attempt(rig: Rig) -> None:
    """Two workers start one job."""
    await rig.call(create("job"))
    await rig.call(start("job"))
    with suppress(TransitionNotAllowed):
        await rig.call(start("job"))


@dataclass(frozen=True)
class Mutation:
    """A defect, what brings it out, and who catches it."""

    name: str
    scenario: Callable[[Rig], Awaitable[None]]
    defect: dict[str, Any]
    caught_by: set[str]
    parts: dict[str, Any] = field(default_factory=dict)
    """What the scenario needs of the rig, defect or not."""


MUTATIONS = [
    Mutation(
        "publish before commit",
        is_killed_after_telling,
        {"store": CommitsLater},
        {"atomic", "durable", "reliable"},
    ),
    Mutation(
        "resume inclusive",
        is_resumed_at_each_cursor,
        {"catch_up": ResumesInclusive},
        {"unique", "reliable", "resumable", "bookmarkable"},
    ),
    Mutation(
        "forget the bell between read and wait",
        is_told_right_after_a_look,
        {"hub": ForgetsTheBell},
        {"reliable", "bookmarkable"},
    ),
    Mutation(
        "drop on a full buffer",
        is_overrun,
        {"ring": DropsWhenFull},
        {"reliable", "bookmarkable"},
        {"ring_bytes": 3_000},
    ),
    Mutation(
        "heartbeat ahead of an unsent event",
        is_silent_until_something_comes,
        {"hub": BeatsAhead},
        {"reliable", "bookmarkable"},
    ),
    Mutation(
        "horizon checked before the page instead of after",
        is_compacted_under_the_reader,
        {"catch_up": LooksAtTheHorizonFirst},
        {"reliable", "resumable", "bookmarkable"},
        {"ring_bytes": 0},
    ),
    Mutation("go by the wall clock", is_set_back, {"store": GoesByTheWallClock}, {"forward"}),
    Mutation(
        "let clocks run while nobody works",
        is_worked_by_nobody,
        {"decider": HurriesWaitingJobs},
        {"retried"},
    ),
    Mutation(
        "hand out an attempt twice", is_asked_twice_for_an_attempt, {"decider": HandsOutTwice}, {"claimed", "exclusive"}
    ),
]


async def history_of(path: Path, mutation: Mutation, *, mutated: bool) -> History:
    """What a scenario leaves, as a server started again on the same file finds it."""
    parts = {**mutation.parts, **(mutation.defect if mutated else {})}
    async with rigged(path, **parts) as rig:
        await mutation.scenario(rig)
    return rig.history()


@pytest.mark.parametrize("mutation", MUTATIONS, ids=[mutation.name for mutation in MUTATIONS])
async def test_the_server_as_it_is_keeps_every_promise_when_it(mutation: Mutation, tmp_path: Path) -> None:
    assert broken(await history_of(tmp_path / "jobs.db", mutation, mutated=False)) == {}


@pytest.mark.parametrize("mutation", MUTATIONS, ids=[mutation.name for mutation in MUTATIONS])
async def test_validators_catch_a_server_made_to(mutation: Mutation, tmp_path: Path) -> None:
    assert set(broken(await history_of(tmp_path / "jobs.db", mutation, mutated=True))) == mutation.caught_by


def _none_for_one(_: bytes) -> bytes:
    raise InvalidField("updates", "has one that cannot be parsed")


@pytest.mark.parametrize("mutated", [False, True], ids=["as it is", "mutated"])
async def test_validators_catch_a_server_that_refuses_a_whole_batch_for_one_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mutated: bool
) -> None:
    if mutated:
        monkeypatch.setattr(update_batch, "_read_apart", _none_for_one)
    shared = Shared([""], Recorder())
    async with serving(tmp_path / "jobs.db") as running:
        stubs = Stubs(running.server.address)
        async with stubs.channel:
            client = PoisonedClient("poisoned", shared, [stubs], random.Random("poison"))
            for _ in range(12):
                await client.batch()
    history = History(calls=shared.calls)

    assert set(broken(history, ["innocent"])) == ({"innocent"} if mutated else set())
    assert validate(history, ["innocent"])["innocent"].checked > len(POISONS)


class NumbersBeforeItsTurn(GatedTransaction):
    """The log is not locked until the commit: numbers are given in an order that commits need not keep."""

    def _number(self, changes: Changes) -> psycopg.Cursor[Any]:
        size = sum(len(event.payload) for event in changes.events)
        assert isinstance(self._store, GatedStore)
        with psycopg.connect(self._store.url, autocommit=True) as other:
            values = {"events": len(changes.events), "bytes": size, "requests": len(changes.requests), "now": self.now}
            other.execute(sql.ADVANCE_LOG, values)
        sql.insert_events.run(self._connection, changes.events, events=len(changes.events))
        return self._execute(sql.HEAD)

    def _execute(self, text: bytes, **values: Any) -> psycopg.Cursor[Any]:
        return super()._execute(b"SELECT 1" if text == sql.LOCK_LOG else text, **values)


class LocksNoJobs(GatedTransaction):
    """Jobs are read without a lock: two replicas decide on the same one at once."""

    def _execute(self, text: bytes, **values: Any) -> psycopg.Cursor[Any]:
        return super()._execute(text.replace(b" FOR UPDATE", b"") if text == sql.JOBS else text, **values)


class SharesDueWork(GatedTransaction):
    """What is due is taken though another replica has it in hand."""

    def _execute(self, text: bytes, **values: Any) -> psycopg.Cursor[Any]:
        return super()._execute(text.replace(b" FOR UPDATE SKIP LOCKED", b"") if text == sql.DUE else text, **values)


class PublishesAtOnce(Follower):
    """Its own events are published as they come, without those that others have written before them."""

    def publish(self, events: Sequence[StoredEvent]) -> None:
        self._hub.publish(events)


class SeesNoGap(Hub):
    """And nobody is told that something lies between."""

    def _ring_all(self) -> None:
        """Not here."""


async def commit_in_another_order(replicas: Replicas) -> None:
    """The replica that is first at the log is held before its commit, while the other one writes too."""
    one, other = replicas.one, replicas.other
    follower = other.follow()
    await follower.next()

    one.store.gate.close_at(WRITTEN)
    held = asyncio.create_task(one.call(create("first")))
    await one.store.gate.reached()
    # Of another type, for the tallies of one are locked as well.
    hurrying = asyncio.create_task(other.call(create("second", job_type="another")))
    if await replicas.done_or_held_up(hurrying, other):
        await follower.through(2)
    one.store.gate.open()
    await asyncio.gather(held, hurrying)
    await other.call(create("third"))
    await follower.through(3)


async def start_one_job_at_once(replicas: Replicas) -> None:
    """Both are asked to start a job; the one has read it, and is held, when the other reads it."""
    one, other = replicas.one, replicas.other
    await one.call(create("job"))

    one.store.gate.close_at(LOADED)
    held = asyncio.create_task(one.ask(start("job")))
    await one.store.gate.reached()
    hurrying = asyncio.create_task(other.ask(start("job")))
    await replicas.done_or_held_up(hurrying, other)
    one.store.gate.open()
    await asyncio.gather(held, hurrying)


async def resume_one_job_at_once(replicas: Replicas) -> None:
    """A retry falls due at both; the one has taken it, and is held, when the other looks for due work."""
    one, other = replicas.one, replicas.other
    for command in (create("job"), start("job"), fail("job")):
        await one.call(command)
    replicas.clock.advance(MINUTE)

    one.store.gate.close_at(LOADED)
    held = asyncio.create_task(one.serve_due())
    await one.store.gate.reached()
    await other.serve_due()
    one.store.gate.open()
    await held


async def are_asked_for_the_rest_before_they_have_heard(replicas: Replicas) -> None:
    """A watcher takes its cursor to a replica that has not heard of what was written since."""
    watcher = Watcher("watcher")
    follower = replicas.one.follow(watcher)
    await replicas.one.call(create("seen"))
    await follower.through(1)
    await follower.leave()
    await replicas.one.call(create("not seen yet"))

    await replicas.other.follow(watcher, follower.stream, cursor=follower.cursor, follow=False).rest()


async def write_in_turns(replicas: Replicas) -> None:
    """A replica writes right after the other one, of which it has not heard yet."""
    one, other = replicas.one, replicas.other
    follower = other.follow()
    await follower.next()

    reading = asyncio.create_task(follower.through(2))
    await replicas.clock.armed(HEARTBEAT)
    await one.call(create("first"))
    await other.call(create("second"))
    await reading


@dataclass(frozen=True)
class ReplicaMutation:
    """A defect of replicas, what brings it out, and who catches it."""

    name: str
    scenario: Callable[[Replicas], Awaitable[None]]
    defect: dict[str, Any]
    caught_by: set[str]


def storing(kind: type[GatedTransaction]) -> type[GatedStore]:
    """A store with such transactions."""
    return type(kind.__name__, (GatedStore,), {"kind": kind})


REPLICA_MUTATIONS = [
    ReplicaMutation(
        "number events before its turn at the log",
        commit_in_another_order,
        {"store": storing(NumbersBeforeItsTurn)},
        {"reliable", "bookmarkable"},
    ),
    ReplicaMutation("read jobs without a lock", start_one_job_at_once, {"store": storing(LocksNoJobs)}, {"whole"}),
    ReplicaMutation(
        "take due work that another has in hand", resume_one_job_at_once, {"store": storing(SharesDueWork)}, {"whole"}
    ),
    ReplicaMutation(
        "judge a cursor without a fresh look at the log",
        are_asked_for_the_rest_before_they_have_heard,
        {"refreshes": False},
        {"resumable"},
    ),
    ReplicaMutation(
        "publish its own events before those of others",
        write_in_turns,
        {"follower": PublishesAtOnce, "hub": SeesNoGap},
        {"reliable", "bookmarkable"},
    ),
]


async def joint_history(mutation: ReplicaMutation, *, mutated: bool) -> History:
    """What a scenario leaves in the store, and what both replicas told."""
    async with replicated(**(mutation.defect if mutated else {})) as replicas:
        async with asyncio.timeout(PATIENCE_S):
            await mutation.scenario(replicas)
    return replicas.history()


@pytest.mark.parametrize("mutation", REPLICA_MUTATIONS, ids=[mutation.name for mutation in REPLICA_MUTATIONS])
async def test_replicas_as_they_are_keep_every_promise_when_they(mutation: ReplicaMutation) -> None:
    assert broken(await joint_history(mutation, mutated=False)) == {}


@pytest.mark.parametrize("mutation", REPLICA_MUTATIONS, ids=[mutation.name for mutation in REPLICA_MUTATIONS])
async def test_validators_catch_replicas_made_to(mutation: ReplicaMutation) -> None:
    assert set(broken(await joint_history(mutation, mutated=True))) == mutation.caught_by
