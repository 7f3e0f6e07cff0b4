"""Jobs, events and times on the wire: whatever is encoded parses back to the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from hypothesis import given
from hypothesis import strategies as st

from jobstate.v1 import event_pb2, job_pb2, job_service_pb2
from jobstate_server.domain.durations import SECOND
from jobstate_server.domain.events import (
    EVENT_NAMES,
    Cancelled,
    Claimed,
    Detail,
    Event,
    EventType,
    Failed,
    PermanentlyFailed,
    Released,
    RetryDecision,
    Retrying,
    StaleDetected,
    Started,
    Used,
)
from jobstate_server.domain.groups import Group, GroupMove, GroupPolicy
from jobstate_server.domain.job import (
    INT64_MAX,
    JOB_FIELDS,
    NANO,
    REPORTED,
    TERMS,
    Job,
    JobError,
    JobState,
)
from jobstate_server.domain.labels import to_text
from jobstate_server.domain.plan import Deletion
from jobstate_server.domain.waiting import CancelCause
from jobstate_server.wire import times
from jobstate_server.wire.events import complete_event, encode_deletion, encode_event
from jobstate_server.wire.jobs import (
    encode_job,
    encode_whole,
    with_version,
)
from jobstate_server.wire.watch import events_response

from .strategies import a_document, job_details, jobs, moments, texts
from .support import as_sent, finished

INTERNAL = {
    "principal",
    "create_sequence",
    "retry_delay",
    "attempt_tokens",
    "attempt_cost_nano",
    "due_time",
    "heard_time",
    "held",
    "unique_until",
    "needs_count",
    "open_needs",
    "needed",
    "group_key",
    "group_depth",
    "awaited_group",
}
"""Fields of a job that the wire does not have."""


ERROR = JobError("E_CODE", "what went wrong", True, a_document(stage="upload"), 3, 1_700_000_003_000_001)

FULL = Job(
    id="job-1",
    job_type="clean_transcript",
    source_id="source-2",
    principal="nobody's business",
    state=JobState.RETRYING,
    version=4_711,
    create_sequence=4_700,
    progress=57,
    progress_message="half way",
    metadata=a_document(a=1, b={"c": None}),
    result=a_document(d=[1, 2]),
    result_count=INT64_MAX,
    attempt=3,
    claimed=True,
    worker="worker-5",
    retry_count=2,
    max_retries=6,
    timeout=60_000_001,
    last_error=ERROR,
    retry_delay=7,
    estimated_tokens=INT64_MAX - 1,
    estimated_cost_nano=8_500_000_000,
    attempt_tokens=9,
    attempt_cost_nano=10,
    create_time=1_700_000_000_000_001,
    update_time=1_700_000_000_000_002,
    start_time=1_700_000_000_000_003,
    claim_time=1_700_000_000_000_007,
    complete_time=1_700_000_000_000_004,
    next_retry_time=1_700_000_000_000_005,
    attempt_deadline=1_700_000_000_000_006,
    due_time=1_700_000_000_000_000,
    heard_time=1_700_000_000_000_008,
    duration=90_000_001,
    cancel_reason="changed my mind",
    level=5,
    lane="lane",
    held=True,
    ready_time=1_700_000_000_000_009,
    start_within=70_000_001,
    lease=80_000_001,
    unique_key="unique",
    unique_until=2,
    cancel_cause=2,
    cancel_cause_id="job-0",
    needs_count=3,
    open_needs=2,
    needed=True,
    group_id="group-1",
    group_key=4_600,
    awaited_group="4600/4601",
    group_depth=2,
    tolerated_failures=-1,
    on_excess=2,
    recreated_from="job-1",
    labels=to_text({"tenant": "acme", "empty": "", "ß": "\U0001d518"}),
)
"""A job in which every field differs from its default, so that one left out is seen."""

EMPTY = Job(id="job", job_type="t", create_time=1, update_time=2)

DETAILS: dict[EventType, tuple[str | None, list[Detail | None]]] = {
    EventType.QUEUED: (None, [None]),
    EventType.STARTED: ("started", [Started(True), Started(False), Started(False, 0), Started(False, 90 * SECOND)]),
    EventType.CLAIMED: ("claimed", [Claimed("worker-5", 90 * SECOND), Claimed("", 0)]),
    EventType.PROGRESS: (None, [None]),
    EventType.COMPLETED: (None, [None]),
    EventType.FAILED: (
        "failed",
        [Failed(ERROR, RetryDecision.WILL_RETRY, 5 * SECOND), Failed(ERROR, RetryDecision.AWAITING_RETRY_CALL, None)],
    ),
    EventType.RETRYING: ("retrying", [Retrying(4 * SECOND, 9 * SECOND), Retrying(0, 1)]),
    EventType.PERMANENTLY_FAILED: (
        "permanently_failed",
        [PermanentlyFailed(RetryDecision.LIMIT_REACHED), PermanentlyFailed(RetryDecision.NOT_RETRYABLE)],
    ),
    EventType.CANCELLED: (
        "cancelled",
        [
            Cancelled("changed my mind", CancelCause.CALLER),
            Cancelled("", CancelCause.CALLER),
            Cancelled("", CancelCause.NEED, "job-0"),
        ],
    ),
    EventType.STALE_DETECTED: ("stale_detected", [StaleDetected(3 * SECOND, 300 * SECOND)]),
    EventType.READY: (None, [None]),
    EventType.WAITING: (None, [None]),
    EventType.RELEASED: ("released", [Released(2, "stopping", 4 * SECOND, 9 * SECOND), Released(1, "", 0, 1)]),
    EventType.USAGE: ("usage", [Used(2, 10**15, 10**18), Used(1, 0, 0)]),
}
"""The field of ``Event.detail`` of every type, and details to put there."""

EVENTS = [(type_, detail) for type_, (_, details) in DETAILS.items() for detail in details]

sequences = st.integers(1, INT64_MAX) | st.sampled_from([1, 127, 128, 2**31, 2**32, INT64_MAX])


def optional_time(message: Any, field: str) -> int | None:
    return times.time_from(getattr(message, field)) if message.HasField(field) else None


def optional_span(message: Any, field: str) -> int | None:
    return times.span_from(getattr(message, field)) if message.HasField(field) else None


def document_from(message: Any, field: str) -> bytes:
    return bytes(getattr(message, field).SerializeToString(deterministic=True)) if message.HasField(field) else b""


def error_from(message: job_pb2.JobError) -> JobError:
    return JobError(
        code=message.code,
        message=message.message,
        retryable=message.retryable,
        details=document_from(message, "details"),
        attempt=message.attempt,
        time=times.time_from(message.time),
    )


FROM_WIRE: dict[str, Callable[[job_pb2.Job], Any]] = {
    **{
        name: lambda message, name=name: getattr(message, name)  # type: ignore[misc]
        for name in (
            *("id", "job_type", "source_id", "version", "progress", "progress_message", "result_count", "attempt"),
            *("claimed", "worker", "retry_count", "max_retries", "estimated_tokens", "cancel_reason"),
        )
    },
    **{
        name: lambda message, name=name: optional_time(message, name)  # type: ignore[misc]
        for name in (
            *("create_time", "update_time", "start_time", "claim_time", "complete_time", "next_retry_time"),
            "attempt_deadline",
            "ready_time",
        )
    },
    "state": lambda message: JobState(message.state),
    "level": lambda message: int(message.priority),
    "unique_key": lambda message: message.unique_key or None,
    "lane": lambda message: message.lane,
    "cancel_cause": lambda message: int(message.cancel_cause),
    "cancel_cause_id": lambda message: message.cancel_cause_id or None,
    "group_id": lambda message: message.group_id or None,
    "recreated_from": lambda message: message.recreated_from or None,
    "tolerated_failures": lambda message: message.group.tolerated_failures,
    "on_excess": lambda message: int(message.group.on_excess),
    "labels": lambda message: to_text(message.labels),
    "start_within": lambda message: optional_span(message, "start_within"),
    "lease": lambda message: optional_span(message, "lease"),
    "metadata": lambda message: document_from(message, "metadata"),
    "result": lambda message: document_from(message, "result"),
    "timeout": lambda message: times.span_from(message.timeout) if message.HasField("timeout") else None,
    "duration": lambda message: times.span_from(message.duration),
    "last_error": lambda message: error_from(message.last_error) if message.HasField("last_error") else None,
    "estimated_cost_nano": lambda message: round(message.estimated_cost * NANO),
}
"""How each field of a job is read back."""


def job_from(message: job_pb2.Job) -> Job:
    return Job.from_fields(
        {name: getattr(EMPTY, name) for name in INTERNAL} | {name: read(message) for name, read in FROM_WIRE.items()}
    )


def on_the_wire(job: Job, **changes: Any) -> Job:
    """The job less what the wire does not have."""
    return replace(job, **{name: getattr(EMPTY, name) for name in INTERNAL}, **changes)


def parsed(type_: EventType, detail: Detail | None, sequence: int = 5, **flags: Any) -> event_pb2.Event:
    return as_sent(Event(type_, 1_700_000_000_000_009, "somebody", JobState.FAILED, FULL, detail, **flags), sequence)


def test_every_field_of_a_job_is_on_the_wire_or_known_to_be_internal() -> None:
    assert set(FROM_WIRE) | INTERNAL == set(JOB_FIELDS)
    assert not set(FROM_WIRE) & INTERNAL
    renamed = {"estimated_cost": {"estimated_cost_nano"}, "priority": {"level"}, "group": {*GroupPolicy._fields}}
    derived = {"wait_reason", "members"}
    on_wire = set().union(*(renamed.get(field.name, {field.name}) for field in job_pb2.Job.DESCRIPTOR.fields))
    assert on_wire == set(FROM_WIRE) | derived


def test_the_full_job_differs_from_a_new_one_in_every_field() -> None:
    assert not [name for name in JOB_FIELDS if getattr(FULL, name) == getattr(Job(id="", job_type=""), name, None)]


@pytest.mark.parametrize("job", [FULL, EMPTY], ids=["full", "empty"])
def test_a_whole_job_comes_back_in_every_field(job: Job) -> None:
    assert job_from(job_pb2.Job.FromString(encode_whole(job))) == on_the_wire(job)


@given(jobs)
def test_any_job_comes_back_in_every_field(job: Job) -> None:
    assert job_from(job_pb2.Job.FromString(encode_whole(job))) == on_the_wire(job)


@pytest.mark.parametrize("name", sorted(FROM_WIRE))
def test_each_field_of_a_job_comes_back_by_itself(name: str) -> None:
    job = replace(EMPTY, **{name: getattr(FULL, name)})

    assert job_from(job_pb2.Job.FromString(encode_whole(job))) == on_the_wire(job)


@pytest.mark.parametrize("name", sorted(set(FROM_WIRE) - REPORTED))
def test_a_change_is_encoded_though_the_job_was_encoded_before_it(name: str) -> None:
    encode_job(EMPTY)
    job = replace(EMPTY, **{name: getattr(FULL, name)})

    assert job_from(job_pb2.Job.FromString(encode_whole(job))) == on_the_wire(job)


@pytest.mark.parametrize("name", sorted(set(FROM_WIRE) - TERMS))
def test_a_field_that_is_set_in_a_moved_copy_is_encoded_though_the_job_was_encoded_before_it(name: str) -> None:
    encode_job(EMPTY)
    job = EMPTY.moved()
    setattr(job, name, getattr(FULL, name))

    assert job.terms_encoding
    assert job_from(job_pb2.Job.FromString(encode_whole(job))) == on_the_wire(job)
    assert job_from(job_pb2.Job.FromString(encode_whole(EMPTY))) == on_the_wire(EMPTY)


@pytest.mark.parametrize("name", sorted(set(FROM_WIRE) & REPORTED))
def test_a_report_is_encoded_though_the_job_was_encoded_before_it(name: str) -> None:
    encode_job(EMPTY)
    job = EMPTY.reported(**{name: getattr(FULL, name)})

    assert job.unreported_encoding
    assert job_from(job_pb2.Job.FromString(encode_whole(job))) == on_the_wire(job)


def test_what_an_empty_job_does_not_have_is_unset() -> None:
    message = job_pb2.Job.FromString(encode_whole(EMPTY))

    assert [field.name for field, _ in message.ListFields()] == [
        *("id", "job_type", "state", "create_time", "update_time", "duration", "priority", "ready_time", "wait_reason")
    ]


def test_a_whole_group_has_the_counts_of_its_members() -> None:
    group = Group(GroupPolicy(), GroupMove(9, 1, 2, 3, 400, 5, 6_500_000_000), closed=True, stopping=True)
    members = job_pb2.Job.FromString(encode_whole(FULL, group)).members

    assert members == job_pb2.GroupMembers(
        total=9, completed=1, permanently_failed=2, cancelled=3, tokens=5, cost=6.5, closed=True, stopping=True
    )


def test_a_job_that_waits_for_its_needs_says_so() -> None:
    waiting = replace(EMPTY, held=True, open_needs=1)

    assert job_pb2.Job.FromString(encode_whole(waiting)).wait_reason == job_pb2.WAIT_REASON_NEEDS


@pytest.mark.parametrize("metadata", [True, False])
@pytest.mark.parametrize("result", [True, False])
def test_a_job_is_encoded_without_the_documents_that_are_not_asked_for(metadata: bool, result: bool) -> None:
    expected = on_the_wire(
        FULL, version=0, metadata=FULL.metadata if metadata else b"", result=FULL.result if result else b""
    )

    assert job_from(job_pb2.Job.FromString(encode_job(FULL, metadata=metadata, result=result))) == expected


@given(sequences)
def test_the_version_is_appended_to_an_encoded_job(version: int) -> None:
    message = job_pb2.Job.FromString(with_version(encode_job(FULL), version))

    assert job_from(message) == on_the_wire(FULL, version=version)


@pytest.mark.parametrize(("type_", "detail"), EVENTS)
def test_a_complete_event_comes_back_with_its_sequence_and_the_same_as_the_jobs_version(
    type_: EventType, detail: Detail | None
) -> None:
    event = parsed(type_, detail, sequence=123_456_789_012)

    assert event.sequence == event.job.version == 123_456_789_012
    assert event.type == type_.value
    assert event.name == EVENT_NAMES[type_]
    assert event.actor == "somebody"
    assert times.time_from(event.time) == 1_700_000_000_000_009
    assert event.previous_state == JobState.FAILED.value
    assert job_from(event.job) == on_the_wire(FULL, version=event.sequence, metadata=b"", result=b"")


def assert_has_detail(event: event_pb2.Event, detail: Detail | None) -> None:
    match detail:
        case None:
            pass
        case Started(resumed, waited):
            assert event.started.resumed is resumed
            assert optional_span(event.started, "waited") == waited
        case Claimed(worker, waited):
            assert event.claimed.worker == worker
            assert optional_span(event.claimed, "waited") == waited
        case Failed(error, decision, next_retry_time):
            assert error_from(event.failed.error) == error
            assert event.failed.decision == decision.value
            assert optional_time(event.failed, "next_retry_time") == next_retry_time
        case Retrying(delay, next_retry_time):
            assert event.retrying.HasField("delay")
            assert times.span_from(event.retrying.delay) == delay
            assert optional_time(event.retrying, "next_retry_time") == next_retry_time
        case PermanentlyFailed(decision):
            assert event.permanently_failed.decision == decision.value
        case Cancelled(reason, cause):
            assert event.cancelled.reason == reason
            assert event.cancelled.cause == cause.value
        case StaleDetected(heard_time, stale_threshold):
            assert optional_time(event.stale_detected, "heard_time") == heard_time
            assert times.span_from(event.stale_detected.stale_threshold) == stale_threshold
        case Released(attempt, reason, delay, next_retry_time):
            assert (event.released.attempt, event.released.reason) == (attempt, reason)
            assert times.span_from(event.released.delay) == delay
            assert optional_time(event.released, "next_retry_time") == next_retry_time
        case Used(attempt, tokens, cost_nano):
            assert event.usage.attempt == attempt
            assert event.usage.usage == job_pb2.Usage(tokens=tokens, cost=cost_nano / NANO)


@pytest.mark.parametrize(("type_", "detail"), EVENTS)
def test_the_detail_of_an_event_comes_back(type_: EventType, detail: Detail | None) -> None:
    event = parsed(type_, detail)

    assert event.WhichOneof("detail") == DETAILS[type_][0]
    assert_has_detail(event, detail)


@given(
    st.sampled_from(sorted(set(EventType) - {EventType.DELETED})),
    texts,
    st.none() | st.sampled_from(JobState),
    moments,
    jobs,
    job_details,
)
def test_any_event_comes_back(
    type_: EventType, actor: str, previous: JobState | None, time: int, job: Job, detail: Detail | None
) -> None:
    event = as_sent(Event(type_, time, actor, previous, job, detail))

    assert (event.type, event.name, event.actor) == (type_.value, EVENT_NAMES[type_], actor)
    assert event.previous_state == (previous or 0)
    assert times.time_from(event.time) == time
    assert job_from(event.job) == on_the_wire(job, version=5, metadata=b"", result=b"")
    assert (event.WhichOneof("detail") is None) == (detail is None)
    assert_has_detail(event, detail)


def test_there_is_a_detail_to_try_for_every_type_of_event_and_every_field_of_the_oneof() -> None:
    assert set(DETAILS) == set(EventType) - {EventType.DELETED}
    fields = {field.name for field in event_pb2.Event.DESCRIPTOR.oneofs_by_name["detail"].fields}
    assert {field for field, _ in DETAILS.values() if field} == fields


def test_a_deleted_event_carries_names_labels_state_and_version_only() -> None:
    (payload,) = encode_deletion(Deletion([finished(FULL)], 1_700_000_000_000_009, "somebody"))
    names = FULL.id, FULL.job_type, FULL.source_id
    event = event_pb2.Event.FromString(
        complete_event(77, 1_700_000_000_000_009, *names, int(EventType.DELETED), payload)
    )

    assert (event.sequence, event.type, event.name) == (77, EventType.DELETED.value, EVENT_NAMES[EventType.DELETED])
    assert (event.actor, event.previous_state) == ("somebody", JobState.RETRYING.value)
    assert times.time_from(event.time) == 1_700_000_000_000_009
    assert event.WhichOneof("detail") is None
    assert MessageToDict(event.job) == {
        "id": FULL.id,
        "jobType": FULL.job_type,
        "sourceId": FULL.source_id,
        "state": "JOB_STATE_RETRYING",
        "version": "77",
        "labels": {"tenant": "acme", "empty": "", "ß": "𝔘"},
    }


def test_an_event_carries_metadata_and_result_only_when_the_change_set_them() -> None:
    for metadata in (True, False):
        for result in (True, False):
            job = parsed(EventType.PROGRESS, None, with_metadata=metadata, with_result=result).job

            assert (job.HasField("metadata"), job.HasField("result")) == (metadata, result)


def test_an_event_that_removed_the_last_key_carries_empty_metadata_and_not_none() -> None:
    job = replace(EMPTY, state=JobState.PROCESSING)
    payload = encode_event(Event(EventType.PROGRESS, 1, "", JobState.PROCESSING, job, with_metadata=True)).payload

    message = event_pb2.Event.FromString(payload).job

    assert message.HasField("metadata")
    assert not message.metadata.fields


def test_the_event_of_a_new_job_has_no_previous_state() -> None:
    payload = encode_event(Event(EventType.QUEUED, 1, "", None, EMPTY)).payload

    assert event_pb2.Event.FromString(payload).previous_state == job_pb2.JOB_STATE_UNSPECIFIED


@given(st.lists(sequences, max_size=8))
def test_a_response_has_all_its_events_in_order(numbers: list[int]) -> None:
    event = Event(EventType.CANCELLED, 1, "", JobState.QUEUED, FULL, Cancelled("", CancelCause.CALLER))

    response = job_service_pb2.WatchEventsResponse.FromString(
        events_response([as_sent(event, n).SerializeToString() for n in numbers], "cursor")
    )

    assert (response.kind, response.cursor) == (job_service_pb2.WATCH_RESPONSE_KIND_EVENTS, "cursor")
    assert [event.sequence for event in response.events] == numbers
    assert [event.job.version for event in response.events] == numbers
