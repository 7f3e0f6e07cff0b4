"""A store of an older program is brought up to date: everything is there, and goes on."""

from __future__ import annotations

import time
from dataclasses import replace
from zlib import crc32

import psycopg
import pytest

from jobstate.v1 import event_pb2, job_pb2
from jobstate_server.clock import ManualClock
from jobstate_server.domain.durations import HOUR
from jobstate_server.domain.events import Event, EventType
from jobstate_server.domain.filters import Order
from jobstate_server.domain.job import Job, JobState
from jobstate_server.domain.reads import Reads
from jobstate_server.domain.statistics import Measure
from jobstate_server.event_log.recent import LogEntry
from jobstate_server.store.base import REPLICA_LEASE
from jobstate_server.store.errors import CannotOpen
from jobstate_server.store.event_check import event_check
from jobstate_server.store.records import ChangedJob, Changes
from jobstate_server.wire.events import encode_event
from jobstate_server.wire.jobs import encode_whole

from ..support.postgres import postgres_server
from ..support.reads import reads
from .support import (
    ANY_EVENT,
    ANY_JOB,
    UNBOUNDED,
    Backend,
    Home,
    PostgresHome,
    a_job,
    a_request,
    an_attempt,
    an_error,
    an_event,
    attempts_of,
    keep,
    opened,
    reading,
    remains,
    stored_job,
)
from .upgrades import EVENTS_AS_THEN, WRITTEN, attempt_as_then, job_as_then, old_store, request_as_then

LONG = bytes(range(256)) * 256

JOBS = [
    a_job("plain", create_sequence=3, version=3, create_time=30, ready_time=30),
    a_job(
        "full",
        create_sequence=4,
        version=9,
        create_time=30,
        ready_time=30,
        metadata=LONG,
        result=b"result",
        last_error=an_error(details=LONG),
        state=JobState.COMPLETED,
        attempt=2,
        complete_time=50,
    ),
    a_job(
        "failed",
        create_sequence=5,
        version=8,
        create_time=31,
        ready_time=31,
        last_error=an_error(details=b""),
        due_time=60,
    ),
]
OLDER = [
    a_job("b", create_sequence=0, version=2, create_time=20, ready_time=20, metadata=b"m"),
    a_job("c", create_sequence=0, version=1, create_time=10, ready_time=10),
    a_job("a", create_sequence=0, version=1, create_time=20, ready_time=20),
]
"""Made before a job knew the sequence of its first event."""


@pytest.fixture
def home(backend: Backend) -> Home:
    """A place in which no store has been yet."""
    return backend.empty_home()


def upgraded(home: Home) -> None:
    """A store of schema 7 with these jobs, their attempts and request ids."""
    with old_store(home, 7) as old:
        for job in (*OLDER, *JOBS):
            old.insert("job", **job_as_then(job))
        for attempt in (an_attempt("full"), an_attempt("full", 2, error=an_error(details=LONG)), an_attempt("b")):
            old.insert("attempt", **attempt_as_then(attempt))
        old.insert("attempt", **attempt_as_then(an_attempt("gone")))
        for request_id, job_id, create_sequence in (("older", "b", 0), ("new", "full", 4)):
            request = a_request(request_id, job_id=job_id)._replace(create_sequence=create_sequence)
            old.insert("request", **request_as_then(request))


def keyed(job: Job, key: int) -> Job:
    return replace(job, create_sequence=key)


def test_jobs_keep_their_documents_and_those_without_a_key_get_one_in_the_order_of_creation(home: Home) -> None:
    upgraded(home)

    with opened(home, ManualClock()) as store, reading(store) as reader:
        listed = reader.list_jobs(ANY_JOB, Order.OLDEST_FIRST, None, 100, UNBOUNDED).jobs

    second, first, third = OLDER
    older = [keyed(first, -3), keyed(third, -2), keyed(second, -1)]
    assert listed == [*older, *JOBS]


def test_what_nobody_has_claimed_is_counted_and_what_was_retried_is_ready_since_its_attempt_began(home: Home) -> None:
    with old_store(home, 7) as old:
        for name, attempt, is_claimed in (("first", 1, True), ("again", 2, False)):
            job = a_job(name, create_sequence=attempt, version=9, create_time=30, state=JobState.PROCESSING)
            old.insert("job", **job_as_then(replace(job, attempt=attempt, start_time=40, claimed=is_claimed)))

    with opened(home, ManualClock()) as store:
        assert [getattr(stored_job(store, name), "ready_time", None) for name in ("first", "again")] == [30, 40]
        with reading(store) as reader:
            assert reader.tallies(())["type", Measure.UNCLAIMED, 0] == 1
            assert reader.oldest_ready("type") == 40


