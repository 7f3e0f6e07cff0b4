"""Events as ``jobstate.v1.Event``, encoded once when they are written and sent as bytes from then on."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from jobstate.v1 import event_pb2, job_pb2
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
    Used,
)
from jobstate_server.domain.job import NANO
from jobstate_server.wire.framing import embed, length_tag, varint, varint_tag
from jobstate_server.wire.jobs import encode_job, encode_remains, fill_error
from jobstate_server.wire.times import set_span, set_time, time_field

_SEQUENCE = varint_tag(event_pb2.Event.SEQUENCE_FIELD_NUMBER)
_JOB = length_tag(event_pb2.Event.JOB_FIELD_NUMBER)
_NO_METADATA = embed(length_tag(job_pb2.Job.METADATA_FIELD_NUMBER), b"")
_JOB_VERSION = varint_tag(job_pb2.Job.VERSION_FIELD_NUMBER)
_TIME = length_tag(event_pb2.Event.TIME_FIELD_NUMBER)

_HEADS_CACHED = 4_096
"""Types of events times actors. Each encoding that is not cached takes a microsecond."""


class EncodedEvent(NamedTuple):
    """An event as the log stores it, and the job in it for the answer to the call."""

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
            # This change emptied it. It must be present and empty, to be distinct from unchanged.
            job += _NO_METADATA
    parts = [_head(event.type, event.actor, event.previous_state or 0), time_field(_TIME, event.time), embed(_JOB, job)]
    if event.detail is not None:
        message = event_pb2.Event()
        _fill_detail(message, event)
        parts.append(message.SerializeToString())
    return EncodedEvent(b"".join(parts), job)


@lru_cache(_HEADS_CACHED)
def _head(event_type: EventType, actor: str, previous_state: int) -> bytes:
    """The fields that events of one type, actor and previous state have in common."""
    return event_pb2.Event(
        type=event_pb2.EventType.ValueType(event_type),
        name=EVENT_NAMES[event_type],
        actor=actor,
        previous_state=job_pb2.JobState.ValueType(previous_state),
    ).SerializeToString()


def _fill_detail(message: event_pb2.Event, event: Event) -> None:
    match event.detail:
        case Started(resumed, waited):
            # Set even if it is empty, so that the oneof shows the type of the detail. The same holds for ``cancelled``.
            message.started.SetInParent()
            message.started.resumed = resumed
            if waited is not None:
                set_span(message.started.waited, waited)
        case Claimed(worker, waited):
            message.claimed.worker = worker
            set_span(message.claimed.waited, waited)
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
            message.cancelled.SetInParent()
            message.cancelled.reason = reason
        case StaleDetected(heard_time, stale_threshold):
            set_time(message.stale_detected.heard_time, heard_time)
            set_span(message.stale_detected.stale_threshold, stale_threshold)
        case Used(attempt, tokens, cost_nano):
            message.usage.attempt = attempt
            message.usage.usage.tokens = tokens
            message.usage.usage.cost = cost_nano / NANO


def complete_event(payload: bytes, sequence: int) -> bytes:
    """The event as it is sent.

    The sequence and the job's version are equal in an event. Both are appended, and the parser merges them.
    """
    number = varint(sequence)
    return b"".join((payload, _SEQUENCE, number, _JOB, varint(len(_JOB_VERSION) + len(number)), _JOB_VERSION, number))
