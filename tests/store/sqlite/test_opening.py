"""One server at a time opens a file, and what cannot be opened is refused with the reason and left alone."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Any

import pytest

from jobstate_server.domain.clock import ManualClock
from jobstate_server.store.base import CannotOpen
from jobstate_server.store.sqlite import SqliteStore

from ..support import PATIENCE_S, an_event, keep_events
from .support import at_work, opened_at

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

    with pytest.raises(CannotOpen, match=r"must be writable \(Permission denied"):
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
