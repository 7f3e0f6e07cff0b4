"""One server at a time opens a file, and what cannot be opened is refused with the reason and left alone."""

from __future__ import annotations

import errno
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from jobstate_server.clock import ManualClock
from jobstate_server.store.errors import CannotOpen
from jobstate_server.store.sqlite.backup import CannotBackUp, back_up
from jobstate_server.store.sqlite.check import check_file
from jobstate_server.store.sqlite.store import SqliteStore

from ..support import PATIENCE_S, an_event, keep_events, stored_events
from .support import at_work, environment, opened_at

HOLD = """
print("open", flush=True)
__import__("threading").Event().wait()
"""


def test_a_second_open_of_the_file_is_refused_and_says_why(store: SqliteStore, path: Path) -> None:
    with pytest.raises(CannotOpen, match="another jobstate-server is using"):
        SqliteStore(path, ManualClock())

    assert keep_events(store, an_event()) == 1


def test_a_closed_file_can_be_opened_again(path: Path) -> None:
    for number in (1, 2, 3):
        with opened_at(path) as store:
            assert keep_events(store, an_event()) == number


def test_a_file_that_another_process_has_is_refused_until_that_process_is_killed(path: Path) -> None:
    with at_work(HOLD, path) as (process, output):
        assert output.readline() == "open\n"
        with pytest.raises(CannotOpen, match="another jobstate-server is using"):
            SqliteStore(path, ManualClock())

        process.kill()
        process.wait(PATIENCE_S)

        with opened_at(path) as store:
            assert keep_events(store, an_event()) == 1


def test_a_directory_that_does_not_exist_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CannotOpen, match=re.escape(f"there is no directory {tmp_path / 'missing'}")):
        SqliteStore(tmp_path / "missing" / "jobs.db", ManualClock())


def test_a_path_under_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(CannotOpen, match="there is no directory"):
        SqliteStore(tmp_path / "file" / "jobs.db", ManualClock())


