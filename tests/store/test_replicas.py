"""Replicas: which of them renew their leases, and whose unfinished runs may be taken over."""

from __future__ import annotations

import pytest

from jobstate_server.clock import ManualClock
from jobstate_server.domain.durations import SECOND
from jobstate_server.store.base import REPLICA_FORGOTTEN, REPLICA_LEASE, Reader, Store

from .support import Interruption, interrupt


def renew(store: Store, *replicas: str) -> int:
    """Renew the leases of these replicas. Returns the time of it."""
    with store.transaction() as transaction:
        for replica in replicas:
            transaction.renew(replica)
        return transaction.now


def last_renewed(store: Store) -> int | None:
    with store.transaction() as transaction:
        return transaction.last_renewed()


def claim(store: Store, due: int, token: str, replica: str) -> bool:
    with store.transaction() as transaction:
        return transaction.claim_task("task", due, token, replica)


def finish(store: Store, token: str) -> None:
    with store.transaction() as transaction:
        transaction.finish_task("task", token, "done")


def test_in_a_new_store_no_lease_was_ever_renewed(store: Store) -> None:
    assert last_renewed(store) is None


def test_the_last_renewal_counts_whichever_replica_made_it(store: Store, clock: ManualClock) -> None:
    renew(store, "one")
    clock.advance(SECOND)
    latest = renew(store, "another")
    clock.advance(SECOND)

    assert last_renewed(store) == latest == clock.now() - SECOND


def test_a_renewal_replaces_the_one_before(store: Store, clock: ManualClock) -> None:
    renew(store, "one", "another")
    clock.advance(5 * SECOND)

    assert renew(store, "one") == last_renewed(store) == clock.now()


def test_a_replica_that_leaves_is_forgotten_and_the_others_are_not(store: Store, clock: ManualClock) -> None:
    first = renew(store, "stays")
    clock.advance(SECOND)
    renew(store, "leaves")

    with store.transaction() as transaction:
        transaction.leave("leaves")

    assert last_renewed(store) == first


def test_when_all_have_left_there_is_no_renewal(store: Store) -> None:
    renew(store, "one", "another")

    with store.transaction() as transaction:
        transaction.leave("one")
        transaction.leave("another")
        transaction.leave("a stranger")

    assert last_renewed(store) is None


def test_a_replica_silent_for_a_day_is_forgotten_when_another_renews(store: Store, clock: ManualClock) -> None:
    renew(store, "silent")
    clock.advance(REPLICA_FORGOTTEN)
    renew(store, "another")
    with store.transaction() as transaction:
        transaction.leave("another")
    assert last_renewed(store) == clock.now() - REPLICA_FORGOTTEN

    clock.advance(1)
    renew(store, "another")
    with store.transaction() as transaction:
        transaction.leave("another")

    assert last_renewed(store) is None


def test_a_renewal_that_is_rolled_back_does_not_count(store: Store) -> None:
    with pytest.raises(Interruption):
        interrupt(store, lambda transaction: transaction.renew("one"))

    assert last_renewed(store) is None


def test_a_run_is_not_taken_over_while_its_replica_renews(store: Store, clock: ManualClock) -> None:
    renew(store, "runs")
    assert claim(store, 10, "first", "runs")
    clock.advance(REPLICA_LEASE - 1)

    assert not claim(store, 10, "second", "heir")


def test_a_run_is_taken_over_once_the_lease_of_its_replica_has_run_out(
    store: Store, reader: Reader, clock: ManualClock
) -> None:
    renew(store, "runs")
    claim(store, 10, "first", "runs")
    clock.advance(REPLICA_LEASE)

    assert claim(store, 10, "second", "heir")

    assert reader.task_runs()["task"] == ("task", 10, "second", clock.now(), None, "", "heir", "", "")
    with store.transaction() as transaction:
        assert not transaction.task_is_ours("task", "first")
        assert transaction.task_is_ours("task", "second")


def test_a_run_is_taken_over_at_once_when_its_replica_has_left(store: Store) -> None:
    renew(store, "runs")
    claim(store, 10, "first", "runs")
    with store.transaction() as transaction:
        transaction.leave("runs")

    assert claim(store, 10, "second", "heir")


def test_a_run_whose_replica_renews_again_is_kept(store: Store, clock: ManualClock) -> None:
    renew(store, "runs")
    claim(store, 10, "first", "runs")
    clock.advance(REPLICA_LEASE - 1)
    renew(store, "runs")
    clock.advance(REPLICA_LEASE - 1)

    assert not claim(store, 10, "second", "heir")


def test_of_two_heirs_one_takes_a_run_over(store: Store, clock: ManualClock) -> None:
    renew(store, "runs")
    claim(store, 10, "first", "runs")
    clock.advance(REPLICA_LEASE)
    renew(store, "heir", "other heir")

    assert claim(store, 10, "second", "heir")
    assert not claim(store, 10, "third", "other heir")


def test_a_run_that_has_ended_is_never_taken_over(store: Store, clock: ManualClock) -> None:
    renew(store, "runs")
    claim(store, 10, "first", "runs")
    finish(store, "first")
    clock.advance(REPLICA_FORGOTTEN)

    assert not claim(store, 10, "second", "heir")


def test_who_was_taken_over_from_cannot_end_the_run_of_its_heir(
    store: Store, reader: Reader, clock: ManualClock
) -> None:
    renew(store, "runs")
    claim(store, 10, "first", "runs")
    clock.advance(REPLICA_LEASE)
    claim(store, 10, "second", "heir")

    finish(store, "first")

    assert reader.task_runs()["task"].end_time is None


def test_a_run_for_a_later_instant_is_taken_whichever_replica_renews(store: Store, reader: Reader) -> None:
    renew(store, "runs")
    claim(store, 10, "first", "runs")

    assert claim(store, 11, "second", "heir")
    assert not claim(store, 10, "third", "runs")

    assert reader.task_runs()["task"].replica == "heir"
