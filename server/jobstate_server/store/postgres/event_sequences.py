"""Gives the events of a transaction their sequences. The lock on the log orders the commits of all replicas."""

from __future__ import annotations

from typing import Any, Protocol

import psycopg

from jobstate_server.store.postgres import statements as sql
from jobstate_server.store.records import Changes


class Execute(Protocol):
    """Runs a statement with values by name."""

    def __call__(self, text: bytes, **values: Any) -> psycopg.Cursor[Any]:
        """The statement's cursor."""


def take_sequences(execute: Execute, changes: Changes, now: int) -> psycopg.Cursor[Any]:
    """Lock the log and advance its head by the events of ``changes``. If nothing is appended, only read the head.

    Returns a cursor with the new head, which is the sequence of the last event (the others come before it, without a
    gap), the number of stored request ids, and the number of the transaction.
    """
    appends = (
        changes.events or changes.deleted or changes.inserted or changes.attempts or changes.requests or changes.tallies
    )
    if not appends:
        return execute(sql.HEAD)
    size = sum(len(event.payload) for event in changes.events)
    return execute(sql.ADVANCE_LOG, events=len(changes.events), bytes=size, requests=len(changes.requests), now=now)
