"""Single promises of the watch, each brought to the edge where it would break. docs/watch.md names these tests."""

from __future__ import annotations

import asyncio
import gc
import shutil
import threading
from pathlib import Path

import pytest

from jobstate_server.domain.errors import StoreUnavailable
from jobstate_server.store.errors import OutcomeUnknown
from jobstate_server.store.sqlite.store import SqliteStore

from ..support.calls import struct
from ..support.clock import PATIENCE_S
from .history import DRAINING, EVENTS, HEARTBEAT, SNAPSHOT, SYNCED, Watcher
from .rig import HEARTBEAT as SILENCE
from .rig import OpenWatch, Rig, cancel, complete, create, delete_oldest, progress, rigged, several, start
from .validators import broken


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


async def cursors_of_all(rig: Rig, watcher: Watcher) -> list[str]:
    """The cursor after every event, as a watcher that is told them one by one gets it."""
    follower = rig.follow(watcher)
    await follower.next()
    cursors = [follower.cursor]
    for index in range(12):
        await follower.through(rig.write(create(f"one-{index}")))
        cursors.append(follower.cursor)
    await follower.leave()
    return cursors


async def test_resuming_at_the_newest_event_gives_only_what_comes_after_it(path: Path) -> None:
    async with rigged(path) as rig:
        watcher = Watcher("watcher")
        follower = rig.follow(watcher, earliest=True)
        newest = rig.write(*several(3))
        await follower.through(newest)
        await follower.leave()

        resumed = rig.follow(watcher, follower.stream, cursor=follower.cursor)
        synced = await resumed.next()
        rig.write(create("later"))
        live = await resumed.next()

    assert synced is not None
    assert (synced.kind, synced.cursor) == (SYNCED, follower.cursor)
    assert live is not None
    assert [event.sequence for event in live.events] == [newest + 1]
    assert broken(rig.history()) == {}


@pytest.mark.parametrize("recent_bytes", [0, 1_000, 2_000, 4_000, 1_000_000])
async def test_every_cursor_gives_the_same_suffix_wherever_the_recent_events_end(path: Path, recent_bytes: int) -> None:
    async with rigged(path, recent_bytes=recent_bytes) as rig:
        watcher = Watcher("watcher")
        cursors = await cursors_of_all(rig, watcher)
        suffixes = [await rig.follow(watcher, cursor=cursor, follow=False).rest() for cursor in cursors]

    assert suffixes == [list(range(first, 13)) for first in range(1, 14)]
    assert broken(rig.history()) == {}


async def test_compaction_up_to_a_cursor_leaves_it_good_and_one_event_further_expires_it(path: Path) -> None:
    async with rigged(path, recent_bytes=0) as rig:
        watcher = Watcher("watcher")
        cursors = await cursors_of_all(rig, watcher)

        rig.trim(through=5)
        at_the_edge = rig.follow(watcher, cursor=cursors[5], follow=False)
        beyond = rig.follow(watcher, cursor=cursors[4], follow=False)
        await at_the_edge.rest()
        await beyond.rest()

    assert at_the_edge.sequences == list(range(6, 13))
    assert (beyond.sequences, beyond.stream.reason) == ([], "CURSOR_EXPIRED")
    assert broken(rig.history()) == {}


async def test_the_oldest_cursor_of_an_expiry_leads_to_everything_that_is_kept(path: Path) -> None:
    async with rigged(path, recent_bytes=0) as rig:
        watcher = Watcher("watcher")
        cursors = await cursors_of_all(rig, watcher)
        rig.trim(through=5)
        expired = rig.follow(watcher, cursor=cursors[2])
        await expired.rest()

        again = rig.follow(watcher, cursor=expired.stream.oldest_cursor, follow=False)
        await again.rest()

    assert again.sequences == list(range(6, 13))
    assert broken(rig.history()) == {}


async def test_compaction_while_a_page_is_read_is_an_error_and_never_a_gap(path: Path) -> None:
    async with rigged(path, recent_bytes=0) as rig:
        watcher = Watcher("watcher")
        cursors = await cursors_of_all(rig, watcher)
        rig.hooked.before_events = lambda: rig.trim(through=8)

        reader = rig.follow(watcher, cursor=cursors[3])
        await reader.rest()

    assert (reader.sequences, reader.stream.reason) == ([], "CURSOR_EXPIRED")
    assert broken(rig.history()) == {}


