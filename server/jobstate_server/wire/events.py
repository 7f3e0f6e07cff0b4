"""Events as ``jobstate.v1.Event``, encoded once when they are written and handed on as bytes ever after."""

from __future__ import annotations

from typing import NamedTuple

from jobstate.v1 import event_pb2, job_pb2, job_service_pb2
from jobstate_server.domain.events import (
    EVENT_NAMES,
    Cancelled,
    Claimed,
    Event,
    EventType,
    Failed,
    PermanentlyFailed,
    Retrying,
    StaleDetected,
    Started,
)
from jobstate_server.wire.framing import embed, length_tag, varint, varint_tag
from jobstate_server.wire.jobs import encode_job, encode_remains, fill_error
from jobstate_server.wire.times import set_span, set_time

_SEQUENCE = varint_tag(event_pb2.Event.SEQUENCE_FIELD_NUMBER)
_JOB = length_tag(event_pb2.Event.JOB_FIELD_NUMBER)
_NO_METADATA = embed(length_tag(job_pb2.Job.METADATA_FIELD_NUMBER), b"")
_JOB_VERSION = varint_tag(job_pb2.Job.VERSION_FIELD_NUMBER)
_LISTED = length_tag(job_service_pb2.WatchEventsResponse.EVENTS_FIELD_NUMBER)


class EncodedEvent(NamedTuple):
    """An event as the log keeps it, and the job in it for whoever answers with that job."""

    payload: bytes
    """The event without its sequence and without the job's version."""
    job: bytes
    """The job without its version."""


def encode_event(event: Event) -> EncodedEvent:
    """Encode an event that has no sequence yet."""
    if event.type is EventType.DELETED:
        job = encode_remains(event.job)
    else:
        job = encode_job(event.job, metadata=event.with_metadata, result=event.with_result)
        if event.with_metadata and not event.job.metadata:
            # Emptied by this change: present and empty, or nobody could tell that from unchanged.
            job += _NO_METADATA
    message = event_pb2.Event(
        type=event_pb2.EventType.ValueType(event.type), name=EVENT_NAMES[event.type], actor=event.actor
    )
    set_time(message.time, event.time)
    if event.previous_state is not None:
        message.previous_state = job_pb2.JobState.ValueType(event.previous_state)
    if event.detail is not None:
        _fill_detail(message, event)
    return EncodedEvent(message.SerializeToString() + embed(_JOB, job), job)


def _fill_detail(message: event_pb2.Event, event: Event) -> None:
    match event.detail:
        case Started(resumed):
            message.started.resumed = resumed
        case Claimed(worker):
            message.claimed.worker = worker
        case Failed(error, decision, next_retry_time):
            fill_error(message.failed.error, error)
            message.failed.decision = event_pb2.RetryDecision.ValueType(decision)
            if next_retry_time is not None:
                set_time(message.failed.next_retry_time, next_retry_time)
        case Retrying(delay, next_retry_time):
            set_span(message.retrying.delay, delay)
            set_time(message.retrying.next_retry_time, next_retry_time)
        case PermanentlyFailed(decision):
            message.permanently_failed.decision = event_pb2.RetryDecision.ValueType(decision)
        case Cancelled(reason):
            message.cancelled.reason = reason
        case StaleDetected(heard_time, stale_threshold):
            set_time(message.stale_detected.heard_time, heard_time)
            set_span(message.stale_detected.stale_threshold, stale_threshold)
    # An empty detail is set all the same, so that the oneof tells which kind it is.
    if message.WhichOneof("detail") is None:
        getattr(message, _DETAIL_FIELDS[type(event.detail)]).SetInParent()


_DETAIL_FIELDS: dict[type, str] = {Started: "started", Claimed: "claimed", Cancelled: "cancelled"}
"""The details that may have nothing to say."""


def listed_event(payload: bytes, sequence: int) -> bytes:
    """The complete event, as one entry of ``WatchEventsResponse.events``.

    The sequence and the job's version, which equal each other in an event, are appended; the parser merges them.
    """
    number = varint(sequence)
    version = _JOB_VERSION + number
    return embed(_LISTED, b"%b%b%b%b" % (payload, _SEQUENCE, number, embed(_JOB, version)))
