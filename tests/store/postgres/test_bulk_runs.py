"""Bulk runs that replicas of one store carry out at the same time."""

from __future__ import annotations

import pytest

from jobstate_server.domain.bulk import BulkProgress
from jobstate_server.store.errors import TransactionConflict
from jobstate_server.store.postgres.store import PostgresStore
from jobstate_server.store.records import Changes, StoredRequest

from ..support import keep
from ..test_bulk_runs import BEGUN, FURTHER, REQUEST, moved, stored


def test_a_run_moves_only_from_where_it_is(store: PostgresStore) -> None:
    keep(store, Changes(requests=[StoredRequest(REQUEST, "", 3, bulk=BEGUN)]))

    with pytest.raises(TransactionConflict):
        keep(store, moved(FURTHER, BulkProgress(8)))

    assert stored(store).bulk == BEGUN
