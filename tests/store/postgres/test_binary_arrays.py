"""Whole columns are sent in PostgreSQL's own format: what is sent is what arrives."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import errors

from jobstate_server.domain.job import INT64_MAX
from jobstate_server.store.models import TABLES
from jobstate_server.store.postgres.binary_arrays import Kind, array, kind_of, register
from jobstate_server.store.postgres.many_rows import ManyRows
from jobstate_server.store.postgres.store import PostgresStore

from ...support.postgres import postgres_server
from ..support import MODERATELY, a_job, contents, keep_jobs

TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
VALUES: dict[Kind, st.SearchStrategy[Any]] = {
    Kind.INT8: st.integers(-(2**63), 2**63 - 1),
    Kind.TEXT: TEXTS | st.sampled_from(["", "NULL", "null", "{}", '"', "'", "\\", "{a,b}", "\t\n", "€", "𝕁", " "]),
    Kind.BYTEA: st.binary() | st.sampled_from([b"", b"\0", b"\\x00", bytes(range(256)), b"NULL"]),
    Kind.BOOL: st.booleans(),
    Kind.XID: st.integers(0, 2**32 - 1),
}


@pytest.fixture(scope="module")
def connection() -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(postgres_server().url, autocommit=True) as connection:
        register(connection)
        yield connection


def came_back(connection: psycopg.Connection[Any], kind: Kind, values: Sequence[Any]) -> list[Any]:
    """The values as PostgreSQL has understood them, one row each."""
    # psycopg knows no numbers of transactions.
    read = b"value::text::int8" if kind is Kind.XID else b"value"
    statement = b"SELECT %s FROM unnest(%%s::%s[]) AS value" % (read, kind.type_name.encode())
    return [value for (value,) in connection.execute(statement, (array(kind, values),), binary=True)]


@MODERATELY
@given(data=st.data(), kind=st.sampled_from(Kind))
def test_values_and_nulls_of_every_kind_arrive_as_they_were(
    connection: psycopg.Connection[Any], data: st.DataObject, kind: Kind
) -> None:
    values = data.draw(st.lists(st.none() | VALUES[kind], min_size=1, max_size=30))

    assert came_back(connection, kind, values) == values


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        pytest.param(Kind.INT8, lambda number: (-1) ** number * (INT64_MAX - number), id="int8"),
        pytest.param(Kind.TEXT, lambda number: "ä" * number, id="text"),
        pytest.param(Kind.BYTEA, lambda number: bytes([number % 256]) * number, id="bytea"),
        pytest.param(Kind.BOOL, lambda number: bool(number % 3), id="bool"),
    ],
)
@pytest.mark.parametrize("count", [1, 2, 511, 512, 1_000])
def test_columns_of_every_length_arrive_whole_and_in_order(
    connection: psycopg.Connection[Any], kind: Kind, make: Callable[[int], Any], count: int
) -> None:
    values = [None if number % 7 == 3 else make(number) for number in range(count)]

    assert came_back(connection, kind, values) == values


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1])
def test_a_number_beyond_64_bits_is_refused_before_it_is_sent(number: int) -> None:
    with pytest.raises(struct.error):
        array(Kind.INT8, [1, number])


def test_half_a_character_is_refused_before_it_is_sent() -> None:
    with pytest.raises(UnicodeEncodeError):
        array(Kind.TEXT, ["whole", "half \ud800"])


def test_a_text_with_nul_is_refused_by_postgresql(connection: psycopg.Connection[Any]) -> None:
    with pytest.raises(errors.CharacterNotInRepertoire):
        came_back(connection, Kind.TEXT, ["whole", "nul \0"])


def test_every_column_of_every_table_has_a_kind() -> None:
    kinds = {field.name: kind_of(field) for model in TABLES["postgres"] for field in model._meta.sorted_fields}

    assert (kinds["id"], kinds["payload"], kinds["claimed"]) == (Kind.TEXT, Kind.BYTEA, Kind.BOOL)
    assert (kinds["state"], kinds["sequence"]) == (Kind.INT8, Kind.INT8)


@pytest.mark.parametrize("count", [1, 2, 100, 512])
def test_a_statement_of_many_rows_takes_any_number_of_them(connection: psycopg.Connection[Any], count: int) -> None:
    connection.execute("CREATE TEMPORARY TABLE IF NOT EXISTS pair (name text, number int, mark int)")
    connection.execute("TRUNCATE pair")
    statement = ManyRows(
        "INSERT INTO pair SELECT name, number, %(mark)s FROM {rows} AS new(name, number)",
        {"name": Kind.TEXT, "number": Kind.INT8},
    )
    rows = [(f"row {number}", None if number % 2 else number) for number in range(count)]

    statement.run(connection, rows, mark=7)

    found = connection.execute("SELECT name, number, mark FROM pair").fetchall()
    assert found == [(*row, 7) for row in rows]


def test_a_whole_batch_of_jobs_arrives_as_it_was(store: PostgresStore) -> None:
    jobs = [
        a_job(
            f"job-{number:03}",
            create_time=number,
            worker="'\"\\{}" * (number % 3),
            metadata=bytes([number % 256, 0, 255]),
            timeout=None if number % 2 else INT64_MAX,
            claimed=bool(number % 5),
        )
        for number in range(512)
    ]

    keep_jobs(store, *jobs)

    assert contents(store).jobs == jobs
