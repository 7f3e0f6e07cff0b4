"""Gives the events of a transaction their sequences. The lock on the log orders the commits of all replicas."""

from __future__ import annotations

from typing import Any

import psycopg

from jobstate_server.store.postgres import statements as sql
from jobstate_server.store.postgres.notifier import notified_text
from jobstate_server.store.records import Changes


def append(connection: psycopg.Connection[Any], changes: Changes, now: int, channel: str) -> psycopg.Cursor[Any]:
    """Lock the log, append the events of ``changes`` and notify ``channel``. If nothing is appended, read the head.

    Returns a cursor with the head, which is the sequence of the last event (the others come before it, without a gap),
    the number of stored request ids, and the number of the transaction.
    """
    events = changes.events
    values = {"events": len(events), "requests": len(changes.requests), "now": now}
    if events:
        size = sum(len(event.payload) for event in events)
        written = notified_text(_earliest_due(changes), changes.ready_types)
        return sql.append_events.run(connection, events, **values, bytes=size, channel=channel, written=written)
    if changes.pauses and changes.ready_types:
        written = notified_text(None, changes.ready_types)
        connection.execute(sql.NOTIFY, {"channel": channel, "written": written}, prepare=True)
    is_ordered = changes.pauses or changes.lanes or changes.dispatch or changes.has_relations or changes.moved_bulk_runs
    if changes.deleted or changes.inserted or changes.attempts or changes.requests or changes.tallies or is_ordered:
        return connection.execute(sql.ADVANCE_LOG, {**values, "bytes": 0}, prepare=True)
    return connection.execute(sql.HEAD, prepare=True)


def _earliest_due(changes: Changes) -> int | None:
    rows = (*changes.inserted, *changes.updated, *changes.progressed)
    return min((row.job.due_time for row in rows if row.job.due_time is not None), default=None)
