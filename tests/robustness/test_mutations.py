"""Ten ways to break a server on purpose, and the validator that catches each.

Every scenario is run twice, as the server is and with the defect put in: what goes red then shows that the promise is
held by the code and not by luck, and that its validator looks.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from jobstate_server.domain import commands as c
from jobstate_server.domain.caller import SERVER
from jobstate_server.domain.durations import HOUR, MINUTE
from jobstate_server.domain.errors import CursorExpired, InvalidField, TransitionNotAllowed
from jobstate_server.domain.filters import EventFilter
from jobstate_server.domain.job import Job, JobState
from jobstate_server.domain.plan import Change
from jobstate_server.domain.rules.decider import Decider
from jobstate_server.engine.due_timer import DUE_MAX
from jobstate_server.event_log.feed import EventFeed, Waiter
from jobstate_server.event_log.pages import LogPosition, Page, PageLimits
from jobstate_server.event_log.recent import LogEntry, RecentEvents
from jobstate_server.event_log.stored_pages import StoredPages
from jobstate_server.rpc import update_batch
from jobstate_server.store.base import Reader
from jobstate_server.store.sqlite.store import SqliteStore
from jobstate_server.store.sqlite.transaction import SqliteTransaction

from ..support.server import serving
from .clients import Shared, Stubs
from .history import History, Watcher
from .poison import POISONS, PoisonedClient
from .recording import Recorder
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


class ResumesInclusive(StoredPages):
    """Resume inclusive: begins with the event that the cursor names."""

    async def resume(self, cursor: str) -> LogPosition:
        position = await super().resume(cursor)
        return position._replace(sequence=position.sequence - 1)


class LosesTheNotification(EventFeed):
    """Lose the notification between read and wait: what is published just before the wait is missed."""

    async def wait(self, waiter: Waiter, max_wait: int) -> int | None:
        await asyncio.sleep(0)
        return await super().wait(waiter, max_wait)


class DropsWhenFull(RecentEvents):
    """Drop on a full buffer: a reader behind the recent events goes on with those that are left."""

    @property
    def tail(self) -> int:
        return 0

    def after(self, sequence: int, limit: int) -> list[LogEntry]:
        kept = self._entries[self._dropped :]
        return [entry for entry in kept if entry.event.sequence > sequence][:limit]


class BeatsAhead(EventFeed):
    """Heartbeat ahead of an unsent event: what is published between the end of the wait and the waking is passed."""

    async def wait(self, waiter: Waiter, max_wait: int) -> int | None:
        waiter.__class__ = _Deaf
        return await super().wait(waiter, max_wait)


class _Deaf(Waiter):
    __slots__ = ()

    def time_out(self) -> None:
        self.wake(None)


class GoesByTheWallClock(SqliteStore):
    """Time as the wall clock has it, whatever was stored before."""

    @contextmanager
    def transaction(self) -> Iterator[SqliteTransaction]:
        with super().transaction() as transaction:
            transaction.now = self._clock.now() - self._clock.ahead()
            yield transaction


class LooksAtTheHorizonFirst(StoredPages):
    """Horizon checked before the page: what retention removes in between is missing from it in silence."""

    def _read_page(self, reader: Reader, after: int, wanted: EventFilter, limits: PageLimits) -> Page:
        state = reader.log_state()
        if after < state.horizon:
            raise CursorExpired(self._cursor(state.horizon, state.horizon_check))
        page = reader.events(after, wanted, *limits)
        end = LogPosition(page.scanned, page.check)
        return Page(list(map(LogEntry, page.events)), end, self._cursor(*end))


class HurriesWaitingJobs(Decider):
    """The clocks of a retry run while it waits for a worker."""

    def change(self, job: Job | None, command: c.JobCommand, now: int) -> Change | None:
        if job is not None and isinstance(command, c.MarkStale):
            job = replace(job, claimed=True, claim_time=now)
        return super().change(job, command, now)


class HandsOutTwice(Decider):
    """Whoever asks for an attempt is given it, though another has it."""

    def change(self, job: Job | None, command: c.JobCommand, now: int) -> Change | None:
        if job is not None and isinstance(command, c.Start):
            job = replace(job, claimed=False)
        return super().change(job, command, now)


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
    """More is written than the recent events hold while a watcher is busy with one response."""
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
    await rig.committer.submit_own(c.ServeDue(caller=SERVER, limit=DUE_MAX))
    job = (await rig.readers.get("job")).job
    while job.state is not JobState.PROCESSING:
        job = (await rig.readers.get("job")).job
    rig.clock.advance(6 * HOUR)
    heard = job.heard_time
    await rig.committer.submit_own(c.MarkStale(job_id="job", caller=SERVER, attempt=job.attempt, heard_time=heard))


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
        {"stored_pages": ResumesInclusive},
        {"unique", "reliable", "resumable", "bookmarkable"},
    ),
    Mutation(
        "lose the notification between read and wait",
        is_told_right_after_a_look,
        {"feed": LosesTheNotification},
        {"reliable", "bookmarkable"},
    ),
    Mutation(
        "drop on a full buffer",
        is_overrun,
        {"recent": DropsWhenFull},
        {"reliable", "bookmarkable"},
        {"recent_bytes": 3_000},
    ),
    Mutation(
        "heartbeat ahead of an unsent event",
        is_silent_until_something_comes,
        {"feed": BeatsAhead},
        {"reliable", "bookmarkable"},
    ),
    Mutation(
        "horizon checked before the page instead of after",
        is_compacted_under_the_reader,
        {"stored_pages": LooksAtTheHorizonFirst},
        {"reliable", "resumable", "bookmarkable"},
        {"recent_bytes": 0},
    ),
    Mutation("go by the wall clock", is_set_back, {"store": GoesByTheWallClock}, {"forward"}),
    Mutation(
        "let clocks run while nobody works",
        is_worked_by_nobody,
        {"decider": HurriesWaitingJobs},
        {"retried", "tallied"},
    ),
    Mutation(
        "hand out an attempt twice",
        is_asked_twice_for_an_attempt,
        {"decider": HandsOutTwice},
        {"claimed", "exclusive", "tallied"},
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
