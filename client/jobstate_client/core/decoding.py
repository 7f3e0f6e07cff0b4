"""Decodes the messages of the contract into values.

A field of a value is decoded from the message field of the same name, by the type that the contract gives it. Only the
fields that differ have a function of their own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from operator import attrgetter
from typing import Any, TypeVar

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from jobstate.v1 import dispatch_service_pb2, event_pb2, job_pb2, job_service_pb2, maintenance_service_pb2
from jobstate_client.core import values as v
from jobstate_client.core.documents import dict_from, span_from, time_from
from jobstate_client.core.lazy import Decoders, decode_lazily, lazy
from jobstate_client.core.states import (
    AttemptOutcome,
    CancelCause,
    EventType,
    HealthState,
    HoldReason,
    LaneFrom,
    LaneHolds,
    NamedValue,
    NeedCondition,
    OnExcess,
    Priority,
    RetryDecision,
    SkipReason,
    State,
    WaitReason,
)

E = TypeVar("E", bound=NamedValue)
V = TypeVar("V")


class EnumDecoder(dict[int, E]):
    """The members of a kind by their numbers in the contract. An unknown number becomes a value of its own."""

    def __init__(self, kind: type[E], enum: Any, prefix: str) -> None:
        names = {number: name.removeprefix(prefix) for name, number in enum.items()}
        super().__init__({number: kind[name] for number, name in names.items() if name in kind.__members__})
        self._kind: type[E] = kind
        self._names = names

    def __missing__(self, number: int) -> E:
        # Not stored: a server could send any number of them.
        name = self._names.get(number, f"UNKNOWN_{number}")
        value: E = self._kind.unknown(name) if number else self._kind["UNKNOWN"]
        return value


STATES = EnumDecoder(State, job_pb2.JobState, "JOB_STATE_")
SKIP_REASONS = EnumDecoder(SkipReason, job_service_pb2.SkipReason, "SKIP_REASON_")
WAIT_REASONS = EnumDecoder(WaitReason, job_pb2.WaitReason, "WAIT_REASON_")
EVENT_TYPES = EnumDecoder(EventType, event_pb2.EventType, "EVENT_TYPE_")

_ENUMS: dict[str, EnumDecoder[Any]] = {
    "JobState": STATES,
    "EventType": EVENT_TYPES,
    "RetryDecision": EnumDecoder(RetryDecision, event_pb2.RetryDecision, "RETRY_DECISION_"),
    "AttemptOutcome": EnumDecoder(AttemptOutcome, job_pb2.AttemptOutcome, "ATTEMPT_OUTCOME_"),
    "Priority": EnumDecoder(Priority, job_pb2.Priority, "PRIORITY_"),
    "WaitReason": WAIT_REASONS,
    "CancelCause": EnumDecoder(CancelCause, job_pb2.CancelCause, "CANCEL_CAUSE_"),
    "HoldReason": EnumDecoder(HoldReason, dispatch_service_pb2.HoldReason, "HOLD_REASON_"),
    "LaneFrom": EnumDecoder(LaneFrom, job_pb2.LaneFrom, "LANE_FROM_"),
    "LaneHolds": EnumDecoder(LaneHolds, job_pb2.LaneHolds, "LANE_HOLDS_"),
    "NeedCondition": EnumDecoder(NeedCondition, job_pb2.NeedCondition, "NEED_CONDITION_"),
    "OnExcess": EnumDecoder(OnExcess, job_pb2.OnExcess, "ON_EXCESS_"),
    "SkipReason": SKIP_REASONS,
    "HealthState": EnumDecoder(HealthState, maintenance_service_pb2.HealthState, "HEALTH_STATE_"),
}


def decoders(kind: type, descriptor: Descriptor, **own: Callable[[Any], Any]) -> Decoders:
    """The decoder of each field of a dataclass. ``own`` has those of the fields that differ from the contract's."""
    return {
        field.name: own.get(field.name)
        or _field_decoder(descriptor.fields_by_name[field.name], may_be_none=str(field.type).endswith("| None"))
        for field in dataclasses.fields(kind)
    }


def decode(kind: type[V], field_decoders: Decoders, message: Message) -> V:
    """A value of this kind, with every field decoded."""
    return kind(**{name: decode_field(message) for name, decode_field in field_decoders.items()})


