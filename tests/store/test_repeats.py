"""What is kept with a request id, how many ids there are, and usage that is told of attempts that have ended."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jobstate_server.clock import ManualClock
from jobstate_server.store.base import Reader, Store
from jobstate_server.store.records import ChangedJob, Changes, StoredRequest

from ..support.reads import reads
from .support import (
    Home,
    Interruption,
    a_job,
    a_request,
    an_attempt,
    an_event,
    attempts_of,
    interrupt,
    keep,
    keep_events,
    opened,
    reading,
    stored_job,
    unversioned,
)


def used(store: Store, *requests: StoredRequest) -> dict[str, StoredRequest]:
    """What is stored of these request ids."""
    with store.transaction() as transaction:
        found = transaction.load(reads(request_keys=[stored.request.key for stored in requests])).requests
    return {key[1]: stored for key, stored in found.items()}


def test_a_job_and_its_request_keep_the_sequence_of_the_event_that_told_of_its_creation(store: Store) -> None:
    keep_events(store, an_event(), an_event())
    request = a_request()._replace(attempt=1, created_event=1)

    keep(
        store,
        Changes(
            inserted=[ChangedJob(a_job(), 2, 1)],
            events=[an_event("other"), an_event(), an_event()],
            requests=[request],
        ),
    )

    job = stored_job(store)
    assert job is not None
    assert (job.create_sequence, job.version) == (4, 5)
    assert used(store, request)["request"] == request._replace(create_sequence=4, created_event=None)


def test_a_later_change_leaves_the_creation_as_it_is(store: Store) -> None:
    keep(store, Changes(inserted=[ChangedJob(a_job(), 0, 0)], events=[an_event()]))
    before = stored_job(store)
    assert before is not None
    request = a_request()._replace(create_sequence=before.create_sequence)

    keep(store, Changes(updated=[ChangedJob(replace(before, worker="w"), 0)], events=[an_event()], requests=[request]))

    after = stored_job(store)
    assert after is not None
    assert (after.create_sequence, after.version) == (1, 2)
    assert used(store, request)["request"].create_sequence == 1


def test_request_ids_are_counted_as_they_come_and_go(home: Home) -> None:
    with opened(home, ManualClock()) as store:
        for number in range(5):
            keep(store, Changes(requests=[a_request(f"request-{number}", time=number)]))
        assert store.requests_stored == 5

        with store.transaction() as transaction:
            assert transaction.trim_requests(3, 10) == 3
        assert store.requests_stored == 2

        with pytest.raises(Interruption):
            interrupt(store, lambda transaction: transaction.write(Changes(requests=[a_request("lost")])))
        keep_events(store, an_event())
        assert store.requests_stored == 2
    with opened(home, ManualClock()) as store:
        assert store.requests_stored == 2


def test_the_probe_is_not_counted(store: Store) -> None:
    with store.transaction() as transaction:
        transaction.probe()
    keep_events(store, an_event())

    assert store.requests_stored == 0


def test_the_oldest_request_ids_go_first(store: Store) -> None:
    requests = [a_request(f"request-{time}", time=time) for time in (5, 1, 4, 2, 3)]
    keep(store, Changes(requests=requests))

    with store.transaction() as transaction:
        assert transaction.trim_requests(100, 3) == 3

    assert sorted(used(store, *requests)) == ["request-4", "request-5"]


def test_usage_is_amended_and_nothing_else_of_the_attempt(store: Store, reader: Reader) -> None:
    attempts = [an_attempt(number=1), an_attempt(number=2), an_attempt("other", number=1)]
    keep(store, Changes(inserted=unversioned([a_job(), a_job("other")]), attempts=attempts))

    keep(store, Changes(amended=[replace(attempts[1], tokens=2**63 - 1, cost_nano=7, worker="ignored")]))

    assert attempts_of(reader, "job") == [attempts[0], replace(attempts[1], tokens=2**63 - 1, cost_nano=7)]
    assert attempts_of(reader, "other") == [attempts[2]]


def test_a_transaction_reads_the_ended_attempts_that_it_asks_for(store: Store) -> None:
    attempts = [an_attempt(number=1), an_attempt(number=2), an_attempt("other", number=1)]
    keep(store, Changes(inserted=unversioned([a_job(), a_job("other")]), attempts=attempts))

    with store.transaction() as transaction:
        loaded = transaction.load(reads(["job"], attempt_keys=[("job", 2), ("other", 1), ("other", 2), ("none", 1)]))

    assert loaded.attempts == {("job", 2): attempts[1], ("other", 1): attempts[2]}


def test_the_latest_attempts_are_read_up_to_a_number_a_count_and_a_size(store: Store) -> None:
    attempts = [an_attempt(number=number, worker="w" * 100) for number in range(1, 21)]
    keep(store, Changes(inserted=unversioned([a_job()]), attempts=attempts))

    def numbers(through: int = 20, limit: int = 100, bytes_max: int = 2**20) -> list[int]:
        with reading(store) as reader:
            return [attempt.number for attempt in reader.attempts("job", through, limit, bytes_max)]

    assert numbers() == list(range(1, 21))
    assert numbers(through=7) == list(range(1, 8))
    assert numbers(limit=3) == [18, 19, 20]
    assert numbers(through=9, limit=2) == [8, 9]
    assert numbers(bytes_max=1_000) == [19, 20]
    assert numbers(bytes_max=1) == [20]
    assert numbers(through=0) == []
