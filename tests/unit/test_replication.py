"""Replication: own and others' events, published once each and in order, whatever comes when."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobstate_server.clock import ManualClock
from jobstate_server.domain.errors import StoreUnavailable
from jobstate_server.domain.filters import EventFilter
from jobstate_server.engine.readers import Readers
from jobstate_server.event_log import listener
from jobstate_server.event_log.feed import EventFeed
from jobstate_server.event_log.listener import QUIET_WAITS_MAX
from jobstate_server.event_log.pages import PageLimits
from jobstate_server.event_log.recent import RecentEvents
from jobstate_server.event_log.replication import HELD_EVENTS_MAX, Replication
from jobstate_server.store.errors import StoreError, StoreUnreachable
from jobstate_server.store.records import EventPage, LogState, Notification, StoredEvent

PATIENCE_S = 10.0


def event(sequence: int) -> StoredEvent:
    return StoredEvent(sequence, 1, "job", "type", "source", "", 1, b"payload %d" % sequence)


class Log:
    """The shared log, as a reader finds it."""

    def __init__(self) -> None:
        self.written: list[StoredEvent] = []
        self.horizon = 0

    def append(self, count: int) -> list[StoredEvent]:
        """Commit events, as whichever replica."""
        added = [event(len(self.written) + 1 + index) for index in range(count)]
        self.written += added
        return added

    def log_state(self) -> LogState:
        return LogState(len(self.written), self.horizon, 0, 0)

    def event(self, sequence: int) -> StoredEvent | None:
        return self.written[sequence - 1] if self.horizon < sequence <= len(self.written) else None

    def events(self, after: int, wanted: EventFilter, limit: int, bytes_max: int) -> EventPage:
        assert wanted.passes_all
        found = [one for one in self.written[after : after + limit] if one.sequence > self.horizon]
        return EventPage(found, found[-1].sequence if found else max(after, len(self.written)), 0, self.horizon, 0)


class ScriptedReaders:
    """Readers whose reads are done when the test says so."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.is_prompt = True
        self.error: Exception | None = None
        self.waiting: list[Callable[[], None]] = []
        self.reads = 0

    def run(self, read: Callable[[Log], Any]) -> asyncio.Future[Any]:
        """Take the read; what it finds is what is there when it is done."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.reads += 1

        def done() -> None:
            if future.cancelled():
                return
            if self.error is not None:
                future.set_exception(self.error)
            else:
                future.set_result(read(self.log))

        if self.is_prompt:
            done()
        else:
            self.waiting.append(done)
        return future

    def do_one(self) -> None:
        """Do the oldest read."""
        self.waiting.pop(0)()


class ScriptedNotifier:
    """A notifier that says what the test has put in."""

    def __init__(self) -> None:
        self.said: queue.SimpleQueue[Notification | Exception | None] = queue.SimpleQueue()
        self.is_closed = False

    def wait(self, timeout_s: float) -> Notification | None:
        try:
            said = self.said.get(timeout=PATIENCE_S)
        except queue.Empty:
            return None
        if isinstance(said, Exception):
            raise said
        return said

    def disconnect(self) -> None:
        """Nothing is waited for."""

    def close(self) -> None:
        self.is_closed = True


class RecordingFeed(EventFeed):
    """A feed that records what is published."""

    def __init__(self) -> None:
        super().__init__("00" * 6, RecentEvents(0, 0, 1024 * 1024), ManualClock())
        self.published: list[int] = []
        self.skipped_to: list[int] = []

    def publish(self, events: Sequence[StoredEvent]) -> None:
        self.published += [one.sequence for one in events]
        super().publish(events)

    def skip_to(self, head: int, head_check: int) -> None:
        self.skipped_to.append(head)
        super().skip_to(head, head_check)


class Scene:
    """Replication among doubles, with one watcher of everything."""

    def __init__(self, *, watched: bool = True) -> None:
        self.log = Log()
        self.readers = ScriptedReaders(self.log)
        self.feed = RecordingFeed()
        self.notifier = ScriptedNotifier()
        self.replication = Replication(self.notifier, self.feed, cast("Readers", self.readers))
        self.waiter = self.feed.join(EventFilter()) if watched else None

    def notify(self) -> None:
        """Say how far the log reaches."""
        self.replication._notified(Notification(len(self.log.written), None))

    async def quiet(self) -> None:
        """Let everything happen that can without another read being done."""
        for _ in range(20):
            await asyncio.sleep(0)

    async def settled(self) -> None:
        """Let everything happen, reads too."""
        await self.quiet()
        while self.readers.waiting:
            self.readers.do_one()
            await self.quiet()


async def test_own_events_that_follow_the_head_are_published_at_once_and_nothing_is_read() -> None:
    scene = Scene()

    scene.replication.publish(scene.log.append(2))
    scene.replication.publish(scene.log.append(1))
    await scene.quiet()

    assert scene.feed.published == [1, 2, 3]
    assert scene.readers.reads == 0


async def test_events_of_others_are_read_after_a_notification() -> None:
    scene = Scene()
    scene.log.append(3)

    scene.notify()
    await scene.quiet()

    assert scene.feed.published == [1, 2, 3]


async def test_own_events_wait_for_those_of_others_before_them() -> None:
    scene = Scene()
    scene.readers.is_prompt = False
    scene.log.append(2)
    scene.replication.publish(scene.log.append(2))
    await scene.quiet()
    assert scene.feed.published == []

    await scene.settled()

    assert scene.feed.published == [1, 2, 3, 4]


async def test_own_events_published_while_a_page_is_read_are_not_published_again() -> None:
    """The page has them too: it is read after they were committed."""
    scene = Scene()
    scene.readers.is_prompt = False
    own = scene.log.append(2)
    scene.notify()
    await scene.quiet()
    scene.log.append(1)

    scene.replication.publish(own)
    assert scene.feed.published == [1, 2]
    await scene.settled()

    assert scene.feed.published == [1, 2, 3]


async def test_own_events_that_were_read_before_they_are_handed_over_are_not_published_again() -> None:
    scene = Scene()
    own = scene.log.append(2)
    scene.log.append(1)
    scene.notify()
    await scene.quiet()

    scene.replication.publish(own)

    assert scene.feed.published == [1, 2, 3]


async def test_own_events_that_were_read_for_a_watcher_who_has_gone_are_not_published_again() -> None:
    scene = Scene()
    own = scene.log.append(2)
    scene.notify()
    await scene.quiet()
    assert scene.waiter is not None
    scene.feed.leave(scene.waiter)

    scene.replication.publish(own)
    scene.replication.publish(scene.log.append(1))

    assert scene.feed.published == [1, 2, 3]


async def test_while_nobody_watches_nothing_is_read_and_own_events_are_published_over_the_gap() -> None:
    scene = Scene(watched=False)
    scene.log.append(3)
    scene.notify()
    scene.replication.publish(scene.log.append(1))
    for _ in range(3):
        scene.replication._look()
    await scene.quiet()

    assert scene.readers.reads == 0
    assert scene.feed.published == [4]
    assert scene.feed.recent.tail == 3


async def test_without_notifications_the_log_is_looked_at_for_whoever_watches() -> None:
    """Nothing depends on notifications alone."""
    scene = Scene()
    scene.log.append(2)

    scene.replication._look()
    await scene.quiet()

    assert scene.feed.published == [1, 2]


async def test_own_events_that_wait_are_bounded_and_those_beyond_are_read_from_the_log() -> None:
    scene = Scene()
    scene.readers.is_prompt = False
    scene.log.append(1)
    batch = 2_048
    batches = HELD_EVENTS_MAX // batch + 3
    for _ in range(batches):
        scene.replication.publish(scene.log.append(batch))

    assert scene.replication._held_count <= HELD_EVENTS_MAX + batch
    await scene.settled()

    published = scene.feed.published
    assert published == sorted(set(published))
    assert scene.feed.head == 1 + batches * batch
    assert scene.replication._held == {}
    assert scene.replication._held_count == 0


async def test_who_is_more_than_a_page_behind_skips_to_the_newest_event_and_wakes_everybody() -> None:
    """Those who need what lies between read it from the log, each at its own pace."""
    scene = Scene()
    scene.feed.page_limits = PageLimits(events=10)
    assert scene.waiter is not None
    waiting = scene.waiter.wait()
    scene.log.append(11)

    scene.notify()
    await scene.quiet()

    assert (scene.feed.published, scene.feed.skipped_to, scene.feed.head) == ([], [11], 11)
    assert waiting.done()


async def test_events_that_retention_removed_before_they_were_read_are_skipped() -> None:
    scene = Scene()
    scene.log.append(5)
    scene.log.horizon = 5

    scene.notify()
    await scene.quiet()

    assert (scene.feed.published, scene.feed.head) == ([], 5)


async def test_a_refresh_returns_at_once_when_everything_is_published() -> None:
    scene = Scene()
    scene.replication.publish(scene.log.append(2))

    await scene.replication.refresh()

    assert scene.readers.reads == 1


async def test_a_refresh_waits_until_what_was_committed_before_it_is_published() -> None:
    scene = Scene()
    scene.readers.is_prompt = False
    scene.log.append(3)
    refresh = asyncio.ensure_future(scene.replication.refresh())
    await scene.quiet()
    scene.readers.do_one()
    await scene.quiet()
    assert not refresh.done()

    await scene.settled()

    assert refresh.done()
    assert scene.feed.published == [1, 2, 3]


@pytest.mark.parametrize("reads_done", [0, 1], ids=["the head", "the page"])
async def test_a_refresh_fails_when_the_log_cannot_be_read_and_the_next_one_works(reads_done: int) -> None:
    scene = Scene()
    scene.readers.is_prompt = False
    scene.log.append(1)
    refresh = asyncio.ensure_future(scene.replication.refresh())
    await scene.quiet()
    for _ in range(reads_done):
        scene.readers.do_one()
        await scene.quiet()
    scene.readers.error = StoreUnavailable("played", 0.5)

    await scene.settled()

    with pytest.raises(StoreUnavailable, match="played"):
        await refresh
    scene.readers.error, scene.readers.is_prompt = None, True
    await scene.replication.refresh()
    assert scene.feed.published == [1]


async def test_a_refresh_does_not_wait_for_events_that_the_log_no_longer_has() -> None:
    """As after a fail-over to a database that did not have them."""
    scene = Scene()
    scene.readers.is_prompt = False
    scene.log.append(3)
    refresh = asyncio.ensure_future(scene.replication.refresh())
    await scene.quiet()
    scene.readers.do_one()
    await scene.quiet()
    scene.log.written.clear()

    await scene.settled()

    assert refresh.done()
    await refresh


async def test_a_refresh_given_up_disturbs_no_other() -> None:
    scene = Scene()
    scene.readers.is_prompt = False
    scene.log.append(1)
    one, other = (asyncio.ensure_future(scene.replication.refresh()) for _ in range(2))
    await scene.quiet()
    for _ in range(2):
        scene.readers.do_one()
    await scene.quiet()
    one.cancel()

    await scene.settled()

    await other
    assert one.cancelled()
    assert scene.replication._refreshing == []


@asynccontextmanager
async def listening(scene: Scene) -> AsyncIterator[None]:
    """The notifier's thread at work, ended in the end."""
    scene.replication.start()
    try:
        yield
    finally:
        stopping = asyncio.ensure_future(scene.replication.stop())
        await asyncio.sleep(0)
        scene.notifier.said.put(None)
        await stopping
    assert scene.notifier.is_closed


