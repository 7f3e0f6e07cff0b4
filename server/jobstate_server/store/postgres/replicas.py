"""The other servers of a shared store, before this one has joined them."""

from __future__ import annotations

from jobstate_server.domain.durations import SECOND
from jobstate_server.store.base import REPLICA_LEASE
from jobstate_server.store.errors import CannotOpen
from jobstate_server.store.postgres.clock import Execute, Reading
from jobstate_server.store.postgres.connection import one_row


def refuse_beside_others(execute: Execute, version: int) -> None:
    """Raise CannotOpen if a server has renewed its lease of late. A running server does not look at the schema again.

    Args:
        version: of the schema.
    """
    (has_leases,) = one_row(execute(b"SELECT to_regclass('replica') IS NOT NULL"))
    if not has_leases:
        return
    (newest,) = one_row(execute(b"SELECT max(renew_time) FROM replica"))
    if newest is not None and newest > Reading.of(execute, version).time - REPLICA_LEASE:
        raise CannotOpen(
            "another jobstate-server uses this database, and it is too old for the tables that this one needs: stop"
            f" all of them, wait {REPLICA_LEASE // SECOND} s if one was killed, and start this one again"
        )
