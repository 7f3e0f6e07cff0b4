"""Encoded responses of a watch. Their events are sent as the log stores them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from jobstate.v1 import event_pb2, job_service_pb2
from jobstate_server.domain.events import EventType, is_erased
from jobstate_server.domain.groups import Group
from jobstate_server.domain.job import Job
from jobstate_server.wire.framing import embed, length_tag, varint
from jobstate_server.wire.jobs import encode_whole
from jobstate_server.wire.times import set_span

Kind = job_service_pb2.WatchResponseKind
_EVENT = length_tag(job_service_pb2.WatchEventsResponse.EVENTS_FIELD_NUMBER)
_JOBS = length_tag(job_service_pb2.WatchEventsResponse.JOBS_FIELD_NUMBER)
_CURSOR = length_tag(job_service_pb2.WatchEventsResponse.CURSOR_FIELD_NUMBER)
_EVENTS = job_service_pb2.WatchEventsResponse(kind=Kind.WATCH_RESPONSE_KIND_EVENTS).SerializeToString()
_SNAPSHOT = job_service_pb2.WatchEventsResponse(kind=Kind.WATCH_RESPONSE_KIND_SNAPSHOT).SerializeToString()
_SYNCED = job_service_pb2.WatchEventsResponse(kind=Kind.WATCH_RESPONSE_KIND_SYNCED).SerializeToString()
_HEARTBEAT = job_service_pb2.WatchEventsResponse(kind=Kind.WATCH_RESPONSE_KIND_HEARTBEAT).SerializeToString()


_PREFIXES = tuple(_EVENT + varint(length) for length in range(2_048))
"""The tag and length before an event in a response, for all lengths but the largest: looked up instead of encoded."""


def events_response(events: Iterable[bytes], cursor: str) -> bytes:
    """EVENTS with these complete encoded events."""
    parts = [_EVENTS]
    for event in events:
        length = len(event)
        parts += (_PREFIXES[length] if length < len(_PREFIXES) else _EVENT + varint(length), event)
    parts.append(embed(_CURSOR, cursor.encode()))
    return b"".join(parts)


def snapshot_response(jobs: Sequence[Job], groups: Mapping[str, Group]) -> bytes:
    """SNAPSHOT with these jobs, complete. ``groups``: the counts of those that are groups, by id."""
    return b"".join((_SNAPSHOT, *(embed(_JOBS, encode_whole(job, groups.get(job.id))) for job in jobs)))


def synced_response(cursor: str) -> bytes:
    """SYNCED."""
    return _SYNCED + embed(_CURSOR, cursor.encode())


def heartbeat_response(cursor: str) -> bytes:
    """HEARTBEAT."""
    return _HEARTBEAT + embed(_CURSOR, cursor.encode())


def draining_response(cursor: str, reconnect_after: int) -> bytes:
    """DRAINING. ``cursor`` is empty while a snapshot is not complete."""
    message = job_service_pb2.WatchEventsResponse(kind=Kind.WATCH_RESPONSE_KIND_DRAINING, cursor=cursor)
    set_span(message.reconnect_after, reconnect_after)
    return message.SerializeToString()


def carries_metadata(event_type: int, payload: bytes) -> bool:
    """Whether an event of the log is a progress event with metadata. One that was erased has none."""
    if event_type != EventType.PROGRESS or is_erased(payload):
        return False
    return event_pb2.Event.FromString(payload).job.HasField("metadata")