async def test_a_watcher_inside_retention_is_not_disturbed_by_a_compaction(path: Path) -> None:
    async with rigged(path, recent_bytes=0) as rig:
        follower = rig.follow(earliest=True)
        await follower.through(rig.write(*several(6)))

        rig.trim(through=6)
        await follower.through(rig.write(*several(6, "more")))

    assert follower.sequences == list(range(1, 13))
    assert broken(rig.history()) == {}


async def test_a_watcher_that_fell_out_of_retention_is_told_so_in_its_stream(path: Path) -> None:
    async with rigged(path, recent_bytes=0) as rig:
        follower = rig.follow(earliest=True)
        await follower.through(rig.write(*several(3)))

        rig.write(*several(6, "more"))
        rig.trim(through=7)
        await follower.rest()

    assert (follower.stream.code, follower.stream.reason) == ("OUT_OF_RANGE", "CURSOR_EXPIRED")
    assert follower.stream.oldest_cursor
    assert broken(rig.history()) == {}


async def test_a_heartbeat_never_passes_an_event_that_comes_in_the_same_moment(path: Path) -> None:
    async with rigged(path) as rig:
        follower = rig.follow()
        await follower.next()

        reading = asyncio.create_task(follower.next())
        await rig.clock.armed(SILENCE)
        rig.clock.advance(SILENCE)
        rig.write(create("in the same moment"))
        response = await reading

    assert response is not None
    assert (response.kind, follower.sequences) == (EVENTS, [1])
    assert broken(rig.history()) == {}


async def test_a_heartbeat_never_goes_back_behind_what_was_read_before_it_was_published(path: Path) -> None:
    async with rigged(path, recent_bytes=0) as rig:
        rig.write(create("published"))
        rig.commit(create("committed"))
        # What is older than the recent events is read from the log, which is ahead of what is published.
        follower = rig.follow(earliest=True)
        await follower.through(2)
        synced = await follower.next()

        reading = asyncio.create_task(follower.next())
        await rig.clock.armed(SILENCE)
        rig.clock.advance(SILENCE)
        heartbeat = await reading
        rig.publish()
        await follower.through(rig.write(create("later")))

    assert synced is not None
    assert heartbeat is not None
    assert (synced.kind, heartbeat.kind, follower.sequences) == (SYNCED, HEARTBEAT, [1, 2, 3])
    assert broken(rig.history()) == {}


async def test_heartbeats_carry_a_filtered_watcher_past_a_compaction(path: Path) -> None:
    async with rigged(path, recent_bytes=0) as rig:
        watcher = Watcher("watcher", job_ids=("wanted",))
        follower = rig.follow(watcher)
        await follower.next()
        rig.write(*several(20))

        reading = asyncio.create_task(follower.next())
        await rig.clock.armed(SILENCE)
        rig.clock.advance(SILENCE)
        heartbeat = await reading
        await follower.leave()
        rig.trim(through=20)
        resumed = rig.follow(watcher, follower.stream, cursor=follower.cursor, follow=False)
        rig.write(create("wanted"))
        await resumed.rest()

    assert heartbeat is not None
    assert heartbeat.kind == HEARTBEAT
    assert resumed.sequences == [21]
    assert broken(rig.history()) == {}


async def test_a_snapshot_taken_while_jobs_change_and_vanish_gives_the_right_copy(path: Path) -> None:
    async with rigged(path) as rig:
        rig.snapshots.jobs_max = 3
        rig.write(*several(10))
        rig.write(cancel("job-8"))
        follower = rig.follow(snapshot=True)
        await follower.next()

        rig.write(start("job-1"), start("job-5"), complete("job-5"), create("new"))
        rig.write(delete_oldest(), cancel("job-9"))
        response = await follower.next()
        while response is not None and response.kind == SNAPSHOT:
            response = await follower.next()
        await follower.through(rig.write(progress("job-1")))

    assert response is not None
    assert response.kind == SYNCED
    assert broken(rig.history()) == {}


async def test_a_store_restored_from_a_backup_knows_neither_newer_cursors_nor_those_of_another_history(
    path: Path,
) -> None:
    backup = path.with_name("backup.db")
    watcher = Watcher("watcher")
    async with rigged(path) as rig:
        rig.write(*several(3))
        before = await last_cursor(rig, watcher)
    shutil.copy(path, backup)
    async with rigged(path) as rig:
        rig.write(*several(4, "lost"))
        at_seven = await last_cursor(rig, watcher)
        rig.write(*several(2, "also lost"))
        newer = await last_cursor(rig, watcher)

    async with rigged(backup) as rig:
        reasons = [await reason_at(rig, at_seven)]
        rig.write(*several(4, "other"))
        reasons += [await reason_at(rig, at_seven), await reason_at(rig, newer), await reason_at(rig, before)]

    assert reasons == ["CURSOR_UNKNOWN", "CURSOR_UNKNOWN", "CURSOR_UNKNOWN", ""]


