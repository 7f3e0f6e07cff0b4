"""A store that is deleted, replaced or overwritten under a serving process: nothing more is answered as done."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2

from jobstate_server.clock import SystemClock
from jobstate_server.store.errors import CannotOpen
from jobstate_server.store.sqlite.check import check_file
from jobstate_server.store.sqlite.store import SqliteStore

from ..support.calls import create, get, health_of, refusal_of, refused, until_health_is
from ..support.clock import PATIENCE_S
from ..support.server import Client, Process, client_of, served

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "operations.md").read_text("utf-8")

CALLERS = 8
"""Calls under way at any time: enough that every commit has several."""

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def companion(path: Path, name: str) -> Path:
    """``jobs.db-wal`` or ``jobs.db-shm``."""
    return path.with_name(f"{path.name}-{name}")


@dataclass
class Load:
    """Jobs that are created without a pause, and what was answered."""

    client: Client
    answered: list[str] = field(default_factory=list)
    """Ids of the calls that ended OK."""
    late: list[str] = field(default_factory=list)
    """Those of them that were begun after the damage was done."""
    refusals: set[tuple[str, str]] = field(default_factory=set)
    refused_late: int = 0
    is_damaged: bool = False
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def call(self, caller: int) -> None:
        """Create one job after the other."""
        for number in range(1_000_000):
            begun_late = self.is_damaged
            job_id = f"{caller}-{number}"
            try:
                await create(self.client, job_id)
            except grpc.aio.AioRpcError as error:
                self.refusals.add(refusal_of(error).brief)
                self.refused_late += begun_late
            else:
                self.answered.append(job_id)
                if begun_late:
                    self.late.append(job_id)
            async with self._changed:
                self._changed.notify_all()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until the answers are such."""
        async with asyncio.timeout(PATIENCE_S), self._changed:
            await self._changed.wait_for(holds)

    async def until_answered(self, more: int) -> None:
        """Wait for this many more answers."""
        wanted = len(self.answered) + more
        await self.until(lambda: len(self.answered) >= wanted)


@asynccontextmanager
async def under_load(path: Path) -> AsyncIterator[tuple[Process, Load]]:
    """A server of its own process, with callers all of whom have been answered."""
    async with served(path, stderr=log_of(path)) as process, client_of(process.address) as client:
        load = Load(client)
        callers = [asyncio.create_task(load.call(caller)) for caller in range(CALLERS)]
        try:
            await load.until_answered(10 * CALLERS)
            yield process, load
        finally:
            for caller in callers:
                caller.cancel()
            await asyncio.gather(*callers, return_exceptions=True)


def log_of(path: Path) -> Path:
    """Where the server on a store logs, in a directory that nothing happens to."""
    return path.parent.with_name("server.log")


def backup_of(path: Path) -> Path:
    """Where the tests keep a backup of a store."""
    return path.parent.with_name("backup.db")


def store_files(path: Path) -> set[int]:
    """Inodes of all files of stores, wherever they now are."""
    return {name.stat().st_ino for name in path.parent.parent.rglob("jobs.db*")}


def backed_up(path: Path, to: Path) -> Path:
    """A consistent copy of a store in use."""
    with closing(sqlite3.connect(path)) as original, closing(sqlite3.connect(to)) as copy:
        original.backup(copy)
        copy.execute("PRAGMA journal_mode = delete")
    return to


def jobs_in(path: Path) -> set[str]:
    """The ids in a store that no server has."""
    with closing(sqlite3.connect(path)) as connection:
        return {job_id for (job_id,) in connection.execute("SELECT id FROM job")}


def delete_file(path: Path, backup: Path) -> None:
    path.unlink()


def delete_wal(path: Path, backup: Path) -> None:
    companion(path, "wal").unlink()


def delete_shm(path: Path, backup: Path) -> None:
    companion(path, "shm").unlink()


def delete_everything(path: Path, backup: Path) -> None:
    for name in (path, companion(path, "wal"), companion(path, "shm")):
        name.unlink()


