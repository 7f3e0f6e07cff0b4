"""``jobstate-server backup`` and ``check``: a consistent copy of a store in use, and a judgement of any copy."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from jobstate_server import cli
from jobstate_server.clock import ManualClock
from jobstate_server.store.errors import CannotOpen
from jobstate_server.store.sqlite.backup import CannotBackUp, back_up
from jobstate_server.store.sqlite.check import check_file
from jobstate_server.store.sqlite.store import SqliteStore

from ..store.support import Contents, contents
from ..support.calls import create, history
from ..support.clock import PATIENCE_S, WatchedClock
from ..support.server import serving
from .filled_store import filled, opened

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "operations.md").read_text("utf-8")

LARGE_EVENTS = 8_000
"""With 64 KiB each: a store of some 500 MiB."""

MORE_THAN_A_STEP = 1_000
"""So many take several steps of a backup, each of which copies 16 MiB."""


def ignore(done: int, total: int) -> None:
    """No interest in progress."""


@pytest.fixture
async def store(tmp_path: Path, clock: WatchedClock) -> Path:
    """A file with a row of every kind, which no server uses."""
    path = tmp_path / "jobs.db"
    await filled(f"sqlite:///{path}", clock)
    return path


def changed(path: Path, *statements: str) -> None:
    """Do to the file what only damage can."""
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def test_a_backup_is_the_same_store_and_its_owners_alone(store: Path, tmp_path: Path) -> None:
    made = back_up(store, tmp_path / "backup.db", ignore)

    with opened(f"sqlite:///{store}") as one, opened(f"sqlite:///{made.path}") as other:
        assert contents(other) == contents(one)
        assert other.log_id == one.log_id
        assert (made.jobs, made.events) == (5, len(contents(one).events))
    assert made.path.stat().st_mode & 0o777 == 0o600
    assert not made.path.with_name("backup.db.partial").exists()


async def test_a_backup_of_500_mib_ends_although_a_change_is_committed_between_any_two_of_its_steps(
    store: Path, tmp_path: Path, clock: WatchedClock
) -> None:
    make_large(store, LARGE_EVENTS)
    async with serving(store, clock) as running:
        loop = asyncio.get_running_loop()
        committed: list[str] = []

        def commit_another(_done: int, _total: int) -> None:
            job_id = f"during-{len(committed)}"
            asyncio.run_coroutine_threadsafe(create(running, job_id), loop).result(PATIENCE_S)
            committed.append(job_id)

        await create(running, "before")
        made = await asyncio.to_thread(back_up, store, tmp_path / "backup.db", commit_another)

    assert made.bytes > 500 * 1024 * 1024
    assert len(committed) > 10
    with closing(sqlite3.connect(made.path)) as copy:
        found = {job_id for (job_id,) in copy.execute("SELECT id FROM job WHERE id LIKE 'during%' OR id = 'before'")}
    assert found == {"before"}, "the backup is the store as it was when it began"


def make_large(path: Path, events: int) -> None:
    """Append events without jobs of their own, as large as events can be: 16 in a mebibyte."""
    with closing(sqlite3.connect(path)) as connection, connection:
        (head,) = connection.execute("SELECT head FROM log").fetchone()
        rows = ((head + n, 1, "done", "t", "", "", 4, b"x" * 65_536) for n in range(1, events + 1))
        connection.executemany("INSERT INTO event VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
        connection.execute("UPDATE log SET head = head + ?, bytes = bytes + ?", (events, events * 65_536))


async def test_a_restored_backup_serves_from_where_it_was_made(
    store: Path, tmp_path: Path, clock: WatchedClock
) -> None:
    made = back_up(store, tmp_path / "backup.db", ignore)
    async with serving(store, clock) as running:
        await create(running, "lost")
        before = [event for event in await history(running) if event.job.id != "lost"]
    put_back(made.path, store)

    async with serving(store, clock) as running:
        assert await history(running) == before
        await create(running, "lost")


def put_back(backup: Path, store: Path) -> None:
    """As docs/operations.md has it: nothing of the old store stays, its WAL least of all."""
    for part in store.parent.glob("jobs.db*"):
        part.unlink()
    shutil.copyfile(backup, store)


def page_commands(section: str) -> list[str]:
    """The commands of this section of docs/operations.md."""
    part = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return [
        line
        for block in re.findall(r"^```sh\n(.*?)^```$", part, re.MULTILINE | re.DOTALL)
        for line in block.splitlines()
    ]


def test_the_pages_commands_make_a_backup_and_restore_it(store: Path, tmp_path: Path) -> None:
    before = check_file(store)
    (tmp_path / "backups").mkdir()
    lines = page_commands("Back up")
    assert [line.split()[0] for line in lines] == [
        "jobstate-server",
        "jobstate-server",
        "mkdir",
        "mv",
        "cp",
        "jobstate-server",
    ]

    for line in lines:
        run(line.replace("/var/lib/jobstate", str(tmp_path)).replace("/var/backups", f"{tmp_path}/backups"))

    assert check_file(store) == before
    assert (tmp_path / "old" / "jobs.db").exists()


def run(line: str) -> None:
    """Run a line of a page, with our commands."""
    scripts = str(Path(sys.executable).parent)
    subprocess.run(["/bin/sh", "-c", f'PATH="{scripts}:$PATH" {line}'], check=True, timeout=PATIENCE_S)


def test_the_pages_command_corrects_the_store_of_the_settings(store: Path, tmp_path: Path) -> None:
    (tmp_path / "jobstate.toml").write_text(f'store = "sqlite:///{store}"\n', "utf-8")
    right = contents_of(store)
    changed(store, "UPDATE tally SET value = value + 1 WHERE measure = 1")
    (line,) = page_commands("Check a store")

    run(line.replace("/etc/jobstate", str(tmp_path)))

    assert contents_of(store) == right


def contents_of(store: Path) -> Contents:
    """All that is in the store."""
    with opened(f"sqlite:///{store}") as one:
        return contents(one)


# What ends half way.

HANG = """
import sys
from pathlib import Path
from jobstate_server.store.sqlite.backup import back_up
def hang(done, total):
    print(done, flush=True)
    sys.stdin.read()
