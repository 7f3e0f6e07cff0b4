"""What a server can be told instead of a store: a sentence that says what to change, and never the password."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import psycopg
import pytest

from jobstate_server.clock import FollowingClock, ManualClock
from jobstate_server.domain.durations import HOUR
from jobstate_server.store.errors import CannotOpen
from jobstate_server.store.postgres.connection import VERSION_MIN, WRITER_SETTINGS, check_server
from jobstate_server.store.postgres.store import PostgresStore

from ...support.postgres import own_server, postgres_server
from ..support import an_event, keep_events
from .support import opened_at, rows


@pytest.fixture
def url() -> str:
    """The URL of a store that does not exist yet."""
    return postgres_server().new_store()


def refusal_of(url: str) -> str:
    """Why the store cannot be opened."""
    with pytest.raises(CannotOpen) as caught:
        PostgresStore(url, ManualClock())
    return str(caught.value)


def with_option(url: str, name: str, value: str) -> str:
    """The URL, with one more setting of PostgreSQL."""
    return url + quote(f" -c{name}={value}")


def test_a_role_whose_commits_are_not_synced_is_refused(url: str) -> None:
    sentence = refusal_of(with_option(url, "synchronous_commit", "off"))

    assert "synchronous_commit = off" in sentence
    assert "switch it on" in sentence


@pytest.mark.parametrize("value", ["on", "local", "remote_write", "remote_apply"])
def test_a_role_whose_commits_are_synced_is_taken(url: str, value: str) -> None:
    with opened_at(with_option(url, "synchronous_commit", value)) as store:
        assert keep_events(store, an_event()) == 1


class Scripted:
    """A connection to a server that is as the test says."""

    def __init__(self, version: int, **settings: str) -> None:
        self.info = SimpleNamespace(server_version=version)
        self._settings = {"synchronous_commit": "on", "fsync": "on", **settings}

    def execute(self, query: str, values: tuple[str]) -> Scripted:
        """Answer ``current_setting``."""
        self._value = self._settings[values[0]]
        return self

    def fetchone(self) -> tuple[str]:
        return (self._value,)


def test_a_server_that_does_not_sync_is_refused() -> None:
    with pytest.raises(CannotOpen, match="fsync = off, which loses committed changes"):
        check_server(Scripted(VERSION_MIN, fsync="off"))  # type: ignore[arg-type]


def test_a_server_too_old_is_refused_with_both_versions() -> None:
    with pytest.raises(CannotOpen, match="PostgreSQL 13 is too old: jobstate-server needs 14"):
        check_server(Scripted(130_014))  # type: ignore[arg-type]
    check_server(Scripted(VERSION_MIN))  # type: ignore[arg-type]


def test_a_database_that_is_not_there_is_told() -> None:
    assert 'database "nowhere" does not exist' in refusal_of(postgres_server().url.replace("/postgres?", "/nowhere?"))


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("postgresql://user:hunter2@127.0.0.1:1/db", id="nobody listens"),
        pytest.param("postgresql://user:hunter2@[::1/db", id="half a host"),
        pytest.param("postgresql://user:hun%ter2@127.0.0.1/db", id="a sign that needs encoding"),
        pytest.param("postgresql://user:hunter2@127.0.0.1/db?nonsense=1", id="an unknown parameter"),
        pytest.param("postgresql://user:hunter2@nowhere.invalid/db", id="no such host"),
    ],
)
def test_a_url_that_leads_nowhere_is_told_without_its_password(url: str) -> None:
    sentence = refusal_of(url)

    assert sentence.startswith("cannot use PostgreSQL as a store: ")
    assert "hunter2" not in sentence
    assert "ter2" not in sentence


def test_a_url_without_a_database_leads_to_the_one_named_like_the_user(url: str) -> None:
    with opened_at(url.replace("/postgres?", "/?")) as store:
        assert rows(url, "SELECT id FROM log") == [(store.log_id,)]


def test_a_wrong_password_is_told_as_such_and_not_repeated() -> None:
    with own_server() as server:
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute(b"CREATE ROLE hurried LOGIN PASSWORD 'the right one'")
            ((file,),) = connection.execute(b"SHOW hba_file").fetchall()
            Path(file).write_text(f"local all hurried scram-sha-256\n{Path(file).read_text()}")
            connection.execute(b"SELECT pg_reload_conf()")
        sentence = refusal_of(server.url.replace("postgres:@", "hurried:hunter2@"))

    assert 'password authentication failed for user "hurried"' in sentence
    assert "hunter2" not in sentence


@contextmanager
def a_role_with_a_password(name: str) -> Iterator[None]:
    with psycopg.connect(postgres_server().url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'the right one'".encode())
        try:
            yield
        finally:
            connection.execute(f"DROP ROLE {name}".encode())


def test_a_role_that_may_not_make_tables_is_told_what_it_lacks(url: str) -> None:
    with a_role_with_a_password("powerless"):
        sentence = refusal_of(url.replace("postgres:@", "powerless:hunter2@"))

    assert "permission denied" in sentence or "no schema has been selected" in sentence
    assert "hunter2" not in sentence


def test_a_store_goes_by_the_database_s_time_from_when_it_is_opened(url: str) -> None:
    """However far ahead this machine's clock is: a clock never goes back, so it must not have begun there."""
    now = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
    ((before,),) = rows(url, now)
    clock = FollowingClock(ManualClock(start=before + 24 * HOUR))

    store = PostgresStore(url, clock)
    told = clock.now()
    store.close()

    ((after,),) = rows(url, now)
    assert before <= told <= after


def test_the_writer_works_under_its_own_settings_whatever_the_role_has(url: str) -> None:
    with opened_at(with_option(url, "default_transaction_isolation", "serializable")) as store:
        in_force = {
            name: store.database.raw_connection.execute("SELECT current_setting(%s)", (name,)).fetchone()
            for name in WRITER_SETTINGS
        }

    assert in_force == {name: (value,) for name, value in WRITER_SETTINGS.items()}


def test_a_store_works_in_a_process_with_thousands_of_files_open(url: str) -> None:
    """A server has a socket for each of its clients, and may connect to PostgreSQL anew after they came."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4_096), hard))
    held = [os.dup(0) for _ in range(1_100)]
    try:
        with opened_at(url) as store:
            assert store.database.raw_connection.fileno() > 1_024
            assert keep_events(store, an_event()) == 1
            assert keep_events(store, an_event()) == 2
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