def replace_file(path: Path, backup: Path) -> None:
    backup.rename(path)


def replace_wal(path: Path, backup: Path) -> None:
    copy = backup.with_name("copy-wal")
    shutil.copyfile(companion(path, "wal"), copy)
    copy.rename(companion(path, "wal"))


def replace_both(path: Path, backup: Path) -> None:
    replace_wal(path, backup)
    replace_file(path, backup)


def copy_over_it(path: Path, backup: Path) -> None:
    shutil.copyfile(backup, path)


def restore_into_it(path: Path, backup: Path) -> None:
    with closing(sqlite3.connect(backup)) as original, closing(sqlite3.connect(path, timeout=PATIENCE_S)) as store:
        original.backup(store)


def cut_the_wal(path: Path, backup: Path) -> None:
    os.truncate(companion(path, "wal"), 0)


def move_directory(path: Path, backup: Path) -> None:
    path.parent.rename(path.parent.with_name("moved"))


def nothing_is_promised(path: Path, load: Load) -> None:
    """What was in the WAL alone is gone with it."""


def all_is_there(path: Path, load: Load) -> None:
    SqliteStore(path, SystemClock()).close()
    assert set(load.answered) <= jobs_in(path)
    assert check_file(path).problems == []


def backup_is_there(path: Path, load: Load) -> None:
    SqliteStore(path, SystemClock()).close()
    assert jobs_in(path) == jobs_in(backup_of(path))
    assert check_file(path).problems == []


