"""Readers, the writer and foreign programs work at one file side by side."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from jobstate_server.domain.filters import EventFilter
from jobstate_server.domain.reach import Reach
from jobstate_server.store.errors import TransactionConflict
from jobstate_server.store.sqlite.store import SqliteStore

from ..support import a_job, an_event, keep_events, keep_jobs, page_of, stored_job


def test_commits_are_synced_and_readers_have_the_write_ahead_log(store: SqliteStore) -> None:
    with closing(store.open_reader()) as reader:
        for database in (store._database, reader._database):
            connection = database.connection()
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
            assert connection.execute("PRAGMA synchronous").fetchone() == (2,)


def test_a_reader_in_the_middle_of_a_read_does_not_hold_up_a_commit(store: SqliteStore) -> None:
    keep_jobs(store, a_job("a"), a_job("b"))
    with closing(store.open_reader()) as reader, reader._database.atomic():
        assert set(reader.jobs(["a", "b", "c"])) == {"a", "b"}

        keep_jobs(store, a_job("c"))

        assert set(reader.jobs(["a", "b", "c"])) == {"a", "b"}
    assert stored_job(store, "c") == a_job("c")


def test_a_foreign_writer_in_the_way_is_told_as_a_conflict_and_passes(store: SqliteStore, path: Path) -> None:
    store._database.connection().execute("PRAGMA busy_timeout = 0")
    with closing(sqlite3.connect(path, isolation_level=None)) as foreign:
        foreign.execute("BEGIN IMMEDIATE")
        with pytest.raises(TransactionConflict):
            keep_events(store, an_event())
        foreign.execute("ROLLBACK")

    assert keep_events(store, an_event()) == 1


@pytest.mark.parametrize("statement", [0, 1], ids=["before the first statement", "between the two"])
@pytest.mark.parametrize(
    "wanted",
    [EventFilter(), EventFilter(reach=Reach(None, ("s*",))), EventFilter(job_ids=frozenset({"job"}))],
    ids=repr,
)
def test_retention_that_strikes_within_a_page_comes_before_all_of_it_or_after(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, wanted: EventFilter, statement: int
) -> None:
    """The compaction edge, step by step: the page, the head and the horizon are of one moment."""
    keep_events(store, *[an_event() for _ in range(10)])
    with closing(store.open_reader()) as reader:
        rows_of = reader._rows
        calls = 0

        def rows(query: Any) -> list[tuple[Any, ...]]:
            nonlocal calls
            if calls == statement:
                with store.transaction() as transaction:
                    assert transaction.trim_events(100, 0, 6) == 6
            calls += 1
            return rows_of(query)

        monkeypatch.setattr(reader, "_rows", rows)
        page = page_of(reader, 0, wanted)

    assert calls == 2
    assert (page.horizon, page.scanned) == (0 if statement else 6, 10)
    assert [event.sequence for event in page.events] == list(range(page.horizon + 1, 11))
