"""``jobstate-server check --recount`` corrects counts that are wrong, on both stores and beside servers."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from jobstate.v1 import job_service_pb2 as pb
from jobstate_server import cli
from jobstate_server.domain.job import JobState
from jobstate_server.store.check import check, correct_counts
from jobstate_server.store.checking import AnyMiscount
from jobstate_server.store.lane_checks import LaneMiscount

from ..support.calls import cancel, complete, create, fail, release, span, start
from ..support.clock import WatchedClock
from ..support.postgres import postgres_server
from ..support.server import RESTING, Running, serving_url
from .filled_store import filled


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a store that is not there yet."""
    return f"sqlite:///{tmp_path / 'jobs.db'}" if request.param == "sqlite" else postgres_server().new_store()


def changed(url: str, *statements: str) -> None:
    """Do to the store what only a defect can."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as file, file:
            for statement in statements:
                file.execute(statement)
        return
    with psycopg.connect(url) as connection:
        for statement in statements:
            connection.execute(statement.encode())


WRONG = {
    "a count that is too high": (
        "UPDATE tally SET value = value + 2 WHERE measure = 1 AND bucket = 3 AND value = 1",
        "in COMPLETED, but the statistics count 3",
    ),
    "a count that is gone": (
        "DELETE FROM tally WHERE measure = 1 AND bucket = 2",
        "in PROCESSING, but the statistics count 0",
    ),
    "a count of a type that has no jobs": (
        "INSERT INTO tally (job_type, measure, bucket, value) VALUES ('another', 11, 0, 4)",
        "there are 0 jobs of type another whose attempt no worker has claimed, but the statistics count 4",
    ),
    "a count of what is delayed": (
        "INSERT INTO tally (job_type, measure, bucket, value) VALUES ('another', 10, 2, -3)",
        "there are 0 jobs of type another that are delayed, but the statistics count -3",
    ),
}


@pytest.mark.parametrize(("damage", "told"), WRONG.values(), ids=WRONG)
async def test_a_wrong_count_is_told_and_corrected(
    url: str, damage: str, told: str, clock: WatchedClock, capsys: pytest.CaptureFixture[str]
) -> None:
    await filled(url, clock)
    changed(url, damage)

    assert cli.main(["check", "--store", url]) == 1
    assert told in (found := capsys.readouterr().err)
    assert "--recount" in found
    assert cli.main(["check", "--store", url, "--recount"]) == 0
    assert told in capsys.readouterr().out
    assert cli.main(["check", "--store", url]) == 0
    assert "is a whole store: 5 jobs, " in capsys.readouterr().out
    assert correct_counts(url) == []


async def test_a_store_that_is_wrong_otherwise_is_not_corrected(
    url: str, clock: WatchedClock, capsys: pytest.CaptureFixture[str]
) -> None:
    await filled(url, clock)
    changed(url, "UPDATE log SET bytes = bytes + 1", WRONG["a count that is too high"][0])

    assert cli.main(["check", "--store", url, "--recount"]) == 1

    assert "bytes, but the log counts" in capsys.readouterr().err
    assert "in COMPLETED, but the statistics count 3" in " ".join(check(url).problems)


LANES_WRONG = {
    "a lane that counts too many": "UPDATE lane SET running = running + 2, ready = 0 WHERE lane = 'a'",
    "a lane that is gone": "DELETE FROM lane WHERE lane = 'a'",
    "the sums of a type": "UPDATE dispatch SET resting = resting + 1",
    "a lane without jobs": "INSERT INTO lane (job_type, lane, returned) VALUES ('default', 'z', 1)",
}


@pytest.mark.parametrize("damage", LANES_WRONG.values(), ids=LANES_WRONG)
async def test_what_lanes_count_is_checked_and_corrected(url: str, damage: str, clock: WatchedClock) -> None:
    async with serving_url(url, clock) as running:
        for lane in ("a", "b"):
            for kind in ("runs", "waits", "comes-back", "fails", "rests"):
                job_type = RESTING if kind == "rests" else "default"
                await create(running, f"{lane}-{kind}", job_type, lane=lane)
            for kind in ("runs", "comes-back", "fails", "rests"):
                await start(running, f"{lane}-{kind}")
            await release(running, f"{lane}-comes-back")
            await fail(running, f"{lane}-fails", retryable=True)
            await fail(running, f"{lane}-rests", retryable=True)
    assert check(url).problems == []
    changed(url, damage)

    assert check(url).problems
    assert correct_counts(url)

    assert check(url).problems == []
    assert correct_counts(url) == []


async def every_kind(running: Running, number: int) -> None:
    """Jobs in every state that is counted, all of one type."""
    names = [f"job-{number}-{kind}" for kind in ("done", "runs", "waits", "delayed", "gone")]
    for name in names:
        await create(running, name, delay=span(3_600) if name.endswith("delayed") else None)
    for name in names[:3]:
        await start(running, name)
    await complete(running, names[0])
    await release(running, names[2], attempt=1)
    await cancel(running, names[4])


def key_of(miscount: AnyMiscount) -> str:
    return f"{miscount.job_type} {miscount.lane}" if isinstance(miscount, LaneMiscount) else str(miscount.key)


async def test_counts_are_corrected_while_replicas_change_them(clock: WatchedClock) -> None:
    url = postgres_server().new_store()
    async with serving_url(url, clock) as one, serving_url(url, clock) as other:
        await every_kind(one, 999)
        stopping = asyncio.Event()

        async def keep_changing(running: Running, first: int) -> int:
            number = first
            while not stopping.is_set():
                await every_kind(running, number)
                number += 1
            return number - first

        changing = [
            asyncio.create_task(keep_changing(each, (place + 1) * 10**6)) for place, each in enumerate((one, other))
        ]
        corrected: Counter[str] = Counter()
        for _ in range(20):
            # Behind the row of the log, as whoever writes tallies.
            wrong = ("SELECT 1 FROM log FOR UPDATE", "UPDATE tally SET value = value + 7 WHERE measure IN (1, 10, 11)")
            await asyncio.to_thread(changed, url, *wrong)
            corrected.update(map(key_of, await asyncio.to_thread(correct_counts, url)))
        stopping.set()
        made = sum(await asyncio.gather(*changing))

        assert made > 0
        assert set(corrected.values()) == {20}
        assert check(url).problems == []
        stats = (await one.jobs.GetStats(pb.GetStatsRequest())).total
        counts = {JobState(each.state).name: each.count for each in stats.stored}
        assert counts["COMPLETED"] == counts["CANCELLED"] == stats.running == made + 1


def until_both_wait(looking: psycopg.Connection[Any]) -> None:
    """Until two transactions wait for locks."""
    while looking.execute("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchone() != (2,):
        pass


async def test_two_recounts_at_once_correct_a_count_once(clock: WatchedClock) -> None:
    url = postgres_server().new_store()
    await filled(url, clock)
    changed(url, WRONG["a count that is too high"][0])
    with psycopg.connect(url, autocommit=True) as looking, psycopg.connect(url) as committing:
        # As while a server commits, so that neither can write before both have read what they can.
        committing.execute("SELECT 1 FROM log FOR UPDATE")
        recounts = [asyncio.create_task(asyncio.to_thread(correct_counts, url)) for _ in range(2)]
        await asyncio.to_thread(until_both_wait, looking)
        committing.rollback()
        found = await asyncio.gather(*recounts)

    assert sorted(map(len, found)) == [0, 1]
    assert check(url).problems == []


async def test_the_statistics_of_a_file_in_use_are_checked_and_not_corrected(
    tmp_path: Path, clock: WatchedClock, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "jobs.db"
    await filled(f"sqlite:///{path}", clock)
    changed(f"sqlite:///{path}", WRONG["a count that is too high"][0])
    async with serving_url(f"sqlite:///{path}", clock):
        assert cli.main(["check", str(path), "--recount"]) == 1

    assert "another jobstate-server is using" in capsys.readouterr().err


def test_what_cannot_be_checked_is_told(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "--store", url, "--recount"]) == 1
    assert "is not a whole store" in capsys.readouterr().err
    assert cli.main(["check", "jobs.db", "--store", url]) == 1
    assert "not both" in capsys.readouterr().err
