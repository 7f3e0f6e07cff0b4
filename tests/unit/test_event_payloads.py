"""What the log stores of an event besides its columns, and what is sent of both."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobstate.v1 import event_pb2, job_pb2
from jobstate_server.domain.durations import SECOND
from jobstate_server.domain.events import Detail, Event, EventType, erased_check, is_erased
from jobstate_server.domain.job import Job, JobState
from jobstate_server.domain.labels import to_text
from jobstate_server.wire.events import complete_event, encode_event, erase_event, has_labels, labels_in
from jobstate_server.wire.jobs import LABELS, encode_whole, with_names, with_version
from jobstate_server.wire.watch import carries_metadata

from .strategies import a_document, job_details, jobs, moments
from .support import as_sent

NEW = Job(
    id="job",
    job_type="t",
    create_time=1_700_000_000_000_009,
    update_time=1_700_000_000_000_009,
    ready_time=1_700_000_000_000_009,
)
"""Created at the time of its event, and ready since then."""

OF_ACME = (("tenant", "acme"),)

RUNNING = replace(NEW, state=JobState.PROCESSING, update_time=1_700_000_009_000_000, metadata=a_document(a=1))


@pytest.mark.parametrize(("type_", "job"), [(EventType.PROGRESS, RUNNING), (EventType.QUEUED, NEW)])
def test_the_job_beside_an_encoded_event_is_completed_to_the_job_within_it(type_: EventType, job: Job) -> None:
    event = Event(type_, job.update_time, "", JobState.PROCESSING, job, with_metadata=True)
    completed = with_names(encode_event(event).job, job, is_new=type_ is EventType.QUEUED)

    assert job_pb2.Job.FromString(with_version(completed, 5)) == as_sent(event).job
    assert job_pb2.Job.FromString(completed).version == 0


MADE = 1_700_000_000_000_009
SOONER_OR_LATER = [MADE, MADE - 8, MADE + 7 * SECOND, MADE // SECOND * SECOND, 0]
"""The same time, and others: also whole seconds, whose encoding lacks a field that the same time has."""


@pytest.mark.parametrize("type_", [EventType.QUEUED, EventType.READY])
@pytest.mark.parametrize("name", ["create_time", "update_time", "ready_time"])
@pytest.mark.parametrize("time", SOONER_OR_LATER)
def test_a_time_of_the_job_is_its_own_whether_or_not_it_is_that_of_the_event(
    type_: EventType, name: str, time: int
) -> None:
    changed: dict[str, Any] = {name: time}
    job = replace(NEW, **changed)

    sent = as_sent(Event(type_, MADE, "", None, job))
    assert sent.job == job_pb2.Job.FromString(encode_whole(replace(job, version=5)))
    assert sent.job.update_time.ToMicroseconds() == job.update_time


def test_the_log_stores_neither_the_names_of_a_job_nor_times_that_follow_from_its_columns() -> None:
    payload = encode_event(Event(EventType.QUEUED, MADE, "", None, NEW)).payload
    message = event_pb2.Event.FromString(payload)

    assert {field.name for field, _ in message.ListFields()} == {"job"}
    assert {field.name for field, _ in message.job.ListFields()} == {"state", "priority", "duration", "wait_reason"}


@given(st.sampled_from(sorted(set(EventType) - {EventType.DELETED})), job_details, moments, jobs, moments)
def test_an_event_that_was_stored_whole_is_sent_as_it_was_written(
    type_: EventType, detail: Detail | None, time: int, job: Job, update_time: int
) -> None:
    """As programs did that repeated in the payload what the columns have."""
    written = as_sent(Event(type_, time, "somebody", JobState.FAILED, replace(job, update_time=update_time), detail))
    written.sequence = written.job.version = 0
    payload = written.SerializeToString()

    sent = event_pb2.Event.FromString(complete_event(7, time, job.id, job.job_type, job.source_id, int(type_), payload))

    written.sequence = written.job.version = 7
    assert sent == written


@given(jobs, st.sampled_from(list(EventType)), st.integers(0, 2**32 - 1))
def test_an_erased_event_has_its_order_type_time_and_states_only(job: Job, type_: EventType, check: int) -> None:
    encoded = encode_event(Event(type_, job.update_time, "somebody", JobState.QUEUED, job, with_metadata=True))
    remains = erase_event(encoded.payload, check)

    sent = event_pb2.Event.FromString(
        complete_event(7, job.update_time, job.id, job.job_type, "", int(type_), remains.payload)
    )
    assert is_erased(remains.payload)
    assert erased_check(remains.payload) == check
    assert remains.lane == job.lane
    assert (sent.sequence, sent.type, sent.erased, sent.actor) == (7, int(type_), True, "")
    assert (sent.previous_state, sent.job.state, sent.job.version) == (int(JobState.QUEUED), int(job.state), 7)
    fields = {field.name for field, _ in sent.job.ListFields()}
    assert fields <= {"id", "job_type", "state", "version", "update_time"}


@pytest.mark.parametrize("check", [0, 2**32 - 1, int.from_bytes(LABELS + b"\xff\xff", "little")])
def test_an_erased_event_has_neither_labels_nor_metadata_whatever_its_check_is(check: int) -> None:
    job = replace(RUNNING, labels=to_text(dict(OF_ACME)))
    encoded = encode_event(Event(EventType.PROGRESS, 0, "", JobState.PROCESSING, job, with_metadata=True))
    left = erase_event(encoded.payload, check).payload

    assert (labels_in(encoded.payload), carries_metadata(EventType.PROGRESS, encoded.payload)) == (OF_ACME, True)
    assert (labels_in(left), has_labels(left, OF_ACME), carries_metadata(EventType.PROGRESS, left)) == (
        (),
        False,
        False,
    )
