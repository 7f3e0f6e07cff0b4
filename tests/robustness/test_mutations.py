"""Six ways to break the watch on purpose, and the validator that catches each.

Every scenario is run twice, as the server is and with the defect put in: what goes red then shows that the promise is
held by the code and not by luck, and that its validator looks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from jobstate_server.domain.errors import CursorExpired
from jobstate_server.domain.filters import EventFilter
from jobstate_server.store.base import Reader
from jobstate_server.store.sqlite import SqliteStore, SqliteTransaction
from jobstate_server.watch.catch_up import PAGE_BYTES_MAX, PAGE_EVENTS_MAX, CatchUp, Page
from jobstate_server.watch.cursor import event_check
from jobstate_server.watch.hub import Hub, Waiter
from jobstate_server.watch.ring import Entry, Ring

from .history import History, Watcher
from .rig import HEARTBEAT, Rig, create, rigged, several
from .validators import broken


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


class LooksAtTheHorizonFirst(CatchUp):
    """Horizon checked before the page: what retention removes in between is missing from it in silence."""

    def _read_page(self, reader: Reader, after: int, wanted: EventFilter) -> Page:
        state = reader.log_state()
        if after < state.horizon:
            raise CursorExpired(self._oldest_cursor(state))
        events, scanned, _ = reader.events(after, wanted, PAGE_EVENTS_MAX, PAGE_BYTES_MAX)
        last = reader.event(scanned)
        return Page(events, scanned, state.horizon_check if last is None else event_check(last.payload))


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
    rig.readers.before_events = lambda: rig.trim(6)
    await rig.follow(cursor=follower.cursor, follow=False).rest()


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