async def last_cursor(rig: Rig, watcher: Watcher) -> str:
    follower = rig.follow(watcher, earliest=True, follow=False)
    await follower.rest()
    return follower.cursor


async def reason_at(rig: Rig, cursor: str) -> str:
    """Why a watch at this cursor is refused, empty when it is not."""
    follower = rig.follow(cursor=cursor, follow=False)
    await follower.rest()
    assert bool(follower.stream.reason) == bool(follower.stream.oldest_cursor)
    return follower.stream.reason


async def test_until_final_ends_at_once_when_all_are_final_already(path: Path) -> None:
    async with rigged(path) as rig:
        rig.write(*several(2))
        rig.write(cancel("job-0"), cancel("job-1"))

        follower = rig.follow(Watcher("watcher", job_ids=("job-0", "job-1")), until_final=True)
        await follower.rest()

    assert [response.kind for response in follower.stream.responses] == [SYNCED]
    assert follower.stream.code == "OK"
    assert broken(rig.history()) == {}


async def test_until_final_ends_after_the_last_of_its_jobs_and_never_before(path: Path) -> None:
    async with rigged(path) as rig:
        rig.write(*several(2))
        follower = rig.follow(Watcher("watcher", job_ids=("job-0", "job-1")), until_final=True)
        await follower.next()

        rig.write(cancel("job-0"))
        await follower.next()
        waiting = asyncio.create_task(follower.next())
        await rig.clock.armed(SILENCE)
        assert not waiting.done()
        rig.write(start("job-1"), complete("job-1"))
        await waiting
        await follower.rest()

    assert (follower.sequences, follower.stream.code) == ([3, 4, 5], "OK")
    assert broken(rig.history()) == {}


async def test_until_final_counts_a_job_that_was_deleted_meanwhile(path: Path) -> None:
    async with rigged(path) as rig:
        watcher = Watcher("watcher", job_ids=("job-0",))
        rig.write(*several(1))
        follower = rig.follow(watcher, until_final=True)
        await follower.next()
        await follower.leave()

        rig.write(cancel("job-0"))
        rig.write(delete_oldest())
        resumed = rig.follow(watcher, follower.stream, cursor=follower.cursor, until_final=True)
        await resumed.rest()

    assert (resumed.sequences, resumed.stream.code) == ([2, 3], "OK")
    assert broken(rig.history()) == {}


async def test_until_final_sees_the_end_of_a_job_though_its_event_is_not_asked_for(path: Path) -> None:
    async with rigged(path) as rig:
        rig.write(*several(1))
        follower = rig.follow(Watcher("watcher", job_ids=("job-0",), types=("STARTED",)), until_final=True)
        await follower.next()

        waiting = asyncio.create_task(follower.rest())
        await rig.clock.armed(SILENCE)
        rig.write(start("job-0"), progress("job-0"), complete("job-0"))
        await waiting

    assert (follower.sequences, follower.stream.code) == ([2], "OK")
    assert broken(rig.history()) == {}


async def test_until_final_sees_the_end_of_a_job_that_the_other_filters_leave_out(path: Path) -> None:
    async with rigged(path) as rig:
        rig.write(*several(1))
        watcher = Watcher("watcher", job_ids=("job-0",), job_types=("another type",))
        follower = rig.follow(watcher, until_final=True)
        await follower.next()

        waiting = asyncio.create_task(follower.rest())
        await rig.clock.armed(SILENCE)
        rig.write(cancel("job-0"))
        await waiting

    assert (follower.sequences, follower.stream.code) == ([], "OK")


async def test_a_page_that_expires_after_its_watcher_has_gone_is_no_error_to_anybody(path: Path) -> None:
    errors: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    reached, gone = threading.Event(), threading.Event()
    async with rigged(path, recent_bytes=0) as rig:
        rig.write(*several(10))
        follower = rig.follow(earliest=True)

        def hold() -> None:
            reached.set()
            assert gone.wait(PATIENCE_S)
            rig.trim(6)

        rig.hooked.before_events = hold
        reading = asyncio.create_task(follower.next())
        assert await asyncio.to_thread(reached.wait, PATIENCE_S)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        assert reading.cancelled()
        gone.set()
        await rig.readers.run(lambda reader: reader.log_state())
        # Its traceback leads to the page; nothing else should.
        del reading
        gc.collect()

    assert errors == []