async def test_a_due_time_of_another_replica_is_handed_on() -> None:
    scene = Scene(watched=False)
    notified: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    scene.replication.due_written.subscribe(notified.set_result)

    async with listening(scene), asyncio.timeout(PATIENCE_S):
        scene.notifier.said.put(Notification(0, None))
        scene.notifier.said.put(Notification(0, 1_234))
        assert await notified == 1_234


@pytest.mark.parametrize("error", [StoreUnreachable("played"), StoreError("played")], ids=["unreachable", "anything"])
async def test_a_notifier_that_cannot_be_reached_is_tried_again(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(listener, "RETRY_S", 0.0)
    scene = Scene(watched=False)
    notified: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    scene.replication.due_written.subscribe(notified.set_result)

    async with listening(scene), asyncio.timeout(PATIENCE_S):
        for said in (error, error, Notification(0, 5)):
            scene.notifier.said.put(said)
        assert await notified == 5

    assert [record.message for record in caplog.records] == ["the notifier cannot be reached"]


async def test_after_some_waits_without_a_notification_the_log_is_looked_at() -> None:
    scene = Scene()
    scene.log.append(2)
    assert scene.waiter is not None
    notification = scene.waiter.wait()

    async with listening(scene), asyncio.timeout(PATIENCE_S):
        for _ in range(QUIET_WAITS_MAX):
            scene.notifier.said.put(None)
        await notification

    assert scene.feed.published == [1, 2]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("other"), st.integers(1, 4)),
        st.tuples(st.just("own"), st.integers(1, 4)),
        st.tuples(st.sampled_from(["publish", "notify", "read", "turn", "look", "leave", "join"]), st.just(0)),
    ),
    max_size=60,
)


