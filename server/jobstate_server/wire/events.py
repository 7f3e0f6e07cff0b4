"""Events as ``jobstate.v1.Event``, encoded once when they are written and sent as bytes from then on.

The log has some of an event in columns, for its filters: the type, the time, and the names of the job. What follows
from them is not stored again in the payload. It is put before the payload when the event is sent.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple
from zlib import crc32

from jobstate.v1 import event_pb2, job_pb2
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
    Retrying,
    StaleDetected,
    Started,
    Used,
    is_erased,
    is_whole,
    with_erased_check,
    without_erased_check,
)
from jobstate_server.domain.job import NANO
from jobstate_server.domain.labels import Labels
from jobstate_server.domain.plan import Deletion
from jobstate_server.domain.values import value
from jobstate_server.wire.framing import TRUE, double, double_tag, embed, length_tag, text, varint, varint_tag
from jobstate_server.wire.jobs import (
    LABELS,
    MEMBERS,
    encode_error,
    encode_in_event,
    encode_label,
    encode_members,
    encode_remains,
    known_from_event,
)
from jobstate_server.wire.times import encoded_span, encoded_time

_SEQUENCE = varint_tag(event_pb2.Event.SEQUENCE_FIELD_NUMBER)
_JOB = length_tag(event_pb2.Event.JOB_FIELD_NUMBER)
_NO_METADATA = embed(length_tag(job_pb2.Job.METADATA_FIELD_NUMBER), b"")
_JOB_VERSION = varint_tag(job_pb2.Job.VERSION_FIELD_NUMBER)
_TIME = length_tag(event_pb2.Event.TIME_FIELD_NUMBER)

_ERASED = varint_tag(event_pb2.Event.ERASED_FIELD_NUMBER) + TRUE

_HEADS_CACHED = 4_096
"""States times actors. Each encoding that is not cached takes a microsecond."""

_LABELS_CACHED = 64
"""Events whose labels are kept, as several watchers look at the same ones."""

_TYPE = varint_tag(event_pb2.Event.TYPE_FIELD_NUMBER)
_NAME = length_tag(event_pb2.Event.NAME_FIELD_NUMBER)

_KINDS = {int(type_): _TYPE + varint(type_) + text(_NAME, name) for type_, name in EVENT_NAMES.items()}
"""The type of an event and its name."""

assert is_whole(_TYPE), "payloads of earlier programs begin with the type"
assert is_erased(_ERASED), "payloads of erased events begin with that field"


@value
class EncodedEvent:
    """An event as the log stores it, and the job in it for the answer to the call."""

    time: int
    type: int
    payload: bytes
    """The event without its sequence, and without what columns have."""
    job: bytes
    """The job in it: ``wire.jobs.with_names`` completes it."""


def encode_event(event: Event) -> EncodedEvent:
    """Encode an event that has no sequence yet."""
    job = encode_in_event(
        event.job,
        event.time,
        is_new=event.type == EventType.QUEUED,
        metadata=event.with_metadata,
        result=event.with_result,
    )
    if event.with_metadata and not event.job.metadata:
        # This change emptied it. It must be present and empty, to be distinct from unchanged.
        job += _NO_METADATA
    if event.members is not None:
        job += encode_members(event.members)
    head = _head(event.actor, event.previous_state or 0)
    parts = [head, _JOB, varint(len(job)), job]
    detail = event.detail
    if detail is not None:
        tag, encode = _DETAILS[type(detail)]
        parts.append(embed(tag, encode(detail)))
    return EncodedEvent(event.time, int(event.type), b"".join(parts), job)


def encode_deletion(deletion: Deletion) -> list[bytes]:
    """The payloads of the ``.deleted`` events of these jobs."""
    actor = deletion.actor
    erases = deletion.erases
    left = [(job.state, encode_remains(job.state, None if erases else job.labels)) for job in deletion.jobs]
    payloads = [_head(actor, state) + embed(_JOB, remains) for state, remains in left]
    if erases:
        payloads = [with_erased_check(_ERASED + payload, crc32(payload)) for payload in payloads]
    return payloads


class Remains(NamedTuple):
    """What Erase leaves of an event, and what else the event has led to."""

    payload: bytes
    lane: str
    """The lane of the job."""
    hold_reason: str
    """Why the lane was held, if the event held it."""


def erase_event(payload: bytes, check: int) -> Remains:
    """Erase an event of which this is the stored payload. ``check``: as in ``store.event_check``."""
    event = event_pb2.Event.FromString(payload)
    left = _ERASED + _head("", event.previous_state) + embed(_JOB, encode_remains(event.job.state))
    hold_reason = event.released.reason if event.released.HasField("hold_lane") else ""
    return Remains(with_erased_check(left, check), event.job.lane, hold_reason)


@lru_cache(_HEADS_CACHED)
def _head(actor: str, previous_state: int) -> bytes:
    """The fields that events of one actor and previous state have in common."""
    state = job_pb2.JobState.ValueType(previous_state)
    return event_pb2.Event(actor=actor, previous_state=state).SerializeToString()


_IS_RESUMED = varint_tag(event_pb2.StartedDetail.RESUMED_FIELD_NUMBER) + TRUE
_STARTED_WAITED = length_tag(event_pb2.StartedDetail.WAITED_FIELD_NUMBER)
_CLAIMED_WORKER = length_tag(event_pb2.ClaimedDetail.WORKER_FIELD_NUMBER)
_CLAIMED_WAITED = length_tag(event_pb2.ClaimedDetail.WAITED_FIELD_NUMBER)
_FAILED_ERROR = length_tag(event_pb2.FailedDetail.ERROR_FIELD_NUMBER)
_FAILED_DECISION = varint_tag(event_pb2.FailedDetail.DECISION_FIELD_NUMBER)
_FAILED_NEXT_RETRY_TIME = length_tag(event_pb2.FailedDetail.NEXT_RETRY_TIME_FIELD_NUMBER)
_RETRYING_DELAY = length_tag(event_pb2.RetryingDetail.DELAY_FIELD_NUMBER)
_RETRYING_NEXT_RETRY_TIME = length_tag(event_pb2.RetryingDetail.NEXT_RETRY_TIME_FIELD_NUMBER)
_GIVEN_UP_DECISION = varint_tag(event_pb2.PermanentlyFailedDetail.DECISION_FIELD_NUMBER)
_CANCELLED_REASON = length_tag(event_pb2.CancelledDetail.REASON_FIELD_NUMBER)
_CANCELLED_CAUSE = varint_tag(event_pb2.CancelledDetail.CAUSE_FIELD_NUMBER)
_CANCELLED_CAUSE_ID = length_tag(event_pb2.CancelledDetail.CAUSE_ID_FIELD_NUMBER)
_STALE_HEARD_TIME = length_tag(event_pb2.StaleDetectedDetail.HEARD_TIME_FIELD_NUMBER)
_STALE_THRESHOLD = length_tag(event_pb2.StaleDetectedDetail.STALE_THRESHOLD_FIELD_NUMBER)
_RELEASED_ATTEMPT = varint_tag(event_pb2.ReleasedDetail.ATTEMPT_FIELD_NUMBER)
_RELEASED_REASON = length_tag(event_pb2.ReleasedDetail.REASON_FIELD_NUMBER)
_RELEASED_DELAY = length_tag(event_pb2.ReleasedDetail.DELAY_FIELD_NUMBER)
_RELEASED_NEXT_RETRY_TIME = length_tag(event_pb2.ReleasedDetail.NEXT_RETRY_TIME_FIELD_NUMBER)
_RELEASED_HOLD_LANE = length_tag(event_pb2.ReleasedDetail.HOLD_LANE_FIELD_NUMBER)
_USED_ATTEMPT = varint_tag(event_pb2.UsageDetail.ATTEMPT_FIELD_NUMBER)
_USED_USAGE = length_tag(event_pb2.UsageDetail.USAGE_FIELD_NUMBER)
_USED_TOKENS = varint_tag(job_pb2.Usage.TOKENS_FIELD_NUMBER)
_USED_COST = double_tag(job_pb2.Usage.COST_FIELD_NUMBER)


def _started(detail: Started) -> bytes:
    resumed = _IS_RESUMED if detail.resumed else b""
    return resumed if detail.waited is None else resumed + _STARTED_WAITED + encoded_span(detail.waited)


def _claimed(detail: Claimed) -> bytes:
    return text(_CLAIMED_WORKER, detail.worker) + _CLAIMED_WAITED + encoded_span(detail.waited)


def _failed(detail: Failed) -> bytes:
    failed = embed(_FAILED_ERROR, encode_error(detail.error)) + _FAILED_DECISION + varint(detail.decision)
    if detail.next_retry_time is None:
        return failed
    return failed + _FAILED_NEXT_RETRY_TIME + encoded_time(detail.next_retry_time)


def _retrying(detail: Retrying) -> bytes:
    delay = _RETRYING_DELAY + encoded_span(detail.delay)
    return delay + _RETRYING_NEXT_RETRY_TIME + encoded_time(detail.next_retry_time)


def _permanently_failed(detail: PermanentlyFailed) -> bytes:
    return _GIVEN_UP_DECISION + varint(detail.decision)


def _cancelled(detail: Cancelled) -> bytes:
    cancelled = text(_CANCELLED_REASON, detail.reason) + _CANCELLED_CAUSE + varint(detail.cause)
    return cancelled if detail.cause_id is None else cancelled + text(_CANCELLED_CAUSE_ID, detail.cause_id)


def _stale_detected(detail: StaleDetected) -> bytes:
    heard = _STALE_HEARD_TIME + encoded_time(detail.heard_time)
    return heard + _STALE_THRESHOLD + encoded_span(detail.stale_threshold)


def _released(detail: Released) -> bytes:
    named = _RELEASED_ATTEMPT + varint(detail.attempt) + text(_RELEASED_REASON, detail.reason)
    delay = _RELEASED_DELAY + encoded_span(detail.delay)
    released = named + delay + _RELEASED_NEXT_RETRY_TIME + encoded_time(detail.next_retry_time)
    return released + _RELEASED_HOLD_LANE + encoded_span(detail.hold_lane) if detail.hold_lane else released


def _used(detail: Used) -> bytes:
    usage = _USED_TOKENS + varint(detail.tokens) + _USED_COST + double(detail.cost_nano / NANO)
    return _USED_ATTEMPT + varint(detail.attempt) + embed(_USED_USAGE, usage)


_DETAILS: dict[type[Detail], tuple[bytes, Callable[[Any], bytes]]] = {
    Started: (length_tag(event_pb2.Event.STARTED_FIELD_NUMBER), _started),
    Claimed: (length_tag(event_pb2.Event.CLAIMED_FIELD_NUMBER), _claimed),
    Failed: (length_tag(event_pb2.Event.FAILED_FIELD_NUMBER), _failed),
    Retrying: (length_tag(event_pb2.Event.RETRYING_FIELD_NUMBER), _retrying),
    PermanentlyFailed: (length_tag(event_pb2.Event.PERMANENTLY_FAILED_FIELD_NUMBER), _permanently_failed),
    Cancelled: (length_tag(event_pb2.Event.CANCELLED_FIELD_NUMBER), _cancelled),
    StaleDetected: (length_tag(event_pb2.Event.STALE_DETECTED_FIELD_NUMBER), _stale_detected),
    Released: (length_tag(event_pb2.Event.RELEASED_FIELD_NUMBER), _released),
    Used: (length_tag(event_pb2.Event.USAGE_FIELD_NUMBER), _used),
}
"""The tag of each detail and how its content is encoded. An empty one is present too, and shows its type."""


def complete_event(
    sequence: int, time: int, job_id: str, job_type: str, source_id: str, event_type: int, payload: bytes
) -> bytes:
    """The event as it is sent, from its columns.

    The sequence and the job's version are equal in an event. A parser merges the two parts of the job.
    """
    number = varint(sequence)
    is_new = event_type == EventType.QUEUED
    if is_erased(payload):
        payload = without_erased_check(payload)
        # When a delayed job was to be ready is not kept.
        is_new = False
    elif is_whole(payload):
        version = _JOB_VERSION + number
        return b"".join((payload, _SEQUENCE, number, _JOB, varint(len(version)), version))
    known = known_from_event(
        job_id,
        job_type,
        source_id,
        None if event_type == EventType.DELETED else time,
        is_new=is_new,
    )
    head = (_KINDS[event_type], _SEQUENCE, number, _TIME, encoded_time(time))
    length = varint(len(known) + len(_JOB_VERSION) + len(number))
    return b"".join((*head, _JOB, length, known, _JOB_VERSION, number, payload))


@lru_cache(_LABELS_CACHED)
def labels_in(payload: bytes) -> Labels:
    """The labels of the job in an event of the log. One that was erased has none."""
    # The check of an erased event is no field, and may be the bytes of any.
    if LABELS not in payload or is_erased(payload):
        return ()
    return tuple(event_pb2.Event.FromString(payload).job.labels.items())


def has_labels(payload: bytes, labels: Labels) -> bool:
    """Whether the job in an event of the log has all of these labels."""
    # Nearly every event that does not have them lacks their bytes, which a text or a document may have too.
    return all(encode_label(label) in payload for label in labels) and set(labels) <= set(labels_in(payload))


def without_members(event: bytes) -> bytes:
    """A complete event without the counts of a group."""
    if MEMBERS not in event:
        return event
    parsed = event_pb2.Event.FromString(event)
    parsed.job.ClearField("members")
    return parsed.SerializeToString()
