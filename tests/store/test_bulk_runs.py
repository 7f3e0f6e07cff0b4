"""How far a bulk run has come, as stores keep it, and the jobs that it reads."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jobstate_server.domain.bulk import BulkProgress, SkipReason
from jobstate_server.domain.commands import Request
from jobstate_server.domain.filters import JobFilter, Position
from jobstate_server.domain.job import INT64_MAX, JobState
from jobstate_server.domain.reads import Reads
from jobstate_server.store.base import Store
from jobstate_server.store.records import Changes, MovedBulkRun, StoredRequest

from .support import a_job, keep, keep_jobs, reading

REQUEST = Request("principal", "request-1", "RecreateMany", b"digest")
BEGUN = BulkProgress(7)
FURTHER = BulkProgress(INT64_MAX, Position(INT64_MAX, -3), 9, 5, {int(SkipReason.STATE): 1, int(SkipReason.GROUP): 3})


def stored(store: Store) -> StoredRequest:
    with store.transaction() as transaction:
        return transaction.load(Reads(request_keys={REQUEST.key})).requests[REQUEST.key]


def moved(before: BulkProgress, after: BulkProgress, time: int = 5) -> Changes:
    return Changes(moved_bulk_runs={REQUEST.key: MovedBulkRun(REQUEST, before, after, time)})


@pytest.mark.parametrize("progress", [BEGUN, FURTHER, replace(FURTHER, is_over=True)])
def test_how_far_it_has_come_is_read_back_and_moves(store: Store, progress: BulkProgress) -> None:
    keep(store, Changes(requests=[StoredRequest(REQUEST, "", 3, bulk=BEGUN)]))
    assert stored(store)[:3] == (REQUEST, "", 3)
    assert stored(store).bulk == BEGUN
    assert stored(store).job_ids == ()

    keep(store, moved(BEGUN, progress))

    assert (stored(store).bulk, stored(store).time) == (progress, 5)


def test_matching_jobs_are_read_in_the_order_of_their_creation(store: Store) -> None:
    for number, state in enumerate([JobState.CANCELLED, JobState.QUEUED, JobState.COMPLETED, JobState.CANCELLED]):
        keep_jobs(store, a_job(str(number), state=state, create_time=number))
    wanted = JobFilter(states=(JobState.COMPLETED, JobState.CANCELLED))

    with reading(store) as reader:
        first, after = reader.matching_jobs(wanted, None, 2)
        rest, end = reader.matching_jobs(wanted, after, 2)
        none = reader.matching_jobs(wanted, rest[-1].position, 2)

    assert [(job.id, job.state) for job in (*first, *rest)] == [
        ("0", JobState.CANCELLED),
        ("2", JobState.COMPLETED),
        ("3", JobState.CANCELLED),
    ]
    assert after == first[-1].position
    assert (end, none) == (None, ([], None))