def test_attempts_belong_to_their_jobs_and_those_of_no_job_are_gone(home: Home) -> None:
    upgraded(home)

    with opened(home, ManualClock()) as store, reading(store) as reader:
        assert attempts_of(reader, "full") == [
            an_attempt("full"),
            an_attempt("full", 2, error=an_error(details=LONG)),
        ]
        assert attempts_of(reader, "b") == [an_attempt("b")]
        assert attempts_of(reader, "gone") == []


def test_a_request_id_knows_its_job_by_the_key_or_by_the_time(home: Home) -> None:
    upgraded(home)

    with opened(home, ManualClock()) as store, store.transaction() as transaction:
        found = transaction.load(reads(request_keys=[("owner", "older"), ("owner", "new")])).requests

    assert found["owner", "older"].create_sequence is None
    assert found["owner", "new"].create_sequence == 4


def test_jobs_from_before_are_changed_and_deleted_like_others(home: Home) -> None:
    upgraded(home)

    with opened(home, ManualClock()) as store:
        for job_id in ("b", "full"):
            with store.transaction() as transaction:
                before = transaction.load(Reads(job_ids={job_id})).jobs[job_id]
                after = replace(before, metadata=b"changed", result=b"", worker="w")
                first = transaction.write(
                    Changes(
                        updated=[ChangedJob(after, 0, None, before)],
                        events=[an_event(job_id)],
                        attempts=[an_attempt(job_id, 3)],
                    )
                )
            assert stored_job(store, job_id) == replace(after, version=first)
            keep(
                store,
                Changes(
                    deleted=[remains(job=after)], inserted=[ChangedJob(a_job(job_id), 0, 0)], events=[an_event(job_id)]
                ),
            )
            with reading(store) as reader:
                assert attempts_of(reader, job_id) == []
            new = stored_job(store, job_id)
            assert new is not None
            assert (new.metadata, new.result, new.create_sequence) == (b"", b"", first + 1)


@pytest.mark.parametrize("offset", [0, HOUR], ids=["", "after its clock was set back long ago"])
def test_a_store_that_another_server_uses_is_not_brought_up_to_date(offset: int) -> None:
    """The old server would not notice that the tables have changed, and would refuse every attempt that ends."""
    home = PostgresHome(postgres_server().new_store())
    with old_store(home, 7, clock_offset=offset) as old:
        old.insert("job", **job_as_then(JOBS[0]))
        old.insert("replica", id="old", renew_time=time.time_ns() // 1_000)

    with pytest.raises(CannotOpen, match="another jobstate-server uses this database"):
        home.open(ManualClock())
    with psycopg.connect(home.url) as database:
        assert database.execute("SELECT version FROM schema").fetchone() == (7,)
        database.execute("DELETE FROM replica")
    with opened(home, ManualClock()) as store:
        assert stored_job(store, JOBS[0].id) == JOBS[0]


def test_a_store_whose_last_server_was_killed_is_brought_up_to_date_once_its_lease_is_over() -> None:
    home = PostgresHome(postgres_server().new_store())
    with old_store(home, 7) as old:
        old.insert("replica", id="old", renew_time=time.time_ns() // 1_000 - REPLICA_LEASE)

    with opened(home, ManualClock()) as store, reading(store) as reader:
        assert not reader.list_jobs(ANY_JOB, Order.OLDEST_FIRST, None, 100, UNBOUNDED).jobs


def test_events_from_before_are_sent_as_they_were_and_their_cursors_are_still_valid(home: Home) -> None:
    with old_store(home, 9) as old:
        for event in EVENTS_AS_THEN:
            old.append(event)

    job = a_job(create_time=WRITTEN, update_time=WRITTEN, ready_time=WRITTEN)
    now = encode_event(Event(EventType.QUEUED, WRITTEN, "", None, job))
    with opened(home, ManualClock()) as store, reading(store) as reader:
        keep(store, Changes(events=[an_event(time=WRITTEN, payload=now.payload)]))
        stored = reader.events(0, ANY_EVENT, 10, UNBOUNDED).events

    checks = [event_check(event) for event in stored]
    assert checks[:2] == [crc32(then.payload) for then in EVENTS_AS_THEN]
    assert len({event_check(stored[2]._replace(**other)) for other in ({}, {"time": 9}, {"job_id": "another"})}) == 3
    *older, new = [event_pb2.Event.FromString(LogEntry(event).encoded) for event in stored]
    for sequence, (then, sent) in enumerate(zip(EVENTS_AS_THEN, older, strict=True), 1):
        written = event_pb2.Event.FromString(then.payload)
        written.sequence = written.job.version = sequence
        assert sent == written
    assert new.job == job_pb2.Job.FromString(encode_whole(replace(job, version=3)))
    assert (new.name, new.time, new.sequence) == (older[0].name, older[0].time, 3)