def _field_decoder(field: FieldDescriptor, *, may_be_none: bool) -> Callable[[Any], Any]:
    """Reads a field. One that is not set is None if that is allowed, and otherwise the empty value of its type."""
    name = field.name
    read: Callable[[Any], Any] = attrgetter(name)
    convert = _converter(field)
    if convert is None:
        if field.is_repeated:
            return lambda message: tuple(read(message))
        return (lambda message: read(message) if message.HasField(name) else None) if may_be_none else read
    if may_be_none:
        return lambda message: convert(read(message)) if message.HasField(name) else None
    return lambda message: convert(read(message))


def _converter(field: FieldDescriptor) -> Callable[[Any], Any] | None:
    if field.enum_type is not None:
        return _ENUMS[field.enum_type.name].__getitem__
    return _MESSAGES[field.message_type.full_name] if field.message_type is not None else None


def job(message: job_pb2.Job) -> v.Job:
    """A job."""
    return lazy(v.Job, message)


def job_in(response: Any) -> v.Job:
    """The job of a response."""
    return job(response.job)


def job_error(message: job_pb2.JobError) -> v.JobError:
    """The failure of an attempt."""
    return decode(v.JobError, _JOB_ERROR, message)


def group_policy(message: job_pb2.GroupPolicy) -> v.GroupPolicy:
    """How a group ends."""
    return decode(v.GroupPolicy, _GROUP_POLICY, message)


def group_members(message: job_pb2.GroupMembers) -> v.GroupMembers:
    """The counts of a group's members."""
    return decode(v.GroupMembers, _GROUP_MEMBERS, message)


def needs_in(response: job_service_pb2.GetResponse) -> tuple[v.NeedStatus, ...]:
    """The needs in a response."""
    conditions = _ENUMS["NeedCondition"]
    return tuple(
        v.NeedStatus(
            each.need.job_id,
            conditions[each.need.condition or job_pb2.NEED_CONDITION_COMPLETED],
            each.met,
            STATES[each.state] if each.state else None,
        )
        for each in response.needs
    )


def event(message: event_pb2.Event) -> v.Event:
    """An event."""
    return lazy(v.Event, message)


def own_copy(message: Any) -> Any:
    """A copy of one message of a page. Without it, a job that is kept would keep the memory of the whole page."""
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


_NO_DETAIL = v.Detail()


def _detail(message: event_pb2.Event) -> v.Detail:
    """The fields of the one detail that an event has. Those of its usage are fields of the detail itself."""
    name = message.WhichOneof("detail")
    if name is None:
        return _NO_DETAIL
    detail = getattr(message, name)
    found = {field: read(detail) for field, read in _DETAILS[name].items()}
    if name == "usage":
        found |= {"tokens": detail.usage.tokens, "cost": detail.usage.cost}
    return v.Detail(**found)


def _detail_decoders(descriptor: Descriptor) -> Decoders:
    optional = {field.name: str(field.type).endswith("| None") for field in dataclasses.fields(v.Detail)}
    return {
        field.name: _field_decoder(field, may_be_none=optional[field.name] and field.has_presence)
        for field in descriptor.fields
        if field.name in optional
    }


def _labels(message: job_pb2.Job) -> dict[str, str]:
    return dict(message.labels)


_MESSAGES: dict[str, Callable[[Any], Any]] = {
    "google.protobuf.Duration": span_from,
    "google.protobuf.Struct": dict_from,
    "google.protobuf.Timestamp": time_from,
    "jobstate.v1.GroupMembers": group_members,
    "jobstate.v1.GroupPolicy": group_policy,
    "jobstate.v1.Job": job,
    "jobstate.v1.JobError": job_error,
}

decode_lazily(v.Job, decoders(v.Job, job_pb2.Job.DESCRIPTOR, existing=lambda _message: False, labels=_labels))
_GROUP_POLICY = decoders(v.GroupPolicy, job_pb2.GroupPolicy.DESCRIPTOR)
_GROUP_MEMBERS = decoders(v.GroupMembers, job_pb2.GroupMembers.DESCRIPTOR)
_JOB_ERROR = decoders(v.JobError, job_pb2.JobError.DESCRIPTOR)
_EVENT = decoders(
    v.Event,
    event_pb2.Event.DESCRIPTOR,
    previous_state=lambda message: STATES[message.previous_state] if message.previous_state else None,
    detail=_detail,
    sets_metadata=lambda message: message.job.HasField("metadata"),
    sets_result=lambda message: message.job.HasField("result"),
)
decode_lazily(v.Event, _EVENT)
_DETAILS = {
    field.name: _detail_decoders(field.message_type)
    for field in event_pb2.Event.DESCRIPTOR.oneofs_by_name["detail"].fields
    if field.message_type is not None
}
