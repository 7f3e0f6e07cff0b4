"""The stores that tests begin with are those that a server makes."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from jobstate_server.clock import ManualClock

from ..support.postgres import postgres_server
from .support import Backend, Home, PostgresHome, SqliteHome, opened


def all_of(home: Home) -> str:
    """Everything that a store consists of, as the statements that make it."""
    if isinstance(home, SqliteHome):
        with closing(sqlite3.connect(home.path)) as connection:
            settings = [connection.execute(f"PRAGMA {name}").fetchone() for name in ("auto_vacuum", "journal_mode")]
            return "\n".join((*connection.iterdump(), str(settings)))
    assert isinstance(home, PostgresHome)
    schema = home.url.rpartition("%3D")[2]
    dumped = postgres_server().dump(schema).decode()
    return dumped.replace(schema, "schema")


def made_by_a_server(home: Home) -> tuple[str, str]:
    """What a store consists of once it was opened, without the name of its log, and that name."""
    with opened(home, ManualClock()) as store:
        log_id = store.log_id
    content = all_of(home)
    assert log_id in content
    return content.replace(log_id, "name"), log_id


def test_a_ready_store_is_what_a_server_makes_of_nothing_but_for_its_name(backend: Backend) -> None:
    made, name = made_by_a_server(backend.empty_home())
    ready, another = made_by_a_server(backend.new_home())

    assert ready == made
    assert name != another


def test_each_ready_store_has_a_name_of_its_own(backend: Backend) -> None:
    assert made_by_a_server(backend.new_home())[1] != made_by_a_server(backend.new_home())[1]
