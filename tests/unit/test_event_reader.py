"""Readers of the event log: what they share, and what happens when the log goes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from jobstate_server.clock import ManualClock
from jobstate_server.domain.durations import SECOND
from jobstate_server.domain.errors import CursorUnknown
from jobstate_server.domain.filters import EventFilter
from jobstate_server.event_log.feed import EventFeed
from jobstate_server.event_log.pages import LogPosition, Page, PageLimits, SharedPages
from jobstate_server.event_log.reader import EventLog, EventReader
from jobstate_server.event_log.recent import LogEntry, RecentEvents
from jobstate_server.event_log.stored_pages import StoredPages
from jobstate_server.store.event_check import event_check
from jobstate_server.store.records import StoredEvent

JOB = EventFilter(job_ids=frozenset({"job"}))


def event(sequence: int, job_id: str = "job", history: str = "first") -> StoredEvent:
    return StoredEvent(sequence, 1, job_id, "type", "source", "", 4, f"{history} {sequence}".encode())


class Log:
    """Stands for the pages of the store: a list of events, and how often it was read."""

    def __init__(self, feed: EventFeed) -> None:
        self.feed = feed
        self.events: list[StoredEvent] = []
        self.reads = 0
        self.may_read = asyncio.Event()
        self.may_read.set()

    async def page(self, after: int, wanted: EventFilter, limits: PageLimits, erasures: int = 0) -> Page:
        self.reads += 1
        await self.may_read.wait()
        found = self.events[after : after + limits.events]
        last = found[-1]
        end = LogPosition(last.sequence, event_check(last))
        return Page([LogEntry(one) for one in found], end, self.feed.cursor(*end))

    async def resume(self, cursor: str) -> LogPosition:
        for one in self.events:
            check = event_check(one)
            if self.feed.cursor(one.sequence, check) == cursor:
                return LogPosition(one.sequence, check)
        raise CursorUnknown("the log has another history", "")


class Scene:
    """A feed, a log and readers."""

    def __init__(self, recent_bytes: int = 1024 * 1024) -> None:
        self.clock = ManualClock()
        self.feed = EventFeed("00" * 6, RecentEvents(0, 0, recent_bytes), self.clock)
        self.stored = Log(self.feed)
        self.log = EventLog(self.feed, cast("StoredPages", self.stored))

    def write(self, *events: StoredEvent) -> None:
        self.stored.events += events
        self.feed.publish(events)

    @asynccontextmanager
    async def readers(self, *filters: EventFilter) -> AsyncIterator[list[EventReader]]:
        readers = [self.log.reader(wanted) for wanted in filters]
        try:
            yield readers
        finally:
            for reader in readers:
                reader.close()
            assert (self.feed.watchers, self.feed._index, self.feed._groups) == (0, {}, {})


def sequences(page: Page | None) -> list[int]:
    return [] if page is None else [entry.event.sequence for entry in page.entries]


async def test_readers_with_equal_filters_share_a_page_and_what_is_made_of_it() -> None:
    scene = Scene()
    made = []

    def make(page: Page) -> bytes:
        made.append(page)
        return b"message"

    async with scene.readers(JOB, EventFilter(job_ids=frozenset({"job"})), EventFilter()) as (one, equal, other):
        scene.write(event(1), event(2, "another"))
        pages = [await reader.next_page() for reader in (one, equal, other)]

    assert [sequences(page) for page in pages] == [[1], [1], [1, 2]]
    assert pages[0] is pages[1]
    assert [page.once(make) for page in pages if page is not None] == [b"message"] * 3
    assert made == [pages[0], pages[2]]


async def test_readers_that_are_behind_one_after_the_other_share_one_read_of_the_log() -> None:
    scene = Scene(recent_bytes=0)
    async with scene.readers(JOB, JOB) as readers:
        scene.write(event(1), event(2))
        pages = [await reader.next_page() for reader in readers]

    assert pages[0] is pages[1]
    assert scene.stored.reads == 1


@pytest.mark.parametrize("recent_bytes", [0, 1024 * 1024], ids=["from the log", "from memory"])
async def test_a_shared_page_that_ended_with_the_log_is_made_anew_once_the_log_has_grown(recent_bytes: int) -> None:
    scene = Scene(recent_bytes)
    async with scene.readers(JOB, JOB) as (one, other):
        scene.write(event(1))
        assert sequences(await one.next_page()) == [1]
        scene.write(event(2))

        assert sequences(await other.next_page()) == [1, 2]
        assert sequences(await one.next_page()) == [2]


async def test_a_page_cut_by_its_limits_is_shared_though_the_log_grows() -> None:
    scene = Scene()
    scene.feed.page_limits = PageLimits(events=2)
    async with scene.readers(JOB, JOB) as (one, other):
        scene.write(event(1), event(2), event(3))
        first = await one.next_page()
        scene.write(event(4))

        assert await other.next_page() is first


async def test_a_page_read_while_the_log_goes_back_is_not_handed_out() -> None:
    scene = Scene(recent_bytes=0)
    async with scene.readers(EventFilter()) as (reader,):
        scene.write(event(1), event(2), event(3))
        scene.stored.may_read.clear()
        reading = asyncio.create_task(reader.next_page())
        await asyncio.sleep(0)
        scene.stored.events[1:] = [event(2, history="other"), event(3, history="other")]
        scene.feed.rewind(1, event_check(event(1)))
        scene.stored.may_read.set()

        assert await reading is None
        assert reader.position == 0


@pytest.mark.parametrize("filters", [[EventFilter()], [JOB, JOB]], ids=["alone", "shared"])
async def test_a_page_read_while_events_were_erased_is_not_handed_out(filters: list[EventFilter]) -> None:
    scene = Scene(recent_bytes=0)
    async with scene.readers(*filters) as (reader, *others):
        scene.write(event(1), event(2))
        scene.stored.may_read.clear()
        reading = asyncio.create_task(reader.next_page())
        await asyncio.sleep(0)
        scene.stored.events[:] = [event(1, history="erased"), event(2, history="erased")]
        scene.feed.forget()
        scene.stored.may_read.set()

        assert await reading is None
        pages = [await one.next_page() for one in (reader, *others)]

    for page in pages:
        assert page is not None
        assert b"erased" in page.entries[0].event.payload


async def test_what_is_in_memory_of_the_log_is_forgotten_and_readers_go_on() -> None:
    scene = Scene()
    async with scene.readers(JOB, JOB) as (one, other):
        scene.write(event(1), event(2))
        assert sequences(await one.next_page()) == [1, 2]
        scene.feed.forget()

        assert scene.feed.shared.bytes == 0
        assert not other.is_next_recent
        assert sequences(await other.next_page()) == [1, 2]
        scene.write(event(3))
        assert sequences(await one.next_page()) == [3]


async def test_a_reader_that_saw_what_the_log_has_lost_is_refused_and_one_that_did_not_goes_on() -> None:
    scene = Scene()
    async with scene.readers(EventFilter(), EventFilter()) as (ahead, behind):
        scene.write(event(1))
        for reader in (ahead, behind):
            await reader.next_page()
        scene.write(event(2))
        await ahead.next_page()
        scene.stored.events = [event(1)]
        scene.feed.rewind(1, event_check(event(1)))
        scene.write(event(2, history="other"))

        with pytest.raises(CursorUnknown):
            await ahead.next_page()
        page = await behind.next_page()

    assert page is not None
    assert [entry.event.payload for entry in page.entries] == [b"other 2"]


async def test_pages_of_a_lost_history_are_not_shared_with_readers_of_the_next() -> None:
    scene = Scene()
    async with scene.readers(EventFilter(), EventFilter(), EventFilter()) as (ahead, behind, third):
        scene.write(event(1), event(2))
        await ahead.next_page()
        scene.stored.events = []
        scene.feed.rewind(0, 0)
        scene.write(event(1, history="other"), event(2, history="other"))
        for reader in (behind, third):
            reader._rewinds = scene.feed.rewinds
            page = await reader.next_page()
            assert page is not None
            assert [entry.event.payload for entry in page.entries] == [b"other 1", b"other 2"]


async def test_a_wait_ends_with_the_first_event_that_passes_and_the_page_begins_there() -> None:
    scene = Scene()
    async with scene.readers(JOB) as (reader,):
        waiting = asyncio.create_task(reader.wait(30 * SECOND))
        await asyncio.sleep(0)
        scene.write(event(1, "another"), event(2, "another"), event(3), event(4))

        assert await waiting
        assert sequences(await reader.next_page()) == [3, 4]


async def test_a_wait_without_a_passing_event_moves_the_position_past_the_others() -> None:
    scene = Scene()
    async with scene.readers(JOB) as (reader,):
        waiting = asyncio.create_task(reader.wait(30 * SECOND))
        await asyncio.sleep(0)
        scene.write(event(1, "another"))
        scene.clock.advance(30 * SECOND)

        assert not await waiting
        assert reader.position == 1
        assert reader.cursor == scene.feed.cursor(1, event_check(event(1, "another")))


async def test_an_event_is_held_against_a_filter_once_however_many_readers_share_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = Scene()
    passes = EventFilter.passes
    held: list[Any] = []

    def counted(self: EventFilter, *values: Any, **more: Any) -> bool:
        held.append(values)
        return passes(self, *values, **more)

    async with scene.readers(*[JOB] * 100) as readers:
        waiting = [asyncio.create_task(reader.wait(30 * SECOND)) for reader in readers]
        await asyncio.sleep(0)
        monkeypatch.setattr(EventFilter, "passes", counted)
        scene.write(event(1))
        assert len(held) == 1
        assert all(await asyncio.gather(*waiting))
        pages = {id(await reader.next_page()) for reader in readers}

    assert len(pages) == 1
    assert len(held) == 2


async def test_a_reader_that_leaves_while_it_waits_takes_nothing_from_the_others() -> None:
    scene = Scene()
    async with scene.readers(JOB, JOB, JOB) as readers:
        waiting = [asyncio.create_task(reader.wait(30 * SECOND)) for reader in readers]
        await asyncio.sleep(0)
        waiting[1].cancel()
        await asyncio.gather(waiting[1], return_exceptions=True)
        readers[1].close()
        scene.write(event(1))

        assert await waiting[0]
        assert await waiting[2]


def page_of(size: int) -> Page:
    return Page([LogEntry(event(1)._replace(payload=bytes(size)))], LogPosition(1, 0), "")


def test_shared_pages_are_bounded_in_bytes_and_the_oldest_go_first() -> None:
    shared = SharedPages(bytes_max=10_000)
    for after in range(50):
        shared.put(("group", after), page_of(500), head=1)
        assert shared.bytes <= 10_000

    kept = [after for after in range(50) if shared.get(("group", after), head=1) is not None]
    assert kept == list(range(50 - len(kept), 50))
    assert len(kept) == 10_000 // page_of(500).size


def test_a_page_larger_than_all_shared_ones_may_be_is_not_kept() -> None:
    shared = SharedPages(bytes_max=10_000)
    shared.put(("group", 1), page_of(500), head=1)

    shared.put(("group", 2), page_of(10_000), head=1)

    assert shared.get(("group", 1), head=1) is not None
    assert shared.get(("group", 2), head=1) is None