async def test_what_a_commit_of_unknown_outcome_wrote_is_told_with_the_next_commit(path: Path) -> None:
    async with rigged(path, store=CannotSay) as rig:
        store = rig.store
        assert isinstance(store, CannotSay)
        follower, named = rig.follow("all"), rig.follow(Watcher("named", job_ids=("unknown", "later")))
        for watcher in (follower, named):
            await watcher.next()
        reading = [asyncio.create_task(watcher.through(3)) for watcher in (follower, named)]

        await rig.call(create("known"))
        store.silent = True
        with pytest.raises(StoreUnavailable):
            await rig.call(create("unknown"))
        store.silent = False
        await rig.call(create("later"))
        sent = [await each for each in reading]

    assert sent == [[1, 2, 3], [2, 3]]
    assert broken(rig.history()) == {}


class CannotSay(SqliteStore):
    """A store that loses its connection right after a commit."""

    silent = False

    def _commit(self) -> None:
        super()._commit()
        if self.silent:
            raise OutcomeUnknown("the connection was lost")


async def test_latest_leaves_out_only_progress_that_later_progress_replaces(path: Path) -> None:
    async with rigged(path) as rig:
        metadata = struct(step=1).SerializeToString()
        rig.write(*several(2), start("job-0"), start("job-1"))
        rig.write(
            progress("job-0", 1, metadata=metadata),
            progress("job-0", 2, metadata=metadata),
            progress("job-0", 3),
            progress("job-0", 4),
            progress("job-1", 1),
        )
        follower = rig.follow(Watcher("watcher", latest_progress=True), earliest=True, follow=False)
        await follower.rest()

    assert follower.sequences == [1, 2, 3, 4, 6, 8, 9]
    assert broken(rig.history()) == {}


async def test_an_event_that_empties_the_metadata_carries_it_empty(path: Path) -> None:
    async with rigged(path) as rig:
        rig.write(create("job", metadata=struct(key=1).SerializeToString()), start("job"))
        rig.write(progress("job", 1, metadata=struct(key=None).SerializeToString()))
        follower = rig.follow(earliest=True, follow=False)
        await follower.rest()

    assert [event.metadata for response in follower.stream.responses for event in response.events] == [
        True,
        False,
        True,
    ]
    assert broken(rig.history()) == {}


async def test_draining_gives_every_watcher_a_cursor_wherever_it_is(path: Path) -> None:
    async with rigged(path, recent_bytes=0) as rig:
        behind = Watcher("behind")
        live = Watcher("live")
        rig.write(*several(3))
        first = rig.follow(behind, earliest=True)
        await first.next()
        second = rig.follow(live)
        await second.next()
        waiting = asyncio.create_task(second.next())
        await rig.clock.armed(SILENCE)

        rig.write(*several(2, "unseen"))
        rig.feed.drain()
        await waiting
        for follower in (first, second):
            await follower.rest()
    async with rigged(path) as again:
        again.watchers, again.recorder = rig.watchers, rig.recorder
        resumed = [await resumption(again, behind, first), await resumption(again, live, second)]

    assert [follower.stream.responses[-1].kind for follower in (first, second)] == [DRAINING, DRAINING]
    assert [follower.stream.reason for follower in (first, second)] == ["DRAINING", "DRAINING"]
    assert [first.sequences + resumed[0], second.sequences + resumed[1]] == [[1, 2, 3, 4, 5], [4, 5]]
    assert broken(again.history()) == {}


async def resumption(rig: Rig, watcher: Watcher, follower: OpenWatch) -> list[int]:
    """What a watcher gets that goes on where this one was drained."""
    return await rig.follow(watcher, follower.stream, cursor=follower.cursor, follow=False).rest()


async def test_a_watcher_that_leaves_takes_no_page_away_from_those_who_share_it(path: Path) -> None:
    async with rigged(path, recent_bytes=0) as rig:
        rig.write(*several(5))
        reached, go_on = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def hold() -> None:
            loop.call_soon_threadsafe(reached.set)
            asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result()

        rig.hooked.before_events = hold
        leaver, stayer = rig.follow("leaver", earliest=True), rig.follow("stayer", earliest=True)
        leaving, staying = asyncio.create_task(leaver.next()), asyncio.create_task(stayer.through(5))
        await reached.wait()
        leaving.cancel()
        await asyncio.wait([leaving])
        go_on.set()
        await staying

    assert stayer.sequences == [1, 2, 3, 4, 5]
    assert rig.feed.watchers == 0
