"""``jobstate-server copy``: the same store elsewhere, whole or not at all, and nobody notices but by the address."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest

from jobstate.v1 import job_pb2
from jobstate_server import cli
from jobstate_server.clock import SystemClock
from jobstate_server.domain.groups import GroupMove, GroupPolicy
from jobstate_server.domain.labels import to_text
from jobstate_server.domain.needs import NeedCondition
from jobstate_server.store.copying import copy as copying
from jobstate_server.store.copying.copy import CannotCopy, SqliteView, copy_store
from jobstate_server.store.errors import CannotOpen, StoreError
from jobstate_server.store.factory import open_store
from jobstate_server.store.models import EventRow, WholeJobRow
from jobstate_server.store.records import ChangedJob, Changes
from jobstate_server.store.relation_records import GroupChange, NeedRow, NewGroup

from ..store.support import a_job, an_event, contents, keep, keep_jobs, stored_events
from ..support.calls import (
    create,
    history,
    refused,
)
from ..support.clock import PATIENCE_S, WatchedClock
from ..support.postgres import postgres_server
from .filled_store import filled, ignore, opened, requests_of, serving_at
from .support import events_after

Place = Callable[[], str]

WAYS = [("sqlite", "postgres"), ("postgres", "sqlite"), ("sqlite", "sqlite"), ("postgres", "postgres")]

on_every_way = pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way[0]} to {way[1]}")
on_each_kind = pytest.mark.parametrize("kind", ["sqlite", "postgres"])


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Place]:
    """By the kind of store: gives the URL of one that is not there yet."""
    files = iter(range(100))
    return {
        "sqlite": lambda: f"sqlite:///{tmp_path}/{next(files)}.db",
        "postgres": lambda: postgres_server().new_store(),
    }


@on_every_way
async def test_everything_is_the_same_on_the_other_side(
    way: tuple[str, str], places: dict[str, Place], clock: WatchedClock
) -> None:
    source, destination = (places[kind]() for kind in way)
    await filled(source, clock)

    copied = dict(copy_store(source, destination, ignore))

    with opened(source) as one, opened(destination) as other:
        before, after = contents(one), contents(other)
        assert after == before
        assert other.log_id == one.log_id
        assert requests_of(other) == requests_of(one)
        assert len(requests_of(one)) == 4
    assert before.log[1] == 3, "the horizon has moved"
    assert copied == {
        "job": 5,
        "event": len(before.events),
        "log": 1,
        "horizon": 1,
        "attempt": 3,
        "request": 4,
        "tally": len(before.tallies),
        "dispatch": 1,
        "lane": 1,
        "need": 0,
        "needed": 0,
        "members": 0,
        "label": 0,
        "task_run": 1,
    }


def test_needs_groups_and_labels_are_the_same_after_a_copy_there_and_back(places: dict[str, Place]) -> None:
    urls = [places[kind]() for kind in ("sqlite", "postgres", "sqlite")]
    parent, child = a_job("parent", needed=True), a_job("child", needs_count=1, open_needs=1, held=True)
    group = a_job("group", group_depth=1)
    with opened(urls[0]) as store:
        keep_jobs(store, parent, a_job("labelled", labels=to_text({"tenant": "acme", "b": ""})))
        changes = Changes(
            inserted=[ChangedJob(child, 0, 0), ChangedJob(group, 1, 1)],
            events=[an_event("child"), an_event("group")],
            new_needs=[
                NeedRow(0, 0, "parent", parent.create_sequence, None, NeedCondition.FINAL, None, is_counted=True)
            ],
            new_groups=[NewGroup(1, "group", None, None, 1, GroupPolicy(7))],
            groups=[GroupChange(None, 1, GroupMove(total=3, tokens=5), closes=True, look_again=9)],
        )
        keep(store, changes)

    copied = [dict(copy_store(source, destination, ignore)) for source, destination in pairwise(urls)]

    tables = ("need", "needed", "members", "label")
    assert [tuple(rows[table] for table in tables) for rows in copied] == [(1, 1, 1, 2)] * 2
    assert rows_of_relations(urls[2]) == rows_of_relations(urls[0])


def rows_of_relations(url: str) -> list[list[tuple[object, ...]]]:
    """All rows about needs, groups and labels in a file."""
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as database:
        tables = ("need", "needed", "members", "label")
        return [database.execute(f"SELECT * FROM {table}").fetchall() for table in tables]  # noqa: S608


@on_every_way
async def test_a_cursor_from_before_is_resumed_on_the_copy_and_sees_exactly_what_came_later(
    way: tuple[str, str], places: dict[str, Place], clock: WatchedClock
) -> None:
    source, destination = (places[kind]() for kind in way)
    seen = await filled(source, clock)

    copy_store(source, destination, ignore)

    async with serving_at(destination, clock) as running:
        await create(running, "later")
        (later,) = await history(running, "later")
        assert [len(suffix) for suffix in seen.suffixes] == sorted(map(len, seen.suffixes), reverse=True)
        for cursor, suffix in zip(seen.cursors, seen.suffixes, strict=True):
            assert await events_after(running, cursor) == [*suffix, later]
        assert (await refused(events_after(running, seen.expired))).reason == "CURSOR_EXPIRED"


@on_each_kind
async def test_a_request_id_used_before_is_recognised_on_the_copy(
    kind: str, places: dict[str, Place], clock: WatchedClock
) -> None:
    source, destination = places["sqlite"](), places[kind]()
    await filled(source, clock)

    copy_store(source, destination, ignore)

    async with serving_at(destination, clock) as running:
        before = await history(running)
        repeated = await create(running, "waiting", max_retries=1, request_id="request-waiting")
        other = await refused(create(running, "other", request_id="request-waiting"))
        assert await history(running) == before
    assert repeated.state == job_pb2.JOB_STATE_RETRYING
    assert other.reason == "REQUEST_ID_REUSED"


# What is refused.


async def jobs_in(url: str) -> list[str]:
    """The ids of the jobs of a store."""
    with opened(url) as store:
        return [job.id for job in contents(store).jobs]


@on_each_kind
async def test_a_destination_that_is_not_empty_is_refused_and_left_as_it_is(
    kind: str, places: dict[str, Place], clock: WatchedClock
) -> None:
    source, destination = places["sqlite"](), places[kind]()
    await filled(source, clock)
    async with serving_at(destination, clock) as running:
        await create(running, "theirs")

    with pytest.raises(CannotCopy, match=r"is not empty \(table job\): copy into a new"):
        copy_store(source, destination, ignore)

    assert await jobs_in(destination) == ["theirs"]


@on_each_kind
async def test_a_copy_is_not_copied_over(kind: str, places: dict[str, Place], clock: WatchedClock) -> None:
    source, destination = places["sqlite"](), places[kind]()
    await filled(source, clock)
    copy_store(source, destination, ignore)

    with pytest.raises(CannotCopy, match="is not empty"):
        copy_store(source, destination, ignore)


def execute(url: str, text: str) -> None:
    """One statement on the tables of a store."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection, connection:
            connection.execute(text)
    else:
        with psycopg.connect(url) as server:
            server.execute(text.encode())