async def play(steps: Sequence[tuple[str, int]]) -> None:
    """Play any sequence of commits, notifications and reads, and check what a watcher who stays is sent."""
    scene = Scene()
    scene.readers.is_prompt = False
    unpublished: list[list[StoredEvent]] = []
    guests = []
    for step, count in steps:
        if step == "other":
            scene.log.append(count)
        elif step == "own":
            unpublished.append(scene.log.append(count))
        elif step == "publish" and unpublished:
            scene.replication.publish(unpublished.pop(0))
        elif step == "notify":
            scene.notify()
        elif step == "read" and scene.readers.waiting:
            scene.readers.do_one()
        elif step == "turn":
            await asyncio.sleep(0)
        elif step == "look":
            scene.replication._look()
        elif step == "join":
            guests.append(scene.feed.join(EventFilter()))
        elif step == "leave" and guests:
            scene.feed.leave(guests.pop())
    for own in unpublished:
        scene.replication.publish(own)
    scene.notify()
    await scene.settled()

    assert scene.feed.published == list(range(1, len(scene.log.written) + 1))
    assert scene.feed.skipped_to == []
    assert (scene.replication._held, scene.replication._held_count, scene.replication._refreshing) == ({}, 0, [])


@settings(max_examples=300)
@given(STEPS)
def test_whatever_comes_when_every_event_is_published_once_and_in_order(steps: Sequence[tuple[str, int]]) -> None:
    asyncio.run(play(steps))