back_up(Path(sys.argv[1]), Path(sys.argv[2]), hang)
"""


def python(program: str, *arguments: object) -> list[str]:
    """A command line that runs a program of this environment."""
    return [sys.executable, "-c", program, *map(str, arguments)]


def test_a_backup_killed_on_its_way_leaves_no_file_of_its_name_and_the_next_one_takes_its_place(
    store: Path, tmp_path: Path
) -> None:
    make_large(store, MORE_THAN_A_STEP)
    destination = tmp_path / "backup.db"
    partial = tmp_path / "backup.db.partial"
    with subprocess.Popen(
        python(HANG, store, destination), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        with pytest.raises(CannotBackUp, match=r"another backup to .* is under way"):
            back_up(store, destination, ignore)
        process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE_S)

    assert partial.exists()
    assert not destination.exists()
    with pytest.raises(CannotOpen, match="is an unfinished backup"):
        SqliteStore(partial, ManualClock())
    assert check_file(partial).problems

    back_up(store, destination, ignore)
    assert not partial.exists()
    assert not check_file(destination).problems


def test_a_backup_that_is_interrupted_leaves_nothing(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_print_backup_progress", interrupt)

    assert cli.main(["backup", "--store", f"sqlite:///{store}", "--to", str(tmp_path / "backup.db")]) == 130

    assert capsys.readouterr().err == "jobstate-server: interrupted: no backup was made\n"
    assert sorted(path.name for path in tmp_path.glob("backup*")) == []


def test_a_backup_without_room_says_so_and_leaves_nothing(store: Path, tmp_path: Path) -> None:
    make_large(store, MORE_THAN_A_STEP)
    limit = 8 * 1024 * 1024
    command = [sys.executable, "-m", "jobstate_server", "backup", "--store", f"sqlite:///{store}"]

    ended = subprocess.run(
        [*command, "--to", tmp_path / "backup.db"],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )

    assert ended.returncode == 1
    assert "no backup was made" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert list(tmp_path.glob("backup*")) == []


# What is refused.


def test_a_backup_overwrites_nothing(store: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken.db"
    taken.write_text("precious")

    with pytest.raises(CannotBackUp, match="exists and is never overwritten"):
        back_up(store, taken, ignore)

    assert taken.read_text() == "precious"


def test_a_name_that_is_taken_while_the_backup_is_made_is_not_overwritten(store: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken.db"

    def take(_done: int, _total: int) -> None:
        taken.write_text("precious")

    with pytest.raises(CannotBackUp, match="was created in the meantime"):
        back_up(store, taken, take)

    assert taken.read_text() == "precious"
    assert not (tmp_path / "taken.db.partial").exists()


@pytest.mark.parametrize("content", [b"", b"no database at all, but longer than a header of one\n" * 100])
def test_what_is_no_store_is_not_backed_up(content: bytes, tmp_path: Path) -> None:
    source = tmp_path / "jobs.db"
    source.write_bytes(content)

    with pytest.raises(CannotBackUp):
        back_up(source, tmp_path / "backup.db", ignore)

    assert [path.name for path in tmp_path.iterdir()] == ["jobs.db"]


def test_a_missing_store_a_missing_directory_and_postgresql_are_told_in_a_sentence(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = []
    for url, destination in (
        (f"sqlite:///{tmp_path}/misspelt.db", tmp_path / "backup.db"),
        (f"sqlite:///{store}", tmp_path / "nowhere" / "backup.db"),
        ("postgresql://db.internal/jobstate", tmp_path / "backup.db"),
    ):
        assert cli.main(["backup", "--store", url, "--to", str(destination)]) == 1
        told.append(capsys.readouterr().err)

    assert "there is no store in" in told[0]
    assert "nowhere/backup.db.partial cannot be written: No such file or directory" in told[1]
    assert "pg_dump" in told[2]
    assert not (tmp_path / "misspelt.db").exists()


# What a check finds.


def test_check_calls_a_store_whole_while_a_server_uses_it(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with opened(f"sqlite:///{store}"):
        assert cli.main(["check", str(store)]) == 0

    assert "is a whole store: 5 jobs, " in capsys.readouterr().out


FAULTS: dict[str, tuple[str, str]] = {
    "a gap in the log": (
        "DELETE FROM event WHERE sequence = (SELECT max(sequence) - 1 FROM event)",
        "but should have every event from 4 to",
    ),
    "an end of the log that is gone": (
        "DELETE FROM event WHERE sequence = (SELECT max(sequence) FROM event)",
        "have a version whose event is not in the log",
    ),
    "bytes that are not counted": ("UPDATE log SET bytes = bytes + 1", "bytes, but the log counts"),
    "statistics that miscount": (
        "UPDATE tally SET value = value + 1 WHERE measure = 1 AND value = 1",
        "but the statistics count 2",
    ),
    "statistics that miscount what nobody has claimed": (
        "INSERT INTO tally (job_type, measure, bucket, value) VALUES ('another', 11, 0, 1)",
        "there are 0 jobs of type another whose attempt no worker has claimed, but the statistics count 1",
    ),
    "statistics that miscount what is delayed": (
        "UPDATE job SET held = 1 WHERE id = 'done'",
        " that are delayed, but the statistics count 0",
    ),
    "a job that is gone": ("DELETE FROM job WHERE id = 'done'", "ended attempts belong to no job"),
    "another release": ("UPDATE schema SET version = 999", "it has schema 999"),
    "no tables": ("DROP TABLE schema", "it is not a store"),
}


@pytest.mark.parametrize(("damage", "told"), FAULTS.values(), ids=FAULTS)
def test_check_finds(damage: str, told: str, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed(store, damage)

    assert cli.main(["check", str(store)]) == 1

    assert told in capsys.readouterr().err


def overwritten(path: Path) -> None:
    """Half of the file's pages are not what they were."""
    with path.open("r+b") as file:
        for offset in range(8 * 4096, path.stat().st_size, 2 * 4096):
            file.seek(offset)
            file.write(os.urandom(4096))


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("damage", [overwritten, cut_short, lambda path: path.write_bytes(b""), Path.unlink])
def test_check_tells_of_a_file_that_is_damaged_cut_short_empty_or_not_there(
    damage: Callable[[Path], None], store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(store)

    assert cli.main(["check", str(store)]) == 1

    told = capsys.readouterr().err
    assert "is not a whole store" in told
    assert "Traceback" not in told
