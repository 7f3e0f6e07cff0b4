"""The reader of a PostgreSQL store."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NoReturn

from peewee import SQL, NodeList, Value, fn

from jobstate_server.domain.filters import JobFilter, Order, Position
from jobstate_server.domain.waiting import Priority
from jobstate_server.store.models import EventRow
from jobstate_server.store.postgres.connection import Postgres, is_connection_lost, raise_store_error
from jobstate_server.store.postgres.statements import HAS_READY, WHOLE_JOBS
from jobstate_server.store.reading.reader import SqlReader
from jobstate_server.store.records import JobPage


class PostgresReader(SqlReader):
    """Reads on its own connection, and reconnects after it has broken."""

    whole_jobs = WHOLE_JOBS

    def __init__(self, database: Postgres) -> None:
        super().__init__(database, self._raise)
        self._postgres = database

    def disconnect(self) -> None:
        # The read takes long because of PostgreSQL, so the error is not ReadInterrupted.
        self.resume()
        self._postgres.disconnect()

    def _raise(self, error: Exception) -> NoReturn:
        if is_connection_lost(getattr(error, "orig", None) or error):
            self._postgres.close()
        raise_store_error(error)

    def has_ready(self, job_types: Collection[str], request_keys: Collection[tuple[str, str]]) -> bool:
        principals, request_ids = [key[0] for key in request_keys], [key[1] for key in request_keys]
        names = list(job_types)
        ((found,),) = self._execute(HAS_READY, (names, list(Priority), names, principals, request_ids))
        return bool(found)

    def list_jobs(self, wanted: JobFilter, order: Order, after: Position | None, limit: int, bytes_max: int) -> JobPage:
        # Its transaction needs a working connection from the start.
        self._postgres.ensure_connected()
        return super().list_jobs(wanted, order, after, limit, bytes_max)

    def matching_jobs(self, wanted: JobFilter, after: Position | None, limit: int) -> Any:
        self._postgres.ensure_connected()
        return super().matching_jobs(wanted, after, limit)

    def _place_in_payload(self, part: bytes) -> Any:
        return fn.POSITION(NodeList((Value(part), SQL("IN"), EventRow.payload)))

    def _execute(self, text: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        if not self._postgres.in_transaction():
            self._postgres.ensure_connected()
        return super()._execute(text, values)
