"""A store that was closed is, opened again, the store that it was."""

from __future__ import annotations

import pytest

from jobstate_server.clock import ManualClock
from jobstate_server.domain.durations import SECOND
from jobstate_server.domain.statistics import Measure
from jobstate_server.store.event_check import event_check
from jobstate_server.store.records import ChangedJob, Changes

from ..support.reads import reads
from .support import (
    Backend,
    Home,
    Interruption,
    a_job,
    a_request,
    an_attempt,
    an_event,
    contents,
    interrupt,
    keep,
    keep_events,
    opened,
    reading,
)


def test_everything_written_is_there_after_reopening(home: Home, clock: ManualClock) -> None:
    with opened(home, clock) as store:
        keep(
            store,
            Changes(
                inserted=[ChangedJob(a_job(due_time=4), 1)],
                events=[an_event(), an_event()],
                attempts=[an_attempt()],
                requests=[a_request(job_id="other")],
                tallies={("type", Measure.STORED, 1): 1},
            ),
        )
        with store.transaction() as transaction:
            transaction.renew("replica")
            transaction.claim_task("task", 5, "token", "replica")
        before = contents(store)

    with opened(home, clock) as store:
        assert contents(store) == before
        with store.transaction() as transaction:
            loaded = transaction.load(reads(["job"], request_keys=[("owner", "request")], due=10))
            assert transaction.next_due() == 4
            assert not transaction.claim_task("task", 5, "other", "replica")
            assert transaction.task_is_ours("task", "token")
        assert loaded.jobs == {"job": a_job(due_time=4, version=2)}
        assert loaded.requests == {("owner", "request"): a_request(job_id="other")}


def test_events_are_numbered_on_after_reopening(home: Home, clock: ManualClock) -> None:
    with opened(home, clock) as store:
        keep_events(store, an_event(), an_event())

    with opened(home, clock) as store:
        assert keep_events(store, an_event()) == 3


def test_events_are_numbered_on_after_the_whole_log_was_trimmed_and_the_store_reopened(
    home: Home, clock: ManualClock
) -> None:
    with opened(home, clock) as store:
        keep_events(store, an_event(payload=b"a"), an_event(payload=b"b"))
        with store.transaction() as transaction:
            transaction.trim_events(2**62, 0, 10)

    with opened(home, clock) as store, reading(store) as reader:
        assert reader.log_state() == (2, 2, event_check(an_event(payload=b"b")), 0, 0)
        assert keep_events(store, an_event()) == 3


def test_the_log_keeps_its_name_over_reopening(home: Home, clock: ManualClock) -> None:
    with opened(home, clock) as store:
        log_id = store.log_id
        keep_events(store, an_event())

    with opened(home, clock) as store:
        assert store.log_id == log_id != ""


def test_every_store_s_log_has_its_own_name(backend: Backend, clock: ManualClock) -> None:
    names = set()
    for _ in range(5):
        with opened(backend.new_home(), clock) as store:
            names.add(store.log_id)

    assert len(names) == 5


def test_two_stores_know_nothing_of_each_other(backend: Backend, clock: ManualClock) -> None:
    with opened(backend.new_home(), clock) as one, opened(backend.new_home(), clock) as two:
        keep(one, Changes(inserted=[ChangedJob(a_job(), 0)], events=[an_event()]))

        assert contents(two).jobs == []
        assert contents(two).log == (0, 0, 0, 0)
        assert keep_events(two, an_event()) == 1


def test_a_refused_transaction_is_not_there_after_reopening(home: Home, clock: ManualClock) -> None:
    with opened(home, clock) as store:
        changes = Changes(inserted=[ChangedJob(a_job(), 0)], events=[an_event()])
        with pytest.raises(Interruption):
            interrupt(store, lambda transaction: transaction.write(changes))

    with opened(home, clock) as store:
        assert contents(store).jobs == []
        assert contents(store).log == (0, 0, 0, 0)


def test_when_the_store_was_made_is_written_down_once(home: Home, clock: ManualClock) -> None:
    with opened(home, clock) as store, reading(store) as reader:
        made = reader.create_time()
        assert made > 0
    clock.advance(SECOND)

    with opened(home, clock) as store, reading(store) as reader:
        assert reader.create_time() == made
