"""Gives the events of a transaction their sequences. The lock on the log orders the commits of all replicas."""

from __future__ import annotations

from typing import Any

import psycopg

from jobstate_server.store.postgres import statements as sql
from jobstate_server.store.records import Changes


def append(connection: psycopg.Connection[Any], changes: Changes, now: int, channel: str) -> psycopg.Cursor[Any]:
    """Lock the log, append the events of ``changes`` and notify ``channel``. If nothing is appended, read the head.

    Returns a cursor with the head, which is the sequence of the last event (the others come before it, without a gap),
    the number of stored request ids, and the number of the transaction.
    """
    events = changes.events
    values = {"events": len(events), "requests": len(changes.requests), "now": now}
    if events:
        size, next_due = sum(len(event.payload) for event in events), _earliest_due(changes)
        return sql.append_events.run(connection, events, **values, bytes=size, channel=channel, next_due=next_due)
    if changes.deleted or changes.inserted or changes.attempts or changes.requests or changes.tallies:
        return connection.execute(sql.ADVANCE_LOG, {**values, "bytes": 0}, prepare=True)
    return connection.execute(sql.HEAD, prepare=True)


def _earliest_due(changes: Changes) -> str:
    rows = (*changes.inserted, *changes.updated, *changes.progressed)
    due = [row.job.due_time for row in rows if row.job.due_time is not None]
    return str(min(due)) if due else ""
