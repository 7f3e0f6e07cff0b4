"""A store that is broken refuses to start with one sentence, or health says what a caller would meet."""

from __future__ import annotations

import asyncio
import resource
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from grpc_health.v1 import health_pb2
from peewee import OperationalError

from jobstate_server.app import CannotServe
from jobstate_server.clock import SystemClock
from jobstate_server.engine.writer import CONFLICT_TRIES_MAX
from jobstate_server.store.sqlite import connection
from jobstate_server.store.sqlite.store import SqliteStore
from jobstate_server.supervision.supervisor import PROBE_TURNS, SILENT_TURNS_MAX

from ..support.calls import create, get, health_of, refused, until_health_is
from ..support.clock import PATIENCE_S
from ..support.postgres import own_server
from ..support.server import client_of, served, serving
from ..support.waiting import until

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

DAMAGED = "run jobstate-server check on the file, and restore a backup"


def started(url: str, limit: Callable[[], None] | None = None) -> subprocess.CompletedProcess[str]:
    """A start that must not succeed."""
    command = [sys.executable, "-m", "jobstate_server", "serve", "--listen", "127.0.0.1:0", "--store", url]
    return subprocess.run(command, preexec_fn=limit, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def sentence(refused: subprocess.CompletedProcess[str]) -> str:
    """The only thing that was said, beside warnings."""
    assert (refused.returncode, refused.stdout) == (1, "")
    lines = [line for line in refused.stderr.splitlines() if " WARNING " not in line]
    assert len(lines) == 1, refused.stderr
    return lines[0].removeprefix("jobstate-server: ")


def little_room() -> None:
    """40 KiB for each file."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (40 * 1024, 40 * 1024))


@pytest.fixture
def whole(path: Path) -> Path:
    """A store with nothing in it."""
    SqliteStore(path, SystemClock()).close()
    return path


def root_page(path: Path, table: str) -> int:
    """Where a table begins in the file."""
    with closing(sqlite3.connect(path)) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
    return int(page)


def spoil(path: Path, page: int) -> None:
    """Overwrite a page of the file."""
    with path.open("r+b") as file:
        file.seek((page - 1) * 4_096)
        file.write(b"\xa5" * 4_096)


def test_a_store_that_finds_no_room_refuses_to_start_and_says_so(path: Path) -> None:
    said = sentence(started(f"sqlite:///{path}", little_room))

    assert said.startswith(f"cannot use {path} as a store: disk I/O error: check the disk, which may be full")


@pytest.mark.parametrize("length", [90, 20_000])
def test_a_file_that_was_cut_off_refuses_to_start_and_says_so(whole: Path, length: int) -> None:
    with whole.open("r+b") as file:
        file.truncate(length)

    assert sentence(started(f"sqlite:///{whole}")).endswith(DAMAGED)


@pytest.mark.parametrize("table", ["log", "job", "event", "task_run", "replica", "horizon", "tally", "request"])
async def test_a_damaged_page_refuses_to_start_with_a_sentence_or_makes_health_tell(whole: Path, table: str) -> None:
    spoil(whole, root_page(whole, table))
    command = (sys.executable, "-m", "jobstate_server", "serve", "--listen", "127.0.0.1:0")
    process = await asyncio.create_subprocess_exec(
        *command, "--store", f"sqlite:///{whole}", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            line = (await process.stdout.readline()).decode()
            if line:
                async with client_of(line.rpartition(" ")[2].strip()) as client:
                    refusal = await refused(create(client, request_id="request-1"))
                    assert refusal.brief == ("UNAVAILABLE", "STORE_UNAVAILABLE")
                    assert await health_of(client) == NOT_SERVING
                process.terminate()
            _, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()

    assert process.returncode == (0 if line else 1)
    assert b"Traceback" not in errors
    assert DAMAGED in errors.decode()


async def test_a_server_that_cannot_start_leaves_no_thread_behind(whole: Path) -> None:
    spoil(whole, root_page(whole, "task_run"))
    before = set(threading.enumerate())
    with pytest.raises(CannotServe):
        async with serving(whole):
            pass

    left = [thread.name for thread in threading.enumerate() if thread not in before]
    # Python keeps the threads of to_thread for the next caller, and gRPC the one that polls.
    assert not [name for name in left if not name.startswith("asyncio") and "_poll_wrapper" not in name]


async def test_reads_that_fail_make_health_tell_and_serve_again_when_they_succeed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        cause = sqlite3.OperationalError("disk I/O error")
        cause.sqlite_errorcode = sqlite3.SQLITE_IOERR_READ
        error: Any = OperationalError(str(cause))
        error.orig = cause
        raise error

    async with serving(path) as running:
        await create(running)
        server = running.server
        with monkeypatch.context() as patch:
            patch.setattr("peewee.SqliteDatabase.execute_sql", broken)
            assert (await refused(get(running))).brief == ("UNAVAILABLE", "STORE_UNAVAILABLE")
            server.supervisor.turn()
            assert "the store cannot be read: disk I/O error" in "; ".join(server.supervisor.health.problems)
            assert await health_of(running) == NOT_SERVING
        await until(lambda: server.supervisor.health.is_serving, server.supervisor.turn)
        assert (await get(running)).id == "job"


async def test_a_lock_of_another_program_makes_health_tell_and_nothing_is_lost_when_it_is_given_back(
    path: Path,
) -> None:
    async with serving(path) as running:
        await create(running, "before")
        server = running.server
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            waiting = asyncio.ensure_future(create(running, "during", request_id="request-1"))
            await until(lambda: server.committer._under_way)
            for _ in range(max(SILENT_TURNS_MAX, PROBE_TURNS)):
                server.committer.turn()
            server.supervisor.turn()
            assert await health_of(running) == NOT_SERVING
            assert (await get(running, "before")).id == "before"
            other.execute("ROLLBACK")
        assert (await waiting).id == "during"
        await until(lambda: server.supervisor.health.is_serving, server.supervisor.turn)


async def test_a_change_that_waits_too_long_for_another_programs_lock_is_refused_and_later_ones_are_served(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert connection.BUSY_TIMEOUT_S * CONFLICT_TRIES_MAX == 25, "as docs/operations.md says"
    monkeypatch.setattr(connection, "BUSY_TIMEOUT_S", 0.1)
    async with serving(path) as running:
        await create(running, "before")
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            refusal = await refused(create(running, "during", request_id="request-1"))
            assert refusal.brief == ("UNAVAILABLE", "STORE_UNAVAILABLE")
            assert await health_of(running) == NOT_SERVING
            assert (await get(running, "before")).id == "before"
            other.execute("ROLLBACK")
        await until_health_is(running, SERVING)
        assert (await create(running, "during", request_id="request-1")).id == "during"


async def test_a_start_beside_the_lock_of_another_program_serves_once_that_is_given_back(whole: Path) -> None:
    with closing(sqlite3.connect(whole, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        async with served(whole) as process, client_of(process.address) as client:
            assert await health_of(client) == NOT_SERVING
            other.execute("ROLLBACK")
            async with asyncio.timeout(PATIENCE_S):
                async for answer in client.health.Watch(health_pb2.HealthCheckRequest()):
                    if answer.status == SERVING:
                        break
            await create(client)
            assert await process.end() == 0


def test_postgresql_without_a_free_connection_refuses_to_start_and_says_so() -> None:
    with own_server() as server:
        with psycopg.connect(server.url, autocommit=True) as operator:
            operator.execute("CREATE ROLE plain LOGIN CONNECTION LIMIT 0")
        said = sentence(started(server.url.replace("postgres:", "plain:", 1).replace("postgres@", "plain@", 1)))

    assert "too many connections" in said