def test_a_directory_that_cannot_be_written_is_refused_with_the_reason(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may write everywhere, so the refusal of the system is played."""
    real_open = os.open

    def refusing_open(name: Any, *args: Any, **more: Any) -> int:
        if str(name).startswith(str(path)):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(name))
        return real_open(name, *args, **more)

    monkeypatch.setattr(os, "open", refusing_open)

    with pytest.raises(CannotOpen, match=r"must be writable \(Permission denied\)"):
        SqliteStore(path, ManualClock())


@pytest.mark.parametrize("content", [b"no database at all" * 100, b"SQLite format 3\0" + b"\xff" * 4096])
def test_a_file_that_is_no_database_is_refused_and_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)

    with pytest.raises(CannotOpen, match=re.escape(str(path))):
        SqliteStore(path, ManualClock())

    assert path.read_bytes() == content


def test_a_directory_in_place_of_the_file_is_refused(path: Path) -> None:
    path.mkdir()

    with pytest.raises(CannotOpen, match=re.escape(str(path))):
        SqliteStore(path, ManualClock())


def test_a_refused_file_is_not_kept_locked(path: Path) -> None:
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(CannotOpen):
        SqliteStore(path, ManualClock())
    path.unlink()

    with opened_at(path) as store:
        assert keep_events(store, an_event()) == 1


def by_symbolic_link(path: Path) -> Path:
    link = path.with_name("current.db")
    link.symlink_to(path)
    return link


def by_linked_directory(path: Path) -> Path:
    directory = path.parent.with_name(f"{path.parent.name}-link")
    directory.symlink_to(path.parent)
    return directory / path.name


def by_hard_link(path: Path) -> Path:
    link = path.with_name("other.db")
    link.hardlink_to(path)
    return link


def without_companions(path: Path) -> Path:
    """Whatever stands beside the file and might be taken for its lock."""
    for name in path.parent.iterdir():
        if name != path:
            name.unlink()
    return path


@pytest.mark.parametrize("name_of", [by_symbolic_link, by_linked_directory, by_hard_link, without_companions])
def test_a_file_in_use_is_refused_by_whichever_name_and_its_server_keeps_its_locks(
    path: Path, name_of: Callable[[Path], Path]
) -> None:
    with at_work(HOLD, path) as (_, output):
        assert output.readline() == "open\n"
        name = name_of(path)
        for _ in range(2):
            with pytest.raises(CannotOpen, match="another jobstate-server is using"):
                SqliteStore(name, ManualClock())


@pytest.mark.parametrize("name_of", [by_symbolic_link, by_linked_directory, by_hard_link])
def test_a_refusal_within_the_process_does_not_drop_the_locks_that_sqlite_holds(
    store: SqliteStore, path: Path, name_of: Callable[[Path], Path]
) -> None:
    """Were they dropped, the next foreign program would take itself for the last one, and remove the WAL."""
    keep_events(store, an_event())
    with pytest.raises(CannotOpen, match="another jobstate-server is using"):
        SqliteStore(name_of(path), ManualClock())

    wal = path.with_name("jobs.db-wal").stat()
    program = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM log'); c.close()"
    subprocess.run([sys.executable, "-c", program, path], check=True, timeout=PATIENCE_S)
    assert path.with_name("jobs.db-wal").stat().st_ino == wal.st_ino


MOUNTED = """
import sys
from pathlib import Path
from jobstate_server.clock import ManualClock
from jobstate_server.store.errors import CannotOpen
from jobstate_server.store.sqlite.store import SqliteStore
try:
    SqliteStore(Path(sys.argv[1]), ManualClock())
except CannotOpen as error:
    print(error)
"""


def opened_mounted(source: Path, target: Path, name: Path) -> str:
    """What a start says that finds the store under ``name`` where ``source`` is mounted on ``target``, for it alone."""
    script = 'mount --bind "$1" "$2" && exec "$3" -c "$4" "$5"'
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh"]
    ended = subprocess.run(
        [*command, source, target, sys.executable, MOUNTED, name],
        check=True,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env=environment(),
    )
    return ended.stdout


def test_a_file_in_use_is_refused_where_its_directory_is_mounted_elsewhere(
    store: SqliteStore, path: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    assert "another jobstate-server is using" in opened_mounted(path.parent, elsewhere, elsewhere / path.name)


def test_a_file_that_is_mounted_alone_is_refused_because_its_wal_is_not_beside_it(path: Path, tmp_path: Path) -> None:
    with opened_at(path) as store:
        keep_events(store, an_event())
    other = tmp_path / "a place.db"
    other.touch()

    assert "it is mounted as a single file" in opened_mounted(path, other, other)


def test_a_file_with_two_names_is_refused_although_nobody_uses_it(path: Path) -> None:
    """Its WAL goes by name: after a kill what was committed under one name is missing under the other."""
    with opened_at(path) as store:
        keep_events(store, an_event())
    other = by_hard_link(path)
    for name in (path, other):
        with pytest.raises(CannotOpen, match=r"has 2 names \(hard links\)"):
            SqliteStore(name, ManualClock())

    other.unlink()
    with opened_at(path) as store:
        assert keep_events(store, an_event()) == 2


@pytest.mark.parametrize("by_its_own", [True, False])
def test_what_reads_a_file_beside_a_server_refuses_one_with_two_names_too(
    path: Path, tmp_path: Path, by_its_own: bool
) -> None:
    """By the other name it would read the file without its WAL, and make a backup that lacks what is in that."""
    with opened_at(path) as store:
        keep_events(store, an_event())
        other = by_hard_link(path)
        name = path if by_its_own else other

        (problem,) = check_file(name).problems
        assert "has 2 names (hard links)" in problem
        with pytest.raises(CannotBackUp, match=r"has 2 names \(hard links\)"):
            back_up(name, tmp_path / "backup.db", lambda done, total: None)
    assert not (tmp_path / "backup.db").exists()


def test_a_backup_through_a_symbolic_link_has_what_is_in_the_wal(path: Path, tmp_path: Path) -> None:
    with opened_at(path) as store:
        keep_events(store, an_event())
        link = by_symbolic_link(path)
        assert back_up(link, tmp_path / "backup.db", lambda done, total: None).events == 1
        assert check_file(link).events == 1


@pytest.mark.parametrize("is_there", [True, False], ids=["an empty file", "no file"])
def test_no_store_is_made_beside_the_wal_of_another(path: Path, is_there: bool) -> None:
    with at_work(HOLD, path) as (process, output):
        assert output.readline() == "open\n"
        process.kill()
        process.wait(PATIENCE_S)
    wal = path.with_name("jobs.db-wal")
    content = wal.read_bytes()
    path.unlink()
    if is_there:
        path.touch()

    with pytest.raises(CannotOpen, match=f"the file is {'empty' if is_there else 'missing'}, but .* belong to it"):
        SqliteStore(path, ManualClock())

    assert path.exists() == is_there
    assert wal.read_bytes() == content
    wal.unlink()
    with opened_at(path) as store:
        assert keep_events(store, an_event()) == 1


def test_a_log_whose_newest_event_is_missing_is_refused(path: Path) -> None:
    with opened_at(path) as store:
        keep_events(store, an_event(), an_event())
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM event WHERE sequence = 2")

    with pytest.raises(CannotOpen, match="event 2, the last of its log, is missing"):
        SqliteStore(path, ManualClock())


def test_a_loop_of_symbolic_links_and_what_is_no_file_are_refused(path: Path, tmp_path: Path) -> None:
    path.symlink_to(path)
    with pytest.raises(CannotOpen, match=re.escape(f"cannot use {path}")):
        SqliteStore(path, ManualClock())

    os.mkfifo(tmp_path / "pipe.db")
    with pytest.raises(CannotOpen, match="it is not a regular file"):
        SqliteStore(tmp_path / "pipe.db", ManualClock())


def test_the_files_of_a_store_are_its_owners_alone_whatever_the_umask(path: Path) -> None:
    umask = os.umask(0)
    try:
        with opened_at(path) as store:
            keep_events(store, an_event())
            modes = {name.name: name.stat().st_mode & 0o777 for name in path.parent.iterdir()}
    finally:
        os.umask(umask)

    assert modes == {"jobs.db": 0o600, "jobs.db-wal": 0o600, "jobs.db-shm": 0o600}


def test_a_file_that_others_may_read_is_told_and_served(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with opened_at(path):
        pass
    path.chmod(0o644)
    with opened_at(path) as store:
        assert keep_events(store, an_event()) == 1

    assert [record.getMessage() for record in caplog.records] == ["other users can read the store; run chmod 600 on it"]


def test_a_store_is_found_again_through_a_link_with_all_that_a_killed_server_had_committed(path: Path) -> None:
    program = "with store.transaction() as t:\n    t.write(Changes(events=[NewEvent(1, 'a', 'b', '', '', 1, b'')]))\n"
    with at_work(program + HOLD, path) as (process, output):
        assert output.readline() == "open\n"
        process.kill()
        process.wait(PATIENCE_S)

    with opened_at(by_symbolic_link(path)) as store:
        assert [event.sequence for event in stored_events(store)] == [1]


@pytest.mark.parametrize(("cache_mib", "writer_mib", "reader_mib"), [(176, 64, 16), (22, 8, 2)])
def test_the_writer_and_the_readers_keep_as_many_pages_as_the_setting_gives_them(
    cache_mib: int, writer_mib: int, reader_mib: int, path: Path
) -> None:
    with closing(SqliteStore(path, ManualClock(), cache_mib * 1024 * 1024)) as store:
        reader = store.open_reader()
        (writers,) = store._database.execute_sql("PRAGMA cache_size").fetchone()
        ((readers,),) = reader._execute("PRAGMA cache_size", ())
        reader.close()

    # SQLite takes what is below zero as KiB.
    assert (writers, readers) == (-writer_mib * 1024, -reader_mib * 1024)