@on_each_kind
@pytest.mark.parametrize(
    ("version", "sentence"),
    [(99, "has schema 99 and this program knows"), (1, "bring it up to date first, with jobstate-server migrate")],
)
async def test_a_source_of_another_release_is_refused(
    kind: str, version: int, sentence: str, places: dict[str, Place]
) -> None:
    source, destination = places[kind](), places["sqlite"]()
    with opened(source):
        pass
    execute(source, f"UPDATE schema SET version = {version}")  # noqa: S608

    with pytest.raises(CannotCopy, match=sentence):
        copy_store(source, destination, ignore)


@on_each_kind
async def test_a_destination_of_a_newer_release_is_refused(kind: str, places: dict[str, Place]) -> None:
    source, destination = places["sqlite"](), places[kind]()
    for url in (source, destination):
        with opened(url):
            pass
    execute(destination, "UPDATE schema SET version = 99")

    with pytest.raises(CannotCopy, match="has schema 99"):
        copy_store(source, destination, ignore)


async def test_what_is_no_store_is_refused_in_a_sentence(
    places: dict[str, Place], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.db"
    text.write_text("no database\n" * 100, encoding="utf-8")
    other = tmp_path / "other.db"
    execute(f"sqlite:///{other}", "CREATE TABLE mine (id INTEGER)")
    calls = {
        f"sqlite:///{tmp_path}/missing.db": f"there is no file {tmp_path}/missing.db",
        f"sqlite:///{text}": f"{text}: file is not a database",
        f"sqlite:///{other}": f"sqlite:///{other} is not a store",
        places["postgres"](): "is not a store",
        "mysql://me:secret@host/jobs": "'…' is no store; use sqlite:///jobs.db or",
        "postgresql://me:secret@127.0.0.1:1/jobs": "cannot connect to PostgreSQL: connection failed",
    }
    for source, sentence in calls.items():
        destination = tmp_path / "destination.db"

        assert cli.main(["copy", "--from", source, "--to", f"sqlite:///{destination}"]) == 1

        told = capsys.readouterr().err
        assert told.startswith("jobstate-server: nothing was copied: ")
        assert told.count("\n") == 1
        assert sentence in told
        assert "secret" not in told
        assert not destination.exists()


@on_each_kind
async def test_a_store_is_not_copied_to_itself(kind: str, places: dict[str, Place], clock: WatchedClock) -> None:
    url = places[kind]()
    await filled(url, clock)
    other = url.replace("sqlite:///", "sqlite:////") if kind == "sqlite" else f"{url}&application_name=other"

    with pytest.raises(CannotCopy, match="cannot be copied to itself"):
        copy_store(url, url, ignore)
    with pytest.raises(StoreError, match=r"another jobstate-server is using|in use by another program"):
        copy_store(url, other, ignore)

    assert len(await jobs_in(url)) == 5


@on_each_kind
async def test_a_source_or_destination_that_is_served_is_refused(kind: str, places: dict[str, Place]) -> None:
    one, other = places[kind](), places["sqlite"]()
    with opened(other):
        pass
    async with serving_at(one, None) as running:
        # Answered once the server has renewed its lease.
        await create(running)
        for source, destination in ((one, other), (other, one)):
            with pytest.raises(StoreError, match=r"another jobstate-server is using|is served"):
                await asyncio.to_thread(copy_store, source, destination, ignore)
        assert len(await history(running)) == 1


async def test_tables_that_another_program_has_in_hand_are_refused(
    places: dict[str, Place], clock: WatchedClock
) -> None:
    source, destination = places["sqlite"](), places["postgres"]()
    await filled(source, clock)
    with opened(destination):
        pass
    with psycopg.connect(destination) as other:
        other.execute("LOCK TABLE task_run IN ROW EXCLUSIVE MODE")

        with pytest.raises(CannotCopy, match="in use by another program"):
            copy_store(source, destination, ignore)


# Whole or not at all.


def impatient(url: str) -> str:
    """The URL of the same store, for one who does not wait for locks."""
    return url if url.startswith("sqlite") else f"{url}%20-clock_timeout%3D500ms"


@on_every_way
async def test_no_server_can_start_on_either_side_while_a_copy_is_made(
    way: tuple[str, str], places: dict[str, Place], clock: WatchedClock
) -> None:
    source, destination = (places[kind]() for kind in way)
    await filled(source, clock)
    refusals = []

    def look(table: str, done: int, total: int) -> None:
        if table != "job":
            return
        for url in (source, destination):
            with pytest.raises(CannotOpen) as caught:
                open_store(impatient(url), SystemClock())
            refusals.append(str(caught.value))

    copy_store(source, destination, look)

    told = {"sqlite": "another jobstate-server is using", "postgres": "lock timeout"}
    assert len(refusals) == 2
    assert all(told[kind] in refusal for kind, refusal in zip(way, refusals, strict=True))


KILLED = """
import os, signal, sys
from jobstate_server.store.copying.copy import copy_store

def kill(table, done, total):
    if table == "tally":
        os.kill(os.getpid(), signal.SIGKILL)

copy_store(sys.argv[1], sys.argv[2], kill)
"""
"""Dies when jobs and events have been written."""


@on_every_way
async def test_a_copy_that_is_killed_leaves_nothing_and_can_be_made_again(
    way: tuple[str, str], places: dict[str, Place], clock: WatchedClock
) -> None:
    source, destination = (places[kind]() for kind in way)
    await filled(source, clock)

    process = await asyncio.create_subprocess_exec(sys.executable, "-c", KILLED, source, destination)
    async with asyncio.timeout(PATIENCE_S):
        assert await process.wait() == -signal.SIGKILL

    with opened(destination) as store:
        assert contents(store).log == (0, 0, 0, 0)
        assert not contents(store).jobs
        assert not stored_events(store)
    assert dict(copy_store(source, destination, ignore))["job"] == 5


@on_each_kind
async def test_ctrl_c_leaves_nothing_and_ends_with_130(
    kind: str,
    places: dict[str, Place],
    clock: WatchedClock,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, destination = places["sqlite"](), places[kind]()
    await filled(source, clock)

    def interrupt(table: str, done: int, total: int) -> None:
        if table == "tally":
            raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_print_copy_progress", interrupt)

    assert cli.main(["copy", "--from", source, "--to", destination]) == 130
    assert "interrupted: nothing was copied" in capsys.readouterr().err
    assert await jobs_in(destination) == []


def make_insert_lose(monkeypatch: pytest.MonkeyPatch, model: type, changed: Callable[[list[Any]], list[Any]]) -> None:
    """Let a table's rows arrive changed."""
    insert = SqliteView.insert

    def insert_changed(self: SqliteView, to: Any, rows: Any) -> None:
        insert(self, to, changed(list(rows)) if to is model else rows)

    monkeypatch.setattr(SqliteView, "insert", insert_changed)


async def test_a_row_that_does_not_arrive_is_noticed_and_nothing_is_kept(
    places: dict[str, Place], clock: WatchedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, destination = places["postgres"](), places["sqlite"]()
    await filled(source, clock)
    make_insert_lose(monkeypatch, WholeJobRow, lambda rows: rows[1:])

    with pytest.raises(CannotCopy, match="4 of 5 rows of table job arrived"):
        copy_store(source, destination, ignore)

    assert await jobs_in(destination) == []


async def test_a_last_event_that_arrives_changed_is_noticed_and_nothing_is_kept(
    places: dict[str, Place], clock: WatchedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, destination = places["sqlite"](), places["sqlite"]()
    await filled(source, clock)
    make_insert_lose(monkeypatch, EventRow, lambda rows: [*rows[:-1], (*rows[-1][:-1], b"other")])

    with pytest.raises(CannotCopy, match="the ends of the two logs differ"):
        copy_store(source, destination, ignore)

    assert await jobs_in(destination) == []


# What is told.


@on_every_way
async def test_rows_are_copied_in_batches_and_each_is_told(
    way: tuple[str, str], places: dict[str, Place], clock: WatchedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, destination = (places[kind]() for kind in way)
    await filled(source, clock)
    monkeypatch.setattr(copying, "BATCH_ROWS", 2)
    monkeypatch.setattr("jobstate_server.store.copying.postgres.BATCH_ROWS", 2)
    told: list[tuple[str, int, int]] = []

    copy_store(source, destination, lambda *progress: told.append(progress))

    assert [progress for progress in told if progress[0] == "job"] == [("job", 2, 5), ("job", 4, 5), ("job", 5, 5)]
    assert len(await jobs_in(destination)) == 5


async def test_the_command_tells_the_rows_of_each_table_and_how_far_a_large_one_has_come(
    places: dict[str, Place],
    clock: WatchedClock,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, destination = places["sqlite"](), places["postgres"]()
    await filled(source, clock)
    monkeypatch.setattr(copying, "BATCH_ROWS", 2)
    monkeypatch.setattr(cli, "PROGRESS_ROWS", 4)

    assert cli.main(["copy", "--from", source, "--to", destination]) == 0

    told = capsys.readouterr()
    assert "job: 4 of 5 rows\n" in told.err
    assert told.out.startswith("job                     5 rows\nevent ")
    assert [line.split()[0] for line in told.out.splitlines()] == [
        *("job", "event", "log", "horizon", "attempt", "request", "tally", "dispatch", "lane"),
        *("need", "needed", "members", "label", "task_run"),
        "jobstate:",
    ]
    assert cli.PROGRESS_ROWS % copying.BATCH_ROWS == 0
