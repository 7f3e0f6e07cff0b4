"""What docs/operations.md says of PostgreSQL is run as it stands: statements, commands, settings, balancing."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import psycopg
import pytest

from jobstate.v1 import job_service_pb2 as pb
from jobstate.v1 import job_service_pb2_grpc
from jobstate_server import cli
from jobstate_server.clock import SystemClock
from jobstate_server.store.factory import open_store
from jobstate_server.store.postgres import connection

from ..store.support import a_job, contents, keep_jobs
from ..support.calls import create, history
from ..support.clock import WatchedClock
from ..support.postgres import PostgresServer, own_server
from ..support.server import serving

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "operations.md").read_text("utf-8").partition("\n## Many servers on PostgreSQL\n")[2]
SHARED, RESTORED = "postgresql://jobstate@db.internal/jobstate", "postgresql://jobstate@db.internal/restored"


def blocks(language: str) -> list[str]:
    """The fenced blocks of the part on PostgreSQL."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def statements() -> list[str]:
    """Every statement of the part on PostgreSQL."""
    return [part.strip() for block in blocks("sql") for part in block.split(";") if part.strip()]


def command(beginning: str) -> list[str]:
    """The words of the one command that begins so."""
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith(beginning)]
    (line,) = lines
    return shlex.split(line)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server of its own: roles and settings belong to the whole of one."""
    with own_server() as server:
        for statement in statements():
            if statement.startswith(("CREATE", "ALTER ROLE")):
                with psycopg.connect(server.url, autocommit=True) as superuser:
                    superuser.execute(statement.encode())
        yield server


@pytest.fixture
def database(server: PostgresServer) -> Callable[[str], str]:
    """The URL of a database, as the role of the page."""

    def url(name: str) -> str:
        return psycopg.conninfo.make_conninfo(server.url, user="jobstate", dbname=name)

    def as_url(name: str) -> str:
        parts = psycopg.conninfo.conninfo_to_dict(url(name))
        return f"postgresql://jobstate@/{name}?host={parts['host']}"

    return as_url


@pytest.fixture
def shared(server: PostgresServer, database: Callable[[str], str]) -> str:
    """The database of the page, with nothing in it."""
    with psycopg.connect(psycopg.conninfo.make_conninfo(server.url, dbname="jobstate"), autocommit=True) as superuser:
        superuser.execute("DROP SCHEMA public CASCADE")
        superuser.execute("CREATE SCHEMA public AUTHORIZATION jobstate")
    return database("jobstate")


async def test_a_server_works_with_the_pages_role_and_every_query_of_the_page_answers(shared: str) -> None:
    queries = [statement for statement in statements() if statement.startswith("SELECT")]

    async with serving(Path("unused"), None, store=shared) as running:
        await create(running)
        with psycopg.connect(shared) as reader:
            answers = {query: reader.execute(query.encode()).fetchall() for query in queries}

    assert len(answers) == 7
    ((head, oldest, _),) = next(rows for query, rows in answers.items() if " FROM log, horizon" in query)
    assert (head, oldest) == (1, 1)
    ((_, silent),) = next(rows for query, rows in answers.items() if query.endswith("renew_time DESC"))
    assert silent.total_seconds() < 10


def test_every_statement_of_the_page_is_run_here_or_needs_a_standby() -> None:
    others = [text for text in statements() if not text.startswith(("SELECT", "CREATE", "ALTER ROLE"))]

    assert others == ["ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (db_b, db_c)'"]


def test_postgresql_takes_the_pages_standby_setting(server: PostgresServer) -> None:
    (statement,) = [text for text in statements() if text.startswith("ALTER SYSTEM")]

    with psycopg.connect(server.url, autocommit=True) as superuser:
        superuser.execute(statement.encode())
        superuser.execute("ALTER SYSTEM RESET synchronous_standby_names")


def test_what_the_page_puts_on_the_role_is_what_connections_are_made_with() -> None:
    found = dict(re.findall(r"ALTER ROLE jobstate SET (\w+) = '(.+)'", "\n".join(statements())))

    assert found == {**connection.WRITER_SETTINGS, **connection.READER_SETTINGS}


def test_the_table_of_connection_settings_is_that_of_the_code() -> None:
    rows = [line.strip("|").split("|") for line in PAGE.splitlines() if line.startswith("| `")]
    writer: dict[str, str] = {}
    readers: dict[str, str] = {}
    for row in rows:
        names, written = re.findall(r"`(\w+)`", row[0]), [re.findall(r"`([^`]+)`", cell) for cell in row[1:3]]
        writer.update(zip(names, written[0], strict=False))
        readers.update(zip(names, written[0] if "the same" in row[2] else written[1], strict=False))
    route = {name: value for name, value in connection._ROUTE.items() if name != "application_name"}

    assert writer == {**route, **connection.WRITER_SETTINGS, **connection.TRANSACTION_TIMEOUT}
    assert readers == {**route, **connection.READER_SETTINGS}


async def test_the_pages_copy_moves_a_store(
    shared: str, tmp_path: Path, clock: WatchedClock, capsys: pytest.CaptureFixture[str]
) -> None:
    source = f"sqlite:///{tmp_path}/jobs.db"
    async with serving(tmp_path / "jobs.db", clock) as running:
        await create(running)
    words = command("jobstate-server copy")
    places = {"sqlite:////var/lib/jobstate/jobs.db": source, SHARED: shared}

    assert cli.main([places.get(word, word) for word in words[1:]]) == 0

    assert "1 rows" in capsys.readouterr().out
    async with serving(Path("unused"), clock, store=shared) as running:
        assert [event.job.id for event in await history(running)] == ["job"]


def test_the_pages_dump_restores_the_same_store(
    shared: str, server: PostgresServer, database: Callable[[str], str], tmp_path: Path
) -> None:
    with psycopg.connect(server.url, autocommit=True) as superuser:
        superuser.execute("DROP DATABASE IF EXISTS restored")
        superuser.execute("CREATE DATABASE restored OWNER jobstate")
    store = open_store(shared, SystemClock())
    keep_jobs(store, a_job("kept"))
    before = contents(store)
    store.close()
    binaries = Path(server._server.get_postmaster_info().process.exe()).parent
    places = {
        SHARED: shared,
        f"--dbname={RESTORED}": f"--dbname={database('restored')}",
        "--file=/var/backups/jobstate.dump": f"--file={tmp_path}/dump",
        "/var/backups/jobstate.dump": f"{tmp_path}/dump",
    }

    for name in ("pg_dump", "pg_restore"):
        words = [places.get(word, word) for word in command(name)]
        subprocess.run([binaries / words[0], *words[1:]], check=True, capture_output=True)

    restored = open_store(database("restored"), SystemClock())
    assert contents(restored) == before
    assert restored.log_id == store.log_id
    restored.close()


async def test_a_client_with_the_pages_service_config_calls_every_replica(shared: str) -> None:
    (program,) = [block for block in blocks("python") if "round_robin" in block]
    named = {
        name.id: ast.literal_eval(step.value)
        for step in ast.parse(program).body
        if isinstance(step, ast.Assign) and isinstance(name := step.targets[0], ast.Name) and name.id.isupper()
    }
    async with (
        serving(Path("unused"), None, store=shared) as one,
        serving(Path("unused"), None, store=shared) as other,
    ):
        options = [("grpc.service_config", named["SERVICE_CONFIG"])]
        target = f"ipv4:{one.server.address},{other.server.address}"
        async with grpc.aio.insecure_channel(target, options=options) as channel:
            jobs = job_service_pb2_grpc.JobServiceStub(channel)
            # A connection is made while calls go over the other one.
            while not all(running.server.committer.counters.commands for running in (one, other)):
                await jobs.Create(pb.CreateRequest(job_type="type"), wait_for_ready=True)
