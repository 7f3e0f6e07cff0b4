"""Maintenance tasks: who runs which scheduled instant."""

from __future__ import annotations

import pytest

from jobstate_server.domain.reads import Reads
from jobstate_server.domain.recurring import TakenInstant
from jobstate_server.store.base import Reader, Store
from jobstate_server.store.records import Changes

from .support import Interruption, interrupt


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

    assert reader.task_runs() == {"task": ("task", 10, "one", now, None, "", "replica", "", "")}


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


# Recurring entries


DAY = 86_400_000_000
NIGHTLY = "recurring/nightly"


def note(store: Store, definitions: dict[str, str], wall: int) -> None:
    with store.transaction() as transaction:
        transaction.note_recurring(definitions, wall)


def latest(store: Store, *names: str) -> dict[str, int]:
    with store.transaction() as transaction:
        return transaction.load(Reads(tasks=set(names))).instants


def take(store: Store, due: int, name: str = NIGHTLY) -> None:
    with store.transaction() as transaction:
        transaction.load(Reads(tasks={name}))
        transaction.finish(Changes(instants=[TakenInstant(name, due, "the-job", "replica")]))


def test_a_recurring_entry_begins_with_the_time_at_which_it_was_noted(store: Store, reader: Reader) -> None:
    note(store, {NIGHTLY: "0 2 * * * UTC", "recurring/other": "0 3 * * * UTC"}, 100)

    assert latest(store, NIGHTLY, "recurring/none") == {NIGHTLY: 100}
    assert reader.task_runs()[NIGHTLY].job_id == ""


def test_an_instant_moves_with_the_job_that_is_created(store: Store, reader: Reader) -> None:
    note(store, {NIGHTLY: "0 2 * * * UTC"}, 100)
    take(store, 200)

    run = reader.task_runs()[NIGHTLY]
    assert latest(store, NIGHTLY) == {NIGHTLY: 200}
    assert (run.job_id, run.outcome, run.replica) == ("the-job", "the-job created", "replica")
    assert run.start_time == run.end_time


def test_an_instant_of_a_transaction_that_fails_has_not_moved(store: Store) -> None:
    note(store, {NIGHTLY: "0 2 * * * UTC"}, 100)

    instant = TakenInstant(NIGHTLY, 200, "the-job", "replica")
    with pytest.raises(Interruption):
        interrupt(store, lambda transaction: transaction.write(Changes(instants=[instant])))

    assert latest(store, NIGHTLY) == {NIGHTLY: 100}


def test_an_entry_that_is_noted_again_goes_on_and_one_that_was_changed_begins_anew(store: Store) -> None:
    note(store, {NIGHTLY: "0 2 * * * UTC"}, 100)
    note(store, {NIGHTLY: "0 2 * * * UTC"}, 300)
    assert latest(store, NIGHTLY) == {NIGHTLY: 100}

    note(store, {NIGHTLY: "0 2 * * * Europe/Berlin"}, 400)
    assert latest(store, NIGHTLY) == {NIGHTLY: 400}
    note(store, {NIGHTLY: "0 3 * * * Europe/Berlin"}, 200)
    assert latest(store, NIGHTLY) == {NIGHTLY: 400}, "an instant is never given back"


def test_an_entry_that_was_removed_begins_anew_when_it_comes_back(store: Store, reader: Reader) -> None:
    note(store, {NIGHTLY: "0 2 * * * UTC"}, 100)
    claim(store, 10, "one", name="task")
    note(store, {}, 200)
    take(store, 300)
    assert reader.task_runs()[NIGHTLY].definition == "", "a replica that still has it goes on"

    note(store, {NIGHTLY: "0 2 * * * UTC"}, 400)

    assert latest(store, NIGHTLY) == {NIGHTLY: 400}
    assert "task" in reader.task_runs()


def test_an_entry_that_was_removed_long_ago_is_forgotten_and_a_task_never_is(store: Store, reader: Reader) -> None:
    note(store, {NIGHTLY: "0 2 * * * UTC"}, 100)
    claim(store, 10, "one", name="task")

    note(store, {}, 30 * DAY)
    assert NIGHTLY in reader.task_runs()
    note(store, {}, 31 * DAY)

    assert set(reader.task_runs()) == {"task"}
