"""A store whose file is taken away, one commit after the other: each is refused for as long as the file is lost."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from jobstate_server.clock import ManualClock
from jobstate_server.store.errors import OutcomeUnknown, StoreUnreachable
from jobstate_server.store.sqlite import file as sqlite_file
from jobstate_server.store.sqlite.store import SqliteStore

from ..support import a_job, an_event, keep_events, keep_jobs, stored_events, stored_job
from .support import opened_at


@pytest.fixture(autouse=True)
def no_second_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """The names are looked at when the directory has changed, and never for another reason."""
    monkeypatch.setattr(sqlite_file, "_TICK_NS", 0)
    monkeypatch.setattr(sqlite_file, "_NAMES_EVERY_NS", 10**18)


def beside(path: Path, name: str) -> Path:
    """``jobs.db-wal`` and the like."""
    return path.with_name(f"{path.name}{name}")


def remove(path: Path) -> None:
    path.unlink()


def remove_wal(path: Path) -> None:
    beside(path, "-wal").unlink()


def remove_shm(path: Path) -> None:
    beside(path, "-shm").unlink()


def replace_by_a_copy(path: Path) -> None:
    shutil.copyfile(path, beside(path, "-copy")).rename(path)


def replace_wal_by_a_copy(path: Path) -> None:
    shutil.copyfile(beside(path, "-wal"), beside(path, "-copy")).rename(beside(path, "-wal"))


def overwrite(path: Path) -> None:
    path.write_bytes(b"something else")


def overwrite_without_changing_the_size(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def cut_wal(path: Path) -> None:
    os.truncate(beside(path, "-wal"), 0)


def change_the_log(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE log SET head = head + 1")


DAMAGES = [
    remove,
    remove_wal,
    remove_shm,
    replace_by_a_copy,
    replace_wal_by_a_copy,
    overwrite,
    overwrite_without_changing_the_size,
    cut_wal,
    change_the_log,
]


def in_the_file(store: SqliteStore) -> None:
    """Have everything that is in the WAL so far copied into the file."""
    store._database.execute_sql("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    keep_jobs(store, a_job("seen"))


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_commit_and_every_read_is_refused_from_the_damage_on(
    path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    store = SqliteStore(path, ManualClock())
    keep_events(store, an_event())
    in_the_file(store)
    damage(path)

    for number in range(4):
        with pytest.raises(StoreUnreachable) as caught:
            keep_jobs(store, a_job(f"late-{number}"))
        assert isinstance(caught.value, OutcomeUnknown) <= (number == 0)
    with pytest.raises(StoreUnreachable):
        stored_job(store, "seen")
    store.close()
    assert not caplog.records or "renamed" in caplog.text


def test_a_file_that_is_back_is_used_again(path: Path) -> None:
    with opened_at(path) as store:
        keep_events(store, an_event())
        for _ in range(2):
            path.rename(beside(path, ".away"))
            for _ in range(2):
                with pytest.raises(StoreUnreachable):
                    keep_jobs(store)
            beside(path, ".away").rename(path)
            keep_events(store, an_event())
        assert [event.sequence for event in stored_events(store)] == [1, 2, 3]


def test_a_lost_store_that_is_closed_writes_nothing_to_what_stands_under_its_name(path: Path) -> None:
    store = SqliteStore(path, ManualClock())
    keep_events(store, an_event())
    overwrite(path)
    with pytest.raises(StoreUnreachable):
        keep_events(store, an_event())
    store.close()

    assert path.read_bytes() == b"something else"
    assert [name.name.partition(".aside-")[0] for name in path.parent.glob("*-wal*")] == ["jobs.db-wal"]


def test_a_commit_that_does_not_follow_ours_is_refused_before_anything_is_committed(path: Path) -> None:
    with opened_at(path) as store:
        keep_events(store, an_event())
        change_the_log(path)
        for _ in range(2):
            with pytest.raises(StoreUnreachable, match="ends at event 2, but this server left it at event 1") as caught:
                keep_events(store, an_event())
            assert not isinstance(caught.value, OutcomeUnknown)
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("SELECT count(*) FROM event").fetchone() == (1,)


@pytest.mark.parametrize("is_kept", [True, False])
def test_a_commit_of_unknown_outcome_may_turn_out_either_way(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, is_kept: bool
) -> None:
    keep_events(store, an_event())
    commit = store._commit

    def lose_the_answer() -> None:
        if is_kept:
            commit()
        else:
            store._roll_back()
        raise OutcomeUnknown("played")

    with monkeypatch.context() as patch:
        patch.setattr(store, "_commit", lose_the_answer)
        with pytest.raises(OutcomeUnknown):
            keep_events(store, an_event())

    first = 3 if is_kept else 2
    assert keep_events(store, an_event()) == first
    assert keep_events(store, an_event()) == first + 1


def test_checkpoints_of_our_own_are_no_damage(path: Path) -> None:
    """Enough commits for several, some of them with a reader that keeps the WAL from being begun anew."""
    with opened_at(path) as store, closing(store.open_reader()) as reader:
        for number in range(60):
            keep_jobs(store, *[a_job(f"{number}-{part}", metadata=b"x" * 60_000) for part in range(20)])
            if number == 20:
                reader._database.begin()
                reader.log_state()
            if number == 40:
                reader._database.rollback()
        assert path.stat().st_size > 40 * 2**20
