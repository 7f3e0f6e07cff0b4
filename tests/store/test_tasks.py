"""Maintenance tasks: who runs which scheduled instant."""

from __future__ import annotations

from jobstate_server.store.base import Reader, Store


def claim(store: Store, due: int, token: str, name: str = "task", replica: str = "one") -> bool:
    with store.transaction() as transaction:
        if replica:
            transaction.renew(replica)
        return transaction.claim_task(name, due, token, replica)


def finish(store: Store, token: str, outcome: str = "done", name: str = "task") -> None:
    with store.transaction() as transaction:
        transaction.finish_task(name, token, outcome)


def is_ours(store: Store, token: str, name: str = "task") -> bool:
    with store.transaction() as transaction:
        return transaction.task_is_ours(name, token)


def test_an_instant_is_claimed_once(store: Store) -> None:
    assert claim(store, 10, "one")
    assert not claim(store, 10, "two")
    assert not claim(store, 10, "one")


def test_an_earlier_instant_is_taken_with_a_later_one(store: Store) -> None:
    assert claim(store, 10, "one")

    assert not claim(store, 9, "two")
    assert claim(store, 11, "three")


def test_tasks_are_claimed_apart(store: Store) -> None:
    assert claim(store, 10, "one", name="this")
    assert claim(store, 10, "one", name="that")


def test_a_claimed_run_has_begun_and_not_ended(store: Store, reader: Reader) -> None:
    with store.transaction() as transaction:
        transaction.claim_task("task", 10, "one", "replica")
        now = transaction.now

    assert reader.task_runs() == {"task": ("task", 10, "one", now, None, "", "replica")}


def test_a_finished_run_tells_when_and_how_it_ended(store: Store, reader: Reader) -> None:
    claim(store, 10, "one")

    with store.transaction() as transaction:
        transaction.finish_task("task", "one", "3 jobs deleted")
        now = transaction.now

    run = reader.task_runs()["task"]
    assert (run.end_time, run.outcome) == (now, "3 jobs deleted")


def test_a_refused_claim_leaves_the_run_as_it_was(store: Store, reader: Reader) -> None:
    claim(store, 10, "one")
    finish(store, "one")
    before = reader.task_runs()

    claim(store, 10, "two")

    assert reader.task_runs() == before


def test_a_later_claim_takes_the_task_over(store: Store, reader: Reader) -> None:
    claim(store, 10, "one")
    assert is_ours(store, "one")

    claim(store, 11, "two")

    assert not is_ours(store, "one")
    assert is_ours(store, "two")


def test_who_was_taken_over_from_cannot_finish_the_run(store: Store, reader: Reader) -> None:
    claim(store, 10, "one")
    claim(store, 11, "two")
    before = reader.task_runs()

    finish(store, "one")

    assert reader.task_runs() == before


def test_a_new_run_has_not_the_end_of_the_one_before(store: Store, reader: Reader) -> None:
    claim(store, 10, "one")
    finish(store, "one", "done")

    claim(store, 11, "two")

    assert (reader.task_runs()["task"].end_time, reader.task_runs()["task"].outcome) == (None, "")


def test_a_task_that_never_ran_is_nobody_s(store: Store, reader: Reader) -> None:
    assert not is_ours(store, "one")
    finish(store, "one")

    assert reader.task_runs() == {}


def test_finishing_one_task_leaves_another_with_the_same_token_alone(store: Store, reader: Reader) -> None:
    claim(store, 10, "one", name="this")
    claim(store, 10, "one", name="that")

    finish(store, "one", name="this")

    assert reader.task_runs()["that"].end_time is None
