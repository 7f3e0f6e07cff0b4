"""Writing as the last thing of a transaction: the same as a write and a commit, whole or not at all."""

from __future__ import annotations

import pytest

from jobstate_server.clock import ManualClock
from jobstate_server.store.base import Store
from jobstate_server.store.errors import StoreError, StoreUnreachable
from jobstate_server.store.records import ChangedJob, Changes

from ..support.reads import reads
from .support import (
    Home,
    Interruption,
    a_job,
    a_request,
    an_attempt,
    an_event,
    contents,
    interrupt,
    keep,
    opened,
    reading,
    stored_job,
    unversioned,
)


def finish(store: Store, changes: Changes) -> int:
    """Write in a transaction that looks before and does nothing after."""
    with store.transaction() as transaction:
        transaction.load(reads(["job"]))
        return transaction.finish(changes)


def everything() -> Changes:
    return Changes(
        inserted=[ChangedJob(a_job("new"), 1)],
        events=[an_event("new"), an_event("new")],
        attempts=[an_attempt("new")],
        requests=[a_request(job_id="new")],
    )


def test_what_was_finished_is_there_and_numbered_as_by_a_write(store: Store) -> None:
    assert keep(store, Changes(events=[an_event()])) == 1

    assert finish(store, everything()) == 2

    assert stored_job(store, "new") == a_job("new", version=3)
    assert [event.sequence for event in contents(store).events] == [1, 2, 3]
    assert contents(store).attempts == [an_attempt("new")]


def test_the_job_itself_has_its_version_afterwards(store: Store) -> None:
    job = a_job()

    finish(store, Changes(inserted=[ChangedJob(job, 0)], events=[an_event()]))

    assert job.version == 1


def test_without_events_the_next_sequence_is_told(store: Store) -> None:
    keep(store, Changes(inserted=unversioned([a_job()]), events=[an_event()]))

    assert finish(store, Changes(progressed=unversioned([a_job(progress=5)]))) == 2
    assert getattr(stored_job(store), "progress", None) == 5


def test_a_finished_transaction_is_followed_by_another(store: Store) -> None:
    for number in (1, 2, 3):
        assert finish(store, Changes(events=[an_event()])) == number


def test_it_is_there_after_reopening(home: Home, clock: ManualClock) -> None:
    with opened(home, clock) as store:
        finish(store, everything())

    with opened(home, clock) as store:
        assert stored_job(store, "new") == a_job("new", version=2)


def test_a_row_that_cannot_be_kept_leaves_nothing_of_the_rest(store: Store) -> None:
    finish(store, everything())
    before = contents(store)
    changes = Changes(events=[an_event()], inserted=unversioned([a_job("other")]), attempts=[an_attempt("new")])

    with pytest.raises(StoreError) as caught, store.transaction() as transaction:
        transaction.finish(changes)

    assert not isinstance(caught.value, StoreUnreachable)
    assert contents(store) == before
    assert finish(store, Changes(events=[an_event()])) == 3


def test_nothing_is_kept_of_a_transaction_that_was_interrupted_before_it_finished(store: Store) -> None:
    with pytest.raises(Interruption):
        interrupt(store, lambda transaction: transaction.write(everything()))

    with reading(store) as reader:
        assert reader.log_state().head == 0