def start_is_refused(path: Path, load: Load) -> None:
    with pytest.raises(CannotOpen, match=r"the file is missing, but .*jobs.db-wal has changes that belong to it"):
        SqliteStore(path, SystemClock())
    assert not path.exists()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file in a directory of its own, which can be moved away."""
    directory = tmp_path / "store"
    directory.mkdir()
    return directory / "jobs.db"


@pytest.mark.parametrize(
    ("damage", "reason", "then"),
    [
        (delete_file, "jobs.db cannot be found", start_is_refused),
        (delete_wal, "jobs.db-wal cannot be found", all_is_there),
        (delete_shm, "jobs.db-shm cannot be found", all_is_there),
        (delete_everything, "jobs.db cannot be found", nothing_is_promised),
        (replace_file, "jobs.db leads to another file", backup_is_there),
        (replace_wal, "jobs.db-wal leads to another file", all_is_there),
        (replace_both, "leads to another file", nothing_is_promised),
        (copy_over_it, "jobs.db was overwritten by another program", backup_is_there),
        (restore_into_it, "the log ends at event", backup_is_there),
        (cut_the_wal, "jobs.db-wal was overwritten or cut off", nothing_is_promised),
        (move_directory, "cannot be found", nothing_is_promised),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_no_call_begun_after_the_damage_is_answered_ok_and_the_next_start_serves_what_it_should(
    path: Path, damage: Callable[[Path, Path], None], reason: str, then: Callable[[Path, Load], None]
) -> None:
    async with under_load(path) as (process, load):
        backup = await asyncio.to_thread(backed_up, path, backup_of(path))
        spare = Path(shutil.copyfile(backup, backup.with_name("spare.db")))
        await load.until_answered(10 * CALLERS)
        await asyncio.to_thread(damage, path, spare)
        load.is_damaged = True
        there = store_files(path)
        await load.until(lambda: load.refused_late > 2 * CALLERS)
        await until_health_is(load.client, NOT_SERVING)
        assert (await refused(get(load.client, load.answered[0]))).brief == ("UNAVAILABLE", "STORE_UNAVAILABLE")
        assert load.refusals == {("UNAVAILABLE", "STORE_UNAVAILABLE")}
        assert store_files(path) <= there
        assert await process.end() == 0

    assert load.late == []
    log = log_of(path).read_text()
    assert "not serving" in log
    assert re.search(rf"the store cannot be written: .*{reason}", log)
    assert "Traceback" not in log
    then(path, load)


async def test_a_file_that_is_put_back_is_served_again_and_nothing_is_missing(path: Path) -> None:
    async with under_load(path) as (process, load):
        moved(path, path.with_name("away.db"))
        await until_health_is(load.client, NOT_SERVING)
        moved(path.with_name("away.db"), path)
        await until_health_is(load.client, SERVING)
        await load.until_answered(2 * CALLERS)
        assert await process.end() == 0

    all_is_there(path, load)


async def test_what_a_server_holds_of_a_deleted_store_can_be_copied_from_its_descriptors(path: Path) -> None:
    rescued = path.parent.with_name("rescued.db")
    async with under_load(path) as (process, load):
        delete_everything(path, path)
        await until_health_is(load.client, NOT_SERVING)
        copy_descriptors(process.process.pid, path, rescued)

    all_is_there(rescued, load)


def copy_descriptors(pid: int, path: Path, to: Path) -> None:
    """As docs/operations.md says."""
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        name = descriptor.readlink().as_posix()
        for suffix in ("", "-wal"):
            if name == f"{path}{suffix} (deleted)":
                shutil.copyfile(descriptor, f"{to}{suffix}")


async def test_a_server_that_nobody_calls_notices_within_seconds(path: Path) -> None:
    async with served(path) as process, client_of(process.address) as client:
        await create(client)
        delete_file(path, path)
        await until_health_is(client, NOT_SERVING)
        assert process.process.returncode is None


async def test_a_symbolic_link_that_is_turned_to_another_file_is_noticed(path: Path) -> None:
    link, other = path.with_name("current.db"), path.with_name("other.db")
    turned(link, path)
    async with served(link) as process, client_of(process.address) as client:
        await create(client)
        turned(link, other)
        await until_health_is(client, NOT_SERVING)
        assert await process.end() == 0

    assert other not in path.parent.iterdir()
    assert jobs_in(path) == {"job"}


async def test_a_touch_and_a_foreign_checkpoint_are_no_damage(path: Path) -> None:
    async with served(path) as process, client_of(process.address) as client:
        for number, harmless in enumerate((touched, checkpointed, touched)):
            await create(client, f"before-{number}")
            harmless(path)
            await create(client, f"after-{number}")
        assert await health_of(client) == SERVING
        assert await process.end() == 0


async def test_a_lost_server_leaves_alone_what_a_successor_has_made_under_its_names(path: Path) -> None:
    async with served(path) as process, client_of(process.address) as client:
        await create(client, "lost")
        delete_everything(path, path)
        await until_health_is(client, NOT_SERVING)
        async with served(path, stderr=log_of(path)) as successor, client_of(successor.address) as other:
            await create(other, "new")
            assert await process.end() == 0
            await create(other, "newer")
            # Killed, so that all it has is in the WAL, by that name.
            await successor.end(signal.SIGKILL)

    assert jobs_in(path) == {"new", "newer"}


def test_the_commands_of_the_page_keep_a_store_for_its_owner(path: Path) -> None:
    (commands,) = re.findall(r"^```sh\n(chmod 700.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    path.parent.chmod(0o755)
    path.touch(0o644)

    script = commands.replace("/var/lib/jobstate", str(path.parent))
    subprocess.run(["sh", "-c", script], check=True, timeout=PATIENCE_S)

    assert (path.parent.stat().st_mode & 0o777, path.stat().st_mode & 0o777) == (0o700, 0o600)


def moved(path: Path, to: Path) -> None:
    """Another name."""
    path.rename(to)


def turned(link: Path, to: Path) -> None:
    """Make the link lead there."""
    link.unlink(missing_ok=True)
    link.symlink_to(to)


def touched(path: Path) -> None:
    """Another time, the same content."""
    path.touch()


def checkpointed(path: Path) -> None:
    """What an operator may do with SQLite's shell."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
