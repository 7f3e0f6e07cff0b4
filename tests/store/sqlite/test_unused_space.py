"""What a SQLite file does not need is overwritten, and nothing else."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from jobstate_server.clock import ManualClock
from jobstate_server.store.erasing import CLEAR_FROM_END
from jobstate_server.store.errors import StoreError, StoreUnreachable
from jobstate_server.store.sqlite.check import check_file
from jobstate_server.store.sqlite.store import SqliteStore

SECRET = b"confidential"

TABLES = """
CREATE TABLE t (k INTEGER PRIMARY KEY, a TEXT, b BLOB);
CREATE INDEX t_by_a ON t (a);
CREATE TABLE w (p TEXT, q TEXT, d BLOB, PRIMARY KEY (p, q)) WITHOUT ROWID;
"""

SIZES = [1, 3, 10, 50, 300, 1_500, 5_000, 9_000, 70_000]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


@pytest.fixture
def opened(path: Path) -> Iterator[SqliteStore]:
    with closing(SqliteStore(path, ManualClock())) as store:
        connection = store._database.connection()
        connection.executescript(TABLES)
        # As where SQLite is built without it.
        connection.execute("PRAGMA secure_delete = 0").fetchall()
        yield store


def writer(store: SqliteStore) -> sqlite3.Connection:
    connection: sqlite3.Connection = store._database.connection()
    return connection


def churn(store: SqliteStore, chance: random.Random, *, text: bytes, rounds: int) -> None:
    """Write and delete rows of all sizes."""
    connection = writer(store)
    for _ in range(rounds):
        connection.execute("BEGIN IMMEDIATE")
        for _ in range(chance.randrange(1, 40)):
            key, size = chance.randrange(300), chance.choice(SIZES)
            value = (text + b"%d" % key) * (size // len(text) + 1)
            match chance.randrange(4):
                case 0:
                    connection.execute("DELETE FROM t WHERE k = ?", (key,))
                case 1:
                    row = (str(key), value[: chance.randrange(1, 800)].decode(), value)
                    connection.execute("INSERT OR REPLACE INTO w VALUES (?, ?, ?)", row)
                case _:
                    connection.execute("INSERT OR REPLACE INTO t VALUES (?, ?, ?)", (key, value[:900].decode(), value))
        connection.execute("COMMIT")
        if not chance.randrange(10):
            connection.execute(f"PRAGMA incremental_vacuum({chance.randrange(1, 50)})").fetchall()


def content(store: SqliteStore) -> list[list[str]]:
    return [sorted(map(repr, writer(store).execute(f"SELECT * FROM {name}"))) for name in ("t", "w")]  # noqa: S608


def holding(path: Path, text: bytes) -> list[str]:
    return [name for name in ("", "-wal") if text in Path(f"{path}{name}").read_bytes()]


@pytest.mark.parametrize("seed", range(3))
def test_nothing_of_what_was_deleted_is_left_and_everything_else_is(opened: SqliteStore, path: Path, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(2):
        churn(opened, chance, text=SECRET, rounds=25)
        churn(opened, chance, text=b"ordinary", rounds=15)
        connection = writer(opened)
        connection.execute("DELETE FROM t WHERE substr(b, 1, 1) = x'63'")
        connection.execute("DELETE FROM w WHERE substr(d, 1, 1) = x'63'")
        assert holding(path, SECRET)

        before = content(opened)
        page: int | None = CLEAR_FROM_END
        while page is not None:
            page = opened.clear_unused(page, chance.choice([1, 20, 300])).page
            assert content(opened) == before
            if page and not chance.randrange(8):
                churn(opened, chance, text=b"meanwhile", rounds=1)
                before = content(opened)

        assert holding(path, SECRET) == []
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert check_file(path).problems == []


def test_while_an_old_state_is_read_no_step_is_taken(opened: SqliteStore, path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN")
        other.execute("SELECT * FROM t").fetchall()
        churn(opened, random.Random(1), text=SECRET, rounds=2)

        assert opened.clear_unused(CLEAR_FROM_END, 10) == (CLEAR_FROM_END, True)
        other.execute("COMMIT")
    assert not opened.clear_unused(CLEAR_FROM_END, 10).is_blocked


def test_a_file_that_another_program_has_removed_is_not_touched(opened: SqliteStore, path: Path) -> None:
    path.rename(path.with_name("moved.db"))

    with pytest.raises(StoreUnreachable):
        opened.clear_unused(CLEAR_FROM_END, 10)

    path.with_name("moved.db").rename(path)
    assert opened.clear_unused(CLEAR_FROM_END, 10).page


def test_a_page_that_is_not_as_sqlite_writes_it_ends_the_clearing(opened: SqliteStore, path: Path) -> None:
    churn(opened, random.Random(1), text=SECRET, rounds=9)
    page = opened.clear_unused(CLEAR_FROM_END, 10).page
    ((root,),) = writer(opened).execute("SELECT rootpage FROM sqlite_schema WHERE name = 'w'").fetchall()
    with path.open("r+b") as file:
        file.seek((root - 1) * 4_096)
        file.write(b"\x63")

    assert page is not None
    with pytest.raises(StoreError, match="header of a page"):
        opened.clear_unused(page, page)
